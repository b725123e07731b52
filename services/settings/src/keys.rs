//! Every key, in one place: its type, bounds, default and meaning. The checked types, the reader, the
//! reference, the JSON Schema and the differences are all made from these tables.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;

use crate::form::{
    Address, Choice, Choices, Count, FilePath, Flag, Form, Lasting, List, Named, Numbers, Optional,
    Ratio, Shape, Size, Text, Texts, Variables,
};
use crate::reader::Reader;
use crate::secret::Secret;
use crate::text;
use crate::written::Value;

/// One key as the reference shows it.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) meaning: String,
    pub(crate) shape: Shape,
    pub(crate) default: Option<Json>,
}

/// One table of the file.
pub(crate) trait Section: Sized {
    /// Reads it; what is wrong is noted in the reader.
    fn read(reader: &mut Reader<'_>) -> Option<Self>;
    /// Adds its canonical values by key.
    fn show(&self, out: &mut BTreeMap<String, Json>);
    /// Adds its rows of the reference.
    fn rows(out: &mut Vec<Row>);
}

macro_rules! section {
    ($(#[$doc:meta])* $name:ident $prefix:literal { $($(#[doc = $meaning:literal])+ $field:ident: $type:ty = $form:expr, $default:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name { $($(#[doc = $meaning])+ pub $field: $type,)* }

        impl Section for $name {
            fn read(reader: &mut Reader<'_>) -> Option<Self> {
                // Every key is read, so that all mistakes are found, before one of them ends it.
                $(let $field = reader.key(concat!($prefix, ".", stringify!($field)), &$form, $default);)*
                Some($name { $($field: $field?,)* })
            }

            fn show(&self, out: &mut BTreeMap<String, Json>) {
                $(out.insert(concat!($prefix, ".", stringify!($field)).to_owned(), $form.show(&self.$field));)*
            }

            fn rows(out: &mut Vec<Row>) {
                $(out.push(Row {
                    key: concat!($prefix, ".", stringify!($field)).to_owned(),
                    meaning: [$($meaning.trim()),+].join(" "),
                    shape: $form.shape(),
                    default: $default.map(|value: Value| value.to_json()),
                });)*
            }
        }
    };
}

fn text(value: &str) -> Option<Value> {
    Some(Value::Text(value.to_owned()))
}

fn number(value: i128) -> Option<Value> {
    Some(Value::Integer(value))
}

fn none() -> Option<Value> {
    None
}

fn empty() -> Option<Value> {
    Some(Value::List(Vec::new()))
}

const fn seconds(min: u64, max: u64) -> Lasting {
    Lasting {
        min: Duration::from_secs(min),
        max: Duration::from_secs(max),
    }
}

const fn millis(min: u64, max: u64) -> Lasting {
    Lasting {
        min: Duration::from_millis(min),
        max: Duration::from_secs(max),
    }
}

const MIB: u64 = 1 << 20;

const LOGGED: Named<Logged> = Named {
    name: &text::PATTERN,
    entries_max: 1024,
    value: Choice::new(),
};

const FLAGS: Numbers = Numbers {
    name: &text::FLAG,
    entries_max: 64,
    min: 0,
    max: 100,
};

const BODY: Size = Size {
    min: 1024,
    max: 1024 * MIB,
};

section! {
    /// `[edge]`: where the gateway listens.
    EdgeListen "edge" {
        /// Where clients connect: MCP, JSON-RPC, GraphQL.
        listen: SocketAddr = Address, text("127.0.0.1:8700");
        /// Where operators and Prometheus connect.
        admin_listen: SocketAddr = Address, text("127.0.0.1:8701");
        /// Where Cap'n Proto clients connect.
        capnp_listen: SocketAddr = Address, text("127.0.0.1:8702");
        /// Worker threads; 0 takes one a core.
        workers: usize = Count::<usize> { min: 0, max: 1024 }, number(0);
        /// Origins of web pages that may call, beside those of this machine.
        allowed_origins: Vec<String> = List { item: Text(&text::ORIGIN), length_min: 0, length_max: 256 }, empty();
    }
}

section! {
    /// `[edge.http]`: bounds on clients' HTTP requests.
    EdgeHttp "edge.http" {
        /// Largest request body.
        body_limit: u64 = BODY, text("10MiB");
        /// Largest body on `/mcp`; `body_limit` if it is not set.
        body_limit_mcp: Option<u64> = Optional(BODY), none();
        /// Largest body on `/mcp/v1/jsonrpc`; `body_limit` if it is not set.
        body_limit_jsonrpc: Option<u64> = Optional(BODY), none();
        /// Largest body on `/mcp/v1/batch`; `body_limit` if it is not set.
        body_limit_batch: Option<u64> = Optional(BODY), none();
        /// Largest body on `/graphql`; `body_limit` if it is not set.
        body_limit_graphql: Option<u64> = Optional(BODY), none();
        /// Memory that the bodies of all requests may hold together; past it callers get a retryable 503.
        body_memory_limit: u64 = Size { min: MIB, max: 1024 * 1024 * MIB }, text("256MiB");
        /// How long a request's head may take to arrive.
        header_timeout: Duration = millis(100, 600), text("10s");
        /// How long a request's body may take to arrive.
        body_timeout: Duration = millis(100, 3600), text("30s");
        /// How long a call may take in all, retries included.
        request_timeout: Duration = millis(100, 3600), text("30s");
        /// How long an idle connection is kept.
        idle_timeout: Duration = seconds(1, 3600), text("60s");
        /// Calls that may be under way at once; past it callers get a retryable 503.
        in_flight_max: usize = Count::<usize> { min: 1, max: 1_000_000 }, number(4096);
        /// Streams of changes that one principal may have open at once: those of its sessions, and `subscriptions/listen`.
        streams_max_principal: usize = Count::<usize> { min: 1, max: 65_536 }, number(256);
    }
}

section! {
    /// `[edge.auth]`: which tokens are trusted.
    EdgeAuth "edge.auth" {
        /// JWKS file (RFC 7517) with the public keys; read again when it changes. Without one, that of the state folder.
        jwks_file: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// The `iss` that tokens must have.
        issuer: String = Text(&text::WORDS), text("sweetmcp");
        /// The `aud` that tokens must name.
        audience: String = Text(&text::WORDS), text("sweetmcp");
        /// How far clocks may differ.
        leeway: Duration = seconds(0, 600), text("30s");
    }
}

section! {
    /// `[edge.session]`: sessions of the older protocol revisions.
    EdgeSession "edge.session" {
        /// Files of one key each (64 hexadecimal digits): the first seals, all open. Without any, that of the state folder.
        key_files: Vec<PathBuf> = List { item: FilePath(&text::PATH), length_min: 0, length_max: 8 }, empty();
        /// How long a session lives.
        ttl: Duration = seconds(1, 30 * 86_400), text("24h");
    }
}

section! {
    /// `[edge.rate]`: the token bucket of each principal.
    EdgeRate "edge.rate" {
        /// Calls a second.
        per_second: u32 = Count::<u32> { min: 1, max: 1_000_000 }, number(200);
        /// Calls at once.
        burst: u32 = Count::<u32> { min: 1, max: 1_000_000 }, number(400);
    }
}

section! {
    /// `[edge.queue]`: calls that wait for a place, dealt fairly between tenants.
    EdgeQueue "edge.queue" {
        /// Calls that may wait for a place at once; past it the least important call of the tenant with the most waiting gets
        /// a retryable 503. 0 lets none wait.
        waiting_max: usize = Count::<usize> { min: 0, max: 65_536 }, number(1024);
        /// How long a call may wait in a queue that was empty a moment ago; a queue that was not for so long is an overload.
        interval: Duration = millis(1, 60), text("100ms");
        /// How long a call may wait while there is an overload, before it gets a retryable 503.
        target: Duration = millis(1, 60), text("2ms");
        /// How long the most important waiting call of each tenant may wait, whatever the load.
        wait_max: Duration = millis(1, 60), text("1s");
        /// Tenants' weights: a tenant of weight 2 gets twice as many places as one of weight 1 while both want more. `*` is
        /// for all others; 1 if it is not set.
        weights: BTreeMap<String, u64> = Numbers { name: &text::TENANT, entries_max: 1024, min: 1, max: 100 }, Some(Value::Table(BTreeMap::new()));
        /// Tools whose calls go before their tenant's others, at half the cost; `*` at the end for all that begin so.
        critical: Vec<String> = List { item: Text(&text::PATTERN), length_min: 0, length_max: 256 }, empty();
        /// Tools whose calls go after their tenant's others, at twice the cost.
        background: Vec<String> = List { item: Text(&text::PATTERN), length_min: 0, length_max: 256 }, empty();
    }
}

section! {
    /// `[edge.concurrency]`: how many calls may be under way, by what latency shows.
    EdgeConcurrency "edge.concurrency" {
        /// Whether the limit follows latency; else it is always `edge.http.in_flight_max`, which is the highest in any case.
        adaptive: bool = Flag, Some(Value::Flag(true));
        /// The limit is never lower.
        limit_min: usize = Count::<usize> { min: 1, max: 1_000_000 }, number(64);
        /// How many times longer than usual the middle call may take before the limit falls.
        tolerance: f64 = Ratio { min: 1.1, max: 100.0 }, Some(Value::Float(2.0));
    }
}

section! {
    /// `[edge.cost]`: what calls cost, for rates, shares and quotas.
    EdgeCost "edge.cost" {
        /// What a call of a tool costs, `*` at the end for all that begin so; 1 if no name fits.
        tools: BTreeMap<String, u64> = Numbers { name: &text::PATTERN, entries_max: 1024, min: 1, max: 1000 }, Some(Value::Table(BTreeMap::new()));
        /// Whether tools that are not named in `tools` cost what their calls take: 1, one more for each 100 ms, and one more
        /// for each 64 KiB.
        learn: bool = Flag, Some(Value::Flag(false));
    }
}

section! {
    /// `[edge.quota]`: what a tenant may use in a day (UTC), in units of cost.
    EdgeQuota "edge.quota" {
        /// Past it, calls are refused until the next day; `*` is for each tenant that is not named.
        hard: BTreeMap<String, u64> = Numbers { name: &text::TENANT, entries_max: 1024, min: 1, max: 1 << 50 }, Some(Value::Table(BTreeMap::new()));
        /// Past it, one warning is logged and counted.
        soft: BTreeMap<String, u64> = Numbers { name: &text::TENANT, entries_max: 1024, min: 1, max: 1 << 50 }, Some(Value::Table(BTreeMap::new()));
    }
}

section! {
    /// `[edge.usage]`: the account of calls that `sweetops usage` shows.
    EdgeUsage "edge.usage" {
        /// Whether it is kept. Quotas need it.
        keep: bool = Flag, Some(Value::Flag(true));
        /// How long days are kept.
        retention: Duration = seconds(86_400, 3660 * 86_400), text("9600h");
    }
}

section! {
    /// `[edge.redis]`: the store through which several edges keep one rate and tell of the same events.
    EdgeRedis "edge.redis" {
        /// Where Redis is; without one each edge keeps its own buckets.
        url: Option<String> = Optional(Text(&text::REDIS_URL)), none();
        /// A file with the password; it is read for every connection, so that it can be rotated.
        password_file: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// How long an answer may take before the edge goes on with its own share of the rate.
        timeout: Duration = millis(1, 10), text("50ms");
        /// Edges that share the rate: what one of them allows while Redis is away is the rate divided by it. The fleet's
        /// edges if it is not set.
        share: Option<u32> = Optional(Count::<u32> { min: 1, max: 1000 }), none();
    }
}

section! {
    /// `[edge.balance]`: attempts and instances.
    EdgeBalance "edge.balance" {
        /// How long a connection to an app may take.
        connect_timeout: Duration = millis(1, 60), text("1s");
        /// Attempts for one call, the first included.
        attempts_max: u32 = Count::<u32> { min: 1, max: 10 }, number(3);
        /// Retries that 100 calls earn.
        retry_budget_percent: u8 = Count::<u8> { min: 0, max: 100 }, number(20);
        /// Failures in a row after which an instance gets no calls for a while; 0 never.
        eject_after_failures: u32 = Count::<u32> { min: 0, max: 1000 }, number(3);
        /// How long it gets none at first; longer each time.
        eject_for: Duration = millis(100, 600), text("5s");
        /// When more than this share of the instances is out, all are used.
        panic_threshold_percent: u8 = Count::<u8> { min: 0, max: 100 }, number(50);
    }
}

section! {
    /// `[edge.graphql]`: bounds on documents.
    EdgeGraphql "edge.graphql" {
        /// Levels of fields.
        depth_max: usize = Count::<usize> { min: 1, max: 64 }, number(16);
        /// Cost of an operation: one a field, five more a tool call.
        complexity_max: usize = Count::<usize> { min: 1, max: 1_000_000 }, number(500);
        /// Fields with an alias.
        aliases_max: usize = Count::<usize> { min: 0, max: 10_000 }, number(64);
        /// Tokens of a document.
        tokens_max: usize = Count::<usize> { min: 10, max: 1_000_000 }, number(15_000);
        /// Whether the schema may be asked for.
        introspection: bool = Flag, Some(Value::Flag(true));
    }
}

section! {
    /// `[edge.capnp]`: bounds on Cap'n Proto.
    EdgeCapnp "edge.capnp" {
        /// Largest message.
        message_limit: u64 = Size { min: 1024, max: 64 * MIB }, text("8MiB");
        /// Structs and lists within each other.
        nesting_limit: u16 = Count::<u16> { min: 4, max: 256 }, number(64);
        /// Connections at once.
        connections_max: usize = Count::<usize> { min: 1, max: 65_536 }, number(1024);
        /// Calls under way on one connection.
        in_flight_max: usize = Count::<usize> { min: 1, max: 65_536 }, number(64);
    }
}

section! {
    /// `[edge.websocket]`: bounds on `/mcp/v1/ws`.
    EdgeWebsocket "edge.websocket" {
        /// Connections at once.
        connections_max: usize = Count::<usize> { min: 1, max: 1_000_000 }, number(4096);
        /// Largest message of a client, its fragments together.
        message_limit: u64 = Size { min: 1024, max: 64 * MIB }, text("4MiB");
        /// Requests of one connection that may be under way at once.
        in_flight_max: usize = Count::<usize> { min: 1, max: 64 }, number(64);
        /// How often a client is asked whether it lives; one that is not heard twice is cut off.
        ping_interval: Duration = millis(100, 600), text("20s");
        /// How long a connection may pass without a message, and with nothing under way.
        idle_timeout: Duration = seconds(1, 86_400), text("1h");
    }
}

section! {
    /// `[edge.events]`: bounds on `/mcp/v1/events`.
    EdgeEvents "edge.events" {
        /// Streams at once.
        streams_max: usize = Count::<usize> { min: 1, max: 1_000_000 }, number(16_384);
        /// Streams of one principal at once.
        streams_max_principal: usize = Count::<usize> { min: 1, max: 65_536 }, number(16);
        /// How long events of a principal are kept for a stream that comes back.
        keep: Duration = seconds(1, 86_400), text("5m");
    }
}

section! {
    /// `[edge.flags]`: features that are on for a share of callers. Tools are told which are on for theirs; the same callers
    /// have them on every edge, and keep them while the share grows.
    EdgeFlags "edge.flags" {
        /// For how many of 100 tenants each flag is on.
        by_tenant: BTreeMap<String, u64> = FLAGS, Some(Value::Table(BTreeMap::new()));
        /// For how many of 100 subjects each flag is on.
        by_subject: BTreeMap<String, u64> = FLAGS, Some(Value::Table(BTreeMap::new()));
        /// For how many of 100 sessions each flag is on; for calls without a session, of 100 subjects.
        by_session: BTreeMap<String, u64> = FLAGS, Some(Value::Table(BTreeMap::new()));
    }
}

section! {
    /// `[edge.log]`: how much of what tools are called with, and of what they answer, is logged. Values that look like
    /// secrets, or stand under names such as `password` or `token`, are masked in any case.
    EdgeLog "edge.log" {
        /// By tool, `*` at the end for all that begin so: `none` of the arguments, their names (`keys`), or all of them
        /// (`full`). The longest name that fits counts; none if no name fits.
        arguments: BTreeMap<String, Logged> = LOGGED, Some(Value::Table(BTreeMap::new()));
        /// The same of results.
        results: BTreeMap<String, Logged> = LOGGED, Some(Value::Table(BTreeMap::new()));
        /// Members that are masked too: by name wherever they stand (`ssn`), or by JSON Pointer (`/patient/name`).
        redact: Vec<String> = List { item: Text(&text::MEMBER), length_min: 0, length_max: 256 }, empty();
        /// How much is written of the arguments of one call, and of its result.
        limit: u64 = Size { min: 64, max: 4096 }, text("1KiB");
    }
}

section! {
    /// `[edge.signatures]`: signed requests (RFC 9421), each good for one use.
    EdgeSignatures "edge.signatures" {
        /// JWKS file (RFC 7517) with the keys that requests may be signed with: Ed25519, P-256, or `oct` of 32 bytes and more for
        /// HMAC with SHA-256. A key with a `sub` is that subject's alone. Read again when it changes. Without one, no signature is
        /// looked at.
        keys_file: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// Paths whose requests must be signed, `*` at the end for all that begin so: `/mcp`, `/mcp/v1/*`, `/graphql`.
        required_paths: Vec<String> = List { item: Text(&text::PATH), length_min: 0, length_max: 64 }, empty();
        /// Subjects whose requests must be signed, `*` at the end for all that begin so. They cannot call by WebSocket or Cap'n
        /// Proto, whose messages nobody signs.
        required_subjects: Vec<String> = List { item: Text(&text::TENANT), length_min: 0, length_max: 1024 }, empty();
        /// How long a signature counts after it was `created`.
        age_max: Duration = seconds(1, 3600), text("5m");
        /// How far clocks may differ.
        leeway: Duration = seconds(0, 600), text("30s");
        /// Nonces that an edge remembers; past it, signed requests get a retryable 503.
        nonces_max: usize = Count::<usize> { min: 1000, max: 10_000_000 }, number(1_000_000);
    }
}

section! {
    /// `[edge.search]`: `find_tools` and `call_tool` in place of long lists of tools.
    EdgeSearch "edge.search" {
        /// Who gets a short list: nobody (`off`), clients that ask for it (`asked`), or also those that do not say, from
        /// `tools_min` tools on (`large`).
        mode: SearchMode = Choice::<SearchMode>::new(), text("asked");
        /// With `large`: the number of tools from which on a list is long.
        tools_min: usize = Count::<usize> { min: 1, max: 1_000_000 }, number(100);
    }
}

section! {
    /// `[edge.shutdown]`: how the edge ends.
    EdgeShutdown "edge.shutdown" {
        /// How long it serves on after it has said that it goes.
        grace: Duration = millis(0, 60), text("1s");
        /// How long calls under way may take to end.
        drain: Duration = millis(0, 3600), text("30s");
    }
}

section! {
    /// `[app]`: where an app listens.
    AppListen "app" {
        /// Where the edge connects; port 0 takes any free one.
        listen: SocketAddr = Address, text("127.0.0.1:0");
        /// Whether the built-in tools are served beside configured plugins.
        builtins: bool = Flag, Some(Value::Flag(true));
    }
}

section! {
    /// `[app.http]`: bounds on the app's HTTP requests.
    AppHttp "app.http" {
        /// Largest request body.
        body_limit: u64 = BODY, text("10MiB");
        /// How long a request may take.
        request_timeout: Duration = millis(100, 3600), text("30s");
        /// How long a request's head may take to arrive.
        header_timeout: Duration = millis(100, 600), text("10s");
    }
}

section! {
    /// `[app.shutdown]`: how an app ends.
    AppShutdown "app.shutdown" {
        /// How long it serves on after it has said that it goes.
        grace: Duration = millis(0, 60), text("1s");
        /// How long calls under way may take to end.
        drain: Duration = millis(0, 3600), text("30s");
    }
}

section! {
    /// `[fleet]`: how many of each, and where.
    Fleet "fleet" {
        /// App instances.
        apps: u32 = Count::<u32> { min: 1, max: 200 }, number(3);
        /// Edge instances. They share the addresses of `[edge]`; the others' operators' interface is at a free port.
        edges: u32 = Count::<u32> { min: 1, max: 16 }, number(1);
        /// The zone that instances say they are in.
        zone: Option<String> = Optional(Text(&text::WORDS)), none();
    }
}

section! {
    /// `[telemetry]`: logs and traces.
    Telemetry "telemetry" {
        /// Form of log lines; `auto` is for people on a terminal and JSON elsewhere.
        log_format: LogFormat = Choice::<LogFormat>::new(), text("auto");
        /// Least level that is logged: LEVEL or TARGET=LEVEL, separated by commas.
        log_filter: String = Text(&text::WORDS), text("info");
        /// OTLP/HTTP collector of traces; without one no span is recorded.
        otlp_endpoint: Option<String> = Optional(Text(&text::URL)), none();
        /// Share of traces that are recorded.
        sample_ratio: f64 = Ratio { min: 0.0, max: 1.0 }, Some(Value::Float(0.05));
    }
}

section! {
    /// One `[[plugin]]` as written, whatever its kind.
    PluginKeys "plugin" {
        /// Name, unique in the fleet.
        name: String = Text(&text::PLUGIN_NAME), none();
        /// `stdio` runs an MCP server as a child process, `http` is a remote MCP server, `openapi` makes tools of an HTTP
        /// API's document, `wasm` runs a WebAssembly component, `builtin` serves tools that come with SweetMCP.
        kind: Kind = Choice::<Kind>::new(), none();
        /// What its tools' names begin with; the plugin's name and `_` if it is not set.
        prefix: Option<String> = Optional(Text(&text::PREFIX)), none();
        /// Names under which some of its tools and prompts are served, whole, in place of prefix and own name.
        names: BTreeMap<String, String> = Texts { name: &text::OWN_NAME, value: &text::PUBLIC_NAME, entries_max: 1024 }, Some(Value::Table(BTreeMap::new()));
        /// stdio, http, wasm: whether its word on what a tool does (read-only, idempotent) is believed: calls of such tools are
        /// sent again when an attempt fails, though it may have run. `builtin` and `openapi` plugins are believed always.
        trusted: bool = Flag, Some(Value::Flag(false));
        /// What happens to a tool, prompt or resource whose definition is not the one that was first seen, or is new, and to the
        /// plugin when a file that it is made of (program, script, component, document) is another: `off` nothing, `report` a
        /// log line, `refuse` it is not served until `sweetops plugin approve` lets it in.
        pins: Pinning = Choice::<Pinning>::new(), text("off");
        /// Scopes of which a caller's token must grant one to see and use what it offers; none: everybody may.
        scopes: Vec<String> = List { item: Text(&text::SCOPE), length_min: 0, length_max: 16 }, empty();
        /// What its tools are told of a call: `request` its ID, trace and time left, `caller` also who calls (subject and
        /// tenant), in which language (`Accept-Language`), and which of `edge.flags` are on. If it is not set, `request` for
        /// http and openapi, which are elsewhere, and `caller` for all others.
        context: Option<Telling> = Optional(Choice::<Telling>::new()), none();
        /// stdio, wasm: the minisign public key whose signature its files must have: the program, or the files in
        /// `signed_files`; the component. The signature of FILE is FILE.minisig. A file without it is not started or loaded.
        signed_by: Option<String> = Optional(Text(&text::MINISIGN_KEY)), none();
        /// stdio: the files that must be signed, such as an interpreter's script; the program if it is empty.
        signed_files: Vec<PathBuf> = List { item: FilePath(&text::PATH), length_min: 0, length_max: 64 }, empty();
        /// stdio: the program.
        command: Option<String> = Optional(Text(&text::PATH)), none();
        /// stdio: its arguments.
        args: Vec<String> = List { item: Text(&text::ARGUMENT), length_min: 0, length_max: 256 }, empty();
        /// stdio: variables of its environment, which has nothing else but PATH, HOME and LANG. Never shown.
        env: BTreeMap<String, Secret> = Variables { name: &text::VARIABLE, entries_max: 128, value_max: 16 * 1024 }, Some(Value::Table(BTreeMap::new()));
        /// stdio: the folder it runs in; the release's if it is not set.
        working_dir: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// stdio: processes of the program that serve always.
        instances_min: usize = Count::<usize> { min: 1, max: 64 }, number(1);
        /// stdio: processes of the program that serve at most: one more is started when a call finds all of them busy. A
        /// server that works in tasks keeps one.
        instances_max: Option<usize> = Optional(Count::<usize> { min: 1, max: 64 }), none();
        /// stdio: how long a process beyond `instances_min` stays without a call.
        instances_idle: Duration = seconds(1, 86_400), text("60s");
        /// stdio: memory of one process and all that it starts; past it they are killed, and started again.
        child_memory_limit: Option<u64> = Optional(Size { min: MIB, max: 1024 * 1024 * MIB }), none();
        /// stdio: processors that one process and all that it starts may keep busy, averaged over five seconds; past it they
        /// are killed, and started again.
        child_cpu_limit: Option<f64> = Optional(Ratio { min: 0.01, max: 1024.0 }), none();
        /// stdio: how many processes one process may have with all that it starts, itself included; past it they are killed,
        /// and started again.
        child_processes_limit: Option<usize> = Optional(Count::<usize> { min: 1, max: 65_536 }), none();
        /// stdio: what becomes of its standard error: `log` logs it without the values of `env` and what looks like a secret,
        /// 50 lines a second and 4 KiB a line at most; `drop` forgets it.
        stderr: Stderr = Choice::<Stderr>::new(), text("log");
        /// stdio: whether it is kept within walls: no new privileges, no files but the system's programs and libraries, its
        /// own (program, arguments, `working_dir`) and those in `read_paths` and `write_paths`, no network, and no reach into
        /// other processes. It changes no file's mode, owner, times or attributes, not even of those it may write, so that
        /// what installs packages (`npx`, `uvx` before they have cached one) fails there: install beforehand. Of files that
        /// it may not read it still sees sizes and dates, if it knows the names. It is not started where the kernel
        /// cannot do that (Landlock, Linux 6.2).
        sandbox: bool = Flag, Some(Value::Flag(false));
        /// stdio with `sandbox`: files and folders that it may read.
        read_paths: Vec<PathBuf> = List { item: FilePath(&text::PATH), length_min: 0, length_max: 64 }, empty();
        /// stdio with `sandbox`: files and folders that it may read and write.
        write_paths: Vec<PathBuf> = List { item: FilePath(&text::PATH), length_min: 0, length_max: 64 }, empty();
        /// stdio with `sandbox`: whether it may have sockets: the network's, and those of programs on this machine, such as a
        /// database's or Docker's, wherever their files are.
        network: bool = Flag, Some(Value::Flag(false));
        /// stdio, http: how long its handshake may take.
        start_timeout: Duration = millis(100, 600), text("30s");
        /// How long one of its calls may take.
        call_timeout: Duration = millis(100, 3600), text("30s");
        /// http: the server's MCP endpoint. openapi: the API's base URL, to which the document's paths are added.
        url: Option<String> = Optional(Text(&text::URL)), none();
        /// http: how messages are carried: `streamable` HTTP, `sse` for the transport of 2024-11-05 (`url` is where its stream is),
        /// or `auto`: streamable, and `sse` if nothing at the URL takes messages.
        transport: Transport = Choice::<Transport>::new(), text("auto");
        /// http, openapi: header fields of every request, such as an API key. Never shown.
        headers: BTreeMap<String, Secret> = Variables { name: &text::HEADER, entries_max: 32, value_max: 8 * 1024 }, Some(Value::Table(BTreeMap::new()));
        /// http, openapi: a file whose content is sent as bearer token; it is read for every request, so that it can be rotated.
        token_file: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// http, openapi: in whose name tools are called: `service` in the plugin's own, `stored` with the calling user's token
        /// from `grants_file`, `exchange` with one that `token_url` gives for the calling user (RFC 8693). A user without a
        /// token is refused. Lists are fetched in the plugin's own name always.
        act_as: ActAs = Choice::<ActAs>::new(), text("service");
        /// http, openapi: JSON of tenants, users and their bearer tokens, `{"default": {"ana": "TOKEN"}}`; read again when it changes.
        grants_file: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// http, openapi: OAuth token endpoint. It gives the plugin's own tokens by `client_credentials`, unless `token_file` is
        /// set, and users' with `act_as = "exchange"`.
        token_url: Option<String> = Optional(Text(&text::URL)), none();
        /// http, openapi: who we are at `token_url`.
        client_id: Option<String> = Optional(Text(&text::WORDS)), none();
        /// http, openapi: a file with the secret for `token_url`; read for every token.
        client_secret_file: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// http, openapi: the `scope` that tokens are asked for.
        scope: Option<String> = Optional(Text(&text::WORDS)), none();
        /// http, openapi: the `audience` that tokens are asked for (RFC 8693).
        token_audience: Option<String> = Optional(Text(&text::WORDS)), none();
        /// http, openapi: the `resource` that tokens are asked for (RFC 8707).
        token_resource: Option<String> = Optional(Text(&text::URL)), none();
        /// http, openapi: the private key (PEM, PKCS#8, Ed25519 or P-256) that signs, for `act_as = "exchange"`, who the user is.
        /// `token_url` must know its public half.
        subject_key_file: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// http, openapi: the `iss` of what that key signs.
        subject_issuer: String = Text(&text::WORDS), text("sweetmcp");
        /// http, openapi, wasm: largest answer.
        response_limit: u64 = Size { min: 1024, max: 64 * MIB }, text("1MiB");
        /// openapi: the OpenAPI 3.0 or 3.1 document, JSON or YAML; read again when it changes.
        document: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// openapi: names of the tools that are served, `*` at the end for all that begin so; all of them if it is empty.
        operations: Vec<String> = List { item: Text(&text::PATTERN), length_min: 0, length_max: 1024 }, empty();
        /// openapi: whether the document's word on answers becomes the tools' `outputSchema`; an answer that does not fit it
        /// is then an error.
        output_schemas: bool = Flag, Some(Value::Flag(true));
        /// wasm: the component's file; loaded again when it changes.
        module: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// wasm: SHA-256 of the component's file in hexadecimal; another file is not loaded.
        digest: Option<String> = Optional(Text(&text::DIGEST)), none();
        /// wasm: what the component may do beside computing: `clock` tells it the time, `random` gives it randomness.
        grants: Vec<Grant> = List { item: Choice::<Grant>::new(), length_min: 0, length_max: 2 }, empty();
        /// wasm: whether the component may change what is in `root`.
        writable: bool = Flag, Some(Value::Flag(false));
        /// wasm: memory of one call.
        memory_limit: u64 = Size { min: MIB, max: 1024 * MIB }, text("64MiB");
        /// wasm: how much one call may compute, in WebAssembly instructions; time alone ends it if it is not set.
        fuel: Option<u64> = Optional(Count::<u64> { min: 10_000, max: 1 << 50 }), none();
        /// wasm: calls under way at once.
        calls_max: usize = Count::<usize> { min: 1, max: 64 }, number(16);
        /// wasm: instances that are made ahead of their call.
        warm: usize = Count::<usize> { min: 0, max: 64 }, number(4);
        /// builtin: which tools.
        set: Option<BuiltinSet> = Optional(Choice::<BuiltinSet>::new()), none();
        /// builtin files: the folder that is served; one in the state folder if it is not set. wasm: a folder that the component
        /// sees as `/data`; none if it is not set.
        root: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// builtin sqlite: the database; one in memory if it is not set.
        path: Option<PathBuf> = Optional(FilePath(&text::PATH)), none();
        /// builtin http: hosts that may be fetched from. wasm: hosts that the component may ask (`wasi:http`), with the same
        /// rules for redirects and private addresses; none if it is empty.
        allow_hosts: Vec<String> = List { item: Text(&text::HOST), length_min: 0, length_max: 256 }, empty();
    }
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

impl Choices for LogFormat {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Auto, "auto"),
        (Self::Json, "json"),
        (Self::Pretty, "pretty"),
    ];
}

/// How much of arguments or results is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logged {
    /// Nothing.
    None,
    /// The names of members, and what kinds of value they have.
    Keys,
    /// All but secrets.
    Full,
}

