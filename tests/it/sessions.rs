//! A fleet of several edges: sessions of the older era live on whatever dies, and operators see and turn all edges.

use std::collections::BTreeSet;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt as _;
use serde_json::{Value, json};
use testkit::{Answer, Client, Fleet, eventually, workspace};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::eras::{Reading, last};

const PATIENCE: Duration = Duration::from_secs(30);
/// Live sessions.
const SESSIONS: usize = 1000;
/// One in so many has a stream open.
const STREAM_EVERY: usize = 4;
/// Those whose calls ask their client, shared by [`ASKERS`].
const ASKING: usize = 40;
/// Clients that are asked, each with a connection to two edges.
const ASKERS: usize = 4;
/// Between two calls of a session, on average.
const THINK: Duration = Duration::from_secs(5);

/// Two edges and three apps, each with a process of a plugin. A thousand clients on a small machine are an overload, of
/// which the edges would shed a part, with errors that clients may retry; here that is not what is looked at.
async fn fleet() -> Result<Fleet> {
    let server = workspace().join("tests/clients/sessions_server.py");
    // Calls to a child that asks wait for each other, and for the time that a dead edge's client had to answer.
    let plugin = |name: &str, timeout: &str| {
        format!(
            "[[plugin]]\nname = \"{name}\"\nkind = \"stdio\"\ntrusted = true\ncall_timeout = \"{timeout}\"\ncommand = \"python3\"\nargs = [\"{}\", \"{name}\"]\n",
            server.display()
        )
    };
    let fleet = Fleet::up(&format!(
        "[fleet]\nedges = 2\napps = 3\n[edge.rate]\nper_second = 100000\nburst = 100000\n\
         [edge.concurrency]\nadaptive = false\n{}{}",
        plugin("works", "30s"),
        plugin("asks", "3s")
    ))
    .await?;
    eventually(PATIENCE, || {
        fleet.call_tool("works_work", json!({"wait_ms": 0, "text": "a"}))
    })
    .await?;
    Ok(fleet)
}

/// What all clients share.
struct Load {
    client: Client,
    url: String,
    /// Every victim has been killed and is back.
    over: watch::Sender<bool>,
    calls: AtomicUsize,
    answers: AtomicUsize,
    broken: AtomicUsize,
    reopened: AtomicUsize,
    next: AtomicU64,
}

impl Load {
    fn is_over(&self) -> bool {
        *self.over.borrow()
    }

