//! All figures of all rounds for another program: one object, a line for each workload and subject.

use std::fmt::Write;

use crate::alone::{Found, Value};
use crate::goals;
use crate::machine::Machine;
use crate::rounds::{Outcome, SubjectRounds};

/// The text of the file.
pub(crate) fn text(machine: &Machine, outcomes: &[Outcome], found: &[Found]) -> String {
    let Machine { cores, kernel, file_system, load } = machine;
    let mut rows = Vec::new();
    for outcome in outcomes {
        rows.extend(outcome.subjects.iter().map(|of| row(outcome, of)));
    }
    let alone: Vec<String> =
        found.iter().flat_map(|of| of.values.iter().map(|value| alone_row(of.name, value))).collect();
    format!(
        "{{\n\"machine\": {{\"cores\": {cores}, \"kernel\": {}, \"file_system\": {}, \"load_before\": {}}},\n\
         \"verdict\": \"none\",\n\"figures\": [\n{}\n],\n\"alone\": [\n{}\n]\n}}\n",
        quoted(kernel),
        quoted(file_system),
        quoted(load),
        rows.join(",\n"),
        alone.join(",\n"),
    )
}

fn alone_row(name: &str, value: &Value) -> String {
    let Value { what, spread, unit, goal } = value;
    format!(
        "{{\"workload\": {}, \"figure\": {}, \"unit\": {}, \"median\": {:.6}, \"min\": {:.6}, \"max\": {:.6}, \
         \"goal\": {}}}",
        quoted(name),
        quoted(what),
        quoted(unit),
        spread.median,
        spread.min,
        spread.max,
        quoted(goal),
    )
}

fn row(outcome: &Outcome, of: &SubjectRounds) -> String {
    let number = |value: Option<f64>| value.map_or("null".to_owned(), |value| format!("{value:.3}"));
    let rounds = |pick: &dyn Fn(usize) -> Option<f64>| {
        let all: Vec<String> = (0..of.rounds.len()).map(|round| number(pick(round))).collect();
        format!("[{}]", all.join(", "))
    };
    let rates = rounds(&|round| Some(of.rounds[round].rate()));
    let syncs = rounds(&|round| Some(of.rounds[round].syncs as f64));
    let p50 = rounds(&|round| Some(of.rounds[round].latency?.p50.as_secs_f64() * 1e6));
    let p99 = rounds(&|round| Some(of.rounds[round].latency?.p99.as_secs_f64() * 1e6));
    format!(
        "{{\"workload\": {}, \"subject\": {}, \"unit\": {}, \"count\": {}, \"median\": {}, \"rates\": {rates}, \
         \"p50_us\": {p50}, \"p99_us\": {p99}, \"syncs\": {syncs}, \"goal\": {}}}",
        quoted(outcome.name),
        quoted(&of.subject.to_string()),
        quoted(outcome.unit),
        of.count(),
        number(of.rate().map(|spread| spread.median)),
        quoted(&goals::of(outcome.name)),
    )
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            // Writing to a string cannot fail.
            c if c.is_control() => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn text_is_quoted() {
        assert_eq!(quoted("a \"b\" \\ \n"), "\"a \\\"b\\\" \\\\ \\u000a\"");
    }
}
