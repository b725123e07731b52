//! The real name nearest to a mistyped one.

/// Longer names are cut before they are compared: the work grows with the product of the lengths.
const COMPARED_MAX: usize = 80;

/// The candidate nearest to `name`, however far; `None` without candidates.
pub(crate) fn nearest<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    ranked(name, candidates).map(|(_, candidate)| candidate)
}

/// The candidate nearest to `name` if it is near enough to be what was meant.
pub(crate) fn likely<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<&'c str> {
    let (distance, candidate) = ranked(name, candidates)?;
    (distance <= 1 + candidate.len() / 4).then_some(candidate)
}

fn ranked<'c>(
    name: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> Option<(usize, &'c str)> {
    let name: Vec<char> = name.chars().take(COMPARED_MAX).collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&name, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
}

/// Optimal string alignment distance: insertions, deletions, replacements and swaps of neighbours.
fn distance(left: &[char], right: &str) -> usize {
    let right: Vec<char> = right.chars().take(COMPARED_MAX).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, letter) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, other) in right.iter().enumerate() {
            let replace = above[column] + usize::from(letter != other);
            let mut best = replace.min(above[column + 1] + 1).min(current[column] + 1);
            let swapped =
                row > 0 && column > 0 && *letter == right[column - 1] && left[row - 1] == *other;
            if swapped {
                best = best.min(before[column - 1] + 1);
            }
            current.push(best);
        }
        before = std::mem::replace(&mut above, current);
    }
    above.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (left, right, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("limit", "limit", 0),
            ("limti", "limit", 1),
            ("body", "bodies", 3),
        ] {
            let left: Vec<char> = left.chars().collect();
            assert_eq!(distance(&left, right), expected, "{left:?} {right}");
        }
    }

    #[test]
    fn only_near_names_are_likely() {
        let names = ["listen", "workers", "http"];
        assert_eq!(likely("lisen", names), Some("listen"));
        assert_eq!(likely("temperature", names), None);
        assert_eq!(nearest("htp", names), Some("http"));
    }
}
