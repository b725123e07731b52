//! Clients that nobody here wrote call a tool through the edge.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use testkit::{Fleet, python, test_tools, workspace};
use tokio::process::Command;

/// SHA-256 of "abc", which every client asks for.
const DIGEST: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

async fn run(program: &Path, args: &[&str]) -> Result<Value> {
    let output = Command::new(program)
        .args(args)
        .current_dir(test_tools())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{args:?}: {}\n{said}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("no JSON")
}

pub(crate) async fn in_python(script: &str, args: &[&str]) -> Result<Value> {
    let script = workspace()
        .join("tests/clients")
        .join(script)
        .display()
        .to_string();
    run(&python("python")?, &[&[script.as_str()], args].concat()).await
}

/// Node finds packages beside the script, so the script is put beside them.
pub(crate) async fn in_node(script: &str, args: &[&str]) -> Result<Value> {
    let folder = test_tools().join("clients");
    std::fs::create_dir_all(&folder)?;
    let there = folder.join(script);
    std::fs::copy(workspace().join("tests/clients").join(script), &there)?;
    let there = there.display().to_string();
    run(&PathBuf::from("node"), &[&[there.as_str()], args].concat()).await
}

fn check_mcp(client: &str, said: &Value, revision: Option<&str>) {
    let tools = said["tools"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    assert!(tools.iter().any(|t| t == "time_now"), "{client}: {said}");
    assert!(
        said["text"].as_str().is_some_and(|t| t.contains(DIGEST)),
        "{client}: {said}"
    );
    assert!(
        said["structured"].to_string().contains(DIGEST),
        "{client}: {said}"
    );
    assert_eq!(
        said["failed"], true,
        "{client}: wrong arguments are the tool's error: {said}"
    );
    if let Some(revision) = revision {
        assert_eq!(said["revision"], revision, "{client}");
    }
}

#[tokio::test]
async fn python_typescript_graphql_and_capnp_clients_call_a_tool() -> Result<()> {
    let fleet = Fleet::up("").await?;
    let (url, token) = (fleet.status.endpoints.mcp.as_str(), fleet.token.as_str());
    for (mode, revision) in [
        ("legacy", "2025-11-25"),
        ("auto", "2026-07-28"),
        ("2026-07-28", "2026-07-28"),
    ] {
        let said = in_python("python_sdk.py", &[url, token, mode]).await?;
        check_mcp(&format!("Python SDK, {mode}"), &said, Some(revision));
        let said = in_node("typescript_v2.mjs", &[url, token, mode]).await?;
        check_mcp(&format!("TypeScript SDK 2, {mode}"), &said, Some(revision));
    }
    let said = in_node("typescript_v1.mjs", &[url, token]).await?;
    check_mcp("TypeScript SDK 1", &said, None);

    let said = in_python(
        "graphql_client.py",
        &[&fleet.status.endpoints.graphql, token],
    )
    .await?;
    assert_eq!(said["hash_digest"]["isError"], false, "{said}");
    assert!(
        said["hash_digest"]["text"].to_string().contains(DIGEST),
        "{said}"
    );

    let schema = workspace()
        .join("services/translate/schema/mcp.capnp")
        .display()
        .to_string();
    let said = in_python(
        "capnp_client.py",
        &[&fleet.status.endpoints.capnp, token, &schema],
    )
    .await?;
    assert_eq!(said["again"], said["text"], "{said}");
    assert!(said["text"].to_string().contains(DIGEST), "{said}");
    assert_eq!(said["failed"], true, "{said}");
    assert_eq!(
        (&said["unknown"], &said["broken"]),
        (&"failure".into(), &"failure".into()),
        "{said}"
    );
    Ok(())
}

#[tokio::test]
async fn the_audit_of_graphql_over_http_finds_nothing() -> Result<()> {
    let fleet = Fleet::up("[fleet]\napps = 1\n").await?;
    let url = &fleet.status.endpoints.graphql;
    let said = in_node("graphql_audit.mjs", &[url, &fleet.token]).await?;
    assert_eq!(said["broken"], serde_json::json!([]), "{said:#}");
    assert!(said["audits"].as_u64().is_some_and(|n| n >= 61), "{said}");
    Ok(())
}

#[tokio::test]
async fn servers_from_npm_stand_behind_the_app() -> Result<()> {
    let folder = tempdir()?;
    std::fs::write(folder.join("note.txt"), "kept")?;
    let everything = testkit::node("@modelcontextprotocol/server-everything/dist/index.js")?;
    let filesystem = testkit::node("@modelcontextprotocol/server-filesystem/dist/index.js")?;
    let config = format!(
        r#"
[[plugin]]
name = "everything"
kind = "stdio"
command = "node"
args = ["{}", "stdio"]

[[plugin]]
name = "disk"
kind = "stdio"
command = "node"
args = ["{}", "{}"]
"#,
        everything.display(),
        filesystem.display(),
        folder.display()
    );
    let fleet = Fleet::up(&config).await?;
    let sum = fleet
        .call_tool("everything_get-sum", serde_json::json!({"a": 2, "b": 3}))
        .await?;
    assert!(sum.to_string().contains('5'), "{sum}");
    let path = folder.join("note.txt").display().to_string();
    let read = fleet
        .call_tool("disk_read_text_file", serde_json::json!({"path": path}))
        .await?;
    assert!(read.to_string().contains("kept"), "{read}");
    fleet.call_tool("time_now", serde_json::json!({})).await?;
    Ok(())
}

/// A folder of this test's own under the build folder.
fn tempdir() -> Result<PathBuf> {
    let folder = workspace()
        .join("target/test-fleets")
        .join(format!("files-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    Ok(folder.canonicalize()?)
}
