//! The backend in etcd, against a real one.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Error, EtcdOptions, EventKind, Range, Store, conformance};

const PATIENCE: Duration = Duration::from_secs(30);

/// A running etcd of one member, killed when dropped.
struct Etcd {
    data: TempDir,
    client: String,
    peer: String,
    process: Child,
}

fn free_url() -> String {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", socket.local_addr().unwrap())
}

fn process(data: &TempDir, client: &str, peer: &str) -> Child {
    Command::new("etcd")
        .arg("--data-dir")
        .arg(data.path())
        .args(["--listen-client-urls", client])
        .args(["--advertise-client-urls", client])
        .args(["--listen-peer-urls", peer])
        .args(["--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", &format!("default={peer}")])
        .args(["--max-request-bytes", "8388608"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("etcd is installed (Debian package etcd-server)")
}

impl Etcd {
    async fn start() -> Self {
        let (data, client, peer) = (TempDir::new().unwrap(), free_url(), free_url());
        let process = process(&data, &client, &peer);
        let etcd = Self {
            data,
            client,
            peer,
            process,
        };
        etcd.store("/up").await;
        etcd
    }

    fn kill(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }

    fn restart(&mut self) {
        self.process = process(&self.data, &self.client, &self.peer);
    }

    fn options(&self, prefix: &str) -> EtcdOptions {
        EtcdOptions::new([&self.client], prefix)
    }

    /// A store, as soon as there is one.
    async fn store(&self, prefix: &str) -> Store {
        until(async || Store::open_etcd(&self.options(prefix)).await).await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Tries until it succeeds.
async fn until<T>(attempt: impl AsyncFn() -> Result<T, Error>) -> T {
    let began = Instant::now();
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_conforms() {
    let etcd = Etcd::start().await;
    conformance::run(async || etcd.store("/fleets/one/").await).await;
}

#[tokio::test]
async fn fleets_share_a_cluster_and_nothing_else() {
    let etcd = Etcd::start().await;
    let (one, other) = (etcd.store("/one").await, etcd.store("/other/").await);
    one.put("a", "1", None).await.unwrap();
    let lease = one.grant(Duration::from_secs(60)).await.unwrap();
    one.put("b", "2", Some(lease)).await.unwrap();
    other.put("a", "3", None).await.unwrap();
    let keys = |range: Range| -> Vec<String> {
        range.entries.into_iter().map(|entry| entry.key).collect()
    };
    assert_eq!(keys(one.range("").await.unwrap()), ["a", "b"]);
    assert_eq!(keys(other.range("").await.unwrap()), ["a"]);
    let mut watch = other.watch("", 0);
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.entry.value, "3");
}

#[tokio::test]
async fn a_killed_etcd_loses_nothing_and_its_users_go_on() {
    let mut etcd = Etcd::start().await;
    let store = etcd.store("/fleet").await;
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let made = store.put("a", "1", Some(lease)).await.unwrap();
    let mut watch = store.watch("", made);

    etcd.kill();
    let broken = tokio::time::timeout(PATIENCE, watch.next()).await.unwrap();
    assert!(broken.unwrap().unwrap_err().is_transient());
    let began = Instant::now();
    let refused = store.put("b", "2", None).await.unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(10));

    etcd.restart();
    until(async || store.put("b", "2", None).await).await;
    store.keep_alive(lease).await.unwrap();
    assert_eq!(store.get("a").await.unwrap().unwrap().lease, Some(lease));
    let mut again = store.watch("", watch.revision());
    let next = tokio::time::timeout(PATIENCE, again.next()).await.unwrap();
    let next = next.unwrap().unwrap();
    assert_eq!((next.kind, next.entry.key.as_str()), (EventKind::Put, "b"));
}

#[tokio::test]
async fn who_lags_behind_a_compaction_is_told() {
    let etcd = Etcd::start().await;
    let store = etcd.store("/fleet").await;
    let mut revisions = Vec::new();
    for value in ["1", "2", "3", "4"] {
        revisions.push(store.put("a", value, None).await.unwrap());
    }
    let mut client = etcd_client::Client::connect([&etcd.client], None)
        .await
        .unwrap();
    let kept = i64::try_from(revisions[2]).unwrap();
    client.compact(kept, None).await.unwrap();

    let lagging = store.watch("", revisions[0]).next().await.unwrap();
    let Err(Error::Compacted { after, compacted }) = lagging else {
        panic!("{lagging:?}");
    };
    assert_eq!((after, compacted), (revisions[0], revisions[2] - 1));
    let mut watch = store.watch("", compacted);
    assert_eq!(watch.next().await.unwrap().unwrap().entry.value, "3");
    assert_eq!(watch.next().await.unwrap().unwrap().entry.value, "4");
}

#[tokio::test]
async fn an_address_where_no_etcd_is_is_told_at_once() {
    let began = Instant::now();
    let nowhere = EtcdOptions::new([free_url()], "/fleet");
    let refused = Store::open_etcd(&nowhere).await.unwrap_err();
    assert!(refused.is_transient(), "{refused:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
}
