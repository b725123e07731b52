//! How requests to another server prove who sends them: the plugin itself, or the user whose call it is.
//!
//! A [`Badge`] is one identity at one server, with the token that it has now. Everything that is kept for a user, its badge,
//! its session with the server and its connections, lies in one seat of [`seats::Seats`] under that user's name, and nothing
//! is taken from another's. The client's own token is no part of this: it never comes further than the edge.
//!
//! - [`seats`]: what is kept for each user, bounded
//! - [`grants`]: users' tokens from a file
//! - [`oauth`]: tokens from a token endpoint

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, header::AUTHORIZATION};
use tokio::{io::AsyncReadExt, sync::Mutex};

use super::Client;

pub mod grants;
pub mod oauth;
pub(crate) mod seats;

pub use oauth::{OauthError, OauthSpec};

use grants::{Grants, GrantsError};

/// The largest token, in bytes.
pub(crate) const TOKEN_BYTES_MAX: u64 = 16 << 10;
/// How long a refusal of the token endpoint is taken for its last word.
const REFUSAL_LASTS: Duration = Duration::from_secs(2);

/// How requests prove who sends them, as configured. Nothing secret of it is ever shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// Header fields by name, sent with every request.
    pub headers: BTreeMap<String, String>,
    /// A file that holds the plugin's bearer token; read for every request.
    pub token_file: Option<PathBuf>,
    /// Where tokens are got: the plugin's own unless `token_file` has it, and users'.
    pub oauth: Option<OauthSpec>,
    /// In whose name calls are made.
    pub users: Users,
}

/// In whose name a plugin's tools are called.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Users {
    /// The plugin's own, whoever calls.
    #[default]
    Alike,
    /// The user's, with its token from this file.
    Stored(PathBuf),
    /// The user's, with a token that the token endpoint gives for it (RFC 8693).
    Exchange(oauth::SubjectSpec),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential")
            .field("headers", &self.headers.keys())
            .field("token_file", &self.token_file)
            .field("oauth", &self.oauth)
            .field("users", &self.users)
            .finish()
    }
}

/// Why a credential cannot be used. Says nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A token's or secret's file cannot be read.
    #[error("the file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A value that no header can have.
    #[error("the value for the header {0} is none that a header can have")]
    Header(String),
    /// The file of users' tokens cannot be used.
    #[error("users' tokens cannot be had")]
    Grants(#[from] GrantsError),
    /// The token endpoint gave none.
    #[error("the token endpoint gave no token")]
    Oauth(#[from] OauthError),
    /// The caller has no name, so nothing can be done in it.
    #[error("the caller has no name")]
    Nobody,
    /// The user has no token, and none can be had for it.
    #[error("the user has no grant")]
    NoGrant,
}

/// A user, as the edge names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct User {
    pub(crate) tenant: String,
    pub(crate) principal: String,
}

impl User {
    /// Returns the user whose call it is.
    ///
    /// # Errors
    /// [`CredentialError::Nobody`] when the caller was not named.
    pub(crate) fn of(client: &Client) -> Result<Self, CredentialError> {
        if client.principal.is_empty() {
            return Err(CredentialError::Nobody);
        }
        Ok(Self {
            tenant: client.tenant.clone(),
            principal: client.principal.clone(),
        })
    }
}

/// The credentials of one plugin.
#[derive(Debug)]
pub(crate) struct Credentials {
    spec: Credential,
    grants: Option<Grants>,
    endpoint: Option<oauth::Endpoint>,
}

impl Credentials {
    pub(crate) fn new(spec: Credential) -> Arc<Self> {
        Arc::new(Self {
            grants: match &spec.users {
                Users::Stored(file) => Some(Grants::new(file.clone())),
                Users::Alike | Users::Exchange(_) => None,
            },
            endpoint: spec.oauth.clone().map(oauth::Endpoint::new),
            spec,
        })
    }

    /// Tells whether calls are made in users' own names.
    pub(crate) fn knows_users(&self) -> bool {
        self.spec.users != Users::Alike
    }

    /// Returns the plugin's own badge.
    pub(crate) fn own(self: &Arc<Self>) -> Badge {
        self.badge(None)
    }

    /// Returns a badge for a user.
    pub(crate) fn of(self: &Arc<Self>, user: User) -> Badge {
        self.badge(Some(user))
    }

    fn badge(self: &Arc<Self>, user: Option<User>) -> Badge {
        Badge {
            credentials: Arc::clone(self),
            user,
            held: Mutex::default(),
        }
    }

