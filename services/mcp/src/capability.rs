//! What a client declares that it can be asked for, and what it is told when that is not enough.

use serde_json::json;
use serde_json::value::RawValue;

use crate::failure::{Cause, Failure};
use crate::members::{Members, raw_of};

/// The tasks extension, as a key of `capabilities.extensions`.
pub const TASKS_EXTENSION: &str = "io.modelcontextprotocol/tasks";

/// A kind of input that a server may ask of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum InputKind {
    /// `elicitation/create` with a form.
    Form,
    /// `elicitation/create` with a URL to visit.
    Url,
    /// `sampling/createMessage`.
    Sampling,
    /// `sampling/createMessage` with tools.
    SamplingWithTools,
    /// `roots/list`.
    Roots,
}

/// What a client can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCapabilities {
    /// Forms.
    pub form: bool,
    /// Visits to a URL.
    pub url: bool,
    /// Sampling.
    pub sampling: bool,
    /// Sampling with tools.
    pub sampling_tools: bool,
    /// The list of roots.
    pub roots: bool,
    /// The tasks extension.
    pub tasks: bool,
}

impl ClientCapabilities {
    /// Reads `capabilities` of an `initialize`, or `clientCapabilities` of a request. What is of another
    /// form than the protocol's counts as not declared.
    #[must_use]
    pub fn read(raw: &RawValue) -> ClientCapabilities {
        let Ok(all) = Members::parse(raw) else {
            return ClientCapabilities::default();
        };
        let part = |name: &str| all.get(name).and_then(|raw| Members::parse(raw).ok());
        let elicitation = part("elicitation");
        let sampling = part("sampling");
        let has = |part: &Option<Members<'_>>, name: &str| {
            part.as_ref()
                .is_some_and(|members| members.get(name).is_some())
        };
        ClientCapabilities {
            // An empty object means forms: it is older than the two modes.
            form: elicitation.is_some() && (has(&elicitation, "form") || !has(&elicitation, "url")),
            url: has(&elicitation, "url"),
            sampling: sampling.is_some(),
            sampling_tools: has(&sampling, "tools"),
            roots: all.get("roots").is_some(),
            tasks: has(&part("extensions"), TASKS_EXTENSION),
        }
    }

    /// Whether the client can be asked for this.
    #[must_use]
    pub fn has(&self, kind: InputKind) -> bool {
        match kind {
            InputKind::Form => self.form,
            InputKind::Url => self.url,
            InputKind::Sampling => self.sampling,
            InputKind::SamplingWithTools => self.sampling_tools,
            InputKind::Roots => self.roots,
        }
    }

    /// Checks that the client can be asked for all of `kinds`.
    ///
    /// # Errors
    /// [`Cause::MissingCapability`], with `data.requiredCapabilities` naming what is missing.
    pub fn demand(&self, kinds: impl IntoIterator<Item = InputKind>) -> Result<(), Failure> {
        let mut missing = json!({});
        for kind in kinds {
            if self.has(kind) {
                continue;
            }
            match kind {
                InputKind::Form => missing["elicitation"]["form"] = json!({}),
                InputKind::Url => missing["elicitation"]["url"] = json!({}),
                InputKind::Sampling if missing.get("sampling").is_none() => {
                    missing["sampling"] = json!({});
                }
                InputKind::Sampling => {}
                InputKind::SamplingWithTools => missing["sampling"]["tools"] = json!({}),
                InputKind::Roots => missing["roots"] = json!({}),
            }
        }
        match missing.as_object().is_some_and(serde_json::Map::is_empty) {
            true => Ok(()),
            false => Err(lacking(&missing)),
        }
    }

    /// Checks that the client has the tasks extension.
    ///
    /// # Errors
    /// [`Cause::MissingCapability`].
    pub fn demand_tasks(&self) -> Result<(), Failure> {
        match self.tasks {
            true => Ok(()),
            false => Err(lacking(&json!({"extensions": {TASKS_EXTENSION: {}}}))),
        }
    }
}

