//! Calls in users' own names: whoever calls is who the server sees, and nobody else ever.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use app::plugin::{
    credential::{Credential, OauthSpec, Users, oauth::SubjectSpec},
    http::{HttpSpec, Transport},
    mounts::{Kind, Spec},
    openapi::OpenapiSpec,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, Method, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get, post},
};
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use serde_json::{Value, json};

use crate::harness::{Answer, App};

/// What the client sent to the edge; it must be seen nowhere.
const CLIENTS_OWN: &str = "Bearer the-clients-own";
const NOBODY: i64 = -31403;

/// A token endpoint, an MCP server of the older era whose sessions are bound to whoever began them, and an API.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// Users by token that holds.
    tokens: HashMap<String, String>,
    /// Users by session.
    sessions: HashMap<String, String>,
    /// Tokens that were given, by user.
    given: BTreeMap<String, usize>,
    /// Every Authorization that came, anywhere.
    heads: BTreeSet<String>,
    /// Users that came with another's session.
    mixed: usize,
    begun: usize,
    ended: usize,
}

impl World {
    async fn open() -> (Self, String) {
        let world = Self::default();
        let router = Router::new()
            .route("/token", post(token))
            .route("/mcp", any(mcp))
            .route("/whoami", get(whoami))
            .with_state(world.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (world, url)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap()
    }

    /// Returns whose token came, if it holds.
    fn user(&self, head: &HeaderMap) -> Option<String> {
        let said = head.get("authorization")?.to_str().unwrap().to_owned();
        let mut seen = self.seen();
        seen.heads.insert(said.clone());
        let token = said.strip_prefix("Bearer ")?;
        seen.tokens.get(token).cloned()
    }
}

/// Gives a token for the plugin itself, or for the user that a subject token names; not for `eve`.
async fn token(State(world): State<World>, head: HeaderMap, form: String) -> Response {
    let form = reqwest::Url::parse(&format!("http://form/?{form}")).unwrap();
    let form: HashMap<String, String> = form.query_pairs().into_owned().collect();
    // sweet:s%20ecret
    if head["authorization"] != "Basic c3dlZXQ6cyUyMGVjcmV0" {
        let refused = Json(json!({"error": "invalid_client"}));
        return (StatusCode::UNAUTHORIZED, refused).into_response();
    }
    let user = match form["grant_type"].as_str() {
        "client_credentials" => "service".to_owned(),
        _ => {
            let payload = form["subject_token"].split('.').nth(1).unwrap();
            use base64::Engine as _;
            let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(payload);
            let claims: Value = serde_json::from_slice(&payload.unwrap()).unwrap();
            assert_eq!(claims["iss"], "fleet-1");
            format!(
                "{}:{}",
                claims["tenant"].as_str().unwrap(),
                claims["sub"].as_str().unwrap()
            )
        }
    };
    if user.ends_with("eve") {
        let refused = Json(json!({"error": "access_denied"}));
        return (StatusCode::BAD_REQUEST, refused).into_response();
    }
    let mut seen = world.seen();
    let given = seen.given.entry(user.clone()).or_default();
    *given += 1;
    let token = format!("{user}#{given}");
    seen.tokens.insert(token.clone(), user);
    Json(json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600})).into_response()
}

async fn whoami(State(world): State<World>, head: HeaderMap) -> Response {
    match world.user(&head) {
        Some(user) => Json(json!({"user": user})).into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn mcp(State(world): State<World>, verb: Method, head: HeaderMap, body: Bytes) -> Response {
    let Some(user) = world.user(&head) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let result = |result: Value| {
        Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result})).into_response()
    };
    if message["method"] == "server/discover" {
        return StatusCode::BAD_REQUEST.into_response();
    }
    if message["method"] == "initialize" {
        let mut seen = world.seen();
        seen.begun += 1;
        let session = format!("s{}", seen.begun);
        seen.sessions.insert(session.clone(), user);
        let mut answer = result(
            json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "w", "version": "1"}}),
        );
        let session = session.parse().unwrap();
        answer.headers_mut().insert("mcp-session-id", session);
        return answer;
    }
    let session = head["mcp-session-id"].to_str().unwrap().to_owned();
    {
        let mut seen = world.seen();
        let owner = seen.sessions.get(&session).cloned();
        if owner.is_some_and(|owner| owner != user) {
            seen.mixed += 1;
        }
        if verb == Method::DELETE {
            seen.ended += 1;
        }
        if !seen.sessions.contains_key(&session) {
            return StatusCode::NOT_FOUND.into_response();
        }
    }
    match message["method"].as_str() {
        Some("tools/list") => {
            result(json!({"tools": [{"name": "whoami", "inputSchema": {"type": "object"}}]}))
        }
        Some("tools/call") => {
            tokio::task::yield_now().await;
            result(json!({"content": [], "structuredContent": {"user": user}}))
        }
        _ if verb == Method::GET => StatusCode::METHOD_NOT_ALLOWED.into_response(),
        _ => StatusCode::ACCEPTED.into_response(),
    }
}

