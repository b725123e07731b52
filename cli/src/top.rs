//! `sweetops top`: the live fleet on a screen.

use std::io::stdout;
use std::time::Duration;

use admin_api::{AdminError, EdgeStatus, TrafficReport};
use anyhow::{Context as _, Result};
use crossterm::ExecutableCommand as _;
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::{CrosstermBackend, TestBackend};
use registry::{Instance, Process, RolloutRecord, Traffic};
use rustix::process::Signal;
use serde::Serialize;
use settings::quantity::format_duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Format, Report, printable};
use crate::tui::draw::{Palette, draw};
use crate::tui::input::action;
use crate::tui::model::{Model, Rates, Snapshot};

/// How often the fleet is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one wait for a key lasts, so that its thread can end.
const KEY_WAIT: Duration = Duration::from_millis(200);
/// The screen that `--once` draws.
const ONCE_SIZE: (u16, u16) = (80, 24);
/// SIGINT from elsewhere; as a key it is a way to leave.
const INTERRUPTED: Exit = Exit::of(rollout::Exit::Interrupted, "interrupted");
/// SIGTERM, or the terminal has gone.
const TERMINATED: Exit = Exit::of(rollout::Exit::Terminated, "terminated");

/// Watch the fleet live: calls, latency, errors, tools, instances, releases.
///
/// Keys: q quits, ? helps, / filters, tab goes to the next page. Without a terminal one frame is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    sweetops top\n  \
    sweetops top --once\n  \
    sweetops top -o json | jq .rates")]
pub(crate) struct TopArgs {
    /// Print one frame, or with `-o json` one object, and end
    #[arg(long)]
    once: bool,
}

/// Shows the fleet until the user leaves.
pub(crate) async fn run(ctx: &Context, args: TopArgs) -> Result<Exit> {
    // Errors that every look would meet are told before the screen is taken.
    ctx.store().await?;
    let json = ctx.out.format() == Format::Json;
    if args.once || json || !ctx.out.terminal().stdout {
        return once(ctx).await;
    }
    // The fleet is asked beside the screen, so that a slow answer never holds up a key.
    let (send, snapshots) = mpsc::channel(1);
    tokio::select! {
        ended = show(ctx, snapshots) => ended,
        () = ask(ctx, send) => Ok(Exit::DONE),
    }
}

/// Draws after each snapshot, key and change of size.
async fn show(ctx: &Context, mut snapshots: mpsc::Receiver<Snapshot>) -> Result<Exit> {
    let palette = if ctx.out.terminal().color {
        Palette::Colour
    } else {
        Palette::Plain
    };
    let mut screen = Screen::take()?;
    let mut keys = keys();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut model = Model::default();
    while !model.quit {
        screen
            .terminal
            .draw(|frame| draw(frame, &model, palette))
            .context("cannot draw")?;
        tokio::select! {
            Some(snapshot) = snapshots.recv() => model.observe(snapshot),
            event = keys.recv() => match event {
                Some(Event::Key(key)) if is_suspend(key) => screen.suspend()?,
                Some(Event::Key(key)) => {
                    let action = action(&model, key);
                    model.apply(action);
                }
                Some(_) => {}
                None => break,
            },
            _ = interrupt.recv() => return Ok(INTERRUPTED),
            _ = terminate.recv() => return Ok(TERMINATED),
            _ = hangup.recv() => return Ok(TERMINATED),
        }
    }
    Ok(Exit::DONE)
}

fn is_suspend(key: KeyEvent) -> bool {
    key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('z')
}

/// Asks the fleet again and again until nobody wants to know.
async fn ask(ctx: &Context, send: mpsc::Sender<Snapshot>) {
    let mut ticks = tokio::time::interval(ASK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if send.send(look(ctx).await).await.is_err() {
            return;
        }
    }
}

/// One frame or object, after two looks so that there are rates.
async fn once(ctx: &Context) -> Result<Exit> {
    let mut model = Model::default();
    model.observe(look(ctx).await);
    tokio::time::sleep(ASK_EVERY).await;
    model.observe(look(ctx).await);
    let mut terminal = Terminal::new(TestBackend::new(ONCE_SIZE.0, ONCE_SIZE.1))?;
    terminal.draw(|frame| draw(frame, &model, Palette::Plain))?;
    let buffer = terminal.backend().buffer();
    let width = usize::from(ONCE_SIZE.0);
    let lines = buffer.content().chunks(width).map(|row| {
        let line: String = row.iter().map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", line.trim_end())
    });
    let frame: String = lines.collect();
    ctx.out.report(&Seen::of(&model, frame), Exit::DONE)
}

/// What one look has seen, for scripts; the frame is for people.
#[derive(Debug, Serialize)]
struct Seen<'a> {
    unix_ms: u64,
    /// Of the last second.
    rates: Rates,
    edges: Vec<SeenEdge<'a>>,
    instances: &'a [Instance],
    processes: &'a [Process],
    traffic: Option<&'a Traffic>,
    /// One line a fact.
    rollout: &'a [String],
    /// What could not be asked.
    trouble: &'a [String],
    #[serde(skip)]
    frame: String,
}

/// What an edge has said.
#[derive(Debug, Serialize)]
struct SeenEdge<'a> {
    status: &'a EdgeStatus,
    traffic: &'a TrafficReport,
}

