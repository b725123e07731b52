//! The strategy file as people write it.
//!
//! Every value is read as whatever it is and then checked by its key, so that all mistakes of a
//! file are told at once, each with its place, its key and what is allowed.

use std::time::Duration;

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{Invalid, OnInconclusive, Problem, Step, Strategy, default_margin};
use crate::quantity::{BasisPoints, Fraction, parse_duration};

type Slot = Option<Spanned<Value>>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    steps: Slot,
    step: Vec<StepTable>,
    step_duration: Slot,
    min_samples: Slot,
    tick: Slot,
    extend_max: Slot,
    on_inconclusive: Slot,
    alpha: Slot,
    min_effect: Slot,
    error_budget: Slot,
    weight_lease: Slot,
    ack_timeout: Slot,
    ready_timeout: Slot,
    drain: Slot,
    soak: Slot,
    scale_down_delay: Slot,
    progress_deadline: Slot,
    pause_max: Slot,
    latency: LatencyTable,
    guards: GuardsTable,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StepTable {
    weight: Slot,
    duration: Slot,
    min_samples: Slot,
    margin: Slot,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LatencyTable {
    slow_threshold: Slot,
    percentiles: Slot,
    tolerance: Slot,
    floor: Slot,
    warm_up: Slot,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct GuardsTable {
    restarts: Slot,
    readiness_grace: Slot,
    first_calls: Slot,
}

pub(super) fn read(text: &str) -> Result<Strategy, Invalid> {
    let file: File = toml::from_str(text).map_err(|error| syntax(text, &error))?;
    let mut reader = Reader {
        text,
        problems: Vec::new(),
        places: Vec::new(),
    };
    let mut strategy = Strategy::default();
    reader.top(&file, &mut strategy);
    reader.latency(&file.latency, &mut strategy);
    reader.guards(&file.guards, &mut strategy);
    reader.steps(&file, &mut strategy);
    let places = reader.places;
    let mut problems = reader.problems;
    if problems.is_empty() {
        problems = strategy.problems();
        for problem in &mut problems {
            let place = places.iter().find(|(key, _)| *key == problem.key);
            problem.at = place.map(|(_, at)| *at);
        }
    }
    problems.sort_by_key(|problem| problem.at.unwrap_or((usize::MAX, 0)));
    if problems.is_empty() {
        Ok(strategy)
    } else {
        Err(Invalid { problems })
    }
}

fn syntax(text: &str, error: &toml::de::Error) -> Invalid {
    let span = error.span().unwrap_or_default();
    let found = text.get(span.clone()).unwrap_or_default().trim();
    let message = error.message();
    let mut problem = match message.split_once(", expected ") {
        Some((what, allowed)) if what.starts_with("unknown field") => {
            Problem::new(found, "not a key here", allowed)
        }
        _ => Problem::new("the file", &format!("not readable ({message})"), "TOML"),
    };
    problem.at = Some(place(text, span.start));
    Invalid {
        problems: vec![problem],
    }
}

/// Line and column of a byte offset, both from 1.
fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}

struct Reader<'a> {
    text: &'a str,
    problems: Vec<Problem>,
    /// Where each key stands, for values that are well written and out of range.
    places: Vec<(String, (usize, usize))>,
}

