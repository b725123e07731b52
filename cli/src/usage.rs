//! `sweetops usage`: who has called what, how often, and what it cost.

use std::collections::BTreeMap;

use account::{Accounts, Day, Key, Sums};
use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Format, Output, Report, printable, table};

/// Show who has called what, how often, and what it cost.
///
/// A call counts when it was sent to an instance, whatever came of it, and before its caller got the answer: what an edge
/// counted stays counted when it is killed. Days are those of UTC. The fleet need not run.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops usage\n  \
    sweetops usage --tenant acme --since 2026-11-01\n  \
    sweetops usage --since 7d --by tenant\n  \
    sweetops usage --by day,tenant,subject,tool --json | jq '.rows[] | select(.failed > 0)'")]
pub(crate) struct UsageArgs {
    /// Only this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// The first day: a date, or so many days ending today
    #[arg(long, value_name = "DAY", default_value = "30d", value_parser = since)]
    since: Since,
    /// What has rows of its own
    #[arg(
        long,
        value_name = "PART",
        value_enum,
        value_delimiter = ',',
        default_values_t = [Part::Day, Part::Tenant, Part::Tool]
    )]
    by: Vec<Part>,
    /// The same as -o json
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Day,
    Tenant,
    Subject,
    Tool,
}

#[derive(Debug, Clone, Copy)]
enum Since {
    Day(Day),
    Days(u32),
}

/// A date, or `7d`.
fn since(text: &str) -> Result<Since, String> {
    if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse().ok()) {
        return Ok(Since::Days(days));
    }
    let day = text.parse().map(Since::Day);
    day.map_err(|_| "expected a date such as 2026-11-24, or days such as 7d".to_owned())
}

impl Since {
    fn day(self, today: Day) -> Day {
        match self {
            Since::Day(day) => day,
            Since::Days(days) => Day((today.0 + 1).saturating_sub(days)),
        }
    }
}

/// Reads and prints.
pub(crate) async fn run(ctx: &Context, args: UsageArgs) -> Result<Exit> {
    let today = Day::of(registry::unix_ms() / 1000);
    let since = args.since.day(today);
    let root = ctx.state.path().join("usage");
    let reading = tokio::task::spawn_blocking(move || account::read(&root, since));
    let accounts = reading.await?.context("cannot read the account of calls")?;
    let usage = Usage::new(since, accounts, args.tenant.as_deref(), &args.by);
    if args.json {
        return Output::new(Format::Json, ctx.out.terminal()).report(&usage, Exit::DONE);
    }
    ctx.out.report(&usage, Exit::DONE)
}

/// The account, summed up.
#[derive(Debug, Serialize)]
struct Usage {
    since: Day,
    rows: Vec<Row>,
    total: Sums,
}

#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord, Clone, Serialize)]
struct Parts {
    #[serde(skip_serializing_if = "Option::is_none")]
    day: Option<Day>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<String>,
}

#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    parts: Parts,
    #[serde(flatten)]
    sums: Sums,
}

impl Usage {
    fn new(since: Day, accounts: Accounts, tenant: Option<&str>, by: &[Part]) -> Usage {
        let mut rows: BTreeMap<Parts, Sums> = BTreeMap::new();
        let mut total = Sums::default();
        for (day, keys) in accounts {
            for (key, sums) in keys {
                if tenant.is_none_or(|tenant| tenant == key.tenant) {
                    total.add(&sums);
                    rows.entry(parts(day, key, by)).or_default().add(&sums);
                }
            }
        }
        let row = |(parts, sums)| Row { parts, sums };
        Usage {
            since,
            rows: rows.into_iter().map(row).collect(),
            total,
        }
    }
}

fn parts(day: Day, key: Key, by: &[Part]) -> Parts {
    let has = |part| by.contains(&part);
    Parts {
        day: has(Part::Day).then_some(day),
        tenant: has(Part::Tenant).then_some(key.tenant),
        subject: has(Part::Subject).then_some(key.subject),
        tool: has(Part::Tool).then_some(key.tool),
    }
}

