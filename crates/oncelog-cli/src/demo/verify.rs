//! The result held against the recount: every row, every record, every alert, every offset.
//!
//! Reading and comparing are apart: [`Found::read`] only reads the store, [`compare`] is pure.

use std::collections::{BTreeMap, BTreeSet};

use oncelog::{AsEngine as _, Codec, LogOffset, PartitionId, SourceSpec, Step, Store, TopicDef};

use super::job::{self, Loaded, Totals};
use super::recount::{Client, Recount, Trail};
use crate::exit::{Failure, NOT_FOUND};

/// What the store holds.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// From the records of the topic: how many a client has and in which order. The table has its own count.
    requests: BTreeMap<String, (u64, Trail)>,
    totals: BTreeMap<String, Totals>,
    alerts: Vec<(String, u64)>,
    loaded: Loaded,
    /// By partition: what the processor has consumed, and where the topic ends.
    offsets: Vec<(LogOffset, LogOffset)>,
    /// Records that are not where the one before says they are.
    holes: Vec<String>,
}

/// What came of the comparison.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// Records, counted hits and alerts that there are more of than there should be.
    pub(super) duplicates: u64,
    /// And fewer.
    pub(super) lost: u64,
    /// A line for everything that differs.
    pub(super) differences: Vec<String>,
}

impl Found {
    /// Reads everything that the demo wrote; changes nothing.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn read(store: &Store) -> Result<Found, Failure> {
        let mut holes = Vec::new();
        let mut requests: BTreeMap<String, (u64, Trail)> = BTreeMap::new();
        read_topic(store, job::REQUESTS, &mut holes, |client, request| {
            if !requests.contains_key(client) {
                requests.insert(client.to_owned(), Default::default());
            }
            if let Some((count, trail)) = requests.get_mut(client) {
                *count += 1;
                trail.add(request.line, request.amount);
            }
        })?;
        let mut alerts = Vec::new();
        read_topic(store, job::ALERTS, &mut holes, |client, total| alerts.push((client.to_owned(), total)))?;
        let totals = store.snapshot()?.scan(job::TOTALS, ..)?.into_iter().collect();
        let requests_topic = job::REQUESTS;
        let topic = requests_topic.name();
        let consumed = store.committed_offsets(job::PROCESSOR, topic)?;
        let offsets = (0..).zip(consumed).map(|(partition, next)| {
            let (_, end) = store.offsets(topic, PartitionId(partition))?;
            Ok((next, end))
        });
        let offsets = offsets.collect::<oncelog::Result<_>>()?;
        Ok(Found { requests, totals, alerts, loaded: Loaded::read(store)?, offsets, holes })
    }
}

/// Gives every record of a topic, and tells of offsets that do not follow each other. Consumes nothing.
fn read_topic<K: Codec, V: Codec>(
    store: &Store,
    topic: TopicDef<K, V>,
    holes: &mut Vec<String>,
    mut visit: impl FnMut(K::Ref<'_>, V::Ref<'_>),
) -> Result<(), Failure> {
    let engine = store.as_engine();
    let name = topic.name();
    let found = engine.find_topic(name)?;
    let (id, _) = found.ok_or_else(|| Failure::new(NOT_FOUND, format_args!("there is no topic {name:?}")))?;
    let mut sources = engine.sources(&SourceSpec::new(&[id]), 1)?;
    let Some(source) = sources.first_mut() else { return Ok(()) };
    let mut next: BTreeMap<PartitionId, LogOffset> = BTreeMap::new();
    let mut undecodable = None;
    source.poll(&mut |_, partition, record| {
        let expected = next.entry(partition).or_insert(LogOffset(0));
        if record.offset != *expected {
            holes.push(format!(
                "topic {name}, partition {partition}: offset {} where {expected} belongs",
                record.offset
            ));
        }
        *expected = LogOffset(record.offset.0 + 1);
        let (key, value) = (K::decode(record.key.unwrap_or_default()), V::decode(record.value.unwrap_or_default()));
        match (key, value) {
            (Ok(key), Ok(value)) => visit(key, value),
            _ => undecodable = Some(format!("topic {name}, partition {partition}, offset {}", record.offset)),
        }
        Ok(Step::Next)
    })?;
    holes.extend(undecodable.map(|place| format!("{place}: a record that the demo did not write")));
    Ok(())
}

/// Holds what was found against what must be.
pub(super) fn compare(expected: &Recount, found: &Found) -> Findings {
    let mut findings = Findings { differences: found.holes.clone(), ..Findings::default() };
    let named: BTreeSet<_> = expected.clients.keys().chain(found.requests.keys()).chain(found.totals.keys()).collect();
    for name in named {
        findings.compare_client(name, expected.clients.get(name), found);
    }
    findings.compare_alerts(expected, &found.alerts);
    findings.compare_progress(expected, found);
    findings
}

