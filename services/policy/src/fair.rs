//! Who gets the next free place: a bounded line of waiting calls, fair between tenants.
//!
//! **Between tenants** places are dealt by deficit round robin (Shreedhar and Varghese, 1995): each round gives a
//! tenant as much as its weight, and each call spends its cost. Work that the operator calls background costs more,
//! critical work less, so class shifts shares without ever taking one away. **Within a tenant** the order is class,
//! then the client's own urgency (`Priority`, RFC 9218), then arrival: a client's wish moves its tenant's calls among
//! themselves and nobody else's.
//!
//! **Shedding** follows CoDel's idea (RFC 8289) in the form that suits requests: a line that was empty a moment ago is a
//! burst, and its calls may wait until it has stood for an `interval`; a line that has, or has sent somebody away within
//! one, is overload, and a call waits only for `target` before it is told to come back, or not at all if by what the line
//! has seen it would wait longer. What has a turn in the coming round, and so at least the most important call of *each*
//! tenant, is exempt up to `wait_max`: every tenant always has a call in the round, and a flood of one cannot starve
//! another. A full line sheds from the tenant with the most waiting for its weight, its least important call first.
//!
//! A call that would have to wait, and by what the line has seen cannot then be answered before its deadline, is refused
//! at once. A call that finds a free place is never refused by a prediction, so a prediction that was wrong is unlearnt.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// What a tenant of weight 1 may spend in one round: one call of the usual class. Larger, and a tenant with one call
/// would wait for bursts of the others.
const QUANTUM: u64 = 2;
/// Highest cost of a call, before its class is counted.
pub const COST_MAX: u32 = 32;
/// Highest weight of a tenant.
pub const WEIGHT_MAX: u32 = 100;
/// The urgency of a call whose client says nothing (RFC 9218, section 4.1).
pub const URGENCY_DEFAULT: u8 = 3;
/// The least urgent (RFC 9218).
pub const URGENCY_MAX: u8 = 7;
/// How much one observation moves the time that a unit of cost takes.
const SERVICE_GAIN: f64 = 0.05;

/// What the operator sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Most calls that wait at once.
    pub waiting_max: usize,
    /// Longest wait of a call in a line that stands.
    pub target: Duration,
    /// Longest wait of a call in a line that was empty when it came; a line that was not empty for so long stands.
    pub interval: Duration,
    /// Longest wait of the most important call of a tenant.
    pub wait_max: Duration,
}

/// What the operator thinks of the work that a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Before all else of its tenant, at half the cost.
    Critical,
    /// The usual.
    Normal,
    /// After all else of its tenant, at twice the cost.
    Background,
}

impl Class {
    /// The name for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::Critical => "critical",
            Class::Normal => "normal",
            Class::Background => "background",
        }
    }

    /// What one unit of a call's cost is charged with.
    const fn charge(self) -> u64 {
        match self {
            Class::Critical => 1,
            Class::Normal => 2,
            Class::Background => 4,
        }
    }
}

/// What a call brings.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// Whose share pays: a hash of the tenant's name.
    pub tenant: u64,
    /// The tenant's weight, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// What the operator thinks of it.
    pub class: Class,
    /// What the client thinks of it, from 0 (urgent) to [`URGENCY_MAX`].
    pub urgency: u8,
    /// How much of a place's time it takes, from 1 to [`COST_MAX`].
    pub cost: u32,
    /// The least time in which it can be answered.
    pub needs: Duration,
    /// When its answer is worth nothing any more.
    pub deadline: Instant,
    /// The time.
    pub now: Instant,
}

/// Why a call gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The line is full, and this call is the least important of the tenant that fills it most.
    Full,
    /// It waited for as long as a call may.
    Waited,
    /// It could not be answered before its deadline.
    Hopeless,
}

impl Refusal {
    /// The name for a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Full => "full",
            Refusal::Waited => "waited",
            Refusal::Hopeless => "deadline",
        }
    }
}

/// Where a waiting call stands; needed to ask about it or to take it away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    tenant: u64,
    rank: Rank,
}

/// Class, urgency, arrival: less is sooner.
type Rank = (Class, u8, u64);

/// What becomes of an arriving call.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// It has a place.
    Enter,
    /// It waits; ask again at `until` unless it was called before.
    Wait {
        /// Its place in the line.
        ticket: Ticket,
        /// When to [`Line::review`] it.
        until: Instant,
        /// A less important call that had to make room; it is refused with [`Refusal::Full`].
        evicted: Option<(T, Class)>,
    },
    /// It gets none.
    Refuse(Refusal),
}

