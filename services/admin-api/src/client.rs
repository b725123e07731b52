//! The one client of the admin interface.
//!
//! It is asked by a rollout every few seconds for every edge, so an edge that hangs, lies or floods
//! must cost little: connecting, answering and the answer's size are bounded, redirects are not
//! followed and no proxy of the environment is used, lest the token travel elsewhere.

use std::{fmt, time::Duration};

use reqwest::{StatusCode, Url, header};
use serde::de::DeserializeOwned;

use crate::{EdgeStatus, STATUS_PATH, TRAFFIC_PATH, TrafficReport};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// As much of a refusal as is worth showing, in characters.
const REASON_CHARS_MAX: usize = 200;

/// Asks one edge. Cheap to clone; clones share connections.
#[derive(Clone)]
pub struct AdminClient {
    base: Url,
    token: header::HeaderValue,
    http: reqwest::Client,
}

/// Why an edge's admin interface gave no report. Never holds the token.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is not `http(s)://host[:port]` without credentials.
    #[error("{found:?} is not the address of an admin interface; write http://host:port")]
    BadAddress {
        /// What was given.
        found: String,
    },
    /// The token holds characters that no HTTP header can carry.
    #[error(
        "the admin token is not a bearer token: it has spaces, line ends or non-ASCII characters"
    )]
    BadToken,
    /// The HTTP client did not start.
    #[error("cannot start an HTTP client")]
    Client(#[source] reqwest::Error),
    /// No connection, or no complete answer in time.
    #[error("no answer from {url}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The edge answered, but not with a report.
    #[error("{url} refused with {status}: {reason}")]
    Refused {
        /// What was asked.
        url: String,
        /// HTTP status.
        status: u16,
        /// The start of the body, on one line.
        reason: String,
    },
    /// The answer is larger than any report.
    #[error("the answer of {url} is larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
    },
    /// The answer is no report.
    #[error("the answer of {url} is not a report")]
    Malformed {
        /// What was asked.
        url: String,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
}

impl AdminError {
    /// Whether the edge refused the token or its scope, so that asking again is of no use.
    pub fn is_unauthorized(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                status: 401 | 403,
                ..
            }
        )
    }
}

impl fmt::Debug for AdminClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminClient")
            .field("base", &self.base.as_str())
            .finish_non_exhaustive()
    }
}

impl AdminClient {
    /// A client of the admin interface at `base_url` (`http://host:port`), with a bearer token of
    /// scope `admin`. Connects only when asked.
    pub fn new(base_url: &str, token: &str) -> Result<Self, AdminError> {
        Ok(Self {
            base: address(base_url)?,
            token: bearer(token)?,
            http: reqwest::Client::builder()
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(ANSWER_TIMEOUT)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .build()
                .map_err(AdminError::Client)?,
        })
    }

    /// What the edge counted per release.
    pub async fn traffic(&self) -> Result<TrafficReport, AdminError> {
        self.get(TRAFFIC_PATH).await
    }

    /// The edge as an operator looks at it.
    pub async fn status(&self) -> Result<EdgeStatus, AdminError> {
        self.get(STATUS_PATH).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        let mut url = self.base.clone();
        url.set_path(path);
        let shown = url.to_string();
        let unreachable = |error: reqwest::Error| AdminError::Unreachable {
            url: shown.clone(),
            source: error.without_url(),
        };
        let mut answer = self
            .http
            .get(url)
            .header(header::AUTHORIZATION, self.token.clone())
            .send()
            .await
            .map_err(unreachable)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(AdminError::TooLarge { url: shown });
            }
            body.extend_from_slice(&chunk);
        }
        if status != StatusCode::OK {
            return Err(AdminError::Refused {
                url: shown,
                status: status.as_u16(),
                reason: one_line(&body),
            });
        }
        serde_json::from_slice(&body).map_err(|source| AdminError::Malformed { url: shown, source })
    }
}

fn address(base_url: &str) -> Result<Url, AdminError> {
    // An address with credentials would carry them into every message.
    let usable = |url: &Url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
    };
    let hidden = || AdminError::BadAddress {
        found: base_url.rsplit('@').next().unwrap_or_default().to_owned(),
    };
    Url::parse(base_url).ok().filter(usable).ok_or_else(hidden)
}

fn bearer(token: &str) -> Result<header::HeaderValue, AdminError> {
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(AdminError::BadToken);
    }
    let mut value = header::HeaderValue::try_from(format!("Bearer {token}"))
        .map_err(|_| AdminError::BadToken)?;
    value.set_sensitive(true);
    Ok(value)
}

fn one_line(body: &[u8]) -> String {
    String::from_utf8_lossy(body)
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(REASON_CHARS_MAX)
        .collect::<String>()
        .trim()
        .to_owned()
}
