//! Makes the text of one look at a cluster. Pure: the same answers give the same text.

use std::fmt::Write as _;
use std::time::Duration;

use berth_shared::cluster_view::{GroupView, MemberView, MoveView};
use berth_shared::ids::NodeId;
use berth_shared::report::{Load, NodeState};

use super::waiting::waiting;
use super::{Seen, is_placed};

const BAR_CELLS: usize = 20;
/// Moves that are shown; of more it is said how many.
const MOVES_MAX: usize = 20;
/// The steps in which the target still gets what the log has; of the others there is nothing to measure.
const MEASURED: [&str; 4] = ["add-learner", "catch-up", "promote", "hand-off"];

/// For whom it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) is_terminal: bool,
    has_colours: bool,
}

#[derive(Clone, Copy)]
enum Colour {
    Bold,
    Green,
    Yellow,
    Red,
}

impl Style {
    pub(super) const fn of(is_terminal: bool, without_colours: bool) -> Self {
        Self { is_terminal, has_colours: is_terminal && !without_colours }
    }

    fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Bold => 1,
            Colour::Red => 31,
            Colour::Green => 32,
            Colour::Yellow => 33,
        };
        if self.has_colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// As full as `part` is of `whole`; full only when nothing is missing.
    fn bar(self, part: u64, whole: u64) -> String {
        let cells = BAR_CELLS as u64;
        let full =
            if part >= whole { cells } else { (u128::from(part) * u128::from(cells) / u128::from(whole)) as u64 };
        let (is, is_not) = if self.is_terminal { ("█", "░") } else { ("#", ".") };
        format!("[{}{}]", is.repeat(full as usize), is_not.repeat((cells - full) as usize))
    }
}

pub(super) fn show(seen: &Seen, style: Style) -> String {
    let mut out = String::new();
    title(&mut out, seen, style);
    members(&mut out, seen, style);
    moves(&mut out, seen, style);
    let waited_for = waiting(seen);
    if waited_for.is_empty() {
        line(&mut out, &style.paint(Colour::Green, "The cluster waits for nothing."));
    } else {
        line(&mut out, &style.paint(Colour::Bold, "Waiting for"));
        waited_for.iter().for_each(|what| line(&mut out, &format!("  - {what}")));
    }
    out
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{}", text.trim_end());
}

fn title(out: &mut String, seen: &Seen, style: Style) {
    let name = seen.cluster.cluster.map_or_else(|| "No cluster yet".to_owned(), |cluster| format!("Cluster {cluster}"));
    let shards = seen.shards.shards.len();
    let members = seen.cluster.members.len();
    let epoch = seen.cluster.plan_epoch;
    let numbers = format!("{members} members, {shards} shards, plan {epoch}");
    line(out, &format!("{}: {numbers}", style.paint(Colour::Bold, &name)));
    line(out, "");
}

// ---- Members

const HEADINGS: [&str; 10] =
    ["node", "address", "state", "zone", "program", "cpu", "memory", "requests/s", "owns", "holds"];
/// The columns from here on are numbers.
const NUMBERS_FROM: usize = 5;

struct Row {
    cells: [String; 10],
    colour: Option<Colour>,
    held: u64,
}