impl Findings {
    fn compare_client(&mut self, name: &str, expected: Option<&Client>, found: &Found) {
        let expected = expected.cloned().unwrap_or_default();
        let (records, trail) = found.requests.get(name).copied().unwrap_or_default();
        let totals = found.totals.get(name).copied().unwrap_or_default();
        let hits = expected.totals.hits;
        self.count(&format!("records of {name} in topic requests"), hits, records);
        if records == hits && trail != expected.trail {
            self.differences.push(format!("records of {name} in topic requests are others, or in another order"));
        }
        self.count(&format!("hits of {name} in table totals"), hits, totals.hits);
        if totals.amount != expected.totals.amount {
            let what = format!("amount of {name} in table totals is {}, not {}", totals.amount, expected.totals.amount);
            self.differences.push(what);
        }
    }

    /// As multisets: alerts of several clients may come in any order.
    fn compare_alerts(&mut self, expected: &Recount, found: &[(String, u64)]) {
        let mut counts: BTreeMap<(&str, u64), (u64, u64)> = BTreeMap::new();
        for alert in expected.alerts() {
            counts.entry(alert).or_default().0 += 1;
        }
        for (client, total) in found {
            counts.entry((client, *total)).or_default().1 += 1;
        }
        for ((client, total), (expected, found)) in counts {
            self.count(&format!("alerts for {client} at {total}"), expected, found);
        }
    }

    fn compare_progress(&mut self, expected: &Recount, found: &Found) {
        for (partition, (consumed, end)) in found.offsets.iter().enumerate() {
            if consumed != end {
                let what = format!("partition {partition} ends at {end} and is processed up to {consumed}");
                self.differences.push(what);
            }
        }
        let ends = found.offsets.iter().map(|(_, end)| end.0).sum::<u64>();
        let Loaded { not_parsed, too_long, .. } = found.loaded;
        for (what, expected, found) in [
            ("records by the offsets of topic requests", expected.records(), ends),
            ("lines that the loader has done", expected.lines, found.loaded.lines()),
            ("lines that the loader could not parse", expected.not_parsed.count, not_parsed),
            ("lines that the loader found too long", expected.too_long.count, too_long),
        ] {
            if expected != found {
                self.differences.push(format!("{what}: {found}, not {expected}"));
            }
        }
    }

    fn count(&mut self, what: &str, expected: u64, found: u64) {
        self.duplicates += found.saturating_sub(expected);
        self.lost += expected.saturating_sub(found);
        if found != expected {
            self.differences.push(format!("{what}: {found}, not {expected}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::input::{Input, Position};

    fn expected() -> Recount {
        Recount::of(&Input::Orders { records: 500, seed: 1 }, 1, 5_000).unwrap()
    }

    fn right(expected: &Recount) -> Found {
        let position = Position { next_line: expected.lines + 1, pass: 1, place: 0 };
        let clients = || expected.clients.iter();
        Found {
            requests: clients().map(|(name, c)| (name.clone(), (c.totals.hits, c.trail))).collect(),
            totals: clients().map(|(name, c)| (name.clone(), c.totals)).collect(),
            alerts: expected.alerts().map(|(name, total)| (name.to_owned(), total)).collect(),
            loaded: Loaded { position, not_parsed: 0, too_long: 0 },
            offsets: vec![(LogOffset(200), LogOffset(200)), (LogOffset(300), LogOffset(300))],
            holes: Vec::new(),
        }
    }

    #[test]
    fn what_is_right_is_found_right() {
        let expected = expected();
        assert!(expected.alerts().count() > 3);
        let mut found = right(&expected);
        assert_eq!(compare(&expected, &found), Findings::default());
        found.alerts.reverse();
        assert_eq!(compare(&expected, &found), Findings::default());
    }

    #[test]
    fn whatever_is_wrong_is_found() {
        let expected = expected();
        let name = "customer-0000";
        let check = |spoil: &dyn Fn(&mut Found), duplicates, lost| {
            let mut found = right(&expected);
            spoil(&mut found);
            let findings = compare(&expected, &found);
            assert_eq!((findings.duplicates, findings.lost), (duplicates, lost), "{findings:?}");
            assert!(!findings.differences.is_empty());
        };
        check(&|found| found.requests.get_mut(name).unwrap().0 += 2, 2, 0);
        check(&|found| found.requests.get_mut(name).unwrap().1.add(1, 1), 0, 0);
        check(&|found| found.totals.get_mut(name).unwrap().hits -= 1, 0, 1);
        check(&|found| found.totals.get_mut(name).unwrap().amount -= 1, 0, 0);
        check(&|found| found.totals.extend([("nobody".to_owned(), Totals { hits: 1, amount: 0 })]), 1, 0);
        check(&|found| found.alerts.push(found.alerts[0].clone()), 1, 0);
        check(&|found| drop(found.alerts.pop()), 0, 1);
        check(&|found| found.alerts[0].1 += 1, 1, 1);
        check(&|found| found.offsets[0].0 = LogOffset(199), 0, 0);
        check(&|found| found.offsets[1] = (LogOffset(301), LogOffset(301)), 0, 0);
        check(&|found| found.loaded.not_parsed = 1, 0, 0);
        check(&|found| found.holes.push("a hole".to_owned()), 0, 0);
    }
}
