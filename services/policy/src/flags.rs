//! Feature flags: for which share of callers something new is on.
//!
//! A flag sticks to a key (a tenant, a subject, a session): the same key has it on every gateway and after every restart, and
//! keeps it when the share grows. Which keys have one flag says nothing of which have another.

use crate::dice::scale;
use crate::split::sticky_key;

/// What a flag sticks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sticks {
    /// All of a tenant have it, or none.
    ToTenant,
    /// A subject of a tenant has it, or not.
    ToSubject,
    /// A session has it, or not; without one, as [`Sticks::ToSubject`].
    ToSession,
}

/// One flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// Its name.
    pub name: String,
    /// For how many of 100 keys it is on.
    pub percent: u8,
    /// What it sticks to.
    pub sticks: Sticks,
}

/// What a call brings.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The caller's tenant.
    pub tenant: &'a str,
    /// The caller.
    pub subject: &'a str,
    /// The session's sticky key, where there is a session.
    pub session: Option<u64>,
}

/// Returns the names of the flags that are on for a call, in the order of `flags`.
pub fn on<'f>(flags: &'f [Flag], facts: Facts<'_>) -> impl Iterator<Item = &'f str> {
    flags
        .iter()
        .filter(move |flag| flag.is_on(facts))
        .map(|flag| flag.name.as_str())
}

impl Flag {
    fn is_on(&self, facts: Facts<'_>) -> bool {
        // Names cannot meet by being put together: no name of a flag has a zero, and lengths go before what follows.
        let mut key = [self.name.as_bytes(), &[0]].concat();
        match (self.sticks, facts.session) {
            (Sticks::ToSession, Some(session)) => key.extend(session.to_le_bytes()),
            (Sticks::ToTenant, _) => key.extend(facts.tenant.as_bytes()),
            (Sticks::ToSubject | Sticks::ToSession, _) => {
                key.extend((facts.tenant.len() as u64).to_le_bytes());
                key.extend(facts.tenant.as_bytes());
                key.extend(facts.subject.as_bytes());
            }
        }
        scale(sticky_key(&key), 100) < u64::from(self.percent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(name: &str, percent: u8, sticks: Sticks) -> Flag {
        Flag {
            name: name.to_owned(),
            percent,
            sticks,
        }
    }

    fn subject(subject: &str) -> Facts<'_> {
        Facts {
            tenant: "acme",
            subject,
            session: None,
        }
    }

    #[test]
    fn conf_07_ten_thousand_keys_at_twenty_percent_fall_within_a_point() {
        let names: Vec<String> = (0..10_000).map(|n| format!("user-{n}")).collect();
        for sticks in [Sticks::ToTenant, Sticks::ToSubject, Sticks::ToSession] {
            let flag = flag("new_search", 20, sticks);
            let on = names.iter().enumerate().filter(|(n, name)| {
                let session = (*n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                flag.is_on(Facts {
                    tenant: name,
                    subject: name,
                    session: Some(session),
                })
            });
            let on = on.count();
            assert!((1900..=2100).contains(&on), "{sticks:?}: {on}");
        }
    }

    #[test]
    fn a_key_keeps_a_flag_while_its_share_grows() {
        for n in 0..1000 {
            let name = format!("user-{n}");
            let shares = [0, 1, 20, 50, 99, 100];
            let on =
                shares.map(|percent| flag("f", percent, Sticks::ToSubject).is_on(subject(&name)));
            assert!(on.is_sorted(), "{name}: {on:?}");
            assert_eq!((on[0], on[5]), (false, true));
        }
    }

    #[test]
    fn flags_stick_to_what_they_say_and_are_independent() {
        let (a, b) = (
            flag("a", 50, Sticks::ToSubject),
            flag("b", 50, Sticks::ToSubject),
        );
        let names: Vec<String> = (0..1000).map(|n| format!("user-{n}")).collect();
        let both = names
            .iter()
            .filter(|name| a.is_on(subject(name)) && b.is_on(subject(name)));
        assert!((200..300).contains(&both.count()));
        let tenant = flag("t", 50, Sticks::ToTenant);
        let of_tenant = names
            .iter()
            .filter(|name| tenant.is_on(subject(name)))
            .count();
        assert!([0, 1000].contains(&of_tenant), "{of_tenant}");
        let session = flag("s", 50, Sticks::ToSession);
        let in_session = |session_key, name| {
            session.is_on(Facts {
                session: session_key,
                ..subject(name)
            })
        };
        assert!((0..64).all(|key| in_session(Some(key), "x") == in_session(Some(key), "y")));
        assert!((0..64).any(|key| in_session(Some(key), "x") != in_session(Some(0), "x")));
        assert!(
            names
                .iter()
                .any(|name| in_session(None, name) != in_session(None, "x"))
        );
        // The same on every gateway, whatever its build.
        let all = [a, b, tenant, session];
        for (name, known) in [("user-1", &["a", "t", "s"]), ("user-2", &["a", "b", "t"])] {
            let on: Vec<&str> = on(&all, subject(name)).collect();
            assert_eq!(on, known, "{name}");
        }
    }
}
