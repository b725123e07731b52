//! One rate for several edges: the buckets lie in Redis, where one script decides, by Redis's own clock.
//!
//! Calls that come while an answer is on its way are asked for together, so that under load a round trip is shared by many. A
//! principal that was told to wait is refused here until then, without asking: a flood costs Redis nothing.
//!
//! When Redis does not answer, each edge goes on with its own share of the rate, and tries again in the background. Its own
//! buckets have been filled and emptied along, so that the change gives nobody a burst; and for as long as a bucket takes to
//! fill after Redis is back, what this edge's own bucket lacks is told along: Redis knows nothing of what passed without it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use policy::limit::{Limiter, Rules, Verdict};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::sync::{mpsc, oneshot};

/// Calls whose answer is being asked for; past it the edge's own share decides.
const ASKS_MAX: usize = 4096;
/// Calls that are asked for together.
const BATCH_MAX: usize = 256;
/// Principals that are remembered to be waiting.
const WAITING_MAX: usize = 16_384;
/// Before Redis is tried again, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// The generic cell rate algorithm, for several buckets. Times are microseconds; the epoch is moved near, so that a double
/// holds fractions of one. A bucket that is not there is full; what the edge says its own
/// lacks is lacking here too.
const SCRIPT: &str = r"
local time = redis.call('TIME')
local now = (tonumber(time[1]) - 1700000000) * 1000000 + tonumber(time[2])
local emission, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local waits = {}
for i, key in ipairs(KEYS) do
  local cost, lacks = tonumber(ARGV[2 * i + 1]), tonumber(ARGV[2 * i + 2])
  local tat = math.max(tonumber(redis.call('GET', key)) or now, now + lacks)
  local after = tat + emission * cost
  local wait = after - now - tolerance
  if wait > 0 then
    waits[i] = math.ceil(wait)
  else
    waits[i] = 0
    redis.call('SET', key, string.format('%.3f', after), 'PX', math.ceil((after - now) / 1000) + 1)
  end
end
return waits
";

/// The rate that this edge keeps with others.
#[derive(Debug)]
pub struct Shared {
    asks: mpsc::Sender<Ask>,
    timeout: Duration,
    here: AtomicBool,
    /// When Redis came back.
    back: Mutex<Option<Instant>>,
    /// This edge's share, for when Redis is away.
    own: Limiter,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    until: Instant,
    /// What was asked for; less may pass sooner.
    cost: u32,
}

#[derive(Debug)]
struct Ask {
    principal: u64,
    cost: u32,
    lacks: Duration,
    answer: oneshot::Sender<Duration>,
}

/// What the task that talks with Redis needs.
struct Link {
    client: Client,
    password_file: Option<PathBuf>,
    timeout: Duration,
    emission_us: f64,
    tolerance_us: f64,
}

impl Shared {
    /// Begins to keep the rate of `settings` with others; `None` if no Redis is named. `share` edges divide the rate while
    /// Redis is away.
    ///
    /// # Errors
    /// When the URL is none, or the rate is out of range.
    pub fn start(settings: &settings::Edge, share: u32) -> anyhow::Result<Option<Arc<Shared>>> {
        let Some(url) = &settings.redis.url else {
            return Ok(None);
        };
        let (rate, burst) = (settings.rate.per_second, settings.rate.burst);
        // A whole number of tokens may be less than one a second.
        let own = Rules {
            rate,
            period: Duration::from_secs(share.into()),
            burst: (burst / share).max(1),
            ..Rules::per_second(rate, burst)
        };
        let emission_us = 1e6 / f64::from(rate);
        let link = Link {
            client: Client::open(url.as_str()).context("edge.redis.url")?,
            password_file: settings.redis.password_file.clone(),
            timeout: settings.redis.timeout,
            emission_us,
            tolerance_us: emission_us * f64::from(burst),
        };
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let shared = Arc::new(Shared {
            asks,
            timeout: settings.redis.timeout,
            here: AtomicBool::new(false),
            back: Mutex::new(None),
            own: Limiter::new(own, Instant::now()).context("edge.rate by edge.redis.share")?,
            waiting: Mutex::default(),
        });
        tokio::spawn(link.follow(Arc::clone(&shared), asked));
        Ok(Some(shared))
    }