impl Report for Usage {
    fn text(&self, color: bool) -> String {
        if self.rows.is_empty() {
            return format!("no calls since {}\n", self.since);
        }
        let first = &self.rows[0].parts;
        let mut heading = Vec::new();
        for (name, there) in [
            ("DAY", first.day.is_some()),
            ("TENANT", first.tenant.is_some()),
            ("SUBJECT", first.subject.is_some()),
            ("TOOL", first.tool.is_some()),
        ] {
            heading.extend(there.then_some(name));
        }
        let labels = heading.len();
        heading.extend(["CALLS", "FAILED", "COST", "BYTES IN", "BYTES OUT", "TIME"]);
        let mut rows: Vec<Vec<_>> = self
            .rows
            .iter()
            .map(|row| {
                let parts = &row.parts;
                let day = parts.day.map(|day| day.to_string());
                let words = [&parts.tenant, &parts.subject, &parts.tool];
                let words = words.into_iter().flatten().map(|word| printable(word));
                cells(day.into_iter().chain(words), &row.sums)
            })
            .collect();
        if rows.len() > 1 && labels > 0 {
            let blanks = std::iter::repeat_n(String::new(), labels - 1);
            rows.push(cells(
                std::iter::once("total".to_owned()).chain(blanks),
                &self.total,
            ));
        }
        table(color, &heading, &rows)
    }
}

fn cells(
    labels: impl Iterator<Item = String>,
    sums: &Sums,
) -> Vec<(Option<crate::output::Tone>, String)> {
    let numbers = [
        sums.calls.to_string(),
        sums.failed.to_string(),
        sums.cost.to_string(),
        sums.bytes_in.to_string(),
        sums.bytes_out.to_string(),
        format!("{:.1}s", sums.time_us as f64 / 1e6),
    ];
    labels.chain(numbers).map(|cell| (None, cell)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        let mut accounts = Accounts::new();
        for (day, tenant, subject, tool, calls) in [
            (20_780, "acme", "ana", "search", 2),
            (20_781, "acme", "ana", "search", 3),
            (20_781, "acme", "bob", "search", 4),
            (20_781, "b\u{7}eta", "eve", "tools/list", 1),
        ] {
            let key = Key {
                tenant: tenant.to_owned(),
                subject: subject.to_owned(),
                tool: tool.to_owned(),
            };
            let sums = Sums {
                calls,
                failed: 0,
                cost: calls * 5,
                bytes_in: 10,
                bytes_out: 20,
                time_us: 1_500_000,
            };
            accounts.entry(Day(day)).or_default().insert(key, sums);
        }
        accounts
    }

    #[test]
    fn rows_are_summed_by_what_was_asked_for() {
        let usage =
            |tenant, by: &[Part]| Usage::new(Day(20_780), accounts(), tenant, by).text(false);
        insta::assert_snapshot!(usage(None, &[Part::Day, Part::Tenant, Part::Tool]), @r"
        DAY         TENANT     TOOL        CALLS  FAILED  COST  BYTES IN  BYTES OUT  TIME
        2026-11-23  acme       search      2      0       10    10        20         1.5s
        2026-11-24  acme       search      7      0       35    20        40         3.0s
        2026-11-24  b\u{7}eta  tools/list  1      0       5     10        20         1.5s
        total                              10     0       50    40        80         6.0s
        ");
        insta::assert_snapshot!(usage(Some("acme"), &[Part::Subject]), @r"
        SUBJECT  CALLS  FAILED  COST  BYTES IN  BYTES OUT  TIME
        ana      5      0       25    20        40         3.0s
        bob      4      0       20    10        20         1.5s
        total    9      0       45    30        60         4.5s
        ");
        assert_eq!(
            usage(Some("none"), &[Part::Day]),
            "no calls since 2026-11-23\n"
        );
    }

    #[test]
    fn since_is_a_date_or_days() {
        let today = Day(20_781);
        for (text, day) in [
            ("2026-11-01", Some(20_758)),
            ("1d", Some(20_781)),
            ("7d", Some(20_775)),
            ("0d", Some(20_782)),
            ("yesterday", None),
            ("2026-11-31", None),
        ] {
            let read = since(text).ok().map(|since| since.day(today).0);
            assert_eq!(read, day, "{text}");
        }
    }
}