impl Choices for Logged {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::None, "none"),
        (Self::Keys, "keys"),
        (Self::Full, "full"),
    ];
}

/// Who gets a short list of tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchMode {
    /// Nobody.
    Off,
    /// Clients that ask for it.
    Asked,
    /// Also those that do not say, where the list is long.
    Large,
}

impl Choices for SearchMode {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Off, "off"),
        (Self::Asked, "asked"),
        (Self::Large, "large"),
    ];
}

/// Kind of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A child process that speaks MCP over standard input and output.
    Stdio,
    /// A remote MCP server.
    Http,
    /// An HTTP API with an OpenAPI document.
    Openapi,
    /// A WebAssembly component.
    Wasm,
    /// Tools that come with SweetMCP.
    Builtin,
}

impl Choices for Kind {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Stdio, "stdio"),
        (Self::Http, "http"),
        (Self::Openapi, "openapi"),
        (Self::Wasm, "wasm"),
        (Self::Builtin, "builtin"),
    ];
}

/// What happens to a definition that changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinning {
    /// Nothing.
    Off,
    /// It is logged.
    Report,
    /// It is logged and not served.
    Refuse,
}

impl Choices for Pinning {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Off, "off"),
        (Self::Report, "report"),
        (Self::Refuse, "refuse"),
    ];
}

