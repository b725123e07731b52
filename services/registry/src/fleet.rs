//! The fleet as one value, folded from ranges and events. Pure; time is passed in.
//!
//! An empty list of apps is never better than a stale one: when the store itself is out, all leases end together while
//! the processes live. So an app that vanished without saying that it goes is still offered for [`LAST_KNOWN`], but
//! only while its release has no other that is ready.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use store::{Entry, Event, EventKind, Range, Revision};
use tokio::time::Instant;

use crate::records_io::decode_or_report;
use crate::{Ack, Instance, InstanceState, Role, Traffic, keys};

/// How long an app that vanished is offered when its release has no other.
const LAST_KNOWN: Duration = Duration::from_secs(10);

/// Who is there and how calls are split, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    /// Whether the store was ever read.
    pub is_synced: bool,
    /// Since when the store cannot be read, in milliseconds of Unix time; all else is as it was then.
    pub stale_since_unix_ms: Option<u64>,
    /// All live instances, by role and name.
    pub instances: Vec<Arc<Instance>>,
    /// The split of calls.
    pub traffic: Option<Arc<Traffic>>,
    /// Generation of the split; 0 if there is none.
    pub generation: Revision,
    /// Which generation each edge has said that it sends by.
    pub acks: BTreeMap<String, Ack>,
    ready_apps: BTreeMap<String, Vec<Arc<Instance>>>,
}

impl Fleet {
    /// The live instances of a role, draining ones included.
    pub fn live(&self, role: Role) -> impl Iterator<Item = &Arc<Instance>> {
        self.instances
            .iter()
            .filter(move |instance| instance.role == role)
    }

    /// The instances of a role that take new calls.
    pub fn ready(&self, role: Role) -> impl Iterator<Item = &Arc<Instance>> {
        self.live(role).filter(|instance| instance.is_ready())
    }

    /// The apps of a release that calls can be sent to; if there is none, those last known.
    #[must_use]
    pub fn ready_apps(&self, release: &str) -> &[Arc<Instance>] {
        self.ready_apps.get(release).map_or(&[], Vec::as_slice)
    }

    /// Releases with apps that calls can be sent to.
    pub fn app_releases(&self) -> impl Iterator<Item = &str> {
        self.ready_apps.keys().map(String::as_str)
    }
}

/// What the ranges and events so far add up to.
#[derive(Debug, Default)]
pub(crate) struct Fold {
    instances: BTreeMap<String, Arc<Instance>>,
    /// Ready apps that vanished, and when.
    vanished: BTreeMap<String, (Arc<Instance>, Instant)>,
    acks: BTreeMap<String, Ack>,
    traffic: Option<(Arc<Traffic>, Revision)>,
    is_synced: bool,
    pub(crate) stale_since_unix_ms: Option<u64>,
}

impl Fold {
    /// What is to be read and watched.
    pub(crate) const PREFIXES: [&str; 3] = [keys::INSTANCES, keys::ACKS, keys::TRAFFIC];

    /// Takes the ranges of [`Fold::PREFIXES`] for all there is.
    pub(crate) fn replace(&mut self, ranges: &[Range], now: Instant) {
        let entries: BTreeMap<&str, &Entry> = ranges
            .iter()
            .flat_map(|range| &range.entries)
            .map(|entry| (entry.key.as_str(), entry))
            .collect();
        let gone: Vec<String> = self
            .instances
            .keys()
            .filter(|key| !entries.contains_key(key.as_str()))
            .cloned()
            .collect();
        gone.iter().for_each(|key| self.remove(key, now));
        self.acks.clear();
        self.traffic = None;
        entries.values().for_each(|entry| self.insert(entry, now));
        self.is_synced = true;
        self.stale_since_unix_ms = None;
    }

    /// Takes one change.
    pub(crate) fn apply(&mut self, event: &Event, now: Instant) {
        match event.kind {
            EventKind::Put => self.insert(&event.entry, now),
            EventKind::Delete => self.remove(&event.entry.key, now),
        }
    }

