//! `hash`: digests and the encodings that go with them.

use aws_lc_rs::digest::{SHA256, SHA384, SHA512};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tool::{About, Hints, Refusal, Tool};

/// Returns the tools of the set.
pub(crate) fn tools() -> Vec<Tool> {
    vec![
        Tool::inline(
            About {
                name: "digest",
                title: "Cryptographic digest",
                description: "Hashes text (as UTF-8) or decoded bytes with SHA-256, SHA-384 or SHA-512.",
                hints: Hints::READ_ONLY,
            },
            digest,
        ),
        Tool::inline(
            About {
                name: "encode",
                title: "Encode text",
                description: "Encodes text (as UTF-8) in Base64, URL-safe Base64 without padding, or hexadecimal.",
                hints: Hints::READ_ONLY,
            },
            encode,
        ),
        Tool::inline(
            About {
                name: "decode",
                title: "Decode text",
                description: "Decodes Base64, URL-safe Base64 without padding, or hexadecimal; answers text where the bytes are UTF-8.",
                hints: Hints::READ_ONLY,
            },
            decode,
        ),
    ]
}

#[derive(Deserialize, JsonSchema, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    Base64,
    Base64url,
    Hex,
}

impl Encoding {
    fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Base64 => STANDARD.encode(bytes),
            Self::Base64url => URL_SAFE_NO_PAD.encode(bytes),
            Self::Hex => hex(bytes),
        }
    }

    fn decode(self, text: &str) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Base64 => Ok(STANDARD.decode(text)?),
            Self::Base64url => Ok(URL_SAFE_NO_PAD.decode(text)?),
            Self::Hex => unhex(text),
        }
    }
}

#[derive(Deserialize, JsonSchema, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    #[default]
    Sha256,
    Sha384,
    Sha512,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DigestOf {
    /// The text, or the encoded bytes if `encoding` is given.
    text: String,
    /// How `text` is encoded; its own UTF-8 bytes are hashed unless given.
    encoding: Option<Encoding>,
    /// The hash function.
    #[serde(default)]
    algorithm: Algorithm,
}

#[derive(Serialize, JsonSchema)]
struct Digested {
    /// The digest in hexadecimal.
    hex: String,
    /// The digest in Base64.
    base64: String,
    /// How many bytes were hashed.
    bytes: usize,
}

fn digest(input: DigestOf) -> Result<Digested, Refusal> {
    let bytes = match input.encoding {
        None => input.text.into_bytes(),
        Some(encoding) => encoding.decode(&input.text)?,
    };
    let algorithm = match input.algorithm {
        Algorithm::Sha256 => &SHA256,
        Algorithm::Sha384 => &SHA384,
        Algorithm::Sha512 => &SHA512,
    };
    let digest = aws_lc_rs::digest::digest(algorithm, &bytes);
    Ok(Digested {
        hex: hex(digest.as_ref()),
        base64: STANDARD.encode(digest.as_ref()),
        bytes: bytes.len(),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Encode {
    /// The text.
    text: String,
    /// The encoding.
    encoding: Encoding,
}

#[derive(Serialize, JsonSchema)]
struct Encoded {
    /// The encoded text.
    encoded: String,
}

fn encode(input: Encode) -> Result<Encoded, Refusal> {
    Ok(Encoded {
        encoded: input.encoding.encode(input.text.as_bytes()),
    })
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Decode {
    /// The encoded bytes.
    encoded: String,
    /// The encoding.
    encoding: Encoding,
}

#[derive(Serialize, JsonSchema)]
struct Decoded {
    /// The text; null if the bytes are not UTF-8.
    text: Option<String>,
    /// The bytes in hexadecimal.
    hex: String,
    /// How many bytes there are.
    bytes: usize,
}

fn decode(input: Decode) -> Result<Decoded, Refusal> {
    let bytes = input.encoding.decode(&input.encoded)?;
    Ok(Decoded {
        hex: hex(&bytes),
        bytes: bytes.len(),
        text: String::from_utf8(bytes).ok(),
    })
}

/// Writes bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| {
            [
                DIGITS[usize::from(byte >> 4)],
                DIGITS[usize::from(byte & 15)],
            ]
        })
        .map(char::from)
        .collect()
}

fn unhex(text: &str) -> Result<Vec<u8>, Refusal> {
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .ok_or("the text has characters that are not hexadecimal digits")?;
    if !digits.len().is_multiple_of(2) {
        return Err(Refusal(
            "the text has an odd number of hexadecimal digits".into(),
        ));
    }
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect())
}