fn members(out: &mut String, seen: &Seen, style: Style) {
    let rows: Vec<Row> = seen.cluster.members.iter().map(|member| row(seen, member)).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.cells[column].chars().count());
        cells.chain([HEADINGS[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADINGS.len()).map(width).collect();
    let text = |cells: &[&str], colour: Option<Colour>| {
        let padded = cells.iter().enumerate().map(|(column, cell)| {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            let text = if column >= NUMBERS_FROM { format!("{pad}{cell}") } else { format!("{cell}{pad}") };
            match colour {
                Some(colour) if column == 2 => style.paint(colour, &text),
                _ => text,
            }
        });
        padded.collect::<Vec<_>>().join("  ")
    };
    line(out, &style.paint(Colour::Bold, &text(&HEADINGS, None)));
    let most = rows.iter().map(|row| row.held).max().unwrap_or(0);
    for row in &rows {
        let cells: Vec<&str> = row.cells.iter().map(String::as_str).collect();
        let bar = if most > 0 { style.bar(row.held, most) } else { String::new() };
        line(out, &format!("{}  {bar}", text(&cells, row.colour)));
    }
    line(out, "");
}

fn row(seen: &Seen, member: &MemberView) -> Row {
    let unknown = || "-".to_owned();
    let shards = || seen.shards.shards.iter().map(|shard| &shard.group);
    let is_it = |node: &NodeId| Some(*node) == member.id;
    let owned = shards().filter(|group| group.owner.as_ref().is_some_and(is_it)).count();
    let held = shards().filter(|group| group.replicas.iter().any(is_it)).count();
    let (state, colour) = state(member);
    let load = member.load;
    Row {
        cells: [
            member.id.map_or_else(unknown, |id| id.to_string()),
            member.address.clone(),
            state.to_owned(),
            member.zone.clone().unwrap_or_else(unknown),
            member.version.clone().unwrap_or_else(unknown),
            load.map_or_else(unknown, |load: Load| format!("{} %", load.cpu_percent)),
            load.map_or_else(unknown, |load| bytes(load.resident_bytes)),
            load.map_or_else(unknown, |load| load.requests_per_second.to_string()),
            owned.to_string(),
            held.to_string(),
        ],
        colour,
        held: held as u64,
    }
}

fn state(member: &MemberView) -> (&'static str, Option<Colour>) {
    match (member.state, &member.suspected_since) {
        (_, Some(_)) => ("suspected", Some(Colour::Red)),
        _ if !member.answered => ("no answer", Some(Colour::Red)),
        (Some(NodeState::Ready), None) => ("ready", Some(Colour::Green)),
        (Some(NodeState::Joining), None) => ("joining", Some(Colour::Yellow)),
        (Some(NodeState::Recovering), None) => ("recovering", Some(Colour::Yellow)),
        (Some(NodeState::Leaving), None) => ("leaving", Some(Colour::Yellow)),
        (None, None) => ("unknown", None),
    }
}

fn bytes(count: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let step = (0..units.len() - 1).take_while(|step| count >> (10 * (step + 1)) > 0).count();
    let tenths = u128::from(count) * 10 / (1 << (10 * step));
    match step {
        0 => format!("{count} B"),
        _ => format!("{}.{} {}", tenths / 10, tenths % 10, units[step]),
    }
}

// ---- Moves

fn moves(out: &mut String, seen: &Seen, style: Style) {
    let placed: Vec<bool> = seen.groups().filter_map(|(_, group)| is_placed(group)).collect();
    if !placed.is_empty() {
        let (are, all) = (placed.iter().filter(|is| **is).count(), placed.len());
        let bar = style.bar(are as u64, all as u64);
        line(out, &format!("{}  {bar}  {are} of {all} shards", style.paint(Colour::Bold, "As planned")));
        line(out, "");
    }
    let moves: Vec<(String, &MoveView)> = seen.groups().filter_map(moving).collect();
    if moves.is_empty() {
        return;
    }
    line(out, &style.paint(Colour::Bold, "Moves"));
    for (name, moving) in moves.iter().take(MOVES_MAX) {
        let bar = if MEASURED.contains(&moving.step.as_str()) {
            let (matched, last) = (moving.matched_index, moving.last_index);
            let percent = if matched >= last { 100 } else { u128::from(matched) * 100 / u128::from(last) };
            format!("{} {percent:>3} %", style.bar(matched, last))
        } else {
            " ".repeat(BAR_CELLS + 8)
        };
        let since =
            seen.since(moving.since.as_deref()).map_or_else(String::new, |since| format!("for {}", brief(since)));
        line(out, &format!("  {name:<12}  {:<14}  {}  {bar}  {since}", moving.step, moving.target));
    }
    if let Some(rest) = moves.len().checked_sub(MOVES_MAX).filter(|rest| *rest > 0) {
        line(out, &format!("  and {rest} more"));
    }
    line(out, "");
}

fn moving((name, group): (String, &GroupView)) -> Option<(String, &MoveView)> {
    Some((name, group.moving.as_ref()?))
}

/// A duration in its largest unit.
pub(super) fn brief(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
