//! Says who listens on an address, for the message about a port that is taken.
//!
//! Only processes that this user may look into can be named; for the others the kernel keeps its silence.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// Describes the process that listens where `address` would: `nginx (pid 123)`. `None` if it cannot be told.
pub(crate) fn of(address: SocketAddr) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .find_map(|table| listening_inode(&table, address))?;
    let socket = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    processes
        .flatten()
        .filter(|p| {
            p.file_name()
                .to_string_lossy()
                .bytes()
                .all(|b| b.is_ascii_digit())
        })
        .find(|process| holds(&process.path(), &socket))
        .map(|process| describe(&process.path()))
}

fn holds(process: &Path, socket: &str) -> bool {
    fs::read_dir(process.join("fd")).is_ok_and(|fds| {
        fds.flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket))
    })
}

fn describe(process: &Path) -> String {
    let pid = process.file_name().unwrap_or_default().to_string_lossy();
    let command = fs::read(process.join("cmdline")).unwrap_or_default();
    let mut words = command.split(|b| *b == 0).map(String::from_utf8_lossy);
    let program = words.next().unwrap_or_default();
    let name = Path::new(program.as_ref())
        .file_name()
        .map_or_else(|| program.to_string(), |n| n.to_string_lossy().into_owned());
    // Another fleet of ours: its state folder is what tells it apart.
    let state = words.skip_while(|w| w != "--state").nth(1);
    let of_fleet = state.map_or_else(String::new, |s| format!(" of the fleet in {s}"));
    crate::output::printable(&format!("{name} (pid {pid}){of_fleet}"))
}

/// The inode of the listening socket that stands in the way of `address`, from the text of `/proc/net/tcp`.
fn listening_inode(table: &str, address: SocketAddr) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let ip = parse_ip(ip)?;
        let in_the_way = ip == address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
        (*state == "0A" && port == address.port() && in_the_way)
            .then(|| inode.parse().ok())
            .flatten()
    })
}

/// An address as the kernel prints it: words in the machine's byte order, in hex.
fn parse_ip(hex: &str) -> Option<IpAddr> {
    let words: Option<Vec<[u8; 4]>> = (0..hex.len() / 8)
        .map(|n| {
            u32::from_str_radix(hex.get(n * 8..n * 8 + 8)?, 16)
                .ok()
                .map(u32::to_ne_bytes)
        })
        .collect();
    match words?.as_slice() {
        [v4] => Some(IpAddr::V4(Ipv4Addr::from(*v4))),
        [a, b, c, d] => {
            let bytes: [u8; 16] = [*a, *b, *c, *d].concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let owner = of(listener.local_addr().unwrap()).unwrap();
        assert!(
            owner.contains(&format!("(pid {})", std::process::id())),
            "{owner}"
        );
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(of(address), None);
    }

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let word = format!("{:08X}", u32::from_ne_bytes([127, 0, 0, 1]));
        assert_eq!(parse_ip(&word), Some("127.0.0.1".parse().unwrap()));
        assert_eq!(parse_ip(&"0".repeat(32)), Some("::".parse().unwrap()));
        assert_eq!(parse_ip("xyz"), None);
    }
}
