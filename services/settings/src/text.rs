//! Rules for texts: how long, which characters, and what was probably meant.

/// What a text must be like.
pub(crate) struct Rule {
    /// `name`, `url`, `path`.
    pub(crate) kind: &'static str,
    /// In words.
    pub(crate) allowed: &'static str,
    /// A text that fits.
    pub(crate) example: &'static str,
    /// Bytes, at least.
    pub(crate) length_min: usize,
    /// Bytes, at most.
    pub(crate) length_max: usize,
    /// For a JSON Schema.
    pub(crate) pattern: Option<&'static str>,
    /// Characters that may stand in it.
    pub(crate) character: fn(char) -> bool,
    /// The right text for a wrong one, if it can be guessed.
    pub(crate) guess: fn(&str) -> Option<String>,
}

impl Rule {
    /// Whether a text follows the rule.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        (self.length_min..=self.length_max).contains(&text.len())
            && text.chars().all(self.character)
    }
}

fn printable(c: char) -> bool {
    !c.is_control()
}

fn no_guess(_: &str) -> Option<String> {
    None
}

/// Any words.
pub(crate) static WORDS: Rule = Rule {
    kind: "text",
    allowed: "a text of 1 to 512 bytes without control characters",
    example: "sweetmcp",
    length_min: 1,
    length_max: 512,
    pattern: None,
    character: printable,
    guess: no_guess,
};

/// A path.
pub(crate) static PATH: Rule = Rule {
    kind: "path",
    allowed: "a path of 1 to 4096 bytes without control characters",
    example: "/etc/sweetmcp/jwks.json",
    length_min: 1,
    length_max: 4096,
    pattern: None,
    character: printable,
    guess: no_guess,
};

/// An argument of a program; it may be empty.
pub(crate) static ARGUMENT: Rule = Rule {
    kind: "argument",
    allowed: "a text of at most 4096 bytes without NUL",
    example: "--verbose",
    length_min: 0,
    length_max: 4096,
    pattern: None,
    character: |c| c != '\0',
    guess: no_guess,
};

/// The origin of a web page.
pub(crate) static ORIGIN: Rule = Rule {
    kind: "origin",
    allowed: "an origin without a path, such as \"https://app.example\"",
    example: "https://app.example",
    length_min: 8,
    length_max: 256,
    pattern: Some("^https?://[^/]+$"),
    character: |c| c.is_ascii_graphic(),
    guess: |text| Some(text.trim_end_matches('/').to_owned()),
};

/// An address on the web.
pub(crate) static URL: Rule = Rule {
    kind: "url",
    allowed: "an http or https URL, such as \"http://127.0.0.1:4318\"",
    example: "http://127.0.0.1:4318",
    length_min: 8,
    length_max: 2048,
    pattern: Some("^https?://"),
    character: |c| c.is_ascii_graphic(),
    guess: no_guess,
};

/// A host that may be fetched from.
pub(crate) static HOST: Rule = Rule {
    kind: "host",
    allowed: "a host name or address, with a port if it is not the usual one, such as \"api.example\"",
    example: "api.example",
    length_min: 1,
    length_max: 261,
    pattern: None,
    character: |c| c.is_ascii_alphanumeric() || "-.:[]*".contains(c),
    guess: |text| {
        let host = text.split("://").last().unwrap_or(text);
        Some(host.split('/').next().unwrap_or(host).to_owned())
    },
};

/// The name of a plugin.
pub(crate) static PLUGIN_NAME: Rule = Rule {
    kind: "name",
    allowed: "1 to 32 lower-case letters, digits and hyphens",
    example: "github",
    length_min: 1,
    length_max: 32,
    pattern: Some("^[a-z0-9-]{1,32}$"),
    character: |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-',
    guess: |text| {
        let kept = text.to_ascii_lowercase().replace([' ', '_', '.'], "-");
        Some(kept)
    },
};

/// What is put before the names of a plugin's tools.
pub(crate) static PREFIX: Rule = Rule {
    kind: "prefix",
    allowed: "at most 33 letters, digits, and the characters _ - .",
    example: "github_",
    length_min: 0,
    length_max: 33,
    pattern: Some("^[A-Za-z0-9_.-]{0,33}$"),
    character: |c| c.is_ascii_alphanumeric() || "_-.".contains(c),
    guess: no_guess,
};

