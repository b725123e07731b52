//! Generates the interface of `schema/mcp.capnp`.

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=schema/mcp.capnp");
    if Command::new("capnp").arg("--version").output().is_err() {
        println!(
            "cargo::error=the Cap'n Proto compiler `capnp` is missing: `apt-get install capnproto`"
        );
        return ExitCode::FAILURE;
    }
    let generated = capnpc::CompilerCommand::new()
        .src_prefix("schema")
        .file("schema/mcp.capnp")
        .default_parent_module(vec!["capnp".into()])
        .run();
    match generated {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("cargo::error=generating the interface of schema/mcp.capnp: {error}");
            ExitCode::FAILURE
        }
    }
}
