//! The examples, as `examples/build` makes them.

use std::path::PathBuf;
use std::sync::Arc;

use wasm::{CallError, Folder, Grants, Plugin, Rights};

use crate::harness::{Heard, LIMITS, RUNTIME, call, soon};

fn example(language: &str, grants: Grants) -> Plugin {
    Plugin::load(&RUNTIME, &component(language), LIMITS, grants).unwrap()
}

/// Reads one of the built components.
pub fn component(name: &str) -> Vec<u8> {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = std::env::var_os("SWEETMCP_WASM_EXAMPLES")
        .map_or_else(|| workspace.join("target/wasm-examples"), PathBuf::from);
    let file = folder.join(format!("{name}.wasm"));
    std::fs::read(&file).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; services/wasm/examples/build makes it",
            file.display()
        )
    })
}

#[tokio::test]
async fn the_javascript_example_counts_and_shouts() {
    let plugin = example("javascript", Grants::default());
    let tools = plugin
        .list_tools(Arc::new(Heard::default()), soon(20_000))
        .await;
    assert_eq!(tools.unwrap().unwrap().len(), 2);
    let heard = Arc::new(Heard::default());
    let said = plugin
        .call_tool("shout", r#"{"text":"häi"}"#, heard.clone(), soon(20_000))
        .await;
    assert_eq!(said, Ok(Ok(r#"{"text":"HÄI"}"#.into())));
    let counted = plugin
        .call_tool("words", r#"{"text":"a b  c"}"#, heard.clone(), soon(20_000))
        .await;
    assert_eq!(counted, Ok(Ok(r#"{"words":3}"#.into())));
    let heard = heard.0.lock().unwrap().clone();
    assert_eq!(
        heard,
        [
            "Level::Info: shouting",
            r#"1 of Some(1.0): Some("counted")"#
        ]
    );
    let refused = call(&plugin, "shout", r#"{"text":""}"#).await;
    assert_eq!(refused, Ok(Err("there is nothing to say".into())));
}

#[tokio::test]
async fn the_rust_example_counts_and_needs_nothing() {
    let plugin = example("rust", Grants::default());
    let heard = Arc::new(Heard::default());
    let tools = plugin.list_tools(heard.clone(), soon(20_000)).await;
    assert_eq!(tools.unwrap().unwrap().len(), 2);
    let call = async |tool, arguments| {
        plugin
            .call_tool(tool, arguments, heard.clone(), soon(20_000))
            .await
    };
    assert_eq!(
        call("statistics", r#"{"numbers":[1,2,3,6]}"#).await,
        Ok(Ok(
            r#"{"count":4,"deviation":1.8708286933869707,"mean":3.0}"#.into()
        ))
    );
    assert_eq!(
        call("frequencies", r#"{"text":"a ü a"}"#).await,
        Ok(Ok(r#"{"words":{"a":2,"ü":1}}"#.into()))
    );
    assert_eq!(
        heard.0.lock().unwrap().clone(),
        [
            "Level::Info: counting",
            r#"1 of Some(1.0): Some("counted")"#
        ]
    );
    for (tool, arguments, says) in [
        ("statistics", r#"{"numbers":[]}"#, "there are no numbers"),
        ("other", "{}", "there is no tool other"),
    ] {
        assert_eq!(call(tool, arguments).await, Ok(Err(says.into())));
    }
}

#[tokio::test]
async fn the_python_example_reads_its_folder_and_nothing_else() {
    let outside = tempfile::tempdir().unwrap();
    let folder = outside.path().join("granted");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::fs::write(folder.join("a.txt"), "first\nsecond").unwrap();
    std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
    // Python seeds its hashes, whatever the program does.
    let random = Grants {
        random: true,
        ..Grants::default()
    };
    let granted = Grants {
        folder: Some(Folder {
            path: folder,
            rights: Rights::Read,
        }),
        ..random.clone()
    };
    let read = async |plugin: &Plugin, path: &str| {
        call(plugin, "read", &format!(r#"{{"path":"{path}"}}"#)).await
    };
    let plugin = example("python", granted);
    assert_eq!(
        read(&plugin, "a.txt").await,
        Ok(Ok(r#"{"line": "first"}"#.into()))
    );
    for path in ["../secret", "link", "../../etc/passwd", "none"] {
        let refused = read(&plugin, path).await;
        assert!(matches!(refused, Ok(Err(_))), "{path}: {refused:?}");
    }
    let poor = example("python", random);
    let refused = read(&poor, "a.txt").await;
    assert!(matches!(refused, Ok(Err(_))), "{refused:?}");
    let poorest = example("python", Grants::default());
    match read(&poorest, "a.txt").await {
        Err(CallError::Trapped(reason)) => assert!(reason.contains("randomness"), "{reason}"),
        other => panic!("{other:?}"),
    }
}
