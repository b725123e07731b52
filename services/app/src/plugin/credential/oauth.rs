//! Tokens from an OAuth token endpoint: the plugin's own (RFC 6749, 4.4) and, in exchange for our word on who calls, users'
//! (RFC 8693).
//!
//! Our word is a JWT that lives a minute, signed with a key of the plugin's; the endpoint decides whether it knows the user
//! and what it may do. What the client itself sent is neither needed nor known here.

use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::{Client, header::CONTENT_TYPE};
use serde::{Deserialize, Serialize};

use super::{CredentialError, User, read_token};
use crate::plugin::outgoing;

/// How long the endpoint may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The largest key file, in bytes.
const KEY_BYTES_MAX: u64 = 16 << 10;
/// How long our word on who calls holds.
const SUBJECT_LASTS: Duration = Duration::from_secs(60);
/// How long a token is sent whose answer does not say how long it holds.
const LASTS_UNSAID: Duration = Duration::from_secs(60);
/// How long any token is sent at most.
const LASTS_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long before its end a token is no longer sent: it must outlive its request.
const MARGIN: Duration = Duration::from_secs(30);
/// The longest error code that is shown, in characters.
const CODE_CHARS_MAX: usize = 64;

/// Who we are at a token endpoint, and what we want there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OauthSpec {
    /// The endpoint.
    pub token_url: String,
    /// Our name there.
    pub client_id: String,
    /// A file with our secret; read for every token.
    pub client_secret_file: Option<PathBuf>,
    /// `scope`.
    pub scope: Option<String>,
    /// `audience` (RFC 8693).
    pub audience: Option<String>,
    /// `resource` (RFC 8707).
    pub resource: Option<String>,
}

/// How we give our word on who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectSpec {
    /// A private key, PEM with PKCS#8, Ed25519 or P-256; read for every token.
    pub key_file: PathBuf,
    /// `iss`.
    pub issuer: String,
}

/// Why there is no token. Says nothing secret.
#[derive(Debug, thiserror::Error)]
pub enum OauthError {
    /// It could not be asked.
    #[error("it cannot be asked")]
    Http(#[source] reqwest::Error),
    /// It said no.
    #[error("it answered {code}")]
    Refused {
        /// The error code of RFC 6749, escaped.
        code: String,
    },
    /// It does not know us, or takes no request like ours: nothing that a user could change.
    #[error("it does not serve us: {code}")]
    Client {
        /// The error code, escaped.
        code: String,
    },
    /// It answered something that is no token.
    #[error("its answer with status {status} is no token of type Bearer")]
    Form {
        /// The HTTP status.
        status: u16,
    },
    /// Our key cannot be used.
    #[error("the key in {path} is no Ed25519 or P-256 key in PEM with PKCS#8")]
    Key {
        /// The key's file.
        path: PathBuf,
    },
}

/// A token, and how long it may be sent.
#[derive(PartialEq, Eq)]
pub(super) struct Token {
    pub(super) value: String,
    pub(super) lasts: Duration,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("lasts", &self.lasts)
            .finish_non_exhaustive()
    }
}

/// A token endpoint.
#[derive(Debug)]
pub(super) struct Endpoint {
    spec: OauthSpec,
    client: OnceLock<Client>,
}

/// What is asked for, as the form's fields.
type Fields<'a> = Vec<(&'static str, &'a str)>;

impl Endpoint {
    pub(super) fn new(spec: OauthSpec) -> Self {
        let client = OnceLock::new();
        Self { spec, client }
    }

    /// Gets a token for the plugin itself.
    pub(super) async fn own(&self) -> Result<Token, CredentialError> {
        self.ask(vec![("grant_type", "client_credentials")]).await
    }

    /// Gets a token for a user.
    pub(super) async fn exchange(
        &self,
        subject: &SubjectSpec,
        user: &User,
    ) -> Result<Token, CredentialError> {
        let pem = key_file(&subject.key_file).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let word = subject_token(subject, user, &self.spec.token_url, &pem, now)?;
        self.ask(vec![
            (
                "grant_type",
                "urn:ietf:params:oauth:grant-type:token-exchange",
            ),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:jwt"),
            (
                "requested_token_type",
                "urn:ietf:params:oauth:token-type:access_token",
            ),
            ("subject_token", &word),
        ])
        .await
    }

    async fn ask(&self, mut fields: Fields<'_>) -> Result<Token, CredentialError> {
        let spec = &self.spec;
        for (name, value) in [
            ("scope", &spec.scope),
            ("audience", &spec.audience),
            ("resource", &spec.resource),
        ] {
            fields.extend(value.as_deref().map(|value| (name, value)));
        }
        let secret = match &spec.client_secret_file {
            Some(path) => Some(read_token(path).await?),
            None => None,
        };
        if secret.is_none() {
            fields.push(("client_id", &spec.client_id));
        }
        let client = match self.client.get() {
            Some(client) => client,
            None => {
                let made = outgoing::client().map_err(OauthError::Http)?;
                self.client.get_or_init(|| made)
            }
        };
        let mut request = client
            .post(&spec.token_url)
            .timeout(TIMEOUT)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form(&fields));
        if let Some(secret) = &secret {
            // RFC 6749, 2.3.1: both are encoded before they are put together.
            request = request.basic_auth(encoded(&spec.client_id), Some(encoded(secret.trim())));
        }
        let broken = |error: reqwest::Error| OauthError::Http(error.without_url());
        let response = request.send().await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = outgoing::body(response, ANSWER_BYTES_MAX).await;
        let body = body.map_err(|error| match error {
            outgoing::BodyError::TooLong => OauthError::Form { status },
            outgoing::BodyError::Broken(error) => broken(error),
        })?;
        Ok(answer(status, &body)?)
    }
}