fn lacking(capabilities: &serde_json::Value) -> Failure {
    Failure::new(Cause::MissingCapability).with_data(&json!({"requiredCapabilities": capabilities}))
}

/// `capabilities` of one era for the other: tasks stand elsewhere and are not carried over, everything
/// else is.
#[must_use]
pub fn without_tasks(capabilities: &RawValue) -> Box<RawValue> {
    let Ok(mut all) = Members::parse(capabilities) else {
        return capabilities.to_owned();
    };
    all.remove("tasks");
    let extensions = all.get("extensions").and_then(|raw| {
        let mut extensions = Members::parse(raw).ok()?;
        extensions.remove(TASKS_EXTENSION);
        Some((extensions.is_empty(), raw_of(&extensions)))
    });
    match extensions {
        None => {}
        Some((true, _)) => all.remove("extensions"),
        Some((false, kept)) => all.set("extensions", kept),
    }
    all.to_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> ClientCapabilities {
        ClientCapabilities::read(&serde_json::from_str::<Box<RawValue>>(text).unwrap())
    }

    #[test]
    fn what_is_declared_is_had_and_no_more() {
        use InputKind::{Form, Roots, Sampling, SamplingWithTools, Url};
        let all = [Form, Url, Sampling, SamplingWithTools, Roots];
        for (text, kinds) in [
            ("{}", &[][..]),
            ("[]", &[]),
            (r#"{"elicitation":{}}"#, &[Form]),
            (r#"{"elicitation":{"form":{}}}"#, &[Form]),
            (r#"{"elicitation":{"url":{}}}"#, &[Url]),
            (r#"{"elicitation":{"form":{},"url":{}}}"#, &[Form, Url]),
            (r#"{"elicitation":true,"sampling":{}}"#, &[Sampling]),
            (
                r#"{"sampling":{"tools":{}},"roots":{"listChanged":true}}"#,
                &[Sampling, SamplingWithTools, Roots],
            ),
        ] {
            let capabilities = read(text);
            let had: Vec<_> = all.into_iter().filter(|k| capabilities.has(*k)).collect();
            assert_eq!(had, kinds, "{text}");
        }
        assert!(read(r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#).tasks);
    }

    #[test]
    fn what_is_missing_is_named() {
        use InputKind::{Form, Roots, Sampling, SamplingWithTools, Url};
        for (kinds, required) in [
            (&[Sampling][..], r#"{"sampling":{}}"#),
            (
                &[SamplingWithTools, Sampling],
                r#"{"sampling":{"tools":{}}}"#,
            ),
            (&[Form, Url], r#"{"elicitation":{"form":{},"url":{}}}"#),
            (&[Roots], r#"{"roots":{}}"#),
        ] {
            let failure = read("{}").demand(kinds.iter().copied()).unwrap_err();
            assert_eq!(failure.cause.code(), -32021);
            let data = failure.data.unwrap();
            assert_eq!(
                data.get(),
                format!(r#"{{"requiredCapabilities":{required}}}"#)
            );
        }
        assert!(read(r#"{"elicitation":{}}"#).demand([Form]).is_ok());
        assert!(read("{}").demand([]).is_ok());
        assert!(read("{}").demand_tasks().is_err());
    }

    #[test]
    fn tasks_do_not_cross_and_the_rest_does() {
        for (from, to) in [
            (
                r#"{"tasks":{"list":{}},"x":1.0,"extensions":{"io.modelcontextprotocol/tasks":{},"a/b":{}}}"#,
                r#"{"x":1.0,"extensions":{"a/b":{}}}"#,
            ),
            (
                r#"{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#,
                "{}",
            ),
        ] {
            let raw: Box<RawValue> = serde_json::from_str(from).unwrap();
            assert_eq!(without_tasks(&raw).get(), to);
        }
    }
}
