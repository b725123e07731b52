//! Many draws from one random number that the caller passes in.
//!
//! A decision may need two or three random numbers, and the caller should not have to know how many. The generator is
//! `SplitMix64` (Steele, Lea, Flood 2014): one addition and a mix, every seed is good, and no state outlives the decision.

/// A generator that lives for one decision.
pub(crate) struct Dice(u64);

impl Dice {
    /// Starts from the caller's entropy.
    pub(crate) fn new(random: u64) -> Self {
        Self(random)
    }

    /// Draws 64 bits.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Draws an index below `count`; 0 when `count` is 0.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        usize::try_from(scale(self.roll(), count as u64)).unwrap_or(0)
    }

    /// Draws a number in `0.0..1.0`.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Spreads every input bit over all output bits; a bijection.
pub(crate) fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Maps a 64-bit position onto `0..count` without changing the order of positions.
pub(crate) fn scale(position: u64, count: u64) -> u64 {
    ((u128::from(position) * u128::from(count)) >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_even_and_in_range() {
        let mut dice = Dice::new(7);
        let mut seen = [0_u32; 10];
        let mut sum = 0.0;
        for _ in 0..100_000 {
            seen[dice.below(10)] += 1;
            sum += dice.unit();
        }
        assert!(
            seen.iter().all(|&n| (9_500..10_500).contains(&n)),
            "{seen:?}"
        );
        assert!((49_500.0..50_500.0).contains(&sum), "{sum}");
        assert_eq!(Dice::new(1).below(0), 0);
        assert_eq!(scale(u64::MAX, 10_000), 9_999);
    }
}