/// What a plugin's tools are told of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// Its ID, its trace, and the time left.
    Request,
    /// Also who calls, in which language, and with which flags.
    Caller,
}

impl Choices for Telling {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Request, "request"), (Self::Caller, "caller")];
}

/// What becomes of what a program writes for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// It is logged, without secrets.
    Log,
    /// It is forgotten.
    Drop,
}

impl Stderr {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Drop => "drop",
        }
    }
}

impl Choices for Stderr {
    const ALL: &'static [(Self, &'static str)] = &[(Self::Log, "log"), (Self::Drop, "drop")];
}

/// How the messages of a remote MCP server are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// As it turns out.
    Auto,
    /// Streamable HTTP.
    Streamable,
    /// HTTP with server-sent events, of 2024-11-05.
    Sse,
}

impl Transport {
    /// Returns the word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Streamable => "streamable",
            Self::Sse => "sse",
        }
    }
}

impl Choices for Transport {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Auto, Self::Auto.as_str()),
        (Self::Streamable, Self::Streamable.as_str()),
        (Self::Sse, Self::Sse.as_str()),
    ];
}

/// In whose name a plugin's tools are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActAs {
    /// The plugin's own.
    Service,
    /// The calling user's, with a token that is kept for it.
    Stored,
    /// The calling user's, with a token that is got for it.
    Exchange,
}