    /// Gets a token for a user, or for the plugin itself; `None` if it needs none.
    async fn got(&self, user: Option<&User>) -> Result<Option<Got>, CredentialError> {
        let spec = &self.spec;
        let now = Instant::now();
        let own = match (user, &spec.users) {
            (Some(user), Users::Stored(_)) => {
                let grants = self.grants.as_ref().ok_or(CredentialError::NoGrant)?;
                let token = grants.token(user)?.ok_or(CredentialError::NoGrant)?;
                return Ok(Some(Got::once(bearer(&token)?)));
            }
            (Some(user), Users::Exchange(subject)) => {
                let endpoint = self.endpoint.as_ref().ok_or(CredentialError::NoGrant)?;
                let token = endpoint.exchange(subject, user).await?;
                return Ok(Some(Got::until(bearer(&token.value)?, now + token.lasts)));
            }
            // Nothing of a user's is done with another's token, the plugin's included.
            (Some(_), Users::Alike) => return Err(CredentialError::NoGrant),
            (None, _) => &spec.token_file,
        };
        match (own, &self.endpoint) {
            (Some(path), _) => Ok(Some(Got::once(bearer(&read_token(path).await?)?))),
            (None, Some(endpoint)) => {
                let token = endpoint.own().await?;
                Ok(Some(Got::until(bearer(&token.value)?, now + token.lasts)))
            }
            (None, None) => Ok(None),
        }
    }
}

/// A token, and how long it may be sent.
#[derive(Debug)]
struct Got {
    bearer: HeaderValue,
    /// `None` if it is to be looked up for every request.
    until: Option<Instant>,
}

impl Got {
    fn once(bearer: HeaderValue) -> Self {
        let until = None;
        Self { bearer, until }
    }

    fn until(bearer: HeaderValue, until: Instant) -> Self {
        let until = Some(until);
        Self { bearer, until }
    }
}

/// What a badge remembers of the token endpoint's last answer.
#[derive(Debug, Default)]
enum Held {
    #[default]
    Nothing,
    Token {
        bearer: HeaderValue,
        until: Instant,
    },
    Refused {
        until: Instant,
    },
}

/// One identity at one server, and its token for as long as it holds.
#[derive(Debug)]
pub(crate) struct Badge {
    credentials: Arc<Credentials>,
    user: Option<User>,
    /// Locked while a token is got, so that many calls get one.
    held: Mutex<Held>,
}

impl Badge {
    /// Returns the header fields that a request gets, marked as sensitive.
    ///
    /// # Errors
    /// [`CredentialError`] when there is no token, or no value that a header can have.
    pub(crate) async fn fields(&self) -> Result<HeaderMap, CredentialError> {
        let mut fields = HeaderMap::new();
        for (name, value) in &self.credentials.spec.headers {
            let wrong = || CredentialError::Header(name.clone());
            let field: HeaderName = name.parse().map_err(|_| wrong())?;
            fields.insert(field, sensitive(value).ok_or_else(wrong)?);
        }
        if let Some(bearer) = self.bearer().await? {
            fields.insert(AUTHORIZATION, bearer);
        }
        Ok(fields)
    }

    /// Returns the value of `Authorization`, if there is to be one beside the configured headers.
    ///
    /// # Errors
    /// [`CredentialError`] when there is no token.
    pub(crate) async fn bearer(&self) -> Result<Option<HeaderValue>, CredentialError> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        match &*held {
            Held::Token { bearer, until } if *until > now => return Ok(Some(bearer.clone())),
            Held::Refused { until } if *until > now => return Err(CredentialError::NoGrant),
            _ => {}
        }
        let got = self.credentials.got(self.user.as_ref()).await;
        *held = Held::Nothing;
        match got {
            Ok(Some(Got {
                bearer,
                until: Some(until),
            })) => {
                *held = Held::Token {
                    bearer: bearer.clone(),
                    until,
                };
                Ok(Some(bearer))
            }
            Ok(got) => Ok(got.map(|got| got.bearer)),
            Err(CredentialError::Oauth(OauthError::Refused { code })) if self.user.is_some() => {
                let until = now + REFUSAL_LASTS;
                *held = Held::Refused { until };
                tracing::info!(code, "the token endpoint gives no token for a user");
                Err(CredentialError::NoGrant)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the token that is kept, if there is one: what a request would be sent with now.
    pub(crate) async fn held(&self) -> Option<HeaderValue> {
        match &*self.held.lock().await {
            Held::Token { bearer, .. } => Some(bearer.clone()),
            Held::Nothing | Held::Refused { .. } => None,
        }
    }

    /// Drops the token that was sent, as the server did not take it, unless there is another by now. Returns whether another
    /// can be had: whether tokens come from the token endpoint.
    pub(crate) async fn refused(&self, sent: Option<&HeaderValue>) -> bool {
        let spec = &self.credentials.spec;
        let renews = match (&self.user, &spec.users) {
            (Some(_), Users::Exchange(_)) => true,
            (Some(_), _) => false,
            (None, _) => spec.oauth.is_some() && spec.token_file.is_none(),
        };
        let mut held = self.held.lock().await;
        if matches!(&*held, Held::Token { bearer, .. } if Some(bearer) == sent) {
            *held = Held::Nothing;
        }
        renews
    }
}

fn bearer(token: &str) -> Result<HeaderValue, CredentialError> {
    sensitive(&format!("Bearer {}", token.trim()))
        .ok_or_else(|| CredentialError::Header("authorization".into()))
}

fn sensitive(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads a token or secret from its file.
async fn read_token(path: &Path) -> Result<String, CredentialError> {
    let read = async {
        let mut token = String::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(TOKEN_BYTES_MAX)
            .read_to_string(&mut token)
            .await?;
        Ok(token)
    };
    read.await.map_err(|source| CredentialError::File {
        path: path.to_owned(),
        source,
    })
}
