//! Plugins that call in users' own names: two users, an authorization server and an MCP server that nobody here wrote.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use testkit::{Answer, Client, Fleet, test_tools, workspace};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const SECRET: &str = "a secret: with % and +";

/// The two servers; they end with this value.
struct World {
    _child: Child,
    /// What it writes goes nowhere, but has to go.
    _said: Lines<BufReader<ChildStdout>>,
    issuer: String,
    mcp: String,
}

impl World {
    async fn start(public_key: &std::path::Path) -> Result<World> {
        let folder = test_tools().join("clients");
        std::fs::create_dir_all(&folder)?;
        let script = folder.join("users_world.mjs");
        std::fs::copy(workspace().join("tests/clients/users_world.mjs"), &script)?;
        let mut child = Command::new("node")
            .arg(script)
            .arg(public_key)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().context("its output")?;
        let mut said = BufReader::new(stdout).lines();
        let line = tokio::time::timeout(Duration::from_secs(60), said.next_line()).await??;
        let urls: Value = serde_json::from_str(&line.context("it says where it is")?)?;
        let url = |name: &str| urls[name].as_str().map(str::to_owned).context("a URL");
        Ok(World {
            issuer: url("issuer")?,
            mcp: url("mcp")?,
            _child: child,
            _said: said,
        })
    }
}

fn openssl(args: &[&str]) -> Result<()> {
    let made = std::process::Command::new("openssl").args(args).output()?;
    anyhow::ensure!(made.status.success(), "{made:?}");
    Ok(())
}

async fn whoami(fleet: &Fleet, user: &str) -> Result<Answer> {
    let token = fleet.mint(&["--subject", user]).await?;
    let params = json!({"name": "tracker_whoami", "arguments": {}});
    let client = Client::new(&token)?;
    client
        .mcp(&fleet.status.endpoints.mcp, "tools/call", params)
        .await
}

#[tokio::test]
async fn each_user_is_itself_at_the_server_behind_the_fleet() -> Result<()> {
    let folder = workspace()
        .join("target/test-fleets")
        .join(format!("users-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = |name: &str| folder.join(name).display().to_string();
    let (key, public, secret) = (path("key.pem"), path("public.pem"), path("secret"));
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", &key])?;
    openssl(&["pkey", "-in", &key, "-pubout", "-out", &public])?;
    std::fs::write(&secret, SECRET)?;
    let world = World::start(public.as_ref()).await?;
    let fleet = Fleet::up(&format!(
        "[fleet]\napps = 2\n[[plugin]]\nname = \"tracker\"\nkind = \"http\"\nurl = \"{}\"\nact_as = \"exchange\"\n\
         token_url = \"{}/token\"\nclient_id = \"sweetmcp\"\nclient_secret_file = \"{secret}\"\nscope = \"tools\"\n\
         subject_key_file = \"{key}\"\nsubject_issuer = \"fleet\"\n",
        world.mcp, world.issuer
    ))
    .await?;
    let mut exchanges = 0;
    for _ in 0..8 {
        for user in ["ana", "ben"] {
            let answer = whoami(&fleet, user).await?;
            let said = answer.json["result"]["content"][0]["text"].as_str();
            let said: Value = serde_json::from_str(said.with_context(|| answer.text.clone())?)?;
            assert_eq!(
                (&said["user"], &said["session"]),
                (&json!(user), &json!(user))
            );
            exchanges = said["exchanges"].as_u64().context("a count")?;
        }
    }
    assert!(
        exchanges <= 4,
        "{exchanges} tokens for two users of two apps"
    );
    let refused = whoami(&fleet, "eve").await?;
    assert_eq!(refused.json["error"]["code"], -31403, "{}", refused.text);
    let told = refused.json["error"]["message"]
        .as_str()
        .unwrap_or_default();
    assert!(
        told.contains("tracker") && told.contains("no grant"),
        "{told}"
    );
    // Neither our secret, nor a user's token from the edge's client, nor the word we gave is in a log.
    for entry in std::fs::read_dir(fleet.state().join("logs"))? {
        let log = std::fs::read_to_string(entry?.path())?;
        assert!(!log.contains(SECRET) && !log.contains("eyJ"));
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
