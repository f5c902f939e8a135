//! What was measured, as a table that can be pasted into a note: medians over the rounds with their spread, compared with
//! the constant handler.

use std::fmt::Write;

use clap::ValueEnum;

use crate::machine::FlushLatency;
use crate::profile::Profile;
use crate::wrk::Measured;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// The handler that answers a constant.
    Constant,
    /// Reads of many counters.
    Reads,
    /// Durable writes to many counters.
    Writes,
    /// Durable writes to one counter.
    Hot,
}

#[derive(Debug)]
pub(crate) struct Report {
    machine: String,
    flush_before: FlushLatency,
    flush_after: Option<FlushLatency>,
    load: String,
    /// Share of one core per idle node.
    idle: Option<f64>,
    runs: Vec<(Case, Measured)>,
    profiles: Vec<(Case, Profile)>,
}

impl Case {
    pub(crate) const ALL: [Self; 4] = [Self::Constant, Self::Reads, Self::Writes, Self::Hot];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Constant => "constant",
            Self::Reads => "reads",
            Self::Writes => "writes",
            Self::Hot => "hot",
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Constant => "constant handler",
            Self::Reads => "reads",
            Self::Writes => "durable writes",
            Self::Hot => "one hot entity",
        }
    }
}

impl Report {
    pub(crate) fn new(machine: String, flush: FlushLatency, connections: u32, threads: u32, seconds: u32) -> Self {
        let load =
            format!("wrk with {connections} connections on {threads} threads, {seconds} s per run, same machine");
        Self {
            machine,
            flush_before: flush,
            flush_after: None,
            load,
            idle: None,
            runs: Vec::new(),
            profiles: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, case: Case, measured: Measured) {
        self.runs.push((case, measured));
    }

    pub(crate) fn idle(&mut self, share: f64) {
        self.idle = Some(share);
    }

    pub(crate) fn flush_after(&mut self, flush: FlushLatency) {
        self.flush_after = Some(flush);
    }

    pub(crate) fn add_profile(&mut self, case: Case, profile: Profile) {
        self.profiles.push((case, profile));
    }

    /// Whether every request was answered, and below 400.
    pub(crate) fn is_clean(&self) -> bool {
        !self.runs.is_empty() && self.runs.iter().all(|(_, measured)| measured.errors == 0)
    }

    pub(crate) fn render(&self) -> String {
        let mut text = format!("{}\n{}\n{}", self.machine, self.load, self.flush_before);
        if let Some(after) = &self.flush_after {
            let _ = write!(text, "; after the runs: p50 {:.0} µs, p99 {:.0} µs", after.p50_micros, after.p99_micros);
        }
        if let Some(idle) = self.idle {
            let _ = write!(text, "\nAn idle node takes {:.1} % of one core.", idle * 100.0);
        }
        text.push_str("\n\n| case | requests/s | min – max | of constant | p50 µs | p99 µs | server CPU µs (user + kernel) | errors |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n");
        let yardstick = self.median(Case::Constant, |m| m.requests_per_second);
        for case in Case::ALL {
            if let Some(rate) = self.median(case, |m| m.requests_per_second) {
                self.render_row(&mut text, case, rate, yardstick);
            }
        }
        if !self.is_clean() {
            text.push_str("\nSome requests failed: the figures do not count.\n");
        }
        for (case, profile) in &self.profiles {
            render_profile(&mut text, *case, profile);
        }
        text
    }

    fn render_row(&self, text: &mut String, case: Case, rate: f64, yardstick: Option<f64>) {
        let rates: Vec<f64> = self.of(case).map(|measured| measured.requests_per_second).collect();
        let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = rates.iter().copied().fold(0.0, f64::max);
        let ratio = yardstick.map_or("–".to_owned(), |constant| format!("{:.0} %", rate / constant * 100.0));
        let value = |of: fn(&Measured) -> f64| self.median(case, of).unwrap_or_default();
        let errors: u64 = self.of(case).map(|measured| measured.errors).sum();
        let _ = writeln!(
            text,
            "| {} | {rate:.0} | {lowest:.0} – {highest:.0} | {ratio} | {:.0} | {:.0} | {:.1} + {:.1} | {errors} |",
            case.describe(),
            value(|m| m.p50_micros),
            value(|m| m.p99_micros),
            value(|m| m.server_user_micros),
            value(|m| m.server_kernel_micros),
        );
    }

    fn of(&self, case: Case) -> impl Iterator<Item = &Measured> {
        self.runs.iter().filter(move |(of, _)| *of == case).map(|(_, measured)| measured)
    }

    fn median(&self, case: Case, of: impl Fn(&Measured) -> f64) -> Option<f64> {
        let mut values: Vec<f64> = self.of(case).map(of).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        match values.len() {
            0 => None,
            length if length % 2 == 1 => Some(values[middle]),
            _ => Some(f64::midpoint(values[middle - 1], values[middle])),
        }
    }
}

fn render_profile(text: &mut String, case: Case, profile: &Profile) {
    let _ = writeln!(text, "\n{}: the server used {:.2} s of CPU time", case.describe(), profile.seconds);
    let list = |shares: &[(String, f64)]| {
        shares.iter().map(|(name, share)| format!("{name} {:.1} %", share * 100.0)).collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(text, "by thread: {}", list(&profile.threads));
    if profile.parts.is_empty() {
        return;
    }
    text.push_str("\n| part | share of CPU |\n| --- | ---: |\n");
    for (part, share) in &profile.parts {
        let _ = writeln!(text, "| {part} | {:.1} % |", share * 100.0);
    }
    text.push_str("\nlargest symbols:\n\n");
    for (symbol, share) in &profile.symbols {
        let _ = writeln!(text, "- {:.1} % `{symbol}`", share * 100.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(requests_per_second: f64, errors: u64) -> Measured {
        Measured {
            requests_per_second,
            p50_micros: 100.0,
            p99_micros: 900.0,
            max_micros: 1_000.0,
            errors,
            server_user_micros: 10.0,
            server_kernel_micros: 5.0,
        }
    }

    fn report() -> Report {
        let flush = FlushLatency { p50_micros: 155.0, p99_micros: 400.0 };
        Report::new("a machine".into(), flush, 64, 2, 8)
    }

    #[test]
    fn rows_show_medians_spread_and_the_ratio_to_the_constant_handler() {
        let mut report = report();
        for rate in [100_000.0, 90_000.0, 110_000.0] {
            report.add(Case::Constant, measured(rate, 0));
        }
        for rate in [40_000.0, 50_000.0] {
            report.add(Case::Reads, measured(rate, 0));
        }
        let text = report.render();
        assert!(text.contains("| constant handler | 100000 | 90000 – 110000 | 100 % |"), "{text}");
        assert!(text.contains("| reads | 45000 | 40000 – 50000 | 45 % | 100 | 900 | 10.0 + 5.0 | 0 |"), "{text}");
        assert!(report.is_clean());
    }

    #[test]
    fn one_error_spoils_the_report() {
        let mut report = report();
        report.add(Case::Hot, measured(1.0, 0));
        report.add(Case::Hot, measured(1.0, 1));
        assert!(!report.is_clean());
        assert!(report.render().contains("Some requests failed"));
    }
}
