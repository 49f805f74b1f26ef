//! What the project has set itself, as data. Printed beside the ratios and compared with nothing.

use crate::workload::Subject;

/// A ratio to be reached.
pub(crate) struct Goal {
    workload: &'static str,
    over: Subject,
    text: &'static str,
}

const fn goal(workload: &'static str, over: Subject, text: &'static str) -> Goal {
    Goal { workload, over, text }
}

/// All goals that these workloads bear on.
const GOALS: &[Goal] = &[
    goal("append-batch-100", Subject::Raw, ">= 0.95"),
    goal("append-batch-1k", Subject::Raw, ">= 1.0"),
    goal("append-linger-100", Subject::Raw, ">= 4"),
    goal("durable-1", Subject::Zeroed, ">= 0.97"),
    goal("durable-8", Subject::Raw, ">= 1.4"),
    goal("durable-64", Subject::Raw, ">= 1.7, p99 <= 0.6"),
    goal("offsets-8", Subject::Raw, ">= 1.4 (and 2 x every peer)"),
    goal("read-100", Subject::Raw, ">= 1.0"),
    goal("read-1k", Subject::Raw, ">= 1.2"),
    goal("once-1", Subject::Raw, ">= 1.35"),
    goal("once-100", Subject::Raw, ">= 3"),
];

/// The goal of a workload; `-` where there is none.
pub(crate) fn of(workload: &str) -> String {
    let found = GOALS.iter().filter(|goal| goal.workload == workload);
    let texts: Vec<String> = found.map(|goal| format!("{} x {}", goal.text, goal.over)).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_has_its_workload() {
        let workloads = crate::workloads::all();
        for goal in GOALS {
            assert!(workloads.iter().any(|workload| workload.name() == goal.workload), "{}", goal.workload);
        }
    }
}