impl Reader<'_> {
    fn top(&mut self, file: &File, to: &mut Strategy) {
        self.duration("tick", &file.tick, &mut to.tick);
        self.count("extend_max", &file.extend_max, &mut to.extend_max);
        self.fraction("alpha", &file.alpha, &mut to.alpha);
        self.fraction("min_effect", &file.min_effect, &mut to.min_effect);
        self.fraction("error_budget", &file.error_budget, &mut to.error_budget);
        self.duration("weight_lease", &file.weight_lease, &mut to.weight_lease);
        self.duration("ack_timeout", &file.ack_timeout, &mut to.ack_timeout);
        self.duration("ready_timeout", &file.ready_timeout, &mut to.ready_timeout);
        self.duration("drain", &file.drain, &mut to.drain);
        self.duration("soak", &file.soak, &mut to.soak);
        self.duration(
            "scale_down_delay",
            &file.scale_down_delay,
            &mut to.scale_down_delay,
        );
        self.duration(
            "progress_deadline",
            &file.progress_deadline,
            &mut to.progress_deadline,
        );
        self.duration("pause_max", &file.pause_max, &mut to.pause_max);
        self.value(
            "on_inconclusive",
            &file.on_inconclusive,
            &mut to.on_inconclusive,
            "\"abort\" or \"pause\"",
            |value| match value.as_str()? {
                "abort" => Some(OnInconclusive::Abort),
                "pause" => Some(OnInconclusive::Pause),
                _ => None,
            },
        );
    }

    fn latency(&mut self, file: &LatencyTable, to: &mut Strategy) {
        let to = &mut to.latency;
        self.duration(
            "latency.slow_threshold",
            &file.slow_threshold,
            &mut to.slow_threshold,
        );
        self.fraction("latency.tolerance", &file.tolerance, &mut to.tolerance);
        self.duration("latency.floor", &file.floor, &mut to.floor);
        self.duration("latency.warm_up", &file.warm_up, &mut to.warm_up);
        self.value(
            "latency.percentiles",
            &file.percentiles,
            &mut to.percentiles,
            "a list of whole numbers such as [50, 90, 99]",
            |value| value.as_array()?.iter().map(whole::<u8>).collect(),
        );
    }

    fn guards(&mut self, file: &GuardsTable, to: &mut Strategy) {
        let to = &mut to.guards;
        self.count("guards.restarts", &file.restarts, &mut to.restarts);
        self.duration(
            "guards.readiness_grace",
            &file.readiness_grace,
            &mut to.readiness_grace,
        );
        self.count("guards.first_calls", &file.first_calls, &mut to.first_calls);
    }

    fn steps(&mut self, file: &File, to: &mut Strategy) {
        let mut duration = Duration::from_secs(600);
        let mut min_samples = 500;
        self.duration("step_duration", &file.step_duration, &mut duration);
        self.count("min_samples", &file.min_samples, &mut min_samples);
        let mut weights: Vec<BasisPoints> = to.steps.iter().map(|step| step.weight).collect();
        self.value(
            "steps",
            &file.steps,
            &mut weights,
            "a list of weights such as [\"5%\", \"25%\", \"50%\"]",
            |value| value.as_array()?.iter().map(parsed).collect(),
        );
        // "100%" at the end says what happens anyway.
        if weights.last() == Some(&BasisPoints::FULL) {
            weights.pop();
        }
        to.steps = Strategy::with_weights(&weights, duration, min_samples).steps;
        if file.step.is_empty() {
            return;
        }
        if file.steps.is_some() {
            let problem = Problem::new("steps", "there beside [[step]]", "one of the two");
            self.problems.push(problem);
        }
        let table = |(index, table)| self.step(index, table, duration, min_samples);
        to.steps = file.step.iter().enumerate().map(table).collect();
    }

    fn step(&mut self, index: usize, table: &StepTable, duration: Duration, samples: u64) -> Step {
        let key = |name: &str| format!("step[{index}].{name}");
        let mut step = Step {
            weight: BasisPoints::ZERO,
            duration,
            min_samples: samples,
            margin: 0.0,
        };
        let allowed = "a percentage such as \"5%\"";
        if table.weight.is_none() {
            self.problems
                .push(Problem::new(&key("weight"), "missing", allowed));
        }
        self.value(
            &key("weight"),
            &table.weight,
            &mut step.weight,
            allowed,
            parsed,
        );
        self.duration(&key("duration"), &table.duration, &mut step.duration);
        self.count(
            &key("min_samples"),
            &table.min_samples,
            &mut step.min_samples,
        );
        step.margin = default_margin(step.weight);
        let number = |value: &Value| {
            let whole = value.as_integer().and_then(|n| i32::try_from(n).ok());
            value.as_float().or(whole.map(f64::from))
        };
        let allowed = "a number such as 2 or 1.5";
        self.value(
            &key("margin"),
            &table.margin,
            &mut step.margin,
            allowed,
            number,
        );
        step
    }

    fn duration(&mut self, key: &str, slot: &Slot, to: &mut Duration) {
        let allowed = "a length of time such as \"30s\", \"500ms\" or \"1h30m\"";
        self.value(key, slot, to, allowed, |value| {
            parse_duration(value.as_str()?).ok()
        });
    }

    fn fraction(&mut self, key: &str, slot: &Slot, to: &mut Fraction) {
        let allowed = "a percentage such as \"0.1%\", or a number from 0 to 1";
        self.value(key, slot, to, allowed, |value| {
            value
                .as_float()
                .map_or_else(|| parsed(value), Fraction::from_f64)
        });
    }

    fn count<T: TryFrom<i64>>(&mut self, key: &str, slot: &Slot, to: &mut T) {
        self.value(key, slot, to, "a whole number, 0 or more", whole);
    }

    fn value<T>(
        &mut self,
        key: &str,
        slot: &Slot,
        to: &mut T,
        allowed: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) {
        let Some(slot) = slot else { return };
        let at = place(self.text, slot.span().start);
        self.places.push((key.to_owned(), at));
        match read(slot.get_ref()) {
            Some(value) => *to = value,
            None => {
                let mut problem = Problem::new(key, &slot.get_ref().to_string(), allowed);
                problem.at = Some(at);
                self.problems.push(problem);
            }
        }
    }
}