/// What becomes of a waiting call whose time has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<T> {
    /// It has a place.
    Enter {
        /// The call.
        item: T,
        /// How long it waited.
        waited: Duration,
    },
    /// It gets none.
    Refuse {
        /// The call.
        item: T,
        /// Why.
        why: Refusal,
        /// Its class.
        class: Class,
    },
}

/// What becomes of a call that has waited until it was to be looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Review {
    /// It waits on.
    Keep {
        /// When to look again.
        until: Instant,
    },
    /// It gets no place, and waits no more.
    Refuse(Refusal),
    /// It does not wait any more: its fate has been told already.
    Gone,
}

/// Places, and the calls that wait for one.
#[derive(Debug)]
pub struct Line<T> {
    rules: Rules,
    limit: usize,
    in_flight: usize,
    tenants: HashMap<u64, Tenant<T>>,
    /// Tenants in the order of the round; the first may spend. One with nothing waiting is dropped when its turn comes.
    ring: VecDeque<u64>,
    waiting: usize,
    cost: u64,
    /// Weights of the tenants with something waiting.
    weight: u64,
    arrivals: u64,
    /// Since when something has been waiting.
    since: Option<Instant>,
    /// When a call was last sent away for want of a place.
    shed: Option<Instant>,
    /// When the last waiting call got a place, while others waited.
    served: Option<Instant>,
    /// Seconds that pass per unit of cost while calls wait; 0 until it is known.
    pace: f64,
}

#[derive(Debug)]
struct Tenant<T> {
    weight: u64,
    deficit: u64,
    cost: u64,
    waiting: BTreeMap<Rank, Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    cost: u64,
    since: Instant,
    needs: Duration,
    deadline: Instant,
}

impl<T> Waiting<T> {
    /// When it is of no use any more to give it a place.
    fn hopeless_at(&self) -> Instant {
        self.deadline.checked_sub(self.needs).unwrap_or(self.since)
    }
}

impl<T> Line<T> {
    /// A line for `limit` places.
    #[must_use]
    pub fn new(rules: Rules, limit: usize) -> Self {
        Self {
            rules,
            limit,
            in_flight: 0,
            tenants: HashMap::new(),
            ring: VecDeque::new(),
            waiting: 0,
            cost: 0,
            weight: 0,
            arrivals: 0,
            since: None,
            shed: None,
            served: None,
            pace: 0.0,
        }
    }

    /// Calls that have a place.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Calls that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Places there are.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Changes how many places there are. When there are more, call [`Line::next`]; when fewer, calls that have a place
    /// keep it.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Gives an arriving call a place, lets it wait, or refuses it. `item` is made only if it waits.
    pub fn offer(&mut self, facts: &Facts, item: impl FnOnce() -> T) -> Offer<T> {
        if self.in_flight < self.limit && self.waiting == 0 {
            self.in_flight += 1;
            return Offer::Enter;
        }
        let cost = u64::from(facts.cost.clamp(1, COST_MAX)) * facts.class.charge();
        let weight = u64::from(facts.weight.clamp(1, WEIGHT_MAX));
        let urgency = facts.urgency.min(URGENCY_MAX);
        let rank = (facts.class, urgency, self.arrivals);
        let wait = self.wait(facts.tenant, weight, rank, cost);
        if facts.now + facts.needs + wait > facts.deadline {
            return Offer::Refuse(Refusal::Hopeless);
        }
        let stands = self.stands(facts.now);
        if stands && !self.has_turn(facts.tenant, weight, rank, cost) && wait > self.rules.target {
            // It would be sent away in a moment: better now.
            self.shed = Some(facts.now);
            return Offer::Refuse(Refusal::Waited);
        }
        let mut evicted = None;
        if self.waiting >= self.rules.waiting_max {
            match self.least(facts.tenant, weight, rank, cost) {
                Some((tenant, last)) => {
                    let waiting = self.remove(tenant, last);
                    evicted = waiting.map(|waiting| (waiting.item, last.0));
                }
                None => {
                    self.shed = Some(facts.now);
                    return Offer::Refuse(Refusal::Full);
                }
            }
            self.shed = Some(facts.now);
        }
        self.arrivals += 1;
        let waiting = Waiting {
            item: item(),
            cost,
            since: facts.now,
            needs: facts.needs,
            deadline: facts.deadline,
        };
        let until = self.patience(facts.now, stands).min(waiting.hopeless_at());
        self.insert(facts.tenant, weight, rank, waiting);
        Offer::Wait {
            ticket: Ticket {
                tenant: facts.tenant,
                rank,
            },
            until,
            evicted,
        }
    }

