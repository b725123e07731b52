//! What can be configured is told by `sweetops config`, and a wrong file is told all its mistakes at once.

use std::process::Output;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{binary, python, workspace};
use tokio::process::Command;

async fn sweetops(args: &[&str]) -> Result<Output> {
    let state = workspace().join("target/test-fleets/configuration");
    let mut command = Command::new(binary("sweetops")?);
    command.args(args).env("SWEETOPS_STATE", state);
    Ok(command.kill_on_drop(true).output().await?)
}

#[tokio::test]
async fn the_schema_takes_what_is_right_and_refuses_what_is_not() -> Result<()> {
    let folder = workspace()
        .join("target/test-fleets")
        .join(format!("schema-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let schema = folder.join("schema.json");
    std::fs::write(&schema, sweetops(&["config", "schema"]).await?.stdout)?;
    let docs = String::from_utf8(sweetops(&["config", "docs"]).await?.stdout)?;
    let parsed: Value = serde_json::from_slice(&std::fs::read(&schema)?)?;
    let mut keys = 0;
    for (table, rows) in parsed["properties"].as_object().context("tables")? {
        for (key, row) in rows["properties"].as_object().into_iter().flatten() {
            keys += 1;
            let told =
                docs.contains(&format!("`{key}`")) || docs.contains(&format!("[{table}.{key}]"));
            assert!(told, "{table}.{key} is not in the reference");
            assert!(
                row["description"].is_string() || row["properties"].is_object(),
                "{table}.{key}: {row}"
            );
        }
    }
    assert!(keys > 10, "{parsed:#}");
    for (config, right) in [
        (
            json!({"edge": {"http": {"body_limit": "1MiB"}, "rate": {"burst": 7}}}),
            true,
        ),
        (json!({"edge": {"http": {"body_limt": "1MiB"}}}), false),
        (json!({"edge": {"rate": {"burst": "many"}}}), false),
        (json!({"edge": {"rate": {"burst": 0}}}), false),
    ] {
        let instance = folder.join("instance.json");
        std::fs::write(&instance, config.to_string())?;
        let checked = Command::new(python("jsonschema")?)
            .arg("--instance")
            .arg(&instance)
            .arg(&schema)
            .output()
            .await?;
        assert_eq!(
            checked.status.success(),
            right,
            "{config}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

#[tokio::test]
async fn every_mistake_of_a_file_is_told_at_once_and_nothing_starts() -> Result<()> {
    let file = workspace()
        .join("target/test-fleets")
        .join(format!("wrong-{}.toml", std::process::id()));
    std::fs::create_dir_all(file.parent().context("a folder")?)?;
    std::fs::write(
        &file,
        "[edge.http]\nbody_limt = \"1MiB\"\nheader_timeout = 5\n[edge.rate]\nburst = 0\n",
    )?;
    let path = file.display().to_string();
    for command in [
        &["up", "--config", &path][..],
        &["config", "validate", &path],
    ] {
        let ran = sweetops(command).await?;
        let said = String::from_utf8_lossy(&ran.stderr) + String::from_utf8_lossy(&ran.stdout);
        assert_eq!(ran.status.code(), Some(2), "{said}");
        for part in [
            "body_limt",
            "body_limit",
            "header_timeout",
            "burst",
            ":2:",
            ":3:",
            ":5:",
        ] {
            assert!(said.contains(part), "{part} is missing: {said}");
        }
    }
    std::fs::remove_file(&file)?;
    Ok(())
}