fn whole<T: TryFrom<i64>>(value: &Value) -> Option<T> {
    T::try_from(value.as_integer()?).ok()
}

fn parsed<T: std::str::FromStr>(value: &Value) -> Option<T> {
    value.as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(read("").unwrap(), Strategy::default());
    }

    #[test]
    fn a_file_sets_what_it_names() {
        let strategy = read(
            r#"
            tick = "2s"
            on_inconclusive = "pause"
            alpha = 0.02
            min_samples = 50
            step_duration = "20s"
            [latency]
            percentiles = [50, 90]
            [guards]
            restarts = 3
            [[step]]
            weight = "10%"
            [[step]]
            weight = "40%"
            duration = "1m30s"
            margin = 3
            "#,
        )
        .unwrap();
        assert_eq!(strategy.tick, Duration::from_secs(2));
        assert_eq!(strategy.alpha, Fraction::ppm(20_000));
        assert_eq!(strategy.on_inconclusive, OnInconclusive::Pause);
        assert_eq!(strategy.latency.percentiles, [50, 90]);
        assert_eq!(strategy.guards.restarts, 3);
        let steps: Vec<_> = strategy
            .steps
            .iter()
            .map(|step| {
                (
                    step.weight.get(),
                    step.duration.as_secs(),
                    step.min_samples,
                    step.margin,
                )
            })
            .collect();
        assert_eq!(steps, [(1_000, 20, 50, 5.0), (4_000, 90, 50, 3.0)]);
        assert_eq!(read(r#"steps = ["5%", "100%"]"#).unwrap().steps.len(), 1);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = r#"tick = "ten"
alpha = 7
steps = ["5%", "x"]
extend_max = -1
on_inconclusive = "shrug"
[[step]]
duration = "1m"
"#;
        insta::assert_snapshot!(read(text).unwrap_err(), @r#"
        1:8: tick is "ten", allowed: a length of time such as "30s", "500ms" or "1h30m"
        2:9: alpha is 7, allowed: a percentage such as "0.1%", or a number from 0 to 1
        3:9: steps is ["5%", "x"], allowed: a list of weights such as ["5%", "25%", "50%"]
        4:14: extend_max is -1, allowed: a whole number, 0 or more
        5:19: on_inconclusive is "shrug", allowed: "abort" or "pause"
        steps is there beside [[step]], allowed: one of the two
        step[0].weight is missing, allowed: a percentage such as "5%"
        "#);
        insta::assert_snapshot!(read("tick = \"1ms\"\nsteps = [\"5%\", \"3%\"]").unwrap_err(), @r"
        1:8: tick is 1ms, allowed: 100ms to 5m
        step[1].weight is 3%, allowed: more than 5% and less than 100%: weights rise
        ");
        insta::assert_snapshot!(read("[guards]\nrestart = 3").unwrap_err(), @"2:1: restart is not a key here, allowed: one of `restarts`, `readiness_grace`, `first_calls`");
        insta::assert_snapshot!(read("tick = ").unwrap_err(), @"1:8: the file is not readable (string values must be quoted, expected literal string), allowed: TOML");
    }
}