    /// A call gives its place back. Call [`Line::next`] until it says `None`.
    pub fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The next waiting call that gets a place, or that it is too late for; `None` when no place is free or nothing waits.
    pub fn next(&mut self, now: Instant) -> Option<Next<T>> {
        let mut turns = 0;
        while self.in_flight < self.limit && self.waiting > 0 {
            if turns >= self.ring.len() {
                self.skip_rounds();
                turns = 0;
            }
            turns += 1;
            let id = *self.ring.front()?;
            let Some(tenant) = self.tenants.get_mut(&id) else {
                self.turn(true);
                continue;
            };
            let Some((&rank, first)) = tenant.waiting.first_key_value() else {
                self.turn(true);
                continue;
            };
            let cost = first.cost;
            if tenant.deficit < cost {
                self.turn(false);
                continue;
            }
            let late = first.hopeless_at() < now;
            let waiting = self.remove(id, rank)?;
            if late {
                return Some(Next::Refuse {
                    item: waiting.item,
                    why: Refusal::Hopeless,
                    class: rank.0,
                });
            }
            if let Some(tenant) = self.tenants.get_mut(&id) {
                tenant.deficit -= cost;
            }
            self.learn(cost, now);
            self.in_flight += 1;
            return Some(Next::Enter {
                item: waiting.item,
                waited: now.saturating_duration_since(waiting.since),
            });
        }
        None
    }

    /// Looks at a call that has waited until the time it was told.
    pub fn review(&mut self, ticket: Ticket, now: Instant) -> Review {
        let Some(tenant) = self.tenants.get(&ticket.tenant) else {
            return Review::Gone;
        };
        let Some(waiting) = tenant.waiting.get(&ticket.rank) else {
            return Review::Gone;
        };
        let has_turn = self.has_turn(ticket.tenant, tenant.weight, ticket.rank, waiting.cost);
        let last = waiting.hopeless_at();
        // In a line that has become short again there is no need to send anybody away.
        let until = match has_turn {
            true => waiting.since + self.rules.wait_max,
            false => self.patience(waiting.since, self.stands(now)),
        };
        let until = until.min(last);
        if until > now {
            return Review::Keep { until };
        }
        self.remove(ticket.tenant, ticket.rank);
        self.shed = Some(now);
        Review::Refuse(match last <= now {
            true => Refusal::Hopeless,
            false => Refusal::Waited,
        })
    }

    /// A waiting call whose client has gone takes nobody's time.
    pub fn cancel(&mut self, ticket: Ticket) {
        self.remove(ticket.tenant, ticket.rank);
    }

    /// Whether calls have been waiting for an interval without a break, or one had to be sent away within it: shedding
    /// makes the line short, which does not mean that there is room.
    fn stands(&self, now: Instant) -> bool {
        let ago = |time: Instant| now.saturating_duration_since(time);
        self.since
            .is_some_and(|since| ago(since) >= self.rules.interval)
            || self
                .shed
                .is_some_and(|shed| ago(shed) < self.rules.interval)
    }

    /// Until when a call waits that came at `since` and has no turn: for `target`, or until the line is known to stand.
    fn patience(&self, since: Instant, stands: bool) -> Instant {
        let least = since + self.rules.target.min(self.rules.wait_max);
        if stands {
            return least;
        }
        let known = self.since.unwrap_or(since) + self.rules.interval;
        known.min(since + self.rules.wait_max).max(least)
    }

    /// Cost of the tenant's calls that go before one of this rank.
    fn before(&self, tenant: u64, rank: Rank) -> u64 {
        let own = self.tenants.get(&tenant);
        own.map_or(0, |own| {
            own.waiting.range(..rank).map(|(_, call)| call.cost).sum()
        })
    }

    /// Whether a call has a turn in the coming round: it is its tenant's most important, or the tenant's weight reaches as far.
    fn has_turn(&self, tenant: u64, weight: u64, rank: Rank, cost: u64) -> bool {
        let before = self.before(tenant, rank);
        before == 0 || before + cost <= QUANTUM * weight
    }