async fn key_file(path: &Path) -> Result<Vec<u8>, CredentialError> {
    let unread = |source| CredentialError::File {
        path: path.to_owned(),
        source,
    };
    let meta = tokio::fs::metadata(path).await.map_err(unread)?;
    if meta.len() > KEY_BYTES_MAX {
        return Err(unread(std::io::ErrorKind::FileTooLarge.into()));
    }
    tokio::fs::read(path).await.map_err(unread)
}

/// Signs who the user is, for the endpoint `audience` alone, at the time `now` (seconds since 1970).
fn subject_token(
    spec: &SubjectSpec,
    user: &User,
    audience: &str,
    pem: &[u8],
    now: u64,
) -> Result<String, OauthError> {
    #[derive(Serialize)]
    struct Claims<'a> {
        iss: &'a str,
        sub: &'a str,
        tenant: &'a str,
        aud: &'a str,
        iat: u64,
        exp: u64,
        jti: String,
    }
    let unusable = || OauthError::Key {
        path: spec.key_file.clone(),
    };
    let (algorithm, key) = EncodingKey::from_ed_pem(pem)
        .map(|key| (Algorithm::EdDSA, key))
        .or_else(|_| EncodingKey::from_ec_pem(pem).map(|key| (Algorithm::ES256, key)))
        .map_err(|_| unusable())?;
    let claims = Claims {
        iss: &spec.issuer,
        sub: &user.principal,
        tenant: &user.tenant,
        aud: audience,
        iat: now,
        exp: now + SUBJECT_LASTS.as_secs(),
        jti: format!("{:032x}", rand::random::<u128>()),
    };
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key).map_err(|_| unusable())
}

/// Reads the endpoint's answer.
///
/// # Errors
/// [`OauthError`] for everything but a bearer token.
fn answer(status: u16, body: &[u8]) -> Result<Token, OauthError> {
    #[derive(Deserialize)]
    struct Granted {
        access_token: String,
        token_type: String,
        #[serde(default)]
        expires_in: Option<u64>,
    }
    #[derive(Deserialize)]
    struct Refused {
        error: String,
    }
    if status != 200 {
        let refused: Option<Refused> = serde_json::from_slice(body).ok();
        return Err(match refused {
            Some(Refused { error }) if (400..500).contains(&status) => {
                let code: String = error.chars().take(CODE_CHARS_MAX).collect();
                let code = code.escape_debug().to_string();
                match code.as_str() {
                    "invalid_grant" | "access_denied" | "invalid_scope" | "invalid_target"
                    | "consent_required" | "interaction_required" | "login_required"
                    // RFC 8693, 2.2.2: so is a subject called that is not known.
                    | "invalid_request" => OauthError::Refused { code },
                    _ => OauthError::Client { code },
                }
            }
            _ => OauthError::Form { status },
        });
    }
    let granted: Granted = serde_json::from_slice(body).map_err(|_| OauthError::Form { status })?;
    if !granted.token_type.eq_ignore_ascii_case("bearer")
        || granted.access_token.is_empty()
        || granted.access_token.len() as u64 > super::TOKEN_BYTES_MAX
    {
        return Err(OauthError::Form { status });
    }
    let said = granted.expires_in.map(Duration::from_secs);
    let lasts = said.unwrap_or(LASTS_UNSAID).min(LASTS_MAX);
    Ok(Token {
        value: granted.access_token,
        lasts: lasts - MARGIN.min(lasts / 2),
    })
}

/// Writes `application/x-www-form-urlencoded`.
fn form(fields: &Fields<'_>) -> String {
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    pairs.join("&")
}

/// Encodes everything but letters, digits and `-._~`.
fn encoded(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_tokens_or_say_why_not() {
        for (status, body, want) in [
            (
                200,
                r#"{"access_token":"t","token_type":"Bearer","expires_in":3600}"#,
                Ok(3570),
            ),
            (
                200,
                r#"{"access_token":"t","token_type":"bearer","expires_in":20}"#,
                Ok(10),
            ),
            (200, r#"{"access_token":"t","token_type":"bearer"}"#, Ok(30)),
            (
                200,
                r#"{"access_token":"t","token_type":"bearer","expires_in":0}"#,
                Ok(0),
            ),
            (
                200,
                r#"{"access_token":"t","token_type":"bearer","expires_in":18446744073709551615}"#,
                Ok(24 * 3600 - 30),
            ),
            (
                200,
                r#"{"access_token":"secret","token_type":"DPoP"}"#,
                Err("no token of type Bearer"),
            ),
            (
                200,
                r#"{"access_token":"","token_type":"Bearer"}"#,
                Err("no token of type Bearer"),
            ),
            (200, "<secret>", Err("no token of type Bearer")),
            (
                400,
                r#"{"error":"invalid_grant","error_description":"secret"}"#,
                Err("it answered invalid_grant"),
            ),
            (
                401,
                r#"{"error":"invalid_client"}"#,
                Err("it does not serve us: invalid_client"),
            ),
            (400, "{\"error\":\"\\n\"}", Err(r"it does not serve us: \n")),
            (500, r#"{"error":"invalid_grant"}"#, Err("status 500")),
        ] {
            match (answer(status, body.as_bytes()), want) {
                (Ok(token), Ok(lasts)) => assert_eq!(token.lasts.as_secs(), lasts, "{body}"),
                (Err(error), Err(says)) => {
                    let said = error.to_string();
                    assert!(
                        said.contains(says) && !said.contains("secret"),
                        "{body}: {said}"
                    );
                }
                (got, _) => panic!("{body}: {got:?}"),
            }
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(
            form(&vec![("scope", "a b&c=ü"), ("client_id", "x~1")]),
            "scope=a%20b%26c%3D%C3%BC&client_id=x~1"
        );
    }
}
