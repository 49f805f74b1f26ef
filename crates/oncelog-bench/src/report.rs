//! The tables: ratios first, then what they were made from.

use crate::alone::{Found, Value};
use crate::figures::Spread;
use crate::goals;
use crate::rounds::{Outcome, SubjectRounds};
use crate::workload::Subject;

/// Everything that was found, as text.
pub(crate) fn lines(outcomes: &[Outcome], found: &[Found]) -> Vec<String> {
    let mut lines = Vec::new();
    if !outcomes.is_empty() {
        lines.extend([String::new(), "ratios of median rates".to_owned()]);
        lines.extend(align(ratios(outcomes)));
        let head = "figures: rate as median (min to max), latency as medians of a sample, syncs while the clock ran";
        lines.extend([String::new(), head.to_owned()]);
        lines.extend(align(details(outcomes)));
    }
    if !found.is_empty() {
        lines.extend([String::new(), "of the store alone".to_owned()]);
        lines.extend(align(values(found)));
    }
    lines.extend([String::new(), "what was done".to_owned()]);
    let compared = outcomes.iter().map(|outcome| (outcome.name, outcome.about));
    let all = compared.chain(found.iter().map(|found| (found.name, found.about)));
    lines.extend(all.map(|(name, about)| format!("  {name:<18} {about}")));
    lines.push(String::new());
    lines
}

fn values(found: &[Found]) -> Vec<Vec<String>> {
    let head = ["workload: figure", "median", "min", "max", "unit", "goal"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for of in found {
        for Value { what, spread, unit, goal } in &of.values {
            let name = format!("{}: {what}", of.name);
            let numbers = [spread.median, spread.min, spread.max].map(three_digits);
            table.push([name].into_iter().chain(numbers).chain([unit.to_string(), goal.to_string()]).collect());
        }
    }
    table
}

fn three_digits(number: f64) -> String {
    match number.abs() {
        large if large >= 100.0 => format!("{number:.0}"),
        large if large >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.3}"),
    }
}

fn ratios(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let head = ["workload", "oncelog/raw", "oncelog/zeroed", "zeroed/raw", "p99 oncelog/raw", "goal"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for outcome in outcomes {
        let ratio = |above, below| quotient(outcome.rate(above), outcome.rate(below), 3);
        table.push(vec![
            outcome.name.to_owned(),
            ratio(Subject::Oncelog, Subject::Raw),
            ratio(Subject::Oncelog, Subject::Zeroed),
            ratio(Subject::Zeroed, Subject::Raw),
            quotient(outcome.p99_us(Subject::Oncelog), outcome.p99_us(Subject::Raw), 2),
            goals::of(outcome.name),
        ]);
    }
    table
}

fn quotient(above: Option<f64>, below: Option<f64>, digits: usize) -> String {
    above.zip(below).map_or("-".to_owned(), |(above, below)| format!("{:.digits$}", above / below))
}

fn details(outcomes: &[Outcome]) -> Vec<Vec<String>> {
    let head = ["workload", "subject", "rate", "min", "max", "unit", "p50 us", "p99 us", "syncs", "count"];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    for outcome in outcomes {
        table.extend(outcome.subjects.iter().map(|of| detail(outcome, of)));
    }
    table
}

fn detail(outcome: &Outcome, of: &SubjectRounds) -> Vec<String> {
    let rate = of.rate();
    let part = |pick: fn(Spread) -> f64| rate.map_or("-".to_owned(), |spread| short(pick(spread)));
    let median = |spread: Option<Spread>| spread.map_or("-".to_owned(), |spread| format!("{:.0}", spread.median));
    vec![
        outcome.name.to_owned(),
        of.subject.to_string(),
        part(|spread| spread.median),
        part(|spread| spread.min),
        part(|spread| spread.max),
        outcome.unit.to_owned(),
        median(of.p50_us()),
        median(of.p99_us()),
        median(of.syncs()),
        of.count().to_string(),
    ]
}

/// A rate with three digits or so.
fn short(rate: f64) -> String {
    match rate {
        rate if rate >= 1e6 => format!("{:.2} M/s", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k/s", rate / 1e3),
        rate => format!("{rate:.1} /s"),
    }
}

/// Columns of one width: the first to the left, the others to the right, the last as it is.
fn align(table: Vec<Vec<String>>) -> Vec<String> {
    let columns = table.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column| table.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut lines = Vec::with_capacity(table.len());
    for row in &table {
        let mut line = String::from(" ");
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            line.push_str(&match column {
                0 => format!(" {cell:<width$}"),
                last if last + 1 == columns => format!("  {cell}"),
                _ => format!("  {cell:>width$}"),
            });
        }
        lines.push(line);
    }
    lines
}