    /// Whether the rate is kept with others now.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.here.load(Ordering::Relaxed)
    }

    /// Takes `cost` tokens from a principal's bucket, or says when they will be there.
    ///
    /// # Errors
    /// The time after which the same call would pass; `None` if it never would.
    pub async fn take(&self, principal: u64, cost: u32) -> Result<(), Option<Duration>> {
        if !self.is_here() {
            return self.take_own(principal, cost);
        }
        let now = Instant::now();
        if let Some(wait) = self.waits(principal, cost, now) {
            return Err(Some(wait));
        }
        let (answer, answered) = oneshot::channel();
        let ask = Ask {
            principal,
            cost,
            lacks: self.lacks(principal, now),
            answer,
        };
        if self.asks.try_send(ask).is_err() {
            return self.take_own(principal, cost);
        }
        // Twice: for the questions that are on their way, and for these.
        match tokio::time::timeout(self.timeout * 2, answered).await {
            Ok(Ok(Duration::ZERO)) => {
                // So that the own bucket stands where it should when it is needed.
                let _ = self.own.check(principal, cost, now);
                Ok(())
            }
            Ok(Ok(wait)) => {
                self.remember(principal, cost, now, wait);
                Err(Some(wait))
            }
            Ok(Err(_)) | Err(_) => self.take_own(principal, cost),
        }
    }

    fn take_own(&self, principal: u64, cost: u32) -> Result<(), Option<Duration>> {
        // A share's bucket may be smaller than what the whole bucket has room for.
        let cost = cost.min(
            self.own
                .check(principal, 0, Instant::now())
                .standing()
                .limit,
        );
        match self.own.check(principal, cost, Instant::now()) {
            Verdict::Allow(_) => Ok(()),
            Verdict::Deny { retry_after, .. } => Err(retry_after),
        }
    }

    /// How much of its time to fill the own bucket lacks, while Redis may not know.
    fn lacks(&self, principal: u64, now: Instant) -> Duration {
        let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
        match *back {
            Some(since) if now.saturating_duration_since(since) <= self.own.window() => {
                self.own.check(principal, 0, now).standing().reset
            }
            Some(_) => {
                *back = None;
                Duration::ZERO
            }
            None => Duration::ZERO,
        }
    }

    fn waits(&self, principal: u64, cost: u32, now: Instant) -> Option<Duration> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { until, cost: asked } = *waiting.get(&principal)?;
        if until <= now {
            waiting.remove(&principal);
            return None;
        }
        (cost >= asked).then(|| until - now)
    }

    fn remember(&self, principal: u64, cost: u32, now: Instant, wait: Duration) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= WAITING_MAX {
            waiting.retain(|_, waiting| waiting.until > now);
        }
        // Forgetting somebody only means to ask again.
        if waiting.len() < WAITING_MAX {
            let until = now + wait;
            waiting.insert(principal, Waiting { until, cost });
        }
    }

    fn set_here(&self, here: bool) {
        if self.here.swap(here, Ordering::Relaxed) == here {
            return;
        }
        if here {
            let mut back = self.back.lock().unwrap_or_else(PoisonError::into_inner);
            *back = Some(Instant::now());
            tracing::info!("rates are kept with the other edges");
        } else {
            tracing::warn!("Redis is away: this edge goes on with its share of the rate");
        }
    }
}

impl Link {
    /// Talks with Redis for as long as the process runs.
    async fn follow(self, shared: Arc<Shared>, mut asked: mpsc::Receiver<Ask>) {
        let mut again = AGAIN.0;
        loop {
            match self.connect().await {
                Ok((mut connection, script)) => {
                    again = AGAIN.0;
                    shared.set_here(true);
                    let ended = self.serve(&mut connection, &script, &mut asked).await;
                    shared.set_here(false);
                    let Err(error) = ended else { return };
                    tracing::debug!(%error, "Redis does not answer");
                }
                Err(error) => tracing::debug!(%error, "Redis cannot be reached"),
            }
            // Whoever asked before it was known gets the own share's answer: a dropped question says so.
            while asked.try_recv().is_ok() {}
            tokio::time::sleep(again).await;
            again = (again * 2).min(AGAIN.1);
        }
    }

    async fn connect(&self) -> anyhow::Result<(MultiplexedConnection, String)> {
        let wait = self.timeout.max(Duration::from_secs(1));
        let password = self.password_file.as_deref();
        let mut connection = connect(&self.client, password, wait, self.timeout).await?;
        let mut load = redis::cmd("SCRIPT");
        load.arg("LOAD").arg(SCRIPT);
        let script = load.query_async(&mut connection).await?;
        Ok((connection, script))
    }

    /// Answers until Redis does not; well when nobody can ask any more.
    async fn serve(
        &self,
        connection: &mut MultiplexedConnection,
        script: &str,
        asked: &mut mpsc::Receiver<Ask>,
    ) -> anyhow::Result<()> {
        let mut batch = Vec::new();
        while asked.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let mut command = redis::cmd("EVALSHA");
            command.arg(script).arg(batch.len());
            for ask in &batch {
                command.arg(format!("sweetmcp:rate:{:016x}", ask.principal));
            }
            command.arg(self.emission_us).arg(self.tolerance_us);
            for ask in &batch {
                let lacks = u64::try_from(ask.lacks.as_micros()).unwrap_or(u64::MAX);
                command.arg(ask.cost).arg(lacks);
            }
            // An error drops the questions, which answers them with the own share.
            let waits: Vec<u64> = command.query_async(connection).await?;
            for (ask, wait) in batch.drain(..).zip(waits) {
                // Whoever does not listen any more has gone away.
                let _ = ask.answer.send(Duration::from_micros(wait));
            }
        }
        Ok(())
    }
}
/// Connects to Redis within `wait`, with the password that the file holds now; an answer may take `patience`.
///
/// # Errors
/// What Redis or the file says; never the password.
pub async fn connect(
    client: &Client,
    password_file: Option<&Path>,
    wait: Duration,
    patience: Duration,
) -> anyhow::Result<MultiplexedConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(wait))
        .set_response_timeout(Some(patience));
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    let mut connection = connecting.await?;
    if let Some(path) = password_file {
        let password = tokio::fs::read_to_string(path)
            .await
            .with_context(|| format!("cannot read {}", path.display()))?;
        let mut auth = redis::cmd("AUTH");
        auth.arg(password.trim_end());
        auth.query_async::<()>(&mut connection).await?;
    }
    Ok(connection)
}
