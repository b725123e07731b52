//! Choosing by weight in constant time: the alias method (Walker 1977, Vose 1991).
//!
//! Every index gets one column of equal width. A column is filled by its own weight as far as that reaches, and the rest of it
//! belongs to one other index, its alias. A choice is then one column and one comparison.

use crate::dice::Dice;

/// A table over the indexes `0..len`.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    columns: Box<[Column]>,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// The part of the column that belongs to its own index, `0.0..=1.0`.
    own: f64,
    alias: usize,
}

impl Weights {
    /// Builds the table; weights that are all zero count as equal.
    pub(super) fn new(weights: &[u32]) -> Self {
        let sum: u64 = weights.iter().copied().map(u64::from).sum();
        let scaled = |&weight: &u32| match sum {
            0 => 1.0,
            sum => f64::from(weight) * weights.len() as f64 / sum as f64,
        };
        let mut parts: Vec<f64> = weights.iter().map(scaled).collect();
        let mut columns: Box<[Column]> = (0..parts.len())
            .map(|index| Column {
                own: 1.0,
                alias: index,
            })
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..parts.len()).partition(|&index| parts[index] < 1.0);
        while let (Some(poor), Some(&rich)) = (small.pop(), large.last()) {
            columns[poor] = Column {
                own: parts[poor],
                alias: rich,
            };
            parts[rich] -= 1.0 - parts[poor];
            if parts[rich] < 1.0 {
                large.pop();
                small.push(rich);
            }
        }
        Self { columns }
    }

    /// Draws an index; `None` from an empty table.
    pub(super) fn draw(&self, dice: &mut Dice) -> Option<usize> {
        let index = dice.below(self.columns.len());
        let column = self.columns.get(index)?;
        Some(if dice.unit() < column.own {
            index
        } else {
            column.alias
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_follow_the_weights() {
        let cases: [&[u32]; 7] = [
            &[1],
            &[1, 1, 1],
            &[0, 0],
            &[1, 2, 7],
            &[0, 5, 0, 5],
            &[100, 1, 1],
            &[u32::MAX, 1],
        ];
        for weights in cases {
            let table = Weights::new(weights);
            let mut dice = Dice::new(5);
            let mut seen = vec![0_u32; weights.len()];
            for _ in 0..100_000 {
                seen[table.draw(&mut dice).unwrap()] += 1;
            }
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            for (index, &count) in seen.iter().enumerate() {
                let expect = if sum == 0.0 {
                    1.0 / weights.len() as f64
                } else {
                    f64::from(weights[index]) / sum
                };
                let off = (f64::from(count) / 100_000.0 - expect).abs();
                assert!(off < 0.005, "{weights:?}: index {index} is off by {off}");
            }
        }
        assert_eq!(Weights::new(&[]).draw(&mut Dice::new(1)), None);
    }
}
