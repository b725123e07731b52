//! What each client sees of each method at each server.

use std::fmt;

use Driver::{Node, Python, Rmcp};
use Outcome::{Fails, Sees};

/// How a client is run.
#[derive(Debug, Clone, Copy)]
pub enum Driver {
    /// A script in the Python environment.
    Python(&'static str),
    /// A script in Node.
    Node(&'static str),
    /// In this process.
    Rmcp,
}

/// A client at one revision.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Which SDK.
    pub name: &'static str,
    /// Which revision it speaks.
    pub revision: &'static str,
    /// How it is run.
    pub driver: Driver,
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.revision)
    }
}

const fn client(name: &'static str, revision: &'static str, driver: Driver) -> Client {
    Client {
        name,
        revision,
        driver,
    }
}

const OLDEST: &str = "2024-11-05";
const LAST_OLD: &str = "2025-11-25";
const NEWEST: &str = "2026-07-28";

const PYTHON: &str = "Python SDK";
const FASTMCP: &str = "FastMCP";
const V1: &str = "TypeScript SDK 1";
const V2: &str = "TypeScript SDK 2";
const RMCP: &str = "rmcp";
const INSPECTOR: &str = "inspector";

/// Every SDK at the oldest and the newest revision that it speaks. The inspector offers one revision of the older era.
pub const CLIENTS: [Client; 12] = [
    client(INSPECTOR, LAST_OLD, Node("inspector.mjs")),
    client(INSPECTOR, NEWEST, Node("inspector.mjs")),
    client(PYTHON, OLDEST, Python("python.py")),
    client(PYTHON, NEWEST, Python("python.py")),
    client(FASTMCP, OLDEST, Python("fastmcp_client.py")),
    client(FASTMCP, NEWEST, Python("fastmcp_client.py")),
    client(V1, OLDEST, Node("typescript_v1.mjs")),
    client(V1, LAST_OLD, Node("typescript_v1.mjs")),
    client(V2, OLDEST, Node("typescript_v2.mjs")),
    client(V2, NEWEST, Node("typescript_v2.mjs")),
    client(RMCP, OLDEST, Rmcp),
    client(RMCP, NEWEST, Rmcp),
];

/// `old` speaks 2025-11-25 (TypeScript SDK 1), `new` 2026-07-28 (Python SDK).
pub const SERVERS: [&str; 2] = ["new", "old"];

/// The methods, and what is seen where all goes well; `SERVER` stands for the server's name.
pub const METHODS: [(&str, &str); 15] = [
    (
        "tools",
        "listed True, sum 5 {\"sum\": 5}, failed True: it failed as it should",
    ),
    ("resources", "listed True, kept by SERVER"),
    ("templates", "listed True, item 7 of SERVER"),
    ("prompts", "listed True, Greet Ana from SERVER."),
    ("completion", "Ana Anton, 1 10"),
    ("logging", "warning careful"),
    ("roots", "roots: file:///matrix"),
    ("sampling", "sample: Paris"),
    ("form", "form: accept Ana"),
    ("url", "url: accept"),
    ("progress", "1/3 step 1, 2/3 step 2, 3/3 step 3, done"),
    ("cancellation", "cancelled"),
    ("list_changes", "tools prompts resources"),
    ("subscriptions", "updated SERVER://watched"),
    ("tasks", "a task: done"),
];

/// What comes of a cell.
#[derive(Debug, Clone, Copy)]
pub enum Outcome {
    /// It works, and this is seen.
    Sees(&'static str),
    /// It does not, and this is a part of what the SDK or the server says.
    Fails(&'static str),
}

/// Cells that are not as [`METHODS`] has it.
#[derive(Debug)]
pub struct Exception {
    clients: &'static [&'static str],
    revisions: &'static [&'static str],
    servers: &'static [&'static str],
    methods: &'static [&'static str],
    outcome: Outcome,
    /// Why it has to be so.
    #[expect(dead_code, reason = "shown with the exception that no cell needs")]
    why: &'static str,
}

const ANY: &[&str] = &[];
/// Those that follow the script in full.
const SDKS: &[&str] = &[PYTHON, FASTMCP, V1, V2, RMCP];

