//! Looking on while the agent brings a rollout to its end, and the summary of one that is over.

use std::time::Duration;

use anyhow::{Context as _, Result};
use registry::{Registry, RolloutEvent, RolloutRecord};
use rollout::{Event, Outcome, State};
use serde::Serialize;
use settings::quantity::format_duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::agent::{self, Lock};
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Report, Tone, paint, printable};
use crate::release::short;
use crate::up::ensure_agent;

/// How often the journal is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is made sure that somebody drives.
const AGENT_EVERY: Duration = Duration::from_secs(2);
/// How long an agent that ended on purpose is waited for.
const HANDOVER_MAX: Duration = Duration::from_secs(6);
/// How often a judgement is told where each is a line of its own.
const JUDGED_EVERY_MS: u64 = 10_000;
/// Ctrl-C.
const INTERRUPTED: Exit = Exit::of(rollout::Exit::Interrupted, "interrupted");

/// How the looking on ended.
pub(crate) enum Followed {
    /// The rollout is over.
    Ended(Box<Summary>),
    /// It goes on without an audience.
    Left(Exit),
}

/// Tells what happens until the rollout is over, the user leaves, or `patience` runs out.
pub(crate) async fn follow(
    ctx: &Context,
    id: &str,
    patience: Option<Duration>,
) -> Result<Followed> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let ended = async {
        match patience {
            Some(patience) => tokio::time::timeout(patience, look_on(ctx, id)).await.ok(),
            None => Some(look_on(ctx, id).await),
        }
    };
    let ended = tokio::select! {
        ended = ended => ended,
        _ = interrupt.recv() => {
            ctx.out.step("left; the rollout goes on. `sweetops rollout watch` looks on again, `sweetops rollback` ends it");
            return Ok(Followed::Left(INTERRUPTED));
        }
    };
    match ended {
        Some(summary) => Ok(Followed::Ended(Box::new(summary?))),
        None => Err(Failure::new(format!(
            "rollout {id} is not over within {}; it goes on",
            patience.map(format_duration).unwrap_or_default()
        ))
        .hint("`sweetops rollout watch` looks on again, `sweetops rollback` ends it")
        .exit(Exit::TIMEOUT)
        .into()),
    }
}