    fn insert(&mut self, entry: &Entry, now: Instant) {
        if entry.key.starts_with(keys::INSTANCES) {
            match decode_or_report::<Instance>(entry) {
                Some(instance) => {
                    self.vanished.remove(&entry.key);
                    self.instances.insert(entry.key.clone(), Arc::new(instance));
                }
                None => self.remove(&entry.key, now),
            }
        } else if let Some(edge) = entry.key.strip_prefix(keys::ACKS) {
            match decode_or_report(entry) {
                Some(ack) => drop(self.acks.insert(edge.to_owned(), ack)),
                None => drop(self.acks.remove(edge)),
            }
        } else if entry.key == keys::TRAFFIC
            && let Some(traffic) = decode_or_report(entry)
        {
            // A split that cannot be read leaves the last one in force, unacknowledged.
            self.traffic = Some((Arc::new(traffic), entry.mod_revision));
        }
    }

    fn remove(&mut self, key: &str, now: Instant) {
        if let Some(instance) = self.instances.remove(key) {
            if instance.role == Role::App && instance.state == InstanceState::Ready {
                self.vanished.insert(key.to_owned(), (instance, now));
            }
        } else if let Some(edge) = key.strip_prefix(keys::ACKS) {
            self.acks.remove(edge);
        } else if key == keys::TRAFFIC {
            self.traffic = None;
        }
    }

    /// When the fleet changes next without an event.
    pub(crate) fn next_change(&self) -> Option<Instant> {
        self.vanished
            .values()
            .map(|(_, since)| *since + LAST_KNOWN)
            .min()
    }