fn exchange(folder: &Path, url: &str) -> Credential {
    let key = folder.join("subject.pem");
    let made = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "ed25519", "-out"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    std::fs::write(folder.join("secret"), "s ecret\n").unwrap();
    Credential {
        oauth: Some(OauthSpec {
            token_url: format!("{url}/token"),
            client_id: "sweet".into(),
            client_secret_file: Some(folder.join("secret")),
            scope: Some("tools".into()),
            audience: None,
            resource: None,
        }),
        users: Users::Exchange(SubjectSpec {
            key_file: key,
            issuer: "fleet-1".into(),
        }),
        ..Credential::default()
    }
}

fn plugins(folder: &Path, url: &str, credential: &Credential) -> Vec<Spec> {
    let document = folder.join("api.json");
    let api = json!({"openapi": "3.1.0", "paths": {"/whoami": {"get": {"operationId": "whoami"}}}});
    std::fs::write(&document, api.to_string()).unwrap();
    let remote = Kind::Http(HttpSpec {
        url: format!("{url}/mcp"),
        transport: Transport::default(),
        credential: credential.clone(),
        start_timeout: Duration::from_secs(20),
        call_timeout: Duration::from_secs(20),
        answer_bytes_max: 1 << 20,
    });
    let api = Kind::Openapi(OpenapiSpec {
        document,
        url: url.to_owned(),
        credential: credential.clone(),
        options: openapi::Options {
            operations: Vec::new(),
            name_bytes_max: 50,
            output_schemas: true,
        },
        response_bytes_max: 1 << 20,
        call_timeout: Duration::from_secs(20),
    });
    [("remote", remote), ("api", api)]
        .map(|(name, kind)| Spec {
            name: name.to_owned(),
            prefix: format!("{name}_"),
            names: Default::default(),
            scopes: Vec::new(),
            telling: app::plugin::Telling::default(),
            trusted: false,
            kind,
        })
        .into()
}

async fn whoami_as(app: &App, plugin: &str, tenant: &str, who: &str) -> Answer {
    let params = json!({"name": format!("{plugin}_whoami"), "arguments": {}});
    let heads = [
        ("sweetmcp-principal", who),
        ("sweetmcp-tenant", tenant),
        ("authorization", CLIENTS_OWN),
    ];
    app.ask_with("tools/call", params, &heads).await
}