impl Choices for ActAs {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Service, "service"),
        (Self::Stored, "stored"),
        (Self::Exchange, "exchange"),
    ];
}

/// What a component may do beside computing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// Know the time.
    Clock,
    /// Have secure randomness.
    Random,
}

impl Choices for Grant {
    const ALL: &'static [(Self, &'static str)] =
        &[(Self::Clock, "clock"), (Self::Random, "random")];
}

/// A set of built-in tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltinSet {
    /// Time and time zones.
    Time,
    /// Text: statistics, differences, search.
    Text,
    /// JSON: query, validate, format.
    Json,
    /// Digests and encodings.
    Hash,
    /// SQL over a SQLite database.
    Sqlite,
    /// Files under one folder.
    Files,
    /// HTTP from hosts that are allowed.
    Http,
    /// What the protocol's conformance suite expects; of no other use.
    Conformance,
}

impl Choices for BuiltinSet {
    const ALL: &'static [(Self, &'static str)] = &[
        (Self::Time, "time"),
        (Self::Text, "text"),
        (Self::Json, "json"),
        (Self::Hash, "hash"),
        (Self::Sqlite, "sqlite"),
        (Self::Files, "files"),
        (Self::Http, "http"),
        (Self::Conformance, "conformance"),
    ];
}

/// All rows, in the order of the reference.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for section in [
        EdgeListen::rows,
        EdgeHttp::rows,
        EdgeAuth::rows,
        EdgeSession::rows,
        EdgeRate::rows,
        EdgeQueue::rows,
        EdgeConcurrency::rows,
        EdgeCost::rows,
        EdgeQuota::rows,
        EdgeUsage::rows,
        EdgeRedis::rows,
        EdgeBalance::rows,
        EdgeGraphql::rows,
        EdgeCapnp::rows,
        EdgeWebsocket::rows,
        EdgeFlags::rows,
        EdgeLog::rows,
        EdgeSignatures::rows,
        EdgeSearch::rows,
        EdgeEvents::rows,
        EdgeShutdown::rows,
        AppListen::rows,
        AppHttp::rows,
        AppShutdown::rows,
        Fleet::rows,
        Telemetry::rows,
        PluginKeys::rows,
    ] {
        section(&mut rows);
    }
    rows
}