    /// The fleet now; what vanished too long ago is forgotten.
    pub(crate) fn fleet(&mut self, now: Instant) -> Fleet {
        self.vanished
            .retain(|_, (_, since)| now < *since + LAST_KNOWN);
        let mut ready_apps: BTreeMap<String, Vec<Arc<Instance>>> = BTreeMap::new();
        let ready = self
            .instances
            .values()
            .filter(|instance| instance.role == Role::App && instance.is_ready());
        for instance in ready {
            ready_apps
                .entry(instance.release.clone())
                .or_default()
                .push(Arc::clone(instance));
        }
        let mut last_known: BTreeMap<String, Vec<Arc<Instance>>> = BTreeMap::new();
        for (instance, _) in self
            .vanished
            .values()
            .filter(|(app, _)| !ready_apps.contains_key(&app.release))
        {
            last_known
                .entry(instance.release.clone())
                .or_default()
                .push(Arc::clone(instance));
        }
        ready_apps.extend(last_known);
        let mut instances: Vec<_> = self.instances.values().cloned().collect();
        instances.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
        Fleet {
            is_synced: self.is_synced,
            stale_since_unix_ms: self.stale_since_unix_ms,
            instances,
            traffic: self
                .traffic
                .as_ref()
                .map(|(traffic, _)| Arc::clone(traffic)),
            generation: self
                .traffic
                .as_ref()
                .map_or(0, |(_, generation)| *generation),
            acks: self.acks.clone(),
            ready_apps,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WHOLE_BPS;

    fn put(key: &str, revision: Revision, value: String) -> Event {
        let entry = Entry {
            key: key.to_owned(),
            value: value.into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            lease: None,
        };
        Event {
            kind: EventKind::Put,
            entry,
            revision,
        }
    }

    fn delete(key: &str) -> Event {
        Event {
            kind: EventKind::Delete,
            ..put(key, 99, String::new())
        }
    }

    fn app(name: &str, release: &str, state: InstanceState) -> Event {
        let instance = Instance {
            state,
            ..Instance::new(Role::App, name, release, "127.0.0.1:1")
        };
        put(
            &format!("instances/app/{name}"),
            1,
            serde_json::to_string(&instance).unwrap(),
        )
    }

    fn names(fleet: &Fleet, release: &str) -> Vec<String> {
        fleet
            .ready_apps(release)
            .iter()
            .map(|app| app.name.clone())
            .collect()
    }

    /// Applies events; tells which apps of release `r` are offered at once, and when nothing more is known.
    #[track_caller]
    fn check(events: &[Event], offered: &[&str], offered_later: &[&str]) {
        let (mut fold, now) = (Fold::default(), Instant::now());
        events.iter().for_each(|event| fold.apply(event, now));
        assert_eq!(names(&fold.fleet(now), "r"), offered);
        assert_eq!(names(&fold.fleet(now + LAST_KNOWN), "r"), offered_later);
        assert_eq!(fold.next_change(), None);
    }

    #[test]
    fn which_apps_are_offered() {
        use InstanceState::{Draining, Ready};
        let (a, b) = (|state| app("a", "r", state), |state| app("b", "r", state));
        let (a_gone, b_gone) = (delete("instances/app/a"), delete("instances/app/b"));
        check(&[], &[], &[]);
        check(&[a(Ready), b(Ready)], &["a", "b"], &["a", "b"]);
        check(&[a(Ready), b(Draining)], &["a"], &["a"]);
        // One of two dies: the other takes all.
        check(&[a(Ready), b(Ready), a_gone.clone()], &["b"], &["b"]);
        // All vanish at once: last known for a while.
        check(
            &[a(Ready), b(Ready), a_gone.clone(), b_gone],
            &["a", "b"],
            &[],
        );
        // Said goodbye: not offered.
        check(&[a(Ready), a(Draining), a_gone.clone()], &[], &[]);
        // Another release's apps are no replacement; a returning one is itself.
        check(
            &[a(Ready), app("c", "other", Ready), a_gone.clone()],
            &["a"],
            &[],
        );
        check(&[a(Ready), a_gone.clone(), a(Ready)], &["a"], &["a"]);
        // A record that cannot be read counts as gone.
        check(
            &[a(Ready), b(Ready), put("instances/app/a", 2, "{".into())],
            &["b"],
            &["b"],
        );
    }

    #[test]
    fn ranges_replace_what_was_known() {
        let (mut fold, now) = (Fold::default(), Instant::now());
        let stable = serde_json::to_string(&Traffic::all_to("r", "", "")).unwrap();
        let ack = |generation| format!(r#"{{"generation":{generation},"at_unix_ms":0}}"#);
        for event in [
            app("a", "r", InstanceState::Ready),
            put("acks/app/e", 5, ack(4)),
            put("traffic/app", 4, stable),
        ] {
            fold.apply(&event, now);
        }
        let fleet = fold.fleet(now);
        assert!(!fleet.is_synced);
        assert_eq!((fleet.generation, fleet.acks["e"].generation), (4, 4));
        assert_eq!(
            fleet.traffic.unwrap().effective(0),
            [("r".to_owned(), WHOLE_BPS)]
        );

        let entries = vec![
            app("b", "r", InstanceState::Ready).entry,
            put("acks/app/f", 6, ack(6)).entry,
        ];
        fold.stale_since_unix_ms = Some(1);
        fold.replace(
            &[Range {
                entries,
                revision: 9,
            }],
            now,
        );
        let fleet = fold.fleet(now);
        assert_eq!((fleet.is_synced, fleet.stale_since_unix_ms), (true, None));
        assert_eq!(names(&fleet, "r"), ["b"]);
        assert_eq!(fleet.acks.keys().collect::<Vec<_>>(), ["f"]);
        assert_eq!(fleet.generation, 0);
    }

    #[test]
    fn a_split_that_cannot_be_read_leaves_the_last_in_force() {
        let (mut fold, now) = (Fold::default(), Instant::now());
        fold.apply(
            &put(
                "traffic/app",
                4,
                serde_json::to_string(&Traffic::all_to("r", "", "")).unwrap(),
            ),
            now,
        );
        fold.apply(&put("traffic/app", 5, "{}".into()), now);
        assert_eq!(fold.fleet(now).generation, 4);
    }
}
