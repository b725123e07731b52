//! Events that several edges share through Redis: a stream of the latest for each principal, and a channel on
//! which each new one is told to all edges at once.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use redis::aio::MultiplexedConnection;
use redis::{Client, IntoConnectionInfo, RedisResult, Script};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::ring::{EVENTS_MAX, Place};
use super::{EVERYBODY, Key, PoisonError, unix_ms};
use crate::edge::Edge;

/// Events that wait to be shared; more are told here alone.
const OUTBOX_MAX: usize = 4096;
/// Before a connection is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Begins the keys of streams.
const STREAM: &str = "sweetmcp:events:";
/// The channel on which all edges hear of new events.
const CHANNEL: &str = "sweetmcp:events";
/// Adds an event to its stream and tells it with its place: all edges hear of events in the order of places.
const ADD: &str = "\
local place = redis.call('XADD', KEYS[1], 'MAXLEN', ARGV[1], '*', 'm', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], ARGV[5] .. ' ' .. place .. ' ' .. ARGV[2])
return place";

/// What is to be shared.
type Waiting = (Key, Bytes);

/// Takes events that are to be shared.
#[derive(Debug, Clone)]
pub struct Outbox(mpsc::Sender<Waiting>);

impl Outbox {
    /// Takes an event, or drops it where Redis cannot keep up: calls wait for no stream.
    pub fn send(&self, key: Key, message: Bytes) {
        if self.0.try_send((key, message)).is_err() {
            tracing::debug!("an event is not shared: too many wait");
        }
    }
}

/// The events of all edges.
pub struct Shared {
    url: String,
    password_file: Option<PathBuf>,
    answer_max: Duration,
    keep: Duration,
    outbox: Outbox,
    waiting: Mutex<Option<mpsc::Receiver<Waiting>>>,
}

impl Shared {
    /// What the settings say is shared; `None` if nothing is.
    pub fn new(settings: &settings::EdgeRedis, keep: Duration) -> Option<Shared> {
        let (outbox, waiting) = mpsc::channel(OUTBOX_MAX);
        Some(Shared {
            url: settings.url.clone()?,
            password_file: settings.password_file.clone(),
            answer_max: settings.timeout,
            keep,
            outbox: Outbox(outbox),
            waiting: Mutex::new(Some(waiting)),
        })
    }

    pub fn outbox(&self) -> Outbox {
        self.outbox.clone()
    }

