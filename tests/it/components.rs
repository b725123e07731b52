//! WebAssembly components that misbehave, behind a fleet: each costs its own call.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Answer, Fleet, workspace};

/// Its tools do what their names' first letters say; it lists one.
const RUDE: &str = include_str!("../../services/wasm/tests/it/rude.wat");

async fn call(fleet: &Fleet, tool: &str) -> Result<Answer> {
    let params = json!({"name": tool, "arguments": {"a": 1}});
    let url = &fleet.status.endpoints.mcp;
    fleet.client().mcp(url, "tools/call", params).await
}

#[tokio::test]
async fn what_a_component_does_wrong_costs_its_call_alone() -> Result<()> {
    let folder = workspace()
        .join("target/test-fleets")
        .join(format!("components-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let mut config = "[fleet]\napps = 1\n".to_owned();
    let hostile = [
        ("loop", -31504),
        ("trap", -31502),
        ("grow", -31502),
        ("deep", -31502),
        ("wild", -31502),
        ("huge", -31502),
    ];
    for name in ["echo"].into_iter().chain(hostile.map(|(name, _)| name)) {
        let module = folder.join(format!("{name}.wasm"));
        let listed = RUDE.replace("\\22echo\\22", &format!("\\22{name}\\22"));
        std::fs::write(&module, wat::parse_str(listed)?)?;
        config.push_str(&format!(
            "[[plugin]]\nname = \"{name}\"\nkind = \"wasm\"\nprefix = \"\"\ncall_timeout = \"2s\"\nmodule = \"{}\"\n",
            module.display()
        ));
    }
    let fleet = Fleet::up(&config).await?;
    let pids = |fleet: &Fleet| -> Vec<u32> {
        let mut pids: Vec<u32> = fleet.status.instances.iter().map(|one| one.pid).collect();
        pids.sort_unstable();
        pids
    };
    let before = pids(&fleet);
    for (tool, code) in hostile {
        let others = async {
            for _ in 0..5 {
                let echo = call(&fleet, "echo").await?;
                let said = &echo.json["result"]["structuredContent"];
                anyhow::ensure!(*said == json!({"a": 1}), "beside {tool}: {}", echo.text);
                fleet.call_tool("time_now", json!({})).await?;
            }
            Ok(())
        };
        let (answer, others) = tokio::join!(call(&fleet, tool), others);
        others?;
        let answer = answer?;
        let found = answer.json["error"]["code"]
            .as_i64()
            .with_context(|| answer.text.clone())?;
        assert_eq!(found, code, "{tool}: {}", answer.text);
        assert_eq!(answer.json["result"], Value::Null);
    }
    let status = fleet.read_status().await?;
    let fleet_after = status.instances.iter().map(|one| one.pid);
    let mut after: Vec<u32> = fleet_after.collect();
    after.sort_unstable();
    assert_eq!(before, after, "nothing was restarted");
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
