//! The screen, drawn from the model. State is told by a word as well as a colour.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row, Sparkline, Table, Tabs};

use super::model::{Model, Tab};

/// How colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Palette {
    /// The terminal's sixteen colours.
    Colour,
    /// None (`NO_COLOR`).
    Plain,
}

impl Palette {
    fn of(self, colour: Color) -> Style {
        match self {
            Palette::Colour => Style::new().fg(colour),
            Palette::Plain => Style::new(),
        }
    }

    fn state(self, word: &str) -> Style {
        match word {
            "ready" | "running" => self.of(Color::Green),
            "failed" | "gone" | "ejected" => self.of(Color::Red),
            _ => self.of(Color::Yellow),
        }
    }
}

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, model: &Model, palette: Palette) {
    let [head, chart, tabs, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(4),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    head_lines(frame, head, model, palette);
    calls_chart(frame, chart, model, palette);
    let selected = Tab::ALL.iter().position(|tab| *tab == model.tab);
    frame.render_widget(
        Tabs::new(
            Tab::ALL
                .iter()
                .enumerate()
                .map(|(i, tab)| format!("{} {}", i + 1, tab.title())),
        )
        .select(selected)
        .highlight_style(Style::new().add_modifier(Modifier::REVERSED)),
        tabs,
    );
    match model.tab {
        Tab::Fleet => fleet(frame, body, model, palette),
        Tab::Tools => tools(frame, body, model),
        Tab::Rollout => rollout(frame, body, model, palette),
    }
    frame.render_widget(footer(model), foot);
    if model.help {
        help(frame);
    }
}

fn head_lines(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let rates = model.rates();
    let in_flight: u64 = model
        .snapshot
        .edges
        .iter()
        .map(|(edge, _)| edge.in_flight)
        .sum();
    let limited: u64 = model
        .snapshot
        .edges
        .iter()
        .map(|(edge, _)| edge.rate_limited)
        .sum();
    let error_style = if rates.errors > 0.0 {
        palette.of(Color::Red)
    } else {
        Style::new()
    };
    let numbers = Line::from(vec![
        Span::raw(format!("calls {:>8.1}/s  ", rates.calls)),
        Span::styled(
            format!("errors {:>6.2}%  ", rates.errors * 100.0),
            error_style,
        ),
        Span::raw(format!(
            "p50 {:>7}  p99 {:>7}  now {in_flight}  limited {limited}",
            millis(rates.p50_us),
            millis(rates.p99_us)
        )),
    ]);
    let title = match model.snapshot.trouble.first() {
        None => Line::styled("sweetops top", Style::new().add_modifier(Modifier::BOLD)),
        Some(trouble) => Line::styled(trouble.clone(), palette.of(Color::Red)),
    };
    frame.render_widget(Paragraph::new(vec![title, numbers]), area);
}

fn calls_chart(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let width = area.width.saturating_sub(2) as usize;
    let skip = model.history.len().saturating_sub(width);
    // Tenths, so that slow fleets show something.
    let data: Vec<u64> = model
        .history
        .iter()
        .skip(skip)
        .map(|r| (r.calls * 10.0) as u64)
        .collect();
    frame.render_widget(
        Sparkline::default()
            .block(Block::bordered().title("calls a second"))
            .data(data)
            .style(palette.of(Color::Cyan)),
        area,
    );
}

fn fleet(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let rows: Vec<Row<'_>> = instance_rows(model)
        .into_iter()
        .skip(model.scroll)
        .map(|r| {
            let style = palette.state(&r.state);
            Row::new(vec![
                Cell::new(r.name),
                Cell::new(r.state).style(style),
                Cell::new(r.release),
                Cell::new(r.pid),
                Cell::new(r.restarts),
                Cell::new(r.in_flight),
                Cell::new(r.latency),
                Cell::new(r.address),
            ])
        })
        .collect();
    let widths = [
        Constraint::Min(16),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(4),
        Constraint::Length(4),
        Constraint::Length(8),
        Constraint::Length(16),
    ];
    let head = [
        "instance", "state", "release", "pid", "rst", "now", "latency", "address",
    ];
    frame.render_widget(table(rows, &widths, &head), area);
}

struct InstanceRow {
    name: String,
    state: String,
    release: String,
    pid: String,
    restarts: String,
    in_flight: String,
    latency: String,
    address: String,
}

/// One row for each process, whether it is registered or not.
fn instance_rows(model: &Model) -> Vec<InstanceRow> {
    let snapshot = &model.snapshot;
    let mut rows: Vec<InstanceRow> = snapshot
        .processes
        .iter()
        .map(|process| {
            let instance = snapshot.instances.iter().find(|i| i.name == process.name);
            let backends = snapshot.edges.iter().flat_map(|(edge, _)| &edge.backends);
            let seen: Vec<_> = backends.filter(|b| b.name == process.name).collect();
            let ejected = seen
                .iter()
                .any(|b| b.state == admin_api::BackendState::Ejected);
            let state = match instance {
                Some(_) if ejected => "ejected".to_owned(),
                Some(instance) if instance.is_ready() => "ready".to_owned(),
                Some(_) => "draining".to_owned(),
                None => format!("{:?}", process.state).to_lowercase(),
            };
            let in_flight: u64 = seen.iter().map(|b| b.in_flight).sum();
            let ewma = seen.iter().map(|b| b.ewma_us).max();
            InstanceRow {
                name: process.name.clone(),
                state,
                release: short(&process.release),
                pid: process.pid.to_string(),
                restarts: process.restarts.to_string(),
                in_flight: if seen.is_empty() {
                    String::new()
                } else {
                    in_flight.to_string()
                },
                latency: ewma.map(millis).unwrap_or_default(),
                address: instance.map(|i| i.address.clone()).unwrap_or_default(),
            }
        })
        .filter(|row| model.wants(&[&row.name, &row.state, &row.release]))
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

fn tools(frame: &mut Frame<'_>, area: Rect, model: &Model) {
    let rows: Vec<Row<'_>> = model
        .tools()
        .into_iter()
        .skip(model.scroll)
        .map(|t| {
            Row::new(vec![
                t.tool,
                t.calls.to_string(),
                format!("{:.1}", t.rate),
                t.errors.to_string(),
                millis(t.p50_us),
                millis(t.p99_us),
            ])
        })
        .collect();
    let widths = [
        Constraint::Min(24),
        Constraint::Length(10),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    frame.render_widget(
        table(
            rows,
            &widths,
            &["tool", "calls", "calls/s", "errors", "p50", "p99"],
        ),
        area,
    );
}

fn rollout(frame: &mut Frame<'_>, area: Rect, model: &Model, palette: Palette) {
    let mut lines = Vec::new();
    if let Some(traffic) = &model.snapshot.traffic {
        lines.push(Line::raw(format!("stable    {}", short(&traffic.stable))));
        for share in &traffic.shares {
            let percent = f64::from(share.basis_points) / 100.0;
            let text = format!("candidate {}  {percent:.1} %", short(&share.release));
            lines.push(Line::styled(text, palette.of(Color::Yellow)));
        }
    }
    if model.snapshot.rollout.is_empty() {
        lines.push(Line::raw("no rollout is going on"));
    }
    lines.extend(
        model
            .snapshot
            .rollout
            .iter()
            .map(|text| Line::raw(text.clone())),
    );
    lines.push(Line::raw(""));
    lines.push(Line::styled(
        format!(
            "{:<10}{:>10}{:>10}{:>12}{:>10}{:>10}",
            "release", "calls", "failed", "tool errors", "p50", "p99"
        ),
        Style::new().add_modifier(Modifier::BOLD),
    ));
    for release in model.releases() {
        lines.push(Line::raw(format!(
            "{:<10}{:>10}{:>10}{:>12}{:>10}{:>10}",
            short(&release.release),
            release.calls,
            release.failures,
            release.tool_errors,
            millis(release.latency.quantile_us(0.5).unwrap_or(0)),
            millis(release.latency.quantile_us(0.99).unwrap_or(0)),
        )));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn table<'a>(rows: Vec<Row<'a>>, widths: &[Constraint], head: &[&'static str]) -> Table<'a> {
    Table::new(rows, widths.to_vec())
        .header(Row::new(head.to_vec()).style(Style::new().add_modifier(Modifier::BOLD)))
}

fn footer(model: &Model) -> Paragraph<'static> {
    Paragraph::new(if model.typing {
        format!("/{}_   enter keeps it, esc forgets it", model.filter)
    } else if model.filter.is_empty() {
        "q quit  ? help  / filter  tab next".to_owned()
    } else {
        format!("filter: {}   esc forgets it", model.filter)
    })
}

fn help(frame: &mut Frame<'_>) {
    let area = frame.area();
    let [_, middle, _] = Layout::vertical([
        Constraint::Fill(1),
        Constraint::Length(11),
        Constraint::Fill(1),
    ])
    .areas(area);
    let [_, box_area, _] = Layout::horizontal([
        Constraint::Fill(1),
        Constraint::Length(48),
        Constraint::Fill(1),
    ])
    .areas(middle);
    let text = [
        "q, ctrl-c   leave",
        "tab, 1 2 3  next page, or a page",
        "/           show only rows with a text",
        "esc         forget the filter, close this",
        "j k, arrows move down and up",
        "?           this help",
        "",
        "rst: restarts   now: calls under way",
        "p50, p99: from taking up a call to its answer",
    ];
    frame.render_widget(Clear, box_area);
    frame.render_widget(
        Paragraph::new(text.map(Line::raw).to_vec()).block(Block::bordered().title("help")),
        box_area,
    );
}

/// The first characters of a release id: enough to tell releases apart.
fn short(release: &str) -> String {
    release.chars().take(8).collect()
}

fn millis(us: u64) -> String {
    format!("{:.1}ms", us as f64 / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tui::model::{Action, Snapshot};
    use admin_api::{
        BackendState, BackendStatus, EdgeStatus, LatencyCounts, ProtocolCounters, ReleaseCounters,
        ToolCounters, TrafficReport,
    };
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use registry::{Instance, Process, ProcessState, Role, Traffic};

    fn snapshot(unix_ms: u64, calls: u64) -> Snapshot {
        let release = "1a2b3c4d5e6f".to_owned();
        let mut latency = LatencyCounts::default();
        for _ in 0..calls {
            latency.record(std::time::Duration::from_micros(900));
        }
        let edge = EdgeStatus {
            name: "edge-1".into(),
            release: release.clone(),
            config_digest: "d".into(),
            in_flight: 3,
            rss_bytes: 0,
            cpu_ms: 0,
            tools: vec![
                ToolCounters {
                    tool: "time_now".into(),
                    calls,
                    errors: 0,
                    p50_us: 900,
                    p99_us: 4200,
                },
                ToolCounters {
                    tool: "sqlite_query".into(),
                    calls: calls / 2,
                    errors: 1,
                    p50_us: 1200,
                    p99_us: 9000,
                },
            ],
            backends: vec![BackendStatus {
                name: "app-1".into(),
                release: release.clone(),
                address: "127.0.0.1:40001".into(),
                state: BackendState::Ready,
                in_flight: 3,
                ewma_us: 1100,
            }],
            protocols: vec![ProtocolCounters {
                protocol: "mcp".into(),
                calls,
                errors: calls / 100,
            }],
            rate_limited: 7,
            unauthorized: 0,
        };
        let traffic = TrafficReport {
            edge: "edge-1".into(),
            started_unix_ms: 1,
            generation: 9,
            releases: vec![ReleaseCounters {
                release: release.clone(),
                calls,
                latency,
                ..ReleaseCounters::default()
            }],
            unix_ms,
        };
        let process = |name: &str, role, state| Process {
            name: name.into(),
            role,
            release: release.clone(),
            pid: 4711,
            state,
            restarts: 1,
            last_exit: None,
            refused: false,
            since_unix_ms: 1,
        };
        Snapshot {
            unix_ms,
            edges: vec![(edge, traffic)],
            instances: vec![
                Instance::new(Role::Edge, "edge-1", release.clone(), "127.0.0.1:8700"),
                Instance::new(Role::App, "app-1", release.clone(), "127.0.0.1:40001"),
            ],
            processes: vec![
                process("edge-1", Role::Edge, ProcessState::Running),
                process("app-1", Role::App, ProcessState::Running),
                process("app-2", Role::App, ProcessState::Backoff),
            ],
            traffic: Some(Traffic::all_to(release, "ana", "first").with_share(
                "9f8e7d6c5b4a",
                500,
                None,
            )),
            rollout: vec!["step 1 of 3: 5 % for 4 of 10 minutes".into()],
            trouble: Vec::new(),
        }
    }

    fn screen(actions: &[Action]) -> String {
        let mut model = Model::default();
        model.observe(snapshot(1000, 100));
        model.observe(snapshot(2000, 300));
        actions
            .iter()
            .for_each(|action| model.apply(action.clone()));
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal
            .draw(|frame| draw(frame, &model, Palette::Plain))
            .unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_fleet_in_80_by_24() {
        insta::assert_snapshot!(screen(&[]));
    }

    #[test]
    fn the_tools_in_80_by_24() {
        insta::assert_snapshot!(screen(&[Action::NextTab]));
    }

    #[test]
    fn the_rollout_in_80_by_24() {
        insta::assert_snapshot!(screen(&[Action::Tab(2)]));
    }

    #[test]
    fn the_help_lies_over_a_filtered_fleet() {
        let filter = [
            Action::BeginFilter,
            Action::Type('2'),
            Action::EndFilter,
            Action::Help,
        ];
        insta::assert_snapshot!(screen(&filter));
    }

    #[test]
    fn the_smallest_terminal_is_no_reason_to_panic() {
        let mut model = Model::default();
        model.observe(snapshot(1000, 100));
        model.help = true;
        for (width, height) in [(1, 1), (10, 3), (40, 10), (300, 80)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal
                .draw(|frame| draw(frame, &model, Palette::Colour))
                .unwrap();
        }
    }
}