fn user(answer: &Answer) -> &str {
    let user = answer.body["result"]["structuredContent"]["user"].as_str();
    user.unwrap_or_else(|| panic!("{answer:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn tokens_are_got_for_each_user_and_never_serve_another() {
    let (world, url) = World::open().await;
    let folder = tempfile::tempdir().unwrap();
    let credential = exchange(folder.path(), &url);
    let app = App::start(plugins(folder.path(), &url, &credential)).await;
    let calls = proptest::collection::vec((0_usize..2, 0_usize..2, 0_usize..3), 120);
    let mut runner = TestRunner::deterministic();
    for round in 0..4 {
        let calls = calls.new_tree(&mut runner).unwrap().current();
        let asked = calls.iter().map(async |(plugin, tenant, who)| {
            let plugin = ["remote", "api"][*plugin];
            // Two tenants have a user of the same name, and one tenant's name and user's look like another's.
            let (tenant, who) = (["t", "t/a"][*tenant], ["ana", "a/ana", "ben"][*who]);
            let answer = whoami_as(&app, plugin, tenant, who).await;
            assert_eq!(user(&answer), format!("{tenant}:{who}"), "{plugin}");
        });
        futures::future::join_all(asked).await;
        let mut seen = world.seen();
        match round {
            // Tokens are kept: one for each of two plugins, however many calls there were at once.
            0 => assert!(
                seen.given.values().all(|given| *given <= 2),
                "{:?}",
                seen.given
            ),
            // Tokens that are taken back, and sessions that are forgotten, are replaced without an error.
            1 => seen.tokens.clear(),
            _ => seen.sessions.clear(),
        }
    }
    let refused = |answer: Answer| {
        assert_eq!(answer.code(), NOBODY, "{answer:?}");
        assert_eq!(answer.body["error"]["data"]["reason"], "no_grant");
    };
    for plugin in ["remote", "api"] {
        refused(whoami_as(&app, plugin, "t", "eve").await);
        refused(whoami_as(&app, plugin, "t", "").await);
        assert_eq!(user(&whoami_as(&app, plugin, "t", "ben").await), "t:ben");
    }
    app.mounts.stop().await;
    let seen = world.seen();
    assert_eq!(seen.mixed, 0);
    assert!(seen.ended >= 6, "{} sessions were ended", seen.ended);
    assert!(seen.heads.iter().all(|head| head != CLIENTS_OWN));
    assert!(seen.heads.iter().all(|head| !head.contains("eve")));
}

#[tokio::test]
async fn tokens_are_kept_for_users_in_a_file() {
    let (world, url) = World::open().await;
    let folder = tempfile::tempdir().unwrap();
    for (token, user) in [("s", "service"), ("1", "t:ana"), ("2", "t:ben")] {
        world.seen().tokens.insert(token.into(), user.into());
    }
    let (own, grants) = (folder.path().join("own"), folder.path().join("grants.json"));
    std::fs::write(&own, "s").unwrap();
    std::fs::write(&grants, r#"{"t": {"ana": "1"}}"#).unwrap();
    let credential = Credential {
        token_file: Some(own),
        users: Users::Stored(grants.clone()),
        ..Credential::default()
    };
    let app = App::start(plugins(folder.path(), &url, &credential)).await;
    for plugin in ["remote", "api"] {
        assert_eq!(user(&whoami_as(&app, plugin, "t", "ana").await), "t:ana");
        for (tenant, who) in [("t", "ben"), ("u", "ana"), ("", "ana")] {
            let answer = whoami_as(&app, plugin, tenant, who).await;
            assert_eq!(answer.code(), NOBODY, "{tenant}/{who}: {answer:?}");
        }
    }
    let draft = folder.path().join("draft");
    std::fs::write(&draft, r#"{"t": {"ben": "2"}}"#).unwrap();
    std::fs::rename(draft, grants).unwrap();
    for plugin in ["remote", "api"] {
        assert_eq!(user(&whoami_as(&app, plugin, "t", "ben").await), "t:ben");
        let gone = whoami_as(&app, plugin, "t", "ana").await;
        assert_eq!(gone.code(), NOBODY, "{gone:?}");
    }
    app.mounts.stop().await;
    assert_eq!(world.seen().mixed, 0);
}

#[tokio::test]
async fn a_plugin_gets_tokens_of_its_own_and_a_new_one_for_one_that_is_not_taken() {
    let (world, url) = World::open().await;
    let folder = tempfile::tempdir().unwrap();
    let credential = Credential {
        users: Users::Alike,
        ..exchange(folder.path(), &url)
    };
    let app = App::start(plugins(folder.path(), &url, &credential)).await;
    for plugin in ["remote", "api"] {
        assert_eq!(user(&whoami_as(&app, plugin, "t", "ana").await), "service");
    }
    assert_eq!(world.seen().given["service"], 2);
    world.seen().tokens.clear();
    assert_eq!(user(&whoami_as(&app, "api", "t", "ben").await), "service");
    assert_eq!(
        user(&whoami_as(&app, "remote", "t", "ben").await),
        "service"
    );
    app.mounts.stop().await;
}
