//! What calls are called. A call's questions have ids that begin with its name, and a name is sealed for its session:
//! any host tells an answer that a call may wait for from one that none has asked for, and keeps nothing for it.

use mcp::Id;
use mcp::session::{KeyRing, NONCE_BYTES};
use rand::RngExt;

/// What a sealed name is for.
const FORM: &str = "call";

/// Names calls, with the keys that seal sessions.
pub(crate) struct Names(KeyRing);

impl Names {
    pub(crate) fn new(keys: KeyRing) -> Names {
        Names(keys)
    }

    /// A new name for a call of a session: at most 64 letters, digits, `-` and `_`.
    pub(crate) fn name(&self, session: &str) -> String {
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        let sealed = self.0.seal_bytes(FORM, Some(session), &[], nonce);
        sealed[head(session).len()..].to_owned()
    }

    /// Whether a call of this session was named so.
    pub(crate) fn is_ours(&self, session: &str, name: &str) -> bool {
        let sealed = format!("{}{name}", head(session));
        self.0.open_bytes(FORM, Some(session), &sealed).is_some()
    }
}

fn head(session: &str) -> String {
    format!("{FORM}.{session}.")
}

/// The name of the call that has asked with this id.
pub(crate) fn call_of(question: &Id) -> Option<String> {
    let id = question.text()?;
    id.rsplit_once('.').map(|(call, _)| call.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_known_in_its_session_alone() {
        let names = Names::new(KeyRing::new(&[[7; 32]]).unwrap());
        let others = Names::new(KeyRing::new(&[[8; 32]]).unwrap());
        let name = names.name("ana.1");
        assert!(name.len() <= 64 && !name.contains('.'), "{name}");
        assert!(names.is_ours("ana.1", &name));
        assert!(!names.is_ours("ana.2", &name));
        assert!(!others.is_ours("ana.1", &name));
        for made_up in ["", "x", "0123456789abcdef0123456789abcdef"] {
            assert!(!names.is_ours("ana.1", made_up), "{made_up}");
        }
        let asked = Id::from_text(&format!("{name}.3"));
        assert_eq!(call_of(&asked), Some(name));
        assert_eq!(call_of(&Id::from_number(3)), None);
    }
}
