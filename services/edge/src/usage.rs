//! What this process uses, and what it is.

use std::io::Read;

use anyhow::Context;
use aws_lc_rs::digest::{Context as Hash, SHA256};

/// Memory and processor time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// Resident memory, bytes.
    pub rss_bytes: u64,
    /// Processor time since the start, milliseconds.
    pub cpu_ms: u64,
}

/// The kernel's accounts of this process; zeros where it gives none.
pub fn now() -> Usage {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    parse(
        &stat,
        rustix::param::page_size() as u64,
        rustix::param::clock_ticks_per_second(),
    )
    .unwrap_or_default()
}

/// Reads a line of `/proc/PID/stat` (proc(5)).
fn parse(stat: &str, page_bytes: u64, ticks_per_second: u64) -> Option<Usage> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    Some(Usage {
        rss_bytes: number(21)? * page_bytes,
        cpu_ms: (number(11)? + number(12)?) * 1000 / ticks_per_second.max(1),
    })
}

/// SHA-256 of the running binary, in hexadecimal: what a release says must run.
///
/// # Errors
/// When the binary cannot be read.
pub fn binary_digest() -> anyhow::Result<String> {
    let mut file = std::fs::File::open("/proc/self/exe").context("cannot read this binary")?;
    let mut digest = Hash::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
    }
    Ok(digest
        .finish()
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_accounts_are_read() {
        let stat = "7 (a b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 9 1000 25 0";
        let usage = parse(stat, 4096, 100).unwrap();
        assert_eq!((usage.rss_bytes, usage.cpu_ms), (25 * 4096, 2000));
        assert!(now().rss_bytes > 0);
    }
}
