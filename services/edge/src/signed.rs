//! Signed requests: who must sign, whether a signature holds (`signature`), and whether it was used before.
//!
//! A signature is looked at before the body is read, the body's digest and the nonce after: a request that breaks off, or whose
//! body was changed on its way, uses up nobody's nonce. Nonces are remembered for as long as their request would not be too old,
//! by this edge and, with Redis, by all. When Redis is away each edge remembers alone, and says so.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use mcp::{Cause, Failure};
use redis::Client;
use redis::aio::MultiplexedConnection;
use sha2::{Digest, Sha256};
use signature::{Keys, Request, Rules, Signed};

use crate::exchange::Exchange;
use crate::identity::{Caller, unix_seconds};
use crate::shared::connect;

/// How often the key file is looked at.
const RELOAD_EVERY: Duration = Duration::from_secs(1);
/// Largest key file, in bytes.
const KEYS_BYTES_MAX: u64 = 1 << 20;
/// Before Redis is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// When to come back if no more nonces can be remembered.
const COME_BACK: Duration = Duration::from_secs(1);

/// What the settings say of signatures.
pub struct Signatures {
    keys: Option<ArcSwap<Keys>>,
    rules: Rules,
    paths: Vec<String>,
    subjects: Vec<String>,
    seen: Seen,
    shared: Option<SharedNonces>,
}

/// What is left to be looked at once a request's body is there.
pub struct Pending {
    signatures: Arc<Signatures>,
    signed: Signed,
}

impl Signatures {
    /// By the settings; reads the keys.
    ///
    /// # Errors
    /// When the key file cannot be used, or the URL of Redis is none.
    pub fn new(settings: &settings::Edge) -> anyhow::Result<Arc<Signatures>> {
        let own = &settings.signatures;
        let keys = own.keys_file.as_deref().map(read).transpose()?;
        let rules = Rules {
            age_max: own.age_max,
            leeway: own.leeway,
        };
        let shared = match (&keys, &settings.redis.url) {
            (Some(_), Some(url)) => Some(SharedNonces {
                client: Client::open(url.as_str()).context("edge.redis.url")?,
                password_file: settings.redis.password_file.clone(),
                timeout: settings.redis.timeout,
                link: tokio::sync::Mutex::new(Link::Away { since: None }),
            }),
            _ => None,
        };
        Ok(Arc::new(Signatures {
            keys: keys.map(ArcSwap::from_pointee),
            paths: own.required_paths.clone(),
            subjects: own.required_subjects.clone(),
            seen: Seen::new(rules.window(), own.nonces_max, Instant::now()),
            rules,
            shared,
        }))
    }

    /// Whether a caller must sign wherever it calls.
    pub fn are_required_of(&self, caller: &Caller) -> bool {
        matches(&self.subjects, &caller.subject)
    }

    /// Looks at a request's head. `None` for one that is not signed and need not be.
    ///
    /// # Errors
    /// [`Cause::Unsigned`], with a text that says what is wrong.
    pub fn look(
        self: &Arc<Self>,
        exchange: &Exchange<'_>,
        caller: &Caller,
    ) -> Result<Option<Pending>, Failure> {
        let Some(keys) = &self.keys else {
            return Ok(None);
        };
        let required = matches(&self.paths, exchange.path()) || self.are_required_of(caller);
        if !signature::is_signed(exchange.headers()) {
            return match required {
                true => Err(Failure::new(Cause::Unsigned)),
                false => Ok(None),
            };
        }
        let request = Request {
            method: exchange.method().as_str(),
            path: exchange.path(),
            query: exchange.query(),
            headers: exchange.headers(),
        };
        let refuse = |text: String| Failure::say(Cause::Unsigned, text);
        let signed = signature::verify(&keys.load(), &self.rules, &request, unix_seconds())
            .map_err(|why| refuse(why.to_string()))?;
        if signed
            .subject
            .as_ref()
            .is_some_and(|own| *own != caller.subject)
        {
            return Err(refuse("the key is another subject's".to_owned()));
        }
        Ok(Some(Pending {
            signatures: Arc::clone(self),
            signed,
        }))
    }

