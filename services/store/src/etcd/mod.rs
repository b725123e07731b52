//! A cluster's etcd (3.4 or newer): several machines share one store.
//!
//! Keys stand under a prefix, so that fleets share a cluster. etcd knows no comparison with a lease, so each lease has
//! a key of its own that ends with it, outside of what ranges and watches of users see. Times to live are whole
//! seconds there, rounded up, and etcd raises those under its own minimum (one and a half election timeouts).
//!
//! etcd keeps every event until it is compacted: run it with `--auto-compaction-retention`. A transaction near
//! [`crate::TXN_BYTES_MAX`] needs `--max-request-bytes 8388608` there, whose default is 1.5 MiB.

mod errors;
mod txn;
mod watch;

#[cfg(test)]
mod tests;

use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, GetOptions, KeyValue, KvClient, LeaseClient, PutOptions, WatchClient,
};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};

use crate::backend::{Backend, Batch, Keys};
use crate::limits::check_prefix;
use crate::{
    Compare, Entry, Error, LeaseId, Op, RANGE_BYTES_MAX, RANGE_ENTRIES_MAX, Range, Result,
    Revision, TxnOutcome,
};

use self::errors::{etcd_error, is_lease_gone};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a connection is tried, so that a watch whose peer has vanished ends.
const PING_EVERY: Duration = Duration::from_secs(10);
/// And how long that may take.
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Largest message that is taken: the largest range, and what stands around its entries.
const MESSAGE_BYTES_MAX: usize = RANGE_BYTES_MAX + (16 << 20);

/// Where a fleet's etcd is, and what of it is the fleet's.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EtcdOptions {
    /// Members, such as `http://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Begins every key of this store, such as `/sweetmcp/production/`.
    pub prefix: String,
}

impl EtcdOptions {
    /// A store under `prefix` of the cluster whose members are `endpoints`.
    pub fn new(
        endpoints: impl IntoIterator<Item = impl Into<String>>,
        prefix: impl Into<String>,
    ) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: prefix.into(),
        }
    }
}

/// A store in etcd.
pub(crate) struct Etcd {
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
    names: Names,
}

/// How users' keys and leases are called in etcd.
#[derive(Debug, Clone)]
struct Names {
    keys: String,
    leases: String,
}

impl Names {
    fn under(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        Self {
            keys: format!("{prefix}/keys/"),
            leases: format!("{prefix}/leases/"),
        }
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.keys)
    }

    fn lease(&self, lease: LeaseId) -> String {
        format!("{}{lease}", self.leases)
    }

    /// The entry of a user's key; keys that are no text were not written by a store.
    fn entry(&self, found: &KeyValue) -> Result<Entry> {
        let key = found
            .key_str()
            .ok()
            .and_then(|k| k.strip_prefix(&self.keys));
        let key = key.ok_or_else(|| Error::Invalid {
            what: "key",
            detail: format!("{:?} was not written by a store", found.key()),
        })?;
        Ok(Entry {
            key: key.to_owned(),
            value: found.value().to_vec().into(),
            create_revision: revision(found.create_revision()),
            mod_revision: revision(found.mod_revision()),
            version: revision(found.version()),
            lease: (found.lease() != 0).then(|| LeaseId(found.lease())),
        })
    }
}

/// etcd counts in `i64`, from 1.
fn revision(number: i64) -> Revision {
    u64::try_from(number).unwrap_or(0)
}

fn number(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// Bounds a request, and says what failed.
async fn within<T>(
    attempt: &'static str,
    request: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T> {
    tokio::time::timeout(REQUEST_TIMEOUT, request)
        .await
        .map_err(|late| Error::backend(attempt, late))?
        .map_err(|error| etcd_error(attempt, error))
}

impl Etcd {
    pub(crate) async fn open(options: &EtcdOptions) -> Result<Self> {
        check_prefix(&options.prefix)?;
        let connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_require_leader(true);
        let client = Client::connect(&options.endpoints, Some(connect));
        let client = within("connecting to etcd", client).await?;
        let etcd = Self {
            kv: client
                .kv_client()
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            lease: client.lease_client(),
            watch: client
                .watch_client()
                .max_decoding_message_size(MESSAGE_BYTES_MAX),
            names: Names::under(&options.prefix),
        };
        // Connections come about when they are first used: an address that is wrong is told now.
        etcd.range(Keys::One("hello".to_owned())).await?;
        Ok(etcd)
    }

    async fn read(&self, keys: Keys) -> Result<Range> {
        let mut kv = self.kv.clone();
        // One more than allowed, to tell that there are more.
        let limit = i64::try_from(RANGE_ENTRIES_MAX + 1).unwrap_or(i64::MAX);
        let options = GetOptions::new().with_limit(limit);
        let (key, options) = match &keys {
            Keys::One(key) => (self.names.key(key), options),
            Keys::Prefix(prefix) => (self.names.key(prefix), options.with_prefix()),
        };
        let found = within("reading keys", kv.get(key, Some(options))).await?;
        let bytes: usize = found
            .kvs()
            .iter()
            .map(|kv| kv.key().len() - self.names.keys.len() + kv.value().len())
            .sum();
        if found.kvs().len() > RANGE_ENTRIES_MAX || bytes > RANGE_BYTES_MAX {
            return Err(errors::range_too_large());
        }
        Ok(Range {
            entries: found
                .kvs()
                .iter()
                .map(|kv| self.names.entry(kv))
                .collect::<Result<_>>()?,
            revision: found.header().map_or(0, |h| revision(h.revision())),
        })
    }

    /// A lease, and the key by which others compare that it lives.
    async fn make_lease(&self, ttl: Duration) -> Result<LeaseId> {
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let mut client = self.lease.clone();
        let granted = within("granting a lease", client.grant(number(seconds), None)).await?;
        let lease = LeaseId(granted.id());
        let options = PutOptions::new().with_lease(granted.id());
        let mut kv = self.kv.clone();
        let put = kv.put(self.names.lease(lease), Vec::new(), Some(options));
        within("granting a lease", put).await?;
        Ok(lease)
    }

    async fn renew(&self, lease: LeaseId) -> Result<()> {
        let mut client = self.lease.clone();
        // Its first answer is to the renewal that opens it; there is no need of more.
        match within("renewing a lease", client.keep_alive(lease.0)).await {
            Ok(_) => Ok(()),
            Err(error) if is_lease_gone(&error) => Err(Error::LeaseExpired(lease)),
            Err(error) => Err(error),
        }
    }

    async fn end(&self, lease: LeaseId) -> Result<()> {
        let mut client = self.lease.clone();
        match within("ending a lease", client.revoke(lease.0)).await {
            Err(error) if !is_lease_gone(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Backend for Etcd {
    fn range(&self, keys: Keys) -> BoxFuture<'_, Result<Range>> {
        self.read(keys).boxed()
    }

    fn txn(&self, compares: Vec<Compare>, ops: Vec<Op>) -> BoxFuture<'_, Result<TxnOutcome>> {
        txn::apply(self, compares, ops).boxed()
    }

    fn grant(&self, ttl: Duration) -> BoxFuture<'_, Result<LeaseId>> {
        self.make_lease(ttl).boxed()
    }

    fn keep_alive(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.renew(lease).boxed()
    }

    fn revoke(&self, lease: LeaseId) -> BoxFuture<'_, Result<()>> {
        self.end(lease).boxed()
    }

    fn watch(&self, prefix: String, after: Revision) -> BoxStream<'static, Result<Batch>> {
        watch::batches(self.watch.clone(), self.names.clone(), &prefix, after).boxed()
    }
}