/// A scope of a token (RFC 6749, section 3.3).
pub(crate) static SCOPE: Rule = Rule {
    kind: "scope",
    allowed: "1 to 64 printable ASCII characters without blanks, quotes and backslashes, and not * alone",
    example: "finance",
    length_min: 1,
    length_max: 64,
    pattern: Some(r#"^(?!\*$)[\x21\x23-\x5B\x5D-\x7E]{1,64}$"#),
    character: |c| c.is_ascii_graphic() && !"\"\\".contains(c),
    guess: no_guess,
};

/// The name of a variable of the environment.
pub(crate) static VARIABLE: Rule = Rule {
    kind: "variable",
    allowed: "1 to 128 letters, digits and underscores",
    example: "TOKEN",
    length_min: 1,
    length_max: 128,
    pattern: Some("^[A-Za-z0-9_]{1,128}$"),
    character: |c| c.is_ascii_alphanumeric() || c == '_',
    guess: no_guess,
};

/// The name of an HTTP header field.
pub(crate) static HEADER: Rule = Rule {
    kind: "header",
    allowed: "1 to 64 letters, digits and hyphens",
    example: "X-Api-Key",
    length_min: 1,
    length_max: 64,
    pattern: Some("^[A-Za-z0-9-]{1,64}$"),
    character: |c| c.is_ascii_alphanumeric() || c == '-',
    guess: |text| Some(text.replace('_', "-")),
};

/// The name of a tool, or how it begins.
pub(crate) static PATTERN: Rule = Rule {
    kind: "pattern",
    allowed: "1 to 64 letters, digits and the characters _ - ., and * at the end for all that begin so",
    example: "list*",
    length_min: 1,
    length_max: 64,
    pattern: Some("^[A-Za-z0-9_.-]*[*]?$"),
    character: |c| c.is_ascii_alphanumeric() || "_-.*".contains(c),
    guess: no_guess,
};

/// The name of a tenant, as tokens have it.
pub(crate) static TENANT: Rule = Rule {
    kind: "tenant",
    allowed: "a tenant's name of 1 to 256 bytes, or * for all others",
    example: "acme",
    length_min: 1,
    length_max: 256,
    pattern: None,
    character: printable,
    guess: no_guess,
};

/// Where Redis is.
pub(crate) static REDIS_URL: Rule = Rule {
    kind: "url",
    allowed: "a URL such as \"redis://127.0.0.1:6379/0\", without a password (see password_file)",
    example: "redis://127.0.0.1:6379",
    length_min: 9,
    length_max: 512,
    pattern: Some("^redis://[^@]+$"),
    character: |c| c.is_ascii_graphic() && c != '@',
    guess: no_guess,
};

/// A tool's or prompt's own name.
pub(crate) static OWN_NAME: Rule = Rule {
    kind: "name",
    allowed: "1 to 128 bytes without control characters",
    example: "search",
    length_min: 1,
    length_max: 128,
    pattern: None,
    character: printable,
    guess: no_guess,
};

/// The name under which a tool or prompt is served.
pub(crate) static PUBLIC_NAME: Rule = Rule {
    kind: "name",
    allowed: "1 to 64 letters, digits, and the characters _ - . /",
    example: "find",
    length_min: 1,
    length_max: 64,
    pattern: Some("^[A-Za-z0-9_./-]{1,64}$"),
    character: |c| c.is_ascii_alphanumeric() || "_-./".contains(c),
    guess: no_guess,
};

/// A public key of minisign.
pub(crate) static MINISIGN_KEY: Rule = Rule {
    kind: "key",
    allowed: "the 56 characters of a minisign public key, the second line of minisign.pub",
    example: "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3",
    length_min: 56,
    length_max: 56,
    pattern: Some("^RW[A-Za-z0-9+/]{54}$"),
    character: |c| c.is_ascii_alphanumeric() || "+/".contains(c),
    guess: |text| text.split_ascii_whitespace().last().map(str::to_owned),
};

/// A SHA-256 digest.
pub(crate) static DIGEST: Rule = Rule {
    kind: "digest",
    allowed: "64 hexadecimal digits in lower case, as sha256sum prints them",
    example: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    length_min: 64,
    length_max: 64,
    pattern: Some("^[0-9a-f]{64}$"),
    character: |c| matches!(c, '0'..='9' | 'a'..='f'),
    guess: |text| Some(text.trim_start_matches("sha256:").to_ascii_lowercase()),
};
