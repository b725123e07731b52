//! What is kept for each user, under its name alone, and for no more users than a bound.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::User;

/// A seat for each user. Whoever came first goes first when there is no room, unless it is at work.
#[derive(Debug)]
pub(crate) struct Seats<V> {
    taken: Mutex<HashMap<User, Seat<V>>>,
    max: usize,
}

#[derive(Debug)]
struct Seat<V> {
    value: Arc<V>,
    used: Instant,
}

impl<V> Seats<V> {
    /// Has room for at most `max` users.
    pub(crate) fn new(max: usize) -> Self {
        let taken = Mutex::default();
        Self { taken, max }
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, HashMap<User, Seat<V>>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what is kept for a user, made by `make` if there is nothing yet, and what had to go for it. `None` when every
    /// other seat is at work.
    pub(crate) fn seat(
        &self,
        user: &User,
        now: Instant,
        make: impl FnOnce(&User) -> V,
    ) -> Option<(Arc<V>, Option<Arc<V>>)> {
        let mut taken = self.taken();
        if let Some(seat) = taken.get_mut(user) {
            seat.used = now;
            return Some((Arc::clone(&seat.value), None));
        }
        let mut gone = None;
        if taken.len() >= self.max {
            let idle = taken
                .iter()
                .filter(|(_, seat)| Arc::strong_count(&seat.value) == 1);
            let oldest = idle
                .min_by_key(|(_, seat)| seat.used)
                .map(|(user, _)| user.clone());
            gone = taken.remove(&oldest?).map(|seat| seat.value);
        }
        let value = Arc::new(make(user));
        let seat = Seat {
            value: Arc::clone(&value),
            used: now,
        };
        taken.insert(user.clone(), seat);
        Some((value, gone))
    }

    /// Empties the seats that were not used for `longer` than this and are not at work, and returns what was kept there.
    pub(crate) fn empty_idle(&self, now: Instant, longer: Duration) -> Vec<Arc<V>> {
        let mut taken = self.taken();
        taken
            .extract_if(|_, seat| {
                now.saturating_duration_since(seat.used) > longer
                    && Arc::strong_count(&seat.value) == 1
            })
            .map(|(_, seat)| seat.value)
            .collect()
    }

    /// Empties all seats and returns what was kept there.
    pub(crate) fn empty_all(&self) -> Vec<Arc<V>> {
        let mut taken = self.taken();
        taken.drain().map(|(_, seat)| seat.value).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn user(index: u8) -> User {
        // Names that would meet if tenant and principal were only put together.
        let names = [
            ("a", "bc"),
            ("ab", "c"),
            ("", "abc"),
            ("abc", "x"),
            ("a", "b"),
        ];
        let (tenant, principal) = names[usize::from(index) % names.len()];
        User {
            tenant: tenant.to_owned(),
            principal: principal.to_owned(),
        }
    }

    proptest! {
        /// Whatever comes in whatever order: nobody gets what was made for another, and there are never too many.
        #[test]
        fn nobody_sits_on_anothers_seat(steps in proptest::collection::vec((0_u8..5, 0_u64..4, any::<bool>()), 0..60), max in 1_usize..4) {
            let seats = Seats::new(max);
            let mut now = Instant::now();
            let mut at_work = Vec::new();
            for (index, wait, stays) in steps {
                now += Duration::from_secs(wait);
                let user = user(index);
                match seats.seat(&user, now, User::clone) {
                    Some((value, gone)) => {
                        prop_assert_eq!(&*value, &user);
                        prop_assert!(gone.is_none_or(|gone| *gone != user && !at_work.iter().any(|one| Arc::ptr_eq(one, &gone))));
                        if stays {
                            at_work.push(value);
                        }
                    }
                    None => prop_assert!(at_work.len() >= max),
                }
                prop_assert!(seats.taken().len() <= max);
                for gone in seats.empty_idle(now, Duration::from_secs(5)) {
                    prop_assert_eq!(Arc::strong_count(&gone), 1);
                }
                if wait == 3 {
                    at_work.clear();
                }
            }
        }
    }
}