async fn look_on(ctx: &Context, id: &str) -> Result<Summary> {
    let registry = ctx.registry().await?;
    let mut told = 0;
    let mut teller = Teller::default();
    let mut cared = Instant::now();
    let mut away = None;
    loop {
        let (record, over) = find(&registry, id).await?;
        for event in record.events.iter().filter(|event| event.number > told) {
            teller.tell(ctx, event);
        }
        told = record.events.last().map_or(told, |last| last.number);
        if over {
            return Summary::of(&record);
        }
        if cared.elapsed() >= AGENT_EVERY {
            cared = Instant::now();
            away = care(ctx, away).await?;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Makes sure that somebody drives. An agent that was killed is followed by another; one that ended on purpose, as
/// `sweetops down` has it, is not brought back. `away` is since when there is none that ended so.
async fn care(ctx: &Context, away: Option<Instant>) -> Result<Option<Instant>> {
    if agent::pid(&ctx.state)?.is_some() {
        return Ok(None);
    }
    if agent::died(&ctx.state)? {
        // `up`, which may be at work already, does the same.
        if let Some(_working) = Lock::try_take(&ctx.state.command_lock())? {
            ctx.out
                .step("the agent has died; starting another, which goes on with the rollout");
            ensure_agent(ctx).await?;
        }
        return Ok(None);
    }
    let since = away.unwrap_or_else(Instant::now);
    // Another version of the agent may be taking over.
    if since.elapsed() < HANDOVER_MAX {
        return Ok(Some(since));
    }
    Err(
        Failure::new("the fleet was taken down; the rollout stands still")
            .hint("`sweetops up` goes on with it, `sweetops rollback` then ends it")
            .exit(Exit::of(rollout::Exit::Inconclusive, "stopped"))
            .into(),
    )
}

/// A rollout, under way or over.
async fn find(registry: &Registry, id: &str) -> Result<(RolloutRecord, bool)> {
    let reading = "cannot read the rollout";
    if let Some(current) = registry.rollout().await.context(reading)?
        && current.value.id == id
    {
        return Ok((current.value, false));
    }
    let history = registry.rollout_history().await.context(reading)?;
    let found = history.into_iter().find(|record| record.id == id);
    let found = found.with_context(|| format!("rollout {id} is not known"))?;
    Ok((found, true))
}

/// Tells events, and judgements where there is a line to redraw for them or now and then.
#[derive(Debug, Default)]
struct Teller {
    /// When the last judgement was told.
    judged_unix_ms: u64,
}

impl Teller {
    fn tell(&mut self, ctx: &Context, event: &RolloutEvent) {
        let line = event_line(event);
        match serde_json::from_value(event.event.clone()) {
            Ok(Event::Judged { .. }) => {
                let since = event.unix_ms.saturating_sub(self.judged_unix_ms);
                if ctx.out.terminal().redraws || since >= JUDGED_EVERY_MS {
                    self.judged_unix_ms = event.unix_ms;
                    ctx.out.progress(&line);
                }
            }
            Ok(Event::Waiting { .. }) => ctx.out.progress(&line),
            _ => ctx.out.step(&line),
        }
    }
}

/// An event with its time of day, safe to print.
pub(crate) fn event_line(event: &RolloutEvent) -> String {
    let what = match serde_json::from_value::<Event>(event.event.clone()) {
        Ok(known) => known.to_string(),
        Err(_) => event.event.to_string(),
    };
    format!("{} {}", clock(event.unix_ms), printable(&what))
}

/// The local time of day.
fn clock(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).map_or_else(
        |_| "--:--:--".to_owned(),
        |at| {
            at.to_zoned(jiff::tz::TimeZone::system())
                .strftime("%H:%M:%S")
                .to_string()
        },
    )
}

/// One step that was judged.
#[derive(Debug, Serialize)]
struct StepSummary {
    weight: String,
    started_unix_ms: u64,
    ended_unix_ms: u64,
    judgement: rollout::Judgement,
}

/// A rollout that is over.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Its name.
    pub(crate) rollout: String,
    /// How it ended.
    pub(crate) outcome: Outcome,
    /// Why, unless all went well.
    pub(crate) cause: Option<String>,
    /// The release that was stable before.
    pub(crate) from: Option<String>,
    /// The release that was to come.
    pub(crate) to: String,
    /// How long it took, in milliseconds.
    took_ms: u64,
    steps: Vec<StepSummary>,
    #[serde(skip)]
    code: rollout::Exit,
}

impl Summary {
    pub(crate) fn of(record: &RolloutRecord) -> Result<Self> {
        let text = serde_json::to_vec(&record.state)?;
        let state = State::from_json(&text)
            .with_context(|| format!("rollout {} cannot be read", record.id))?;
        let (Some(outcome), Some(code)) = (state.outcome(), state.exit()) else {
            anyhow::bail!("rollout {} was given up before its end", record.id);
        };
        let steps = state.records().iter().map(|step| StepSummary {
            weight: step.weight.to_string(),
            started_unix_ms: step.started_unix_ms,
            ended_unix_ms: step.ended_unix_ms,
            judgement: step.judgement.clone(),
        });
        Ok(Self {
            rollout: record.id.clone(),
            outcome,
            cause: state.cause().map(|cause| printable(&cause.to_string())),
            from: state.plan().stable().map(|release| release.id.clone()),
            to: state.plan().candidate().id.clone(),
            took_ms: record
                .written_unix_ms
                .saturating_sub(state.created_unix_ms()),
            steps: steps.collect(),
            code,
        })
    }

    /// What the shell hears of it.
    pub(crate) fn exit(&self) -> Exit {
        let reason = match (self.code, self.outcome) {
            (rollout::Exit::Inconclusive, _) => "inconclusive",
            (rollout::Exit::Refused, _) => "refused",
            (_, Outcome::Succeeded) => "succeeded",
            (_, Outcome::RolledBack) => "rolled_back",
            (_, Outcome::RollbackFailed) => "rollback_failed",
            (_, Outcome::Superseded) => "superseded",
            (_, Outcome::Cancelled) => "cancelled",
        };
        Exit::of(self.code, reason)
    }
}

impl Report for Summary {
    fn text(&self, color: bool) -> String {
        let tone = match self.outcome {
            Outcome::Succeeded => Tone::Good,
            Outcome::RollbackFailed => Tone::Bad,
            _ => Tone::Warn,
        };
        let mut text = String::new();
        for (index, step) in self.steps.iter().enumerate() {
            text.push_str(&format!(
                "step {} {}: {}\n",
                index + 1,
                step.weight,
                step.judgement
            ));
        }
        let took = format_duration(Duration::from_secs(self.took_ms / 1000));
        let outcome = paint(color, tone, &self.outcome.to_string());
        text.push_str(&format!(
            "rollout {}: {outcome} after {took}\n",
            self.rollout
        ));
        if let Some(cause) = &self.cause {
            text.push_str(&format!("  because: {cause}\n"));
        }
        let from = self.from.as_deref().map_or("nothing", short);
        let serving = match self.outcome {
            Outcome::Succeeded => {
                format!("{} serves all calls; before it was {from}", short(&self.to))
            }
            Outcome::RollbackFailed => {
                "a person is needed: `sweetops traffic` shows who gets which calls".to_owned()
            }
            _ => format!("{from} serves all calls, as before"),
        };
        text.push_str(&format!("  {serving}\n"));
        text
    }
}
