//! What the demo says at its end: a few lines for people, from numbers that were counted.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::kills::Kills;
use super::recount::{Recount, Refused};
use super::verify::Findings;
use crate::exit::Failure;
use crate::out;

/// Differences that are shown; there may be one for each client.
const SHOWN: usize = 10;

/// Everything that is told.
pub(super) struct Summary<'a> {
    pub(super) recount: &'a Recount,
    pub(super) findings: Findings,
    pub(super) kills: &'a Kills,
    pub(super) store: &'a Path,
    /// The store held a part of the work, or all of it, from an earlier demo.
    pub(super) resumed: bool,
    /// Lines loaded in this demo.
    pub(super) loaded: u64,
    /// From the start of the first worker to the end of the last.
    pub(super) working: Duration,
    pub(super) total: Duration,
}

impl Summary<'_> {
    /// Tells it on stdout.
    ///
    /// # Errors
    /// The result is not what it must be.
    pub(super) fn tell(&self) -> Result<(), Failure> {
        let differences = &self.findings.differences;
        let said = out::line(self.text());
        if let Some(first) = differences.first() {
            let more = match differences.len() - 1 {
                0 => String::new(),
                more => format!(", and {} more differences", grouped(more as u64)),
            };
            return Err(Failure::plain(format_args!(
                "the result differs from a plain recount of the input: {first}{more}"
            )));
        }
        said
    }

    fn text(&self) -> String {
        let Summary { recount, findings, kills, .. } = self;
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<11} {value}");
        };
        line("records", format!("{}{}", grouped(recount.records()), self.rate()));
        line("crashes", crashes(kills));
        line("duplicates", grouped(findings.duplicates));
        line("lost", grouped(findings.lost));
        line("not parsed", refused(&recount.not_parsed));
        if recount.too_long.count > 0 {
            line("too long", refused(&recount.too_long));
        }
        line("alerts", grouped(recount.alerts().count() as u64));
        line("clients", grouped(recount.clients.len() as u64));
        line("store", self.store.display().to_string());
        line("time", seconds(self.total));
        for difference in findings.differences.iter().take(SHOWN) {
            line("differs", difference.clone());
        }
        if findings.differences.is_empty() {
            line("result", "equal to a plain recount of the input: each record counted exactly once".to_owned());
        }
        text.truncate(text.trim_end().len());
        text
    }

    fn rate(&self) -> String {
        if self.loaded == 0 {
            return if self.resumed { ", all there from an earlier run".to_owned() } else { String::new() };
        }
        let per_second = u128::from(self.loaded) * 1_000_000 / self.working.as_micros().max(1);
        let per_second = grouped(u64::try_from(per_second).unwrap_or(u64::MAX));
        let rest = if self.resumed { format!(", {} of them loaded now", grouped(self.loaded)) } else { String::new() };
        format!("{rest}, {per_second} per second with all crashes and recoveries")
    }
}

fn crashes(kills: &Kills) -> String {
    let (done, asked, in_recovery) = (kills.done(), kills.asked(), kills.in_recovery());
    let which =
        if in_recovery > 0 { format!(", {} of them during recovery", grouped(in_recovery)) } else { String::new() };
    let rest =
        if done < asked { format!(" ({} asked for, but the work was done)", grouped(asked)) } else { String::new() };
    format!("{} survived{which}{rest}", grouped(done))
}

fn refused(refused: &Refused) -> String {
    let Refused { count, first } = refused;
    if *count == 0 {
        return "0".to_owned();
    }
    let lines: Vec<_> = first.iter().map(u64::to_string).collect();
    let more = if *count > first.len() as u64 { ", ..." } else { "" };
    let word = if *count == 1 { "line" } else { "lines" };
    format!("{} ({word} {}{more})", grouped(*count), lines.join(", "))
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A number with commas between its thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), shown);
        }
    }

    #[test]
    fn refused_lines_are_named() {
        assert_eq!(refused(&Refused { count: 1, first: vec![8899] }), "1 (line 8899)");
        assert_eq!(refused(&Refused { count: 3, first: vec![1, 2] }), "3 (lines 1, 2, ...)");
    }
}