/// What differs, each with its reason.
pub const EXCEPTIONS: [Exception; 19] = [
    // Revisions
    Exception {
        clients: ANY,
        revisions: &[OLDEST],
        servers: ANY,
        methods: &["tools"],
        outcome: Sees("listed True, sum 5 null, failed True: it failed as it should"),
        why: "structured results came with 2025-06-18",
    },
    Exception {
        clients: ANY,
        revisions: &[OLDEST],
        servers: &["new"],
        methods: &["form"],
        outcome: Sees("form: decline None"),
        why: "elicitation came with 2025-06-18, so the question is declined for the client",
    },
    Exception {
        clients: ANY,
        revisions: &[OLDEST],
        servers: &["old"],
        methods: &["form"],
        outcome: Sees("form: decline undefined"),
        why: "elicitation came with 2025-06-18, so the question is declined for the client",
    },
    Exception {
        clients: ANY,
        revisions: &[OLDEST],
        servers: ANY,
        methods: &["url"],
        outcome: Sees("url: decline"),
        why: "URLs to visit came with 2025-11-25, so the question is declined for the client",
    },
    Exception {
        clients: ANY,
        revisions: &[OLDEST],
        servers: ANY,
        methods: &["tasks"],
        outcome: Sees("done"),
        why: "tasks came with 2025-11-25: older sessions are told of none, and a tool answers at once",
    },
    Exception {
        clients: SDKS,
        revisions: &[NEWEST],
        servers: &["old"],
        methods: &["tasks"],
        outcome: Sees("done"),
        why: "a tool of an older server that may be called without a task is called so",
    },
    // FastMCP
    Exception {
        clients: &[FASTMCP],
        revisions: &[NEWEST],
        servers: ANY,
        methods: &["logging"],
        outcome: Sees("debug all is well warning careful"),
        why: "it asks for the level debug in every request and leaves the choice to its log handler",
    },
    // Inspector
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: ANY,
        methods: &["completion"],
        outcome: Fails("Unsupported method: prompts/complete"),
        why: "its command line does not complete",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: &[LAST_OLD],
        servers: ANY,
        methods: &["logging"],
        outcome: Sees(""),
        why: "it sets a level, and shows the result of a call alone",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: &[NEWEST],
        servers: ANY,
        methods: &["logging"],
        outcome: Fails("not supported by the negotiated protocol version"),
        why: "no option says which level a call wants",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: ANY,
        methods: &["roots"],
        outcome: Sees("roots: "),
        why: "it declares roots, and no option names one",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: &["new"],
        methods: &["sampling"],
        outcome: Sees("sample: not declared"),
        why: "its command line cannot be asked",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: &["new"],
        methods: &["form"],
        outcome: Sees("form: not declared"),
        why: "its command line cannot be asked",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: &["new"],
        methods: &["url"],
        outcome: Sees("url: not declared"),
        why: "its command line cannot be asked",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: &["old"],
        methods: &["sampling", "form", "url"],
        outcome: Fails("the client does not declare this capability"),
        why: "its command line cannot be asked",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: ANY,
        methods: &["progress"],
        outcome: Sees(", done"),
        why: "it shows the result of a call alone",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: ANY,
        methods: &["cancellation"],
        outcome: Fails("no option cancels a call"),
        why: "a call of its command line ends with its process alone",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: ANY,
        servers: ANY,
        methods: &["list_changes", "subscriptions"],
        outcome: Fails("Unsupported method"),
        why: "its command line does not listen",
    },
    Exception {
        clients: &[INSPECTOR],
        revisions: &[LAST_OLD, NEWEST],
        servers: ANY,
        methods: &["tasks"],
        outcome: Sees("done"),
        why: "it follows a task to its end, and does not show that there was one",
    },
];

impl Exception {
    fn covers(&self, client: &Client, server: &str, method: &str) -> bool {
        let within = |named: &[&str], one: &str| named.is_empty() || named.contains(&one);
        within(self.clients, client.name)
            && within(self.revisions, client.revision)
            && within(self.servers, server)
            && within(self.methods, method)
    }
}

/// What is expected of a cell.
#[derive(Debug)]
pub enum Expected {
    /// To see exactly this.
    Sees(String),
    /// To fail with words that contain this.
    Fails(&'static str),
}

impl Expected {
    /// Whether this is what came.
    pub fn is(&self, saw: Option<&str>, failed: Option<&str>) -> bool {
        match self {
            Self::Sees(expected) => failed.is_none() && saw == Some(expected),
            Self::Fails(part) => saw.is_none() && failed.is_some_and(|said| said.contains(part)),
        }
    }
}

/// Returns what is expected of a cell, and which exception says so.
///
/// # Errors
/// When several do.
pub fn expected(
    client: &Client,
    server: &str,
    method: &str,
) -> Result<(Expected, Option<usize>), String> {
    let covering: Vec<usize> = (0..EXCEPTIONS.len())
        .filter(|index| EXCEPTIONS[*index].covers(client, server, method))
        .collect();
    let usual = METHODS.iter().find(|(name, _)| *name == method);
    match covering[..] {
        [] => {
            let saw = usual.map_or("", |(_, saw)| saw);
            Ok((Expected::Sees(saw.replace("SERVER", server)), None))
        }
        [index] => Ok((
            match EXCEPTIONS[index].outcome {
                Sees(saw) => Expected::Sees(saw.to_owned()),
                Fails(part) => Expected::Fails(part),
            },
            Some(index),
        )),
        _ => Err(format!("several exceptions: {covering:?}")),
    }
}