    /// What is kept of a principal's events, and the place after which that is all; `None` if Redis does not
    /// answer in time.
    pub async fn kept(&self, key: &Key) -> Option<(Place, Vec<(Place, Bytes)>)> {
        let asked = async {
            let mut connection = self.connect().await?;
            let mut range = redis::cmd("XRANGE");
            range.arg(stream_of(key)).arg("-").arg("+");
            range
                .query_async::<Vec<(String, Vec<(String, Vec<u8>)>)>>(&mut connection)
                .await
        };
        // A connection is made for it, so more than one answer is waited for.
        let entries = match timeout(self.answer_max * 10, asked).await {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                tracing::warn!(%error, "shared events cannot be read");
                return None;
            }
            Err(_) => {
                tracing::warn!("shared events cannot be read in time");
                return None;
            }
        };
        let entries: Vec<(Place, Bytes)> = entries
            .into_iter()
            .filter_map(|(place, fields)| {
                let (_, message) = fields.into_iter().next()?;
                Some((Place::parse(&place)?, message.into()))
            })
            .collect();
        // Before that, events may have been trimmed or have ended with their stream.
        let ended = Place::at(unix_ms().saturating_sub(millis(self.keep)));
        let from = match entries.first() {
            Some((first, _)) if entries.len() >= EVENTS_MAX => ended.max(*first),
            _ => ended,
        };
        Some((from, entries))
    }

    async fn client(&self) -> RedisResult<Client> {
        let mut info = self.url.as_str().into_connection_info()?;
        if let Some(file) = &self.password_file {
            let password = tokio::fs::read_to_string(file).await?;
            let with = info.redis_settings().clone().set_password(password.trim());
            info = info.set_redis_settings(with);
        }
        Client::open(info)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        self.client()
            .await?
            .get_multiplexed_async_connection()
            .await
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn name(key: &Key) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn stream_of(key: &Key) -> String {
    format!("{STREAM}{}", name(key))
}

/// Reads what a channel tells: the name of the ring, the place, the message.
fn read_told(told: &[u8]) -> Option<(Key, Place, Bytes)> {
    let mut parts = told.splitn(3, |byte| *byte == b' ');
    let (name, place, message) = (parts.next()?, parts.next()?, parts.next()?);
    let mut key = EVERYBODY;
    if name.len() != key.len() * 2 {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(name.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    let place = Place::parse(std::str::from_utf8(place).ok()?)?;
    Some((key, place, Bytes::copy_from_slice(message)))
}

/// Shares what is told here, for as long as the process runs. While Redis is away it is told here alone.
pub async fn send(edge: Arc<Edge>) {
    let Some(shared) = &edge.events.shared else {
        return;
    };
    let waiting = shared.waiting.lock();
    let waiting = waiting.unwrap_or_else(PoisonError::into_inner).take();
    let Some(mut waiting) = waiting else {
        return;
    };
    let script = Script::new(ADD);
    let mut connection: Option<MultiplexedConnection> = None;
    let mut retry_at = tokio::time::Instant::now();
    while let Some((key, message)) = waiting.recv().await {
        if connection.is_none() && tokio::time::Instant::now() >= retry_at {
            retry_at = tokio::time::Instant::now() + PAUSE;
            connection = match timeout(CONNECT_MAX, shared.connect()).await {
                Ok(Ok(connection)) => Some(connection),
                Ok(Err(error)) => {
                    tracing::warn!(%error, "events are not shared for a moment");
                    None
                }
                Err(_) => None,
            };
        }
        let added = match &mut connection {
            None => false,
            Some(connection) => {
                let mut add = script.prepare_invoke();
                add.key(stream_of(&key))
                    .arg(EVENTS_MAX)
                    .arg(&message[..])
                    .arg(millis(shared.keep))
                    .arg(CHANNEL)
                    .arg(name(&key));
                let added = add.invoke_async::<String>(connection);
                matches!(timeout(shared.answer_max, added).await, Ok(Ok(_)))
            }
        };
        if !added {
            connection = None;
            edge.events.unshared(&key, message);
        }
    }
}

/// Hears what all edges share, for as long as the process runs.
pub async fn listen(edge: Arc<Edge>) {
    let Some(shared) = &edge.events.shared else {
        return;
    };
    loop {
        let subscribed = async {
            let mut channel = shared.client().await?.get_async_pubsub().await?;
            channel.subscribe(CHANNEL).await?;
            RedisResult::Ok(channel)
        };
        match timeout(CONNECT_MAX, subscribed).await {
            Ok(Ok(mut channel)) => {
                tracing::info!("events are shared");
                // Whoever came before this may have missed something.
                edge.events.lose();
                let mut told = channel.on_message();
                while let Some(message) = told.next().await {
                    if let Some((key, place, message)) = read_told(message.get_payload_bytes()) {
                        edge.events.heard(&key, place, message);
                    }
                }
                tracing::warn!("events of other edges are not heard for a moment");
            }
            Ok(Err(error)) => tracing::warn!(%error, "events of other edges are not heard"),
            Err(_) => tracing::warn!("events of other edges are not heard: Redis does not answer"),
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_channel_tells_is_ours_or_nothing() {
        let key = [0xab; 32];
        let told = format!("{} 12-3 {{\"a\": 1}}", name(&key));
        let read = read_told(told.as_bytes());
        assert_eq!(
            read,
            Some((key, Place::parse("12-3").unwrap(), "{\"a\": 1}".into()))
        );
        for told in [
            "",
            "x",
            "ab 12-3 {}",
            &told.replace("12-3", "12"),
            &told.replace("ab", "xy"),
        ] {
            assert_eq!(read_told(told.as_bytes()), None, "{told}");
        }
    }
}
