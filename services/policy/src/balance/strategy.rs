//! The ways to choose one of several instances, over indexes alone.
//!
//! A strategy asks only about the instances it looks at, and it looks at one or two. Some instances may be out of the
//! question for this call (it was tried there already, or the instance is on probation and busy): a draw that hits one is
//! repeated a few times, then the instances are searched in order, so that the answer is right when nearly all are out of the
//! question and constant in cost otherwise.

use crate::dice::Dice;

/// Draws before a search in order begins.
const DRAWS_MAX: usize = 8;

/// How to choose an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The better of two by latency estimate × (calls in flight + 1).
    #[default]
    PeakEwma,
    /// The one of two with fewer calls in flight.
    LeastRequests,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// By weight; an instance of weight 0 gets nothing unless all have weight 0.
    Weighted,
}

/// The instances to choose from, by index.
pub(super) trait Candidates {
    /// How many there are.
    fn len(&self) -> usize;
    /// Whether this one may get the call.
    fn accepts(&self, index: usize) -> bool;
    /// Calls in flight.
    fn in_flight(&self, index: usize) -> u32;
    /// Latency estimate × (calls in flight + 1).
    fn cost(&self, index: usize) -> f64;
    /// The next index in turn.
    fn turn(&self) -> usize;
    /// An index by weight.
    fn by_weight(&self, dice: &mut Dice) -> Option<usize>;
}

/// Chooses an index; `None` if no candidate accepts the call.
pub(super) fn choose(
    strategy: Strategy,
    candidates: &impl Candidates,
    dice: &mut Dice,
) -> Option<usize> {
    match strategy {
        Strategy::PeakEwma => better_of_two(candidates, dice, |index| candidates.cost(index)),
        Strategy::LeastRequests => better_of_two(candidates, dice, |index| {
            f64::from(candidates.in_flight(index))
        }),
        Strategy::RoundRobin => search(candidates, candidates.turn(), None),
        Strategy::Random => any(candidates, dice, None),
        Strategy::Weighted => {
            let by_weight = (0..DRAWS_MAX).find_map(|_| {
                candidates
                    .by_weight(dice)
                    .filter(|&i| candidates.accepts(i))
            });
            by_weight.or_else(|| any(candidates, dice, None))
        }
    }
}

/// Draws two different candidates and takes the cheaper; the first drawn if they are equal.
fn better_of_two(
    candidates: &impl Candidates,
    dice: &mut Dice,
    cost: impl Fn(usize) -> f64,
) -> Option<usize> {
    let first = any(candidates, dice, None)?;
    let Some(second) = any(candidates, dice, Some(first)) else {
        return Some(first);
    };
    Some(if cost(second) < cost(first) {
        second
    } else {
        first
    })
}

/// Draws a candidate that accepts the call, other than `but`.
fn any(candidates: &impl Candidates, dice: &mut Dice, but: Option<usize>) -> Option<usize> {
    let count = candidates.len();
    let choices = count - usize::from(but.is_some());
    let mut draw = || {
        let index = dice.below(choices);
        if but.is_some_and(|but| index >= but) {
            index + 1
        } else {
            index
        }
    };
    if choices == 0 {
        return None;
    }
    (0..DRAWS_MAX)
        .find_map(|_| Some(draw()).filter(|&index| candidates.accepts(index)))
        .or_else(|| search(candidates, dice.below(count), but))
}

/// Finds the first candidate from `start` on, and around, that accepts the call, other than `but`.
fn search(candidates: &impl Candidates, start: usize, but: Option<usize>) -> Option<usize> {
    let count = candidates.len();
    (0..count)
        .map(|step| (start % count + step) % count)
        .find(|&index| Some(index) != but && candidates.accepts(index))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const ALL: [Strategy; 5] = [
        Strategy::PeakEwma,
        Strategy::LeastRequests,
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::Weighted,
    ];

    /// Candidates with fixed costs that count how often they are looked at.
    struct Table {
        costs: Vec<f64>,
        accepted: fn(usize) -> bool,
        looks: Cell<usize>,
        turn: Cell<usize>,
    }

    impl Table {
        fn new(len: usize, accepted: fn(usize) -> bool) -> Self {
            Self {
                costs: vec![1.0; len],
                accepted,
                looks: Cell::new(0),
                turn: Cell::new(0),
            }
        }
    }

    impl Candidates for Table {
        fn len(&self) -> usize {
            self.costs.len()
        }
        fn accepts(&self, index: usize) -> bool {
            self.looks.set(self.looks.get() + 1);
            (self.accepted)(index)
        }
        fn in_flight(&self, index: usize) -> u32 {
            self.cost(index) as u32
        }
        fn cost(&self, index: usize) -> f64 {
            self.costs[index]
        }
        fn turn(&self) -> usize {
            self.turn.replace(self.turn.get() + 1)
        }
        fn by_weight(&self, dice: &mut Dice) -> Option<usize> {
            (self.len() > 0).then(|| dice.below(self.len()))
        }
    }

    #[test]
    fn a_choice_looks_at_two_of_three_and_at_two_of_two_hundred() {
        for strategy in ALL {
            for len in [3, 200] {
                let table = Table::new(len, |_| true);
                for seed in 0..1_000 {
                    assert!(choose(strategy, &table, &mut Dice::new(seed)).unwrap() < len);
                }
                assert!(
                    table.looks.get() <= 2_000,
                    "{strategy:?} of {len}: {} looks",
                    table.looks.get()
                );
            }
        }
    }

    #[test]
    fn only_those_that_accept_are_chosen_and_always_found() {
        for strategy in ALL {
            for (len, accepted, expect) in [
                (0, (|_| true) as fn(usize) -> bool, None),
                (1, |_| true, Some(0)),
                (1, |_| false, None),
                (200, |_| false, None),
                (200, |index| index == 137, Some(137)),
                (2, |index| index == 0, Some(0)),
            ] {
                let table = Table::new(len, accepted);
                for seed in 0..100 {
                    let chosen = choose(strategy, &table, &mut Dice::new(seed));
                    assert_eq!(chosen, expect, "{strategy:?} of {len}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn the_dearest_is_never_the_better_of_two() {
        for strategy in [Strategy::PeakEwma, Strategy::LeastRequests] {
            let mut table = Table::new(10, |_| true);
            table.costs[4] = 9.0;
            assert!(
                (0..1_000).all(|seed| choose(strategy, &table, &mut Dice::new(seed)) != Some(4))
            );
        }
    }
}