impl<'a> Seen<'a> {
    fn of(model: &'a Model, frame: String) -> Self {
        let snapshot = &model.snapshot;
        let edges = snapshot.edges.iter();
        Self {
            unix_ms: snapshot.unix_ms,
            rates: model.rates(),
            edges: edges
                .map(|(status, traffic)| SeenEdge { status, traffic })
                .collect(),
            instances: &snapshot.instances,
            processes: &snapshot.processes,
            traffic: snapshot.traffic.as_ref(),
            rollout: &snapshot.rollout,
            trouble: &snapshot.trouble,
            frame,
        }
    }
}

impl Report for Seen<'_> {
    fn text(&self, _color: bool) -> String {
        self.frame.clone()
    }
}

/// Asks everybody; what cannot be asked is said on the screen.
async fn look(ctx: &Context) -> Snapshot {
    let mut snapshot = Snapshot {
        unix_ms: registry::unix_ms(),
        ..Snapshot::default()
    };
    if let Err(error) = fill(ctx, &mut snapshot).await {
        snapshot.trouble.push(printable(&format!("{error:#}")));
    }
    snapshot
}

async fn fill(ctx: &Context, snapshot: &mut Snapshot) -> Result<()> {
    let registry = ctx.registry().await?;
    snapshot.instances = registry.instances().await?;
    snapshot.processes = registry.processes().await?;
    snapshot.traffic = registry.traffic().await?.map(|traffic| traffic.value);
    if let Some(rollout) = registry.rollout().await? {
        snapshot.rollout = rollout_lines(&rollout.value, snapshot.unix_ms);
    }
    let mut asked = JoinSet::new();
    for (edge, client) in ctx.admin_clients().await? {
        asked.spawn(async move {
            let answer = async { Ok((client.status().await?, client.traffic().await?)) };
            (edge, answer.await)
        });
    }
    for (edge, answer) in asked.join_all().await {
        let answer: Result<_, AdminError> = answer;
        match answer {
            Ok(answer) => snapshot.edges.push(answer),
            Err(error) => {
                let told = format!("{edge}: {:#}", anyhow::Error::from(error));
                snapshot.trouble.push(printable(&told));
            }
        }
    }
    snapshot.edges.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    Ok(())
}

/// What the journal of a rollout tells, one line a fact.
fn rollout_lines(record: &RolloutRecord, now: u64) -> Vec<String> {
    let age = |since: u64| {
        let seconds = now.saturating_sub(since) / 1000;
        format_duration(Duration::from_secs(seconds))
    };
    let mut lines = vec![format!(
        "rollout {} by {}, written {} ago",
        printable(&record.id),
        printable(&record.author),
        age(record.written_unix_ms)
    )];
    let journal = serde_json::to_vec(&record.state).unwrap_or_default();
    let Ok(state) = rollout::State::from_json(&journal) else {
        lines.push("its journal is of another version of this program".to_owned());
        return lines;
    };
    lines.push(format!(
        "{}, for {}",
        state.phase(),
        age(state.entered_unix_ms())
    ));
    let pause = state.pause().map(|p| format!("paused: {}", p.reason));
    let waiting = state.waiting().map(|what| format!("waiting for {what}"));
    let cause = state.cause().map(|cause| format!("because: {cause}"));
    let told = [pause, waiting, cause].into_iter().flatten();
    lines.extend(told.map(|line| printable(&line)));
    lines
}

/// Keys, read by a thread of their own; it ends when nobody listens.
fn keys() -> mpsc::Receiver<Event> {
    let (send, receive) = mpsc::channel(16);
    std::thread::spawn(move || {
        while !send.is_closed() {
            let waiting = match event::poll(KEY_WAIT) {
                Ok(waiting) => waiting,
                Err(_) => return,
            };
            if waiting {
                let Ok(event) = event::read() else { return };
                if send.blocking_send(event).is_err() {
                    return;
                }
            }
        }
    });
    receive
}

/// The terminal, taken; given back however this ends.
struct Screen {
    terminal: Terminal<CrosstermBackend<std::io::Stdout>>,
}

impl Screen {
    fn take() -> Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        Ok(Self { terminal: enter()? })
    }

    /// Gives the terminal back, stops as the shell expects it of Ctrl-Z, and takes it again.
    fn suspend(&mut self) -> Result<()> {
        give_back();
        rustix::process::kill_process(rustix::process::getpid(), Signal::STOP)
            .context("cannot stop")?;
        self.terminal = enter()?;
        Ok(())
    }
}

fn enter() -> Result<Terminal<CrosstermBackend<std::io::Stdout>>> {
    enable_raw_mode().context("cannot take the terminal")?;
    stdout()
        .execute(EnterAlternateScreen)
        .map_err(anyhow::Error::from)
        .and_then(|_| Ok(Terminal::new(CrosstermBackend::new(stdout()))?))
        .inspect_err(|_| give_back())
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

fn give_back() {
    // There is nothing else to be done when the terminal is gone.
    let _ = stdout().execute(LeaveAlternateScreen);
    let _ = stdout().execute(crossterm::cursor::Show);
    let _ = disable_raw_mode();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollout_whose_journal_is_not_understood_is_still_named() {
        let record = RolloutRecord {
            id: "r-1".into(),
            written_unix_ms: 1000,
            author: "ana".into(),
            state: serde_json::json!({"version": 999}),
            events: Vec::new(),
        };
        assert_eq!(
            rollout_lines(&record, 6500),
            [
                "rollout r-1 by ana, written 5s ago",
                "its journal is of another version of this program"
            ]
        );
    }
}
