//! `sweetops top`: the live fleet on a screen.

use std::io::stdout;
use std::time::Duration;

use anyhow::{Context as _, Result};
use crossterm::ExecutableCommand as _;
use crossterm::event::{self, Event};
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::Terminal;
use ratatui::backend::{CrosstermBackend, TestBackend};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::exit::Exit;
use crate::tui::draw::{Palette, draw};
use crate::tui::input::action;
use crate::tui::model::{Model, Snapshot};

/// How often the fleet is asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long one wait for a key lasts, so that its thread can end.
const KEY_WAIT: Duration = Duration::from_millis(200);
/// The screen that `--once` draws.
const ONCE_SIZE: (u16, u16) = (80, 24);

/// Watch the fleet live: calls, latency, errors, tools, instances, the split between releases.
///
/// Keys: q quits, ? helps, / filters, tab goes to the next page. Without a terminal one frame is printed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sweetops top\n  sweetops top --once")]
pub(crate) struct TopArgs {
    /// Print one frame and end
    #[arg(long)]
    once: bool,
}

/// Shows the fleet until the user leaves.
pub(crate) async fn run(ctx: &Context, args: TopArgs) -> Result<Exit> {
    // Errors that every look would meet are told before the screen is taken.
    ctx.store().await?;
    if args.once || !ctx.out.terminal().stdout {
        return once(ctx).await;
    }
    let palette = if ctx.out.terminal().color {
        Palette::Colour
    } else {
        Palette::Plain
    };
    let mut screen = Screen::take()?;
    let mut keys = keys();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut ticks = tokio::time::interval(ASK_EVERY);
    let mut model = Model::default();
    while !model.quit {
        screen
            .terminal
            .draw(|frame| draw(frame, &model, palette))
            .context("cannot draw")?;
        tokio::select! {
            _ = ticks.tick() => model.observe(look(ctx).await),
            event = keys.recv() => match event {
                Some(Event::Key(key)) => {
                    let action = action(&model, key);
                    model.apply(action);
                }
                Some(_) => {}
                None => break,
            },
            _ = terminate.recv() => break,
        }
    }
    Ok(Exit::DONE)
}

/// One frame as text, after two looks so that there are rates.
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
    ctx.out.result(&lines.collect::<String>())?;
    Ok(Exit::DONE)
}

/// Asks everybody; what cannot be asked is said on the screen.
async fn look(ctx: &Context) -> Snapshot {
    let mut snapshot = Snapshot {
        unix_ms: registry::unix_ms(),
        ..Snapshot::default()
    };
    if let Err(error) = fill(ctx, &mut snapshot).await {
        snapshot.trouble.push(format!("{error:#}"));
    }
    snapshot
}

async fn fill(ctx: &Context, snapshot: &mut Snapshot) -> Result<()> {
    let registry = ctx.registry().await?;
    snapshot.instances = registry.instances().await?;
    snapshot.processes = registry.processes().await?;
    snapshot.traffic = registry.traffic().await?.map(|traffic| traffic.value);
    if let Some(rollout) = registry.rollout().await? {
        snapshot.rollout.push(format!(
            "rollout {} by {}",
            rollout.value.id, rollout.value.author
        ));
    }
    for (edge, client) in ctx.admin_clients().await? {
        match (client.status().await, client.traffic().await) {
            (Ok(status), Ok(traffic)) => snapshot.edges.push((status, traffic)),
            (Err(error), _) | (_, Err(error)) => snapshot.trouble.push(format!("{edge}: {error}")),
        }
    }
    Ok(())
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
        enable_raw_mode().context("cannot take the terminal")?;
        let taken = stdout()
            .execute(EnterAlternateScreen)
            .map_err(anyhow::Error::from)
            .and_then(|_| Ok(Terminal::new(CrosstermBackend::new(stdout()))?));
        match taken {
            Ok(terminal) => Ok(Self { terminal }),
            Err(error) => {
                give_back();
                Err(error)
            }
        }
    }
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