    /// Reads the key file again whenever it has changed, for as long as the process runs.
    pub async fn follow(self: Arc<Self>, path: PathBuf) {
        let Some(keys) = &self.keys else { return };
        let mut seen = modified(&path);
        let mut ticks = tokio::time::interval(RELOAD_EVERY);
        loop {
            ticks.tick().await;
            let now = modified(&path);
            if now == seen {
                continue;
            }
            match read(&path) {
                Ok(read) => {
                    tracing::info!(keys = read.len(), "keys of signatures reloaded");
                    keys.store(Arc::new(read));
                }
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "the changed file of signatures' keys is not used"
                ),
            }
            seen = now;
        }
    }

    /// Uses up a nonce.
    async fn spend(&self, signed: &Signed) -> Result<(), Failure> {
        let mut hash = Sha256::new();
        hash.update((signed.key_id.len() as u64).to_le_bytes());
        hash.update(&signed.key_id);
        hash.update(&signed.nonce);
        let nonce: [u8; 32] = hash.finalize().into();
        let repeated = || {
            let text = "the signature's nonce was used before";
            Failure::say(Cause::Unsigned, text)
        };
        match self.seen.insert(nonce, Instant::now()) {
            Inserted::New => {}
            Inserted::Known => return Err(repeated()),
            Inserted::Full => {
                return Err(Failure::new(Cause::Overloaded).retry_after(COME_BACK));
            }
        }
        match &self.shared {
            Some(shared) if !shared.insert(&nonce, self.rules.window()).await => Err(repeated()),
            _ => Ok(()),
        }
    }
}

impl Pending {
    /// Looks at the body and uses up the nonce.
    ///
    /// # Errors
    /// [`Cause::Unsigned`] for another body than the signed one, or a nonce that was used before.
    pub async fn finish(self, body: &[u8]) -> Result<(), Failure> {
        if !self.signed.is_body(body) {
            let text = "the body is not the one that was signed";
            return Err(Failure::say(Cause::Unsigned, text));
        }
        self.signatures.spend(&self.signed).await
    }
}

/// A name, or `*` at the end for all that begin so.
fn matches(patterns: &[String], name: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == pattern,
        })
}

fn modified(path: &Path) -> Option<(SystemTime, u64)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len()))
}

fn read(path: &Path) -> anyhow::Result<Keys> {
    let name = || format!("edge.signatures.keys_file: {}", path.display());
    let length = std::fs::metadata(path).with_context(name)?.len();
    anyhow::ensure!(
        length <= KEYS_BYTES_MAX,
        "{}: larger than {KEYS_BYTES_MAX} bytes",
        name()
    );
    let text = std::fs::read_to_string(path).with_context(name)?;
    Keys::from_jwks(&text).with_context(name)
}

/// Nonces that this edge has seen, in two generations: each lasts as long as a nonce must be remembered, so what is in neither
/// was seen too long ago to matter.
#[derive(Debug)]
struct Seen {
    window: Duration,
    nonces_max: usize,
    generations: Mutex<Generations>,
}

#[derive(Debug)]
struct Generations {
    since: Instant,
    now: HashSet<[u8; 32]>,
    before: HashSet<[u8; 32]>,
}

#[derive(Debug, PartialEq, Eq)]
enum Inserted {
    New,
    Known,
    /// No more can be remembered; nothing is forgotten early.
    Full,
}

impl Seen {
    fn new(window: Duration, nonces_max: usize, now: Instant) -> Seen {
        Seen {
            window,
            nonces_max,
            generations: Mutex::new(Generations {
                since: now,
                now: HashSet::new(),
                before: HashSet::new(),
            }),
        }
    }

