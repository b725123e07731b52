//! Where log lines go: a bounded buffer that a thread of its own writes out.
//!
//! A line costs the request a lock and a copy. Writing directly would cost a system call, and, worse,
//! would stop every request when the reader of a pipe stops reading. The writer lingers a few
//! milliseconds over a first line so that the lines of many requests become one write; errors and a
//! half-full buffer wake it at once. Lines that do not fit are dropped and counted, and the count is
//! itself logged as soon as there is room.

use std::{
    io::{self, Write},
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use prometheus::IntCounter;

/// Lines waiting to be written, at most, in bytes.
const PENDING_BYTES_MAX: usize = 4 << 20;
/// How long a first line waits for others.
const LINGER: Duration = Duration::from_millis(5);
/// Buffers that a burst enlarged are not kept.
const KEPT_CAPACITY_MAX: usize = 256 << 10;

/// Lines dropped since the process started.
pub(crate) static LINES_LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    IntCounter::new(
        "sweetmcp_log_lines_lost_total",
        "Log lines dropped because the log was not written out fast enough.",
    )
    .expect("the name is valid")
});

/// Whether a line may wait a little for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    Batch,
    Now,
}

/// Appends a line that says how many were dropped.
pub(crate) type DescribeLoss = Box<dyn Fn(u64, &mut Vec<u8>) + Send>;

#[derive(Clone)]
pub(crate) struct Sink(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There is something to write, or it has become urgent.
    wake: Condvar,
    /// All that was handed over is written.
    idle: Condvar,
}

#[derive(Default)]
struct State {
    pending: Vec<u8>,
    urgent: bool,
    writing: bool,
    lost: u64,
}

impl Sink {
    /// Starts the thread that writes to `output` for the rest of the process's life.
    pub(crate) fn start(
        mut output: Box<dyn Write + Send>,
        describe_loss: DescribeLoss,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Arc::clone(&shared);
        thread::Builder::new().name("log".into()).spawn(move || {
            let mut batch = Vec::new();
            loop {
                let lost = writer.next_batch(&mut batch);
                if lost > 0 {
                    describe_loss(lost, &mut batch);
                }
                if output
                    .write_all(&batch)
                    .and_then(|()| output.flush())
                    .is_err()
                {
                    // There is no log to say it in; the counter is what remains.
                    LINES_LOST.inc_by(batch.iter().filter(|&&byte| byte == b'\n').count() as u64);
                }
            }
        })?;
        Ok(Self(shared))
    }

    /// Hands over one line, its line end included. Never waits for the output.
    pub(crate) fn write(&self, line: &[u8], urgency: Urgency) {
        let mut state = self.0.lock();
        if state.pending.len() + line.len() > PENDING_BYTES_MAX {
            state.lost += 1;
            drop(state);
            LINES_LOST.inc();
            return;
        }
        let first = state.pending.is_empty();
        state.pending.extend_from_slice(line);
        let urgent = urgency == Urgency::Now || state.pending.len() > PENDING_BYTES_MAX / 2;
        let rouse = first || (urgent && !state.urgent);
        state.urgent |= urgent;
        drop(state);
        if rouse {
            self.0.wake.notify_one();
        }
    }

    /// Waits until everything handed over so far is written, or `timeout` has passed.
    pub(crate) fn flush(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let mut state = self.0.lock();
        state.urgent = true;
        self.0.wake.notify_one();
        while state.writing || !state.pending.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self
                .0
                .idle
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

impl Shared {
    /// A thread that panicked while holding the lock has only appended: the state is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for lines, takes them all, and tells how many were dropped before them.
    fn next_batch(&self, batch: &mut Vec<u8>) -> u64 {
        batch.clear();
        if batch.capacity() > KEPT_CAPACITY_MAX {
            *batch = Vec::new();
        }
        let mut state = self.lock();
        state.writing = false;
        while state.pending.is_empty() {
            // Urgency belongs to lines; a flush of nothing leaves none behind.
            state.urgent = false;
            self.idle.notify_all();
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state = self
            .wake
            .wait_timeout_while(state, LINGER, |state| !state.urgent)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        state.urgent = false;
        state.writing = true;
        std::mem::swap(batch, &mut state.pending);
        std::mem::take(&mut state.lost)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that takes one write for each permit and keeps what was written.
    struct Gated {
        permits: mpsc::Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without a sender left, everything passes.
            let _ = self.permits.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Sink, mpsc::Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (gate, permits) = mpsc::channel();
        let written = Arc::default();
        let output = Gated {
            permits,
            written: Arc::clone(&written),
        };
        let loss =
            Box::new(|lost, batch: &mut Vec<u8>| batch.extend(format!("lost {lost}\n").bytes()));
        (Sink::start(Box::new(output), loss).unwrap(), gate, written)
    }

    #[test]
    fn lines_keep_their_order() {
        let (sink, gate, written) = gated();
        drop(gate);
        for i in 0..100 {
            sink.write(
                format!("{i}\n").as_bytes(),
                if i % 7 == 0 {
                    Urgency::Now
                } else {
                    Urgency::Batch
                },
            );
        }
        sink.flush(Duration::from_secs(60));
        let expect: String = (0..100).map(|i| format!("{i}\n")).collect();
        assert_eq!(
            String::from_utf8(written.lock().unwrap().clone()).unwrap(),
            expect
        );
    }

    #[test]
    fn a_stuck_reader_costs_lines_but_no_time() {
        let (sink, gate, written) = gated();
        let line = [&vec![b'x'; 1 << 20][..], b"\n"].concat();
        let before = LINES_LOST.get();
        for _ in 0..12 {
            // Nothing is read, and yet this returns.
            sink.write(&line, Urgency::Now);
        }
        sink.flush(Duration::from_millis(1));
        assert!(LINES_LOST.get() > before);
        drop(gate);
        sink.flush(Duration::from_secs(60));
        sink.write(b"later\n", Urgency::Now);
        sink.flush(Duration::from_secs(60));
        let written = written.lock().unwrap();
        assert!(written.len() <= 2 * PENDING_BYTES_MAX + 100);
        assert!(written.windows(5).any(|bytes| bytes == b"lost "));
    }
}
