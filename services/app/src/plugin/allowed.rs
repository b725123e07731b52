//! HTTP to the hosts that the operator lists, and to nowhere else.
//!
//! The list is asked for the URL and again for every redirect. Addresses are judged where they are used: names resolve
//! through [`Listed`], which drops every private, loopback, link-local or otherwise special address that is not itself on
//! the list, so that no name server leads the request inwards.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

/// How many redirects are followed.
const REDIRECTS_MAX: usize = 5;
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A URL is not on the list.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Denied(String);

/// A client for the hosts on a list. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Allowed {
    client: Client,
    list: Arc<AllowList>,
}

impl Allowed {
    /// Makes a client for `example.com`, `*.example.com`, `example.com:8443`, `10.1.2.3:80`. An entry without port stands for
    /// the scheme's own.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub(crate) fn new(hosts: &[String]) -> Result<Self, reqwest::Error> {
        let hosts = hosts.iter().map(|entry| entry.to_ascii_lowercase());
        let list = Arc::new(AllowList(hosts.collect()));
        let hops = Arc::clone(&list);
        let client = Client::builder()
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("sweetmcp/", env!("CARGO_PKG_VERSION")))
            .dns_resolver(Arc::new(Listed(Arc::clone(&list))))
            .redirect(redirect::Policy::custom(move |hop| {
                if hop.previous().len() > REDIRECTS_MAX {
                    return hop.error(format!("more than {REDIRECTS_MAX} redirects"));
                }
                match hops.admits(hop.url()) {
                    Ok(()) => hop.follow(),
                    Err(denied) => hop.error(denied),
                }
            }))
            .build()?;
        Ok(Self { client, list })
    }

    /// Returns the client. Whoever uses it asks [`Self::admits`] first; redirects are judged by the client itself.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Judges where a request would go.
    ///
    /// # Errors
    /// [`Denied`] for what is not on the list.
    pub(crate) fn admits(&self, url: &Url) -> Result<(), Denied> {
        self.list.admits(url)
    }
}

/// The operator's list, in lower case.
#[derive(Debug)]
struct AllowList(Vec<String>);

impl AllowList {
    /// Judges scheme, host and port of a URL; and its address, where the host is one.
    fn admits(&self, url: &Url) -> Result<(), Denied> {
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(Denied("the URL has no host".into()));
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Denied("only http and https URLs are fetched".into()));
        }
        let own_port = url.port().is_none();
        let host = host.to_ascii_lowercase();
        let listed = self.0.iter().any(|entry| {
            entry_port(entry)
                .map_or((entry.as_str(), own_port), |(name, listed)| {
                    (name, listed == port)
                })
                .1
                && names(
                    entry_port(entry).map_or(entry.as_str(), |(name, _)| name),
                    &host,
                )
        });
        if listed {
            Ok(())
        } else {
            Err(Denied(format!(
                "{host}:{port} is not on the operator's list of hosts"
            )))
        }
    }

    /// Judges an address that a listed name resolved to.
    fn admits_address(&self, address: IpAddr) -> bool {
        let text = address.to_string();
        is_public(address)
            || self
                .0
                .iter()
                .map(|entry| entry_port(entry).map_or(entry.as_str(), |(name, _)| name))
                .any(|name| name.trim_matches(['[', ']']) == text)
    }
}

/// Splits `host:port`; `None` without port (an IPv6 address stands in brackets).
fn entry_port(entry: &str) -> Option<(&str, u16)> {
    let (host, port) = entry.rsplit_once(':')?;
    Some((host, port.parse().ok()?)).filter(|_| !host.contains(':') || host.ends_with(']'))
}

fn names(entry: &str, host: &str) -> bool {
    match entry.strip_prefix("*.") {
        Some(parent) => host
            .strip_suffix(parent)
            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
        None => entry == host,
    }
}

/// Tells whether an address lies in the public Internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (b == 18 || b == 19));
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    if let Some(v4) = address.to_ipv4_mapped() {
        return is_public_v4(v4);
    }
    let [a, b, ..] = address.segments();
    // Global unicast is 2000::/3; of it, the documentation, 6to4 and Teredo blocks carry or stand for other addresses.
    let global = (a & 0xe000) == 0x2000;
    global && a != 0x2002 && !(a == 0x2001 && (b == 0xdb8 || b < 0x200))
}

/// Resolves names as the system does, and drops the addresses that the list does not admit.
struct Listed(Arc<AllowList>);

impl Resolve for Listed {
    fn resolve(&self, name: Name) -> Resolving {
        let list = Arc::clone(&self.0);
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let admitted: Vec<SocketAddr> = found
                .filter(|address| list.admits_address(address.ip()))
                .collect();
            if admitted.is_empty() {
                return Err("the name has no public address, and none of its addresses is on the operator's list".into());
            }
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_judged_by_the_list() {
        let list = AllowList(
            ["example.com", "*.wild.org", "10.0.0.1:8080", "[::1]:80"]
                .map(str::to_owned)
                .into(),
        );
        for (url, admitted) in [
            ("https://example.com/x", true),
            ("http://EXAMPLE.com/", true),
            ("https://example.com:8443/", false),
            ("https://sub.example.com/", false),
            ("https://a.wild.org/", true),
            ("https://wild.org/", false),
            ("https://evilwild.org/", false),
            ("http://10.0.0.1:8080/", true),
            ("http://10.0.0.1/", false),
            ("http://[::1]/", true),
            ("ftp://example.com/", false),
            ("http://example.com@evil.org/", false),
        ] {
            assert_eq!(
                list.admits(&Url::parse(url).unwrap()).is_ok(),
                admitted,
                "{url}"
            );
        }
    }

    #[test]
    fn special_addresses_are_not_public() {
        let list = AllowList(vec!["10.0.0.1".into()]);
        for (address, admitted) in [
            ("93.184.216.34", true),
            ("10.0.0.1", true),
            ("10.0.0.2", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("100.64.0.1", false),
            ("0.0.0.0", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("fd00::1", false),
            ("fe80::1", false),
            ("2002:7f00:1::", false),
            ("2606:2800:220:1::1", true),
        ] {
            assert_eq!(
                list.admits_address(address.parse().unwrap()),
                admitted,
                "{address}"
            );
        }
    }
}