    fn insert(&self, nonce: [u8; 32], now: Instant) -> Inserted {
        let mut all = self
            .generations
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let age = now.saturating_duration_since(all.since);
        if age >= self.window {
            all.before = std::mem::take(&mut all.now);
            if age >= self.window * 2 {
                all.before = HashSet::new();
            }
            all.since = now;
        }
        if all.before.contains(&nonce) || all.now.contains(&nonce) {
            return Inserted::Known;
        }
        if all.now.len() + all.before.len() >= self.nonces_max {
            return Inserted::Full;
        }
        all.now.insert(nonce);
        Inserted::New
    }
}

/// Nonces that all edges have seen, in Redis.
struct SharedNonces {
    client: Client,
    password_file: Option<PathBuf>,
    timeout: Duration,
    link: tokio::sync::Mutex<Link>,
}

enum Link {
    Here(MultiplexedConnection),
    /// `None` before the first attempt.
    Away {
        since: Option<Instant>,
    },
}

impl SharedNonces {
    /// Whether no edge has seen the nonce, as far as is known.
    async fn insert(&self, nonce: &[u8; 32], window: Duration) -> bool {
        let Some(mut connection) = self.connection().await else {
            return true;
        };
        let key: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut set = redis::cmd("SET");
        set.arg(format!("sweetmcp:nonce:{key}")).arg(1).arg("NX");
        set.arg("PX")
            .arg(u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
        let asked = set.query_async::<Option<String>>(&mut connection);
        match tokio::time::timeout(self.timeout, asked).await {
            Ok(Ok(set)) => set.is_some(),
            Ok(Err(_)) | Err(_) => {
                self.lost(&mut *self.link.lock().await);
                true
            }
        }
    }

    async fn connection(&self) -> Option<MultiplexedConnection> {
        let mut link = self.link.lock().await;
        match &*link {
            Link::Here(connection) => return Some(connection.clone()),
            Link::Away { since: Some(since) } if since.elapsed() < AGAIN => return None,
            Link::Away { .. } => {}
        }
        match tokio::time::timeout(self.timeout, self.connect()).await {
            Ok(Ok(connection)) => {
                tracing::info!("nonces are kept with the other edges");
                *link = Link::Here(connection.clone());
                Some(connection)
            }
            Ok(Err(_)) | Err(_) => {
                self.lost(&mut link);
                None
            }
        }
    }

    fn lost(&self, link: &mut Link) {
        if !matches!(link, Link::Away { since: Some(_) }) {
            tracing::warn!("Redis is away: this edge remembers nonces alone");
        }
        *link = Link::Away {
            since: Some(Instant::now()),
        };
    }

    async fn connect(&self) -> anyhow::Result<MultiplexedConnection> {
        let password = self.password_file.as_deref();
        connect(&self.client, password, self.timeout, self.timeout).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_known_for_as_long_as_its_request_could_be_repeated() {
        let window = Duration::from_secs(360);
        let start = Instant::now();
        let seen = Seen::new(window, 3, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seen.insert([1; 32], at(0)), Inserted::New);
        assert_eq!(seen.insert([1; 32], at(0)), Inserted::Known);
        assert_eq!(seen.insert([2; 32], at(359)), Inserted::New);
        for (second, inserted) in [(360, Inserted::Known), (718, Inserted::Known)] {
            assert_eq!(seen.insert([2; 32], at(second)), inserted, "{second}");
        }
        assert_eq!(seen.insert([3; 32], at(719)), Inserted::New);
        // There is room for no more, and nothing is forgotten for it.
        assert_eq!(seen.insert([4; 32], at(719)), Inserted::Full);
        assert_eq!(seen.insert([2; 32], at(719)), Inserted::Known);
        assert_eq!(seen.insert([4; 32], at(2000)), Inserted::New);
        assert_eq!(seen.insert([1; 32], at(2000)), Inserted::New);
    }

    #[test]
    fn patterns_name_paths_and_subjects() {
        let patterns = ["/mcp".to_owned(), "/mcp/v1/*".to_owned()];
        for (path, is_named) in [
            ("/mcp", true),
            ("/mcp/v1/batch", true),
            ("/mcp2", false),
            ("/graphql", false),
        ] {
            assert_eq!(matches(&patterns, path), is_named, "{path}");
        }
    }
}