    /// Waits, but not past the end of it all.
    async fn pause(&self, time: Duration) {
        let mut over = self.over.subscribe();
        _ = tokio::time::timeout(time, over.wait_for(|over| *over)).await;
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// A session of the older era. Its token is all there is of it.
#[derive(Clone)]
struct Session {
    load: Arc<Load>,
    token: String,
}

impl Session {
    async fn open(load: Arc<Load>) -> Result<Session> {
        let client = json!({"name": "t", "version": "1"});
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}, "clientInfo": client});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = load.client.post_json(&load.url, &body).await?;
        let token = answer.header("mcp-session-id").to_owned();
        ensure!(!token.is_empty(), "{}: {}", answer.status, answer.text);
        Ok(Session { load, token })
    }

    fn with(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        request
            .header("accept", "application/json, text/event-stream")
            .header("mcp-session-id", &self.token)
    }

    /// A call that may be repeated. A connection may break, and is made again; no answer may be an error.
    async fn work(&self) -> Result<()> {
        let number = self.load.number();
        let text = format!("text {number}");
        let arguments = json!({"wait_ms": 20 + number % 16 * 25, "text": text});
        let params = json!({"name": "works_work", "arguments": arguments});
        let body =
            json!({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params});
        let answer = self.repeated(&body).await?;
        let result = last(&answer.text)?;
        let told = &result["result"]["content"][0]["text"];
        ensure!(
            answer.status == 200 && *told == text.as_str(),
            "{}: {}",
            answer.status,
            answer.text
        );
        self.load.calls.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a request until a connection holds to the end of the answer.
    async fn repeated(&self, body: &Value) -> Result<Answer> {
        let until = Instant::now() + PATIENCE;
        loop {
            let client = &self.load.client;
            let request = self.with(client.post(&self.load.url)).json(body);
            match client.send(request).await {
                // An event stream that was cut has no answer in it.
                Ok(answer) if answer.text.is_empty() || !answer.text.ends_with(['\n', '}']) => {
                    bail!("{}: {:?}", answer.status, answer.text)
                }
                Ok(answer) => return Ok(answer),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => _ = self.load.broken.fetch_add(1, Ordering::Relaxed),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Calls again and again, and once more when all is over.
    async fn live(self, first: Duration) -> Result<()> {
        self.load.pause(first).await;
        while !self.load.is_over() {
            self.work().await?;
            self.load.pause(THINK).await;
        }
        self.work().await
    }

    /// Reads the session's stream, and opens it again where it breaks.
    async fn listen(self) -> Result<()> {
        let mut seen: Option<String> = None;
        let mut broke_at = Instant::now();
        while !self.load.is_over() {
            let mut request = self.with(self.load.client.get(&self.load.url));
            if let Some(id) = &seen {
                request = request.header("last-event-id", id);
            }
            let mut reading = match request.send().await {
                Ok(response) => Reading::of(response).await?,
                Err(error) if broke_at.elapsed() > PATIENCE => return Err(error.into()),
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            while !self.load.is_over() {
                // Mostly nothing comes: the wait is bounded to see that all is over.
                let next = tokio::time::timeout(Duration::from_secs(1), reading.next());
                match next.await {
                    Ok(Ok(Some(_))) | Err(_) => {}
                    Ok(Ok(None) | Err(_)) => {
                        self.load.reopened.fetch_add(1, Ordering::Relaxed);
                        broke_at = Instant::now();
                        break;
                    }
                }
            }
            seen = reading.last_id().or(seen);
        }
        Ok(())
    }

    /// A call that asks back at one edge; the answer goes to the other. Whether it came to its result.
    async fn ask(&self, at: &Pin, other: &Pin) -> Result<bool> {
        let number = self.load.number();
        let params = json!({"name": "asks_ask", "arguments": {}});
        let body =
            json!({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params});
        let sent = self.with(at.client.post(&self.load.url)).json(&body).send();
        let Ok(response) = sent.await else {
            return Ok(false);
        };
        if response.status().is_server_error() {
            // The app or its plugin died with the call.
            return Ok(false);
        }
        if !is_stream(&response) {
            let text = response.text().await?;
            ensure!(
                text.contains("\"error\"") || text.contains("nobody answers"),
                "{text}"
            );
            return Ok(false);
        }
        let mut stream = Reading::of(response).await?;
        let Ok(Some(question)) = stream.next().await else {
            return Ok(false);
        };
        if question["method"] != "elicitation/create" {
            // Of several calls under way nobody knows which one the child's first question belongs to.
            ensure!(
                question["error"].is_object() || question["result"]["isError"] == true,
                "{question}"
            );
            return Ok(false);
        }
        let content = json!({"action": "accept", "content": {"name": format!("Ana {number}")}});
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": content});
        let request = self.with(other.client.post(&self.load.url)).json(&answer);
        let Ok(posted) = other.client.send(request).await else {
            return Ok(false);
        };
        ensure!(posted.status == 202, "{}: {}", posted.status, posted.text);
        let Ok(Some(result)) = stream.next().await else {
            return Ok(false);
        };
        if result["error"].is_object() || result["result"]["isError"] == true {
            return Ok(false);
        }
        let told = &result["result"]["content"][0]["text"];
        ensure!(*told == format!("Ana {number}").as_str(), "{result}");
        self.load.answers.fetch_add(1, Ordering::Relaxed);
        Ok(true)
    }
}

fn is_stream(response: &reqwest::Response) -> bool {
    let kind = response.headers().get("content-type");
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// A client whose one connection is to a known edge.
struct Pin {
    client: Client,
    edge: String,
}

impl Pin {
    /// Connects until an edge takes the connection that is not `other`.
    async fn to_other_than(fleet: &Fleet, other: Option<&str>) -> Result<Pin> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        eventually(PATIENCE, || async {
            let client = Client::new(&fleet.token)?;
            let id = format!("pin-{}-", NEXT.fetch_add(1, Ordering::Relaxed));
            let body = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
            let url = &fleet.status.endpoints.jsonrpc;
            let ping = client.post(url).header("x-request-id", &id).json(&body);
            client.send(ping).await?;
            let seen = || async { wrote(fleet, &id) };
            let edge = eventually(Duration::from_secs(5), seen).await?;
            ensure!(Some(&*edge) != other, "again {edge}");
            Ok(Pin { client, edge })
        })
        .await
    }
}

/// The edge that has a request in its log.
fn wrote(fleet: &Fleet, request_id: &str) -> Result<String> {
    const TAIL: u64 = 256 << 10;
    for instance in ["edge-1", "edge-2"] {
        let path = fleet.state().join("logs").join(format!("{instance}.log"));
        let mut log = std::fs::File::open(path)?;
        let from = log.metadata()?.len().saturating_sub(TAIL);
        log.seek(SeekFrom::Start(from))?;
        let mut tail = Vec::new();
        log.read_to_end(&mut tail)?;
        if String::from_utf8_lossy(&tail).contains(request_id) {
            return Ok(instance.to_owned());
        }
    }
    bail!("nobody has seen {request_id}")
}

/// Is asked on behalf of some sessions, one after another.
async fn asker(fleet: &Fleet, sessions: &[Session], rounds: &AtomicUsize) -> Result<()> {
    let load = &sessions[0].load;
    'pins: while !load.is_over() {
        let at = Pin::to_other_than(fleet, None).await?;
        let other = Pin::to_other_than(fleet, Some(&at.edge)).await?;
        loop {
            for session in sessions {
                if load.is_over() {
                    return Ok(());
                }
                if !session.ask(&at, &other).await? {
                    continue 'pins;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            rounds.fetch_add(1, Ordering::Relaxed);
            load.pause(Duration::from_secs(1)).await;
        }
    }
    Ok(())
}

/// Processes of a plugin by the app that started them: (app's pid, plugin's pid).
fn plugin_processes(name: &str) -> Result<BTreeSet<(u32, u32)>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        // Processes come and go while they are looked at.
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|b| *b == 0).collect();
        let is_ours = words
            .get(1)
            .is_some_and(|w| w.ends_with(b"sessions_server.py"))
            && words.get(2) == Some(&name.as_bytes());
        // Between them stands its guard.
        let app = || parent_of(parent_of(pid)?);
        if let Some(app) = is_ours.then(app).flatten() {
            found.insert((app, pid));
        }
    }
    Ok(found)
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// Kills an instance, and waits until it is back.
async fn kill_instance(fleet: &Fleet, name: &str) -> Result<()> {
    let find = || async {
        let status = fleet.read_status().await?;
        let found = status.instances.into_iter().find(|i| i.name == name);
        found.with_context(|| format!("no {name}"))
    };
    let victim = find().await?;
    fleet.kill_9(victim.pid)?;
    eventually(PATIENCE, || async {
        let now = find().await?;
        ensure!(now.pid != victim.pid && now.health == "ready", "{now:?}");
        Ok(())
    })
    .await
}

/// Kills a plugin's process in one app, and waits until another is there.
async fn kill_plugin(fleet: &Fleet, app: &str, plugin: &str) -> Result<()> {
    let status = fleet.read_status().await?;
    let app = status.instances.iter().find(|i| i.name == app);
    let app = app.context("no app")?.pid;
    let of_app = || async {
        let all = plugin_processes(plugin)?;
        let found = all.into_iter().find(|(parent, _)| *parent == app);
        found.context("the app has no such process")
    };
    let (_, victim) = eventually(PATIENCE, of_app).await?;
    fleet.kill_9(victim)?;
    eventually(PATIENCE, || async {
        ensure!(of_app().await?.1 != victim);
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_sessions_live_on_whatever_dies() -> Result<()> {
    let began = Instant::now();
    let fleet = fleet().await?;
    let names: Vec<String> = fleet
        .status
        .instances
        .iter()
        .map(|i| i.name.clone())
        .collect();
    let load = Arc::new(Load {
        client: Client::new(&fleet.token)?,
        url: fleet.status.endpoints.mcp.clone(),
        over: watch::Sender::new(false),
        calls: AtomicUsize::new(0),
        answers: AtomicUsize::new(0),
        broken: AtomicUsize::new(0),
        reopened: AtomicUsize::new(0),
        next: AtomicU64::new(1),
    });
    let opened = futures::stream::iter(0..SESSIONS).map(|_| Session::open(Arc::clone(&load)));
    let opened: Vec<Result<Session>> = opened.buffer_unordered(32).collect().await;
    let sessions: Vec<Session> = opened.into_iter().collect::<Result<_>>()?;

    let mut clients = JoinSet::new();
    let (asking, working) = sessions.split_at(ASKING);
    for (index, session) in working.iter().enumerate() {
        let share = u32::try_from(index)? as f64 / working.len() as f64;
        if index % STREAM_EVERY == 0 {
            clients.spawn(session.clone().listen());
        }
        clients.spawn(session.clone().live(THINK.mul_f64(share)));
    }
    let rounds = AtomicUsize::new(0);
    let askers = asking
        .chunks(ASKING / ASKERS)
        .map(|some| asker(&fleet, some, &rounds));
    let askers = futures::future::try_join_all(askers);
    let more = async |than: &AtomicUsize, by: usize| {
        let goal = than.load(Ordering::Relaxed) + by;
        eventually(PATIENCE, || async {
            let now = than.load(Ordering::Relaxed);
            ensure!(now >= goal, "{now} of {goal}");
            Ok(())
        })
        .await
    };
    let chaos = async {
        // Before anything dies, every question is answered at the other edge.
        more(&load.calls, SESSIONS / 2).await?;
        more(&rounds, ASKERS).await?;
        for name in &names {
            kill_instance(&fleet, name).await?;
            more(&load.calls, 50).await?;
            more(&load.answers, 2).await?;
        }
        let apps = names.iter().filter(|name| name.starts_with("app"));
        for (app, plugin) in apps.zip(["works", "asks", "works"]) {
            kill_plugin(&fleet, app, plugin).await?;
            more(&load.calls, 50).await?;
        }
        load.over.send_replace(true);
        Ok(())
    };
    let clients = async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    let (_, (), ()) = tokio::try_join!(askers, chaos, clients)?;
    // Each session has called at the end with the token that it began with.
    let count = |what: &AtomicUsize| what.load(Ordering::Relaxed);
    println!(
        "{} calls, {} answers at another edge, {} broken connections, {} streams opened again, {:?}",
        count(&load.calls),
        count(&load.answers),
        count(&load.broken),
        count(&load.reopened),
        began.elapsed()
    );
    ensure!(count(&load.calls) >= 2 * (SESSIONS - ASKING));
    ensure!(count(&load.answers) >= ASKING);
    ensure!(count(&load.reopened) > 0, "no stream was cut");
    Ok(())
}

#[tokio::test]
async fn operators_see_all_edges_and_turn_one_after_another_without_a_failed_call() -> Result<()> {
    let fleet = Fleet::up("[fleet]\nedges = 2\napps = 1\n").await?;
    let seen = fleet.sweetops(&["top", "-o", "json"]).await?.ok()?.json()?;
    let edges = seen["edges"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = edges
        .iter()
        .filter_map(|e| e["status"]["name"].as_str())
        .collect();
    ensure!(
        names == ["edge-1", "edge-2"] && seen["trouble"] == json!([]),
        "{seen}"
    );
    let traffic = fleet.sweetops(&["traffic"]).await?.ok()?.stdout;
    ensure!(
        traffic.contains("edge-1 sends by it") && traffic.contains("edge-2 sends by it"),
        "{traffic}"
    );

    let over = AtomicBool::new(false);
    let broken = AtomicUsize::new(0);
    let calls = async {
        let mut calls = 0_usize;
        while !over.load(Ordering::Relaxed) {
            // Each over a connection of its own, so that both edges get some.
            let client = Client::new(&fleet.token)?;
            let params = json!({"name": "time_now", "arguments": {}});
            match client
                .mcp(&fleet.status.endpoints.mcp, "tools/call", params)
                .await
            {
                Ok(answer) => {
                    ensure!(
                        answer.json["result"].is_object(),
                        "{}: {}",
                        answer.status,
                        answer.text
                    );
                    calls += 1;
                }
                Err(_) => _ = broken.fetch_add(1, Ordering::Relaxed),
            }
        }
        Ok(calls)
    };
    let operator = async {
        fleet.sweetops(&["restart", "edge"]).await?.ok()?;
        ensure!(
            broken.load(Ordering::Relaxed) == 0,
            "a restart broke a connection"
        );
        let status = fleet.read_status().await?;
        let edges: Vec<_> = status
            .instances
            .iter()
            .filter(|i| i.role == "edge")
            .collect();
        ensure!(edges.len() == 2, "{edges:?}");
        ensure!(
            fleet
                .status
                .instances
                .iter()
                .all(|was| edges.iter().all(|e| e.pid != was.pid))
        );
        // One that dies breaks what it was doing; the other takes what comes.
        kill_instance(&fleet, &edges[0].name).await?;
        ensure!(
            broken.load(Ordering::Relaxed) <= 1,
            "more broke than what was under way"
        );
        over.store(true, Ordering::Relaxed);
        Ok(())
    };
    let (calls, ()) = tokio::try_join!(calls, operator)?;
    ensure!(calls > 20, "{calls} calls");
    let drift = fleet.sweetops(&["drift"]).await?;
    ensure!(drift.code == 0, "{drift:?}");
    Ok(())
}