    /// How long a call would wait, by what is before it: its tenant's own calls, and for each of them the others' shares.
    fn wait(&self, tenant: u64, weight: u64, rank: Rank, cost: u64) -> Duration {
        if self.pace == 0.0 {
            return Duration::ZERO;
        }
        let before = self.before(tenant, rank);
        let own = self.tenants.get(&tenant);
        let joins = own.is_none_or(|own| own.waiting.is_empty());
        let weights = self.weight + if joins { weight } else { 0 };
        let ahead = ((before + cost) * weights / weight).min(self.cost + cost);
        Duration::try_from_secs_f64(self.pace * ahead as f64).unwrap_or(self.rules.wait_max)
    }

    /// The least important call of the tenant with the most waiting for its weight; `None` if that is the arriving one.
    fn least(&self, arriving: u64, weight: u64, rank: Rank, cost: u64) -> Option<(u64, Rank)> {
        let own = self.tenants.get(&arriving).map_or(0, |own| own.cost) + cost;
        let mut most = (own, weight, arriving);
        for (id, tenant) in &self.tenants {
            // Compares cost / weight without dividing.
            if *id != arriving && tenant.cost * most.1 > most.0 * tenant.weight {
                most = (tenant.cost, tenant.weight, *id);
            }
        }
        let (&last, _) = self.tenants.get(&most.2)?.waiting.last_key_value()?;
        (most.2 != arriving || last > rank).then_some((most.2, last))
    }

    fn insert(&mut self, id: u64, weight: u64, rank: Rank, waiting: Waiting<T>) {
        self.since.get_or_insert(waiting.since);
        self.forget_idle();
        let known = self.tenants.contains_key(&id);
        let tenant = self.tenants.entry(id).or_insert_with(|| Tenant {
            weight,
            deficit: 0,
            cost: 0,
            waiting: BTreeMap::new(),
        });
        if tenant.waiting.is_empty() {
            tenant.weight = weight;
            self.weight += weight;
        }
        tenant.cost += waiting.cost;
        self.cost += waiting.cost;
        self.waiting += 1;
        tenant.waiting.insert(rank, waiting);
        if !known {
            self.ring.push_back(id);
            if self.ring.len() == 1 {
                self.grant();
            }
        }
    }

    fn remove(&mut self, id: u64, rank: Rank) -> Option<Waiting<T>> {
        let tenant = self.tenants.get_mut(&id)?;
        let waiting = tenant.waiting.remove(&rank)?;
        tenant.cost -= waiting.cost;
        if tenant.waiting.is_empty() {
            self.weight -= tenant.weight;
        }
        self.cost -= waiting.cost;
        self.waiting -= 1;
        if self.waiting == 0 {
            self.since = None;
            self.served = None;
            self.tenants.clear();
            self.ring.clear();
        }
        Some(waiting)
    }

    /// Ends the first tenant's turn: it goes to the end, or out. The next may spend.
    fn turn(&mut self, out: bool) {
        if let Some(id) = self.ring.pop_front() {
            if out {
                self.tenants.remove(&id);
            } else {
                self.ring.push_back(id);
            }
        }
        self.grant();
    }

    /// After a round in which nobody could afford its call: grants all rounds at once but the one in which somebody can.
    fn skip_rounds(&mut self) {
        let rounds = self.tenants.values().filter_map(|tenant| {
            let (_, first) = tenant.waiting.first_key_value()?;
            let lacks = first.cost.saturating_sub(tenant.deficit);
            Some(lacks.div_ceil(QUANTUM * tenant.weight))
        });
        let rounds = rounds.min().unwrap_or(0).saturating_sub(1);
        for tenant in self.tenants.values_mut() {
            tenant.deficit += QUANTUM * tenant.weight * rounds;
        }
    }

    fn grant(&mut self) {
        if let Some(tenant) = self
            .ring
            .front()
            .and_then(|first| self.tenants.get_mut(first))
        {
            tenant.deficit += QUANTUM * tenant.weight;
        }
    }

    /// Bounds the memory for tenants whose calls have all gone while the round stood still.
    fn forget_idle(&mut self) {
        if self.ring.len() > 2 * self.rules.waiting_max.max(1) {
            self.tenants.retain(|_, tenant| !tenant.waiting.is_empty());
            let tenants = &self.tenants;
            self.ring.retain(|id| tenants.contains_key(id));
        }
    }

    fn learn(&mut self, cost: u64, now: Instant) {
        if let Some(before) = self.served {
            let seen = now.saturating_duration_since(before).as_secs_f64() / cost as f64;
            self.pace = match self.pace == 0.0 {
                true => seen,
                false => self.pace + (seen - self.pace) * SERVICE_GAIN,
            };
        }
        // A line that has just become empty says nothing about the time until the next call.
        self.served = (self.waiting > 0).then_some(now);
    }
}

/// The urgency in a `Priority` header (RFC 9218, section 4): the parameter `u`, 0 to 7. Whatever else stands there is
/// ignored, as the RFC asks; a value that is none, or out of range, is the default.
#[must_use]
pub fn urgency(header: &str) -> u8 {
    header
        .split(',')
        .filter_map(|part| part.split(';').next()?.trim_ascii().strip_prefix("u="))
        // A key that stands twice has its last value (RFC 8941, section 4.2.2).
        .next_back()
        .and_then(|value| value.parse().ok())
        .filter(|urgency| *urgency <= URGENCY_MAX)
        .unwrap_or(URGENCY_DEFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn rules() -> Rules {
        Rules {
            waiting_max: 64,
            target: 4 * MS,
            interval: 100 * MS,
            wait_max: 1000 * MS,
        }
    }

    fn facts(tenant: u64, now: Instant) -> Facts {
        Facts {
            tenant,
            weight: 1,
            class: Class::Normal,
            urgency: URGENCY_DEFAULT,
            cost: 1,
            needs: Duration::ZERO,
            deadline: now + 30_000 * MS,
            now,
        }
    }

    /// A line with its only place taken.
    fn taken(now: Instant) -> Line<u32> {
        let mut line = Line::new(rules(), 1);
        assert_eq!(line.offer(&facts(0, now), || 0), Offer::Enter);
        line
    }

    fn wait(line: &mut Line<u32>, facts: &Facts, item: u32) -> (Ticket, Instant) {
        match line.offer(facts, || item) {
            Offer::Wait { ticket, until, .. } => (ticket, until),
            other => panic!("{other:?}"),
        }
    }

    fn serve(line: &mut Line<u32>, now: Instant) -> Vec<u32> {
        let mut served = Vec::new();
        loop {
            line.leave();
            match line.next(now) {
                Some(Next::Enter { item, .. }) => served.push(item),
                Some(Next::Refuse { .. }) => {}
                None => return served,
            }
        }
    }

    #[test]
    fn urgency_is_read_as_rfc_9218_says() {
        for (header, expect) in [
            ("u=0", 0),
            ("u=5, i", 5),
            ("i, u=7", 7),
            ("u=1, u=2", 2),
            ("u=2;x=1", 2),
            ("u=8", 3),
            ("u=-1", 3),
            ("u=high", 3),
            ("U=1", 3),
            ("", 3),
            ("du=1", 3),
        ] {
            assert_eq!(urgency(header), expect, "{header:?}");
        }
    }

    #[test]
    fn within_a_tenant_the_important_come_first() {
        let now = Instant::now();
        let mut line = taken(now);
        let call = |class, urgency| Facts {
            class,
            urgency,
            ..facts(1, now)
        };
        for (item, class, urgency) in [
            (1, Class::Background, 0),
            (2, Class::Normal, 3),
            (3, Class::Normal, 3),
            (4, Class::Normal, 0),
            (5, Class::Critical, 7),
        ] {
            wait(&mut line, &call(class, urgency), item);
        }
        assert_eq!(serve(&mut line, now), [5, 4, 2, 3, 1]);
        assert_eq!((line.in_flight(), line.waiting()), (0, 0));
    }

    #[test]
    fn weights_and_classes_share_places_between_tenants() {
        let now = Instant::now();
        for (weights, classes, share) in [
            ([1, 1], [Class::Normal, Class::Normal], 0.5),
            ([3, 1], [Class::Normal, Class::Normal], 0.75),
            ([1, 1], [Class::Critical, Class::Background], 0.8),
        ] {
            let mut line = Line::new(
                Rules {
                    waiting_max: 2000,
                    ..rules()
                },
                1,
            );
            assert_eq!(line.offer(&facts(9, now), || 0), Offer::Enter);
            for item in 0..2000 {
                let tenant = item as usize % 2;
                let facts = Facts {
                    weight: weights[tenant],
                    class: classes[tenant],
                    ..facts(tenant as u64, now)
                };
                wait(&mut line, &facts, tenant as u32);
            }
            let mut first = 0;
            for _ in 0..1000 {
                line.leave();
                let Some(Next::Enter { item, .. }) = line.next(now) else {
                    panic!("calls wait")
                };
                first += u32::from(item == 0);
            }
            let got = f64::from(first) / 1000.0;
            assert!((got - share).abs() < 0.03, "{weights:?} {classes:?}: {got}");
        }
    }

    #[test]
    fn a_burst_may_wait_and_a_standing_line_sheds_fast() {
        let start = Instant::now();
        let mut line = taken(start);
        let (head, until) = wait(&mut line, &facts(1, start), 1);
        assert_eq!(until, start + 100 * MS);
        let (second, _) = wait(&mut line, &facts(1, start), 2);
        // The line has now stood for an interval: only the tenant's first goes on waiting.
        let now = start + 100 * MS;
        assert_eq!(
            line.review(head, now),
            Review::Keep {
                until: start + 1000 * MS
            }
        );
        assert_eq!(line.review(second, now), Review::Refuse(Refusal::Waited));
        assert_eq!(line.review(second, now), Review::Gone);
        let (late, until) = wait(&mut line, &facts(1, now), 3);
        assert_eq!(until, now + 4 * MS);
        assert_eq!(
            line.review(late, now + 4 * MS),
            Review::Refuse(Refusal::Waited)
        );
        assert_eq!(
            line.review(head, start + 1000 * MS),
            Review::Refuse(Refusal::Waited)
        );
        assert_eq!(line.waiting(), 0);
        // The line is empty, but not because there is room.
        let soon = start + 1050 * MS;
        let (_, until) = wait(&mut line, &facts(1, soon), 4);
        assert_eq!(until, soon + 4 * MS);
        serve(&mut line, soon);
        let later = soon + 500 * MS;
        assert_eq!(line.offer(&facts(0, later), || 0), Offer::Enter);
        let (_, until) = wait(&mut line, &facts(1, later), 5);
        assert_eq!(until, later + 100 * MS);
    }

    #[test]
    fn in_a_standing_line_whoever_would_wait_too_long_is_told_at_once() {
        let start = Instant::now();
        let mut line = taken(start);
        for item in 0..20 {
            wait(&mut line, &facts(1, start), item);
        }
        let mut now = start;
        for _ in 0..10 {
            now += 10 * MS;
            line.leave();
            assert!(matches!(line.next(now), Some(Next::Enter { .. })));
        }
        let refused = Offer::Refuse(Refusal::Waited);
        assert_eq!(line.offer(&facts(1, now), || 30), refused);
        // The first of a tenant is not: it waits for its turn.
        wait(&mut line, &facts(2, now), 31);
        assert_eq!(line.offer(&facts(2, now), || 32), refused);
        let urgent = Facts {
            urgency: 0,
            ..facts(2, now)
        };
        wait(&mut line, &urgent, 33);
    }

    #[test]
    fn a_full_line_sheds_the_least_important_of_whoever_fills_it() {
        let now = Instant::now();
        let mut line = taken(now);
        let call = |tenant, urgency| Facts {
            urgency,
            ..facts(tenant, now)
        };
        for item in 0..64 {
            wait(&mut line, &call(1, if item == 7 { 6 } else { 3 }), item);
        }
        // Its own least important call makes room, or is the arriving one.
        assert_eq!(line.offer(&call(1, 7), || 70), Offer::Refuse(Refusal::Full));
        match line.offer(&call(1, 0), || 71) {
            Offer::Wait { evicted, .. } => assert_eq!(evicted.map(|(item, _)| item), Some(7)),
            other => panic!("{other:?}"),
        }
        // A tenant that has nothing waiting is not refused for another's flood.
        match line.offer(&call(2, 7), || 72) {
            Offer::Wait { evicted, .. } => assert_eq!(evicted.map(|(item, _)| item), Some(63)),
            other => panic!("{other:?}"),
        }
        assert_eq!(line.waiting(), 64);
    }

    #[test]
    fn what_cannot_meet_its_deadline_is_refused_early() {
        let start = Instant::now();
        let mut line = taken(start);
        // 5 ms a call is learnt.
        for item in 0..20 {
            wait(&mut line, &facts(1, start), item);
        }
        let mut now = start;
        for _ in 0..10 {
            now += 5 * MS;
            line.leave();
            assert!(matches!(line.next(now), Some(Next::Enter { .. })));
        }
        let by = |after: u64, needs| Facts {
            deadline: now + after as u32 * MS,
            needs,
            ..facts(1, now)
        };
        // Ten wait before it.
        assert_eq!(
            line.offer(&by(45, Duration::ZERO), || 90),
            Offer::Refuse(Refusal::Hopeless)
        );
        wait(&mut line, &by(65, Duration::ZERO), 91);
        assert_eq!(
            line.offer(&by(65, 20 * MS), || 92),
            Offer::Refuse(Refusal::Hopeless)
        );
        // Another tenant has nothing before it but its turn.
        let other = Facts {
            tenant: 2,
            ..by(25, Duration::ZERO)
        };
        let (ticket, until) = wait(&mut line, &other, 93);
        assert!(until <= now + 25 * MS);
        assert_eq!(
            line.review(ticket, now + 25 * MS),
            Review::Refuse(Refusal::Hopeless)
        );
        // A free place is given whatever was learnt.
        let mut line = Line::<u32>::new(rules(), 1);
        assert_eq!(line.offer(&by(1, 40 * MS), || 1), Offer::Enter);
    }

    #[test]
    fn tenants_that_gave_up_take_no_room() {
        let now = Instant::now();
        let mut line = taken(now);
        wait(&mut line, &facts(0, now), 0);
        for tenant in 1..10_000 {
            let (ticket, _) = wait(&mut line, &facts(tenant, now), 1);
            line.cancel(ticket);
        }
        assert!(line.ring.len() <= 130 && line.tenants.len() <= 130);
        assert_eq!(serve(&mut line, now), [0]);
    }

    /// What the tenants of a simulation came to.
    struct Simulated {
        /// Calls of each that were served and refused.
        counts: Vec<(u32, u32)>,
        /// Milliseconds after which each refused call knew it.
        refused_ms: Vec<u64>,
    }

    /// A server of `places` that takes a millisecond and more for a call, under tenants that call at their rates.
    fn simulate(seed: u64, places: usize, seconds: u64, tenants: &[(u32, u64)]) -> Simulated {
        use rand::{RngExt, SeedableRng, rngs::StdRng};
        let mut dice = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut line: Line<u32> = Line::new(rules(), places);
        let mut counts = vec![(0, 0); tenants.len()];
        let mut refused_ms = Vec::new();
        let mut busy: Vec<(u64, u32)> = Vec::new();
        let mut reviews: Vec<(Instant, Ticket, u32, u64)> = Vec::new();
        for tick in 0..seconds * 1000 {
            let now = start + tick as u32 * MS;
            let mut enter = |busy: &mut Vec<(u64, u32)>, tenant: u32| {
                busy.push((tick + dice.random_range(1..20), tenant));
            };
            let done = busy.len();
            busy.retain(|(end, _)| *end > tick);
            for _ in busy.len()..done {
                line.leave();
            }
            while let Some(next) = line.next(now) {
                match next {
                    Next::Enter { item, .. } => {
                        counts[item as usize].0 += 1;
                        enter(&mut busy, item);
                    }
                    Next::Refuse { item, .. } => counts[item as usize].1 += 1,
                }
            }
            for (time, ticket, tenant, came) in std::mem::take(&mut reviews) {
                if time > now {
                    reviews.push((time, ticket, tenant, came));
                    continue;
                }
                match line.review(ticket, now) {
                    Review::Keep { until } => reviews.push((until, ticket, tenant, came)),
                    Review::Refuse(_) => {
                        counts[tenant as usize].1 += 1;
                        refused_ms.push(tick - came);
                    }
                    Review::Gone => {}
                }
            }
            for (tenant, &(weight, every_us)) in tenants.iter().enumerate() {
                // Arrivals of this millisecond.
                let arrivals = (tick + 1) * 1000 / every_us - tick * 1000 / every_us;
                for _ in 0..arrivals {
                    let facts = Facts {
                        weight,
                        ..facts(tenant as u64, now)
                    };
                    match line.offer(&facts, || tenant as u32) {
                        Offer::Enter => {
                            counts[tenant].0 += 1;
                            enter(&mut busy, tenant as u32);
                        }
                        Offer::Wait {
                            ticket,
                            until,
                            evicted,
                        } => {
                            reviews.push((until, ticket, tenant as u32, tick));
                            if let Some((item, _)) = evicted {
                                counts[item as usize].1 += 1;
                            }
                        }
                        Offer::Refuse(_) => {
                            counts[tenant].1 += 1;
                            refused_ms.push(0);
                        }
                    }
                }
            }
        }
        Simulated { counts, refused_ms }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 0, ..ProptestConfig::default() })]

        #[test]
        fn mcp_12_no_tenant_starves(
            seed in any::<u64>(),
            places in 1_usize..6,
            floods in prop::collection::vec((1_u32..5, 200_u64..2_000), 1..5),
        ) {
            // One tenant asks for less than a third of its share of what `places` can do in 10 ms a call.
            let weights: u32 = floods.iter().map(|(weight, _)| weight).sum::<u32>() + 1;
            let every_us = 30_000 * u64::from(weights) / places as u64;
            let mut tenants = vec![(1, every_us)];
            tenants.extend(&floods);
            let seconds = 6;
            let counts = simulate(seed, places, seconds, &tenants).counts;
            let asked = seconds * 1_000_000 / every_us;
            prop_assert!(u64::from(counts[0].0) + 2 >= asked * 99 / 100, "{:?} of {}", counts, asked);
            // The floods share the rest by their weights, within a quarter.
            let overload = floods.iter().all(|(_, every)| *every < 1_000 * places as u64 / 2);
            if overload {
                let per_weight: Vec<f64> = floods.iter().zip(&counts[1..])
                    .map(|((weight, _), (served, _))| f64::from(*served) / f64::from(*weight)).collect();
                let (least, most) = per_weight.iter().fold((f64::MAX, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
                prop_assert!(most <= least * 1.25, "{:?} {:?}", per_weight, floods);
            }
        }

        /// The first calls of an overload may wait until it is known to be one; of all, they are few.
        #[test]
        fn mcp_13_in_an_overload_the_refused_know_it_within_5_ms(
            seed in any::<u64>(),
            places in 1_usize..20,
            overload in 2_u64..20,
        ) {
            // The server does a call in 10 ms at each place, and is asked for so many times as much.
            let every_us = 10_000 / places as u64 / overload;
            let simulated = simulate(seed, places, 20, &[(1, every_us.max(50) * 2), (4, every_us.max(50) * 2)]);
            let mut refused = simulated.refused_ms;
            refused.sort_unstable();
            prop_assert!(refused.len() > 1000, "{:?}", simulated.counts);
            let p99 = refused[refused.len() * 99 / 100];
            prop_assert!(p99 <= 5, "{p99} ms, {:?}", simulated.counts);
        }

        #[test]
        fn every_call_has_one_fate_and_counts_stay_true(
            limit in 0_usize..4,
            steps in prop::collection::vec((0_u8..6, 0_u64..5, 0_u8..8, 0_u32..40), 1..300),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut line: Line<u32> = Line::new(Rules { waiting_max: 8, ..rules() }, limit);
            let mut open: Vec<(Ticket, u32)> = Vec::new();
            let mut in_flight = 0;
            let mut item = 0;
            for (step, tenant, urgency, ms) in steps {
                now += ms * MS;
                match step {
                    0..=2 => {
                        item += 1;
                        let facts = Facts { urgency, cost: ms, class: [Class::Critical, Class::Normal, Class::Background][step as usize], ..facts(tenant, now) };
                        match line.offer(&facts, || item) {
                            Offer::Enter => in_flight += 1,
                            Offer::Wait { ticket, evicted, .. } => {
                                if let Some((gone, _)) = evicted { open.retain(|(_, other)| *other != gone); }
                                open.push((ticket, item));
                            }
                            Offer::Refuse(_) => {}
                        }
                    }
                    3 if in_flight > 0 => {
                        line.leave();
                        in_flight -= 1;
                        while let Some(next) = line.next(now) {
                            let gone = match next {
                                Next::Enter { item, .. } => { in_flight += 1; item }
                                Next::Refuse { item, .. } => item,
                            };
                            let before = open.len();
                            open.retain(|(_, other)| *other != gone);
                            prop_assert_eq!(open.len() + 1, before);
                        }
                    }
                    4 if !open.is_empty() => {
                        let index = ms as usize % open.len();
                        match line.review(open[index].0, now) {
                            Review::Keep { until } => prop_assert!(until > now),
                            Review::Refuse(_) => drop(open.remove(index)),
                            Review::Gone => prop_assert!(false, "it waits"),
                        }
                    }
                    5 if !open.is_empty() => line.cancel(open.remove(ms as usize % open.len()).0),
                    _ => {}
                }
                prop_assert_eq!(line.waiting(), open.len());
                prop_assert_eq!(line.in_flight(), in_flight);
                prop_assert!(in_flight <= limit && open.len() <= 8);
                prop_assert!(in_flight == limit || open.is_empty());
            }
        }
    }
}
