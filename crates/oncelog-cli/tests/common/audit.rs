//! The store of a demo and its input, read by the test itself: another parser, another way to read the store, plain
//! sums.

use std::collections::BTreeMap;
use std::path::Path;

use oncelog::{AsEngine as _, ConsumerStyle, Outcome, PartitionId, Postcard, Processor, Store, TableDef, TopicDef};
use oncelog::{U64, Utf8};

/// Line, amount and text of a request; hits and amount of a total: as the demo writes them.
type Request = (u64, u64, Vec<u8>);
type Totals = (u64, u64);

const REQUESTS: TopicDef<Utf8, Postcard<Request>> = TopicDef::new("requests").partitions(4);
const ALERTS: TopicDef<Utf8, U64> = TopicDef::new("alerts");
const TOTALS: TableDef<Utf8, Postcard<Totals>> = TableDef::new("totals");

/// What is known of a stream: from its input, or from a store.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// The lines of each client, in order.
    pub(crate) lines: BTreeMap<String, Vec<u64>>,
    pub(crate) totals: BTreeMap<String, Totals>,
    /// Sorted.
    pub(crate) alerts: Vec<(String, u64)>,
}

impl Audit {
    /// Adds up a log in the combined format, `repeat` times over; gives the lines that cannot be read as well.
    pub(crate) fn of_log(log: &str, repeat: u64, alert_over: u64) -> (Audit, Vec<u64>) {
        let mut audit = Audit::default();
        let mut unread = Vec::new();
        let mut number = 0;
        for _ in 0..repeat {
            for line in log.lines() {
                number += 1;
                match fields(line) {
                    Some(fields) => {
                        let bytes = if fields[6] == "-" { 0 } else { fields[6].parse().unwrap() };
                        audit.add(&fields[0], number, bytes, alert_over);
                    }
                    None => unread.push(number),
                }
            }
        }
        audit.alerts.sort();
        (audit, unread)
    }

    fn add(&mut self, client: &str, line: u64, amount: u64, alert_over: u64) {
        self.lines.entry(client.to_owned()).or_default().push(line);
        let (hits, sum) = self.totals.entry(client.to_owned()).or_default();
        let before = *sum;
        (*hits, *sum) = (*hits + 1, *sum + amount);
        if before <= alert_over && *sum > alert_over {
            self.alerts.push((client.to_owned(), *sum));
        }
    }

    /// Reads a store, and gives the text of every record to `visit` too.
    pub(crate) fn of_store(dir: &Path, mut visit: impl FnMut(u64, &str)) -> Audit {
        let store = Store::open(dir).unwrap();
        let mut audit = Audit::default();
        let mut next = [0; 4];
        let read = |record: oncelog::RecordRef<'_, Utf8, Postcard<Request>>, _: &mut oncelog::Tx<'_>| {
            let PartitionId(partition) = record.partition();
            assert_eq!(record.offset().0, std::mem::replace(&mut next[partition as usize], record.offset().0 + 1));
            let (line, _, text) = record.value()?;
            audit.lines.entry(record.key()?.to_owned()).or_default().push(line);
            visit(line, str::from_utf8(&text).unwrap());
            Ok(Outcome::Commit)
        };
        let mut auditor = Processor::new("audit", REQUESTS).build(store.as_engine(), read).unwrap();
        auditor.step(None).unwrap();
        drop(auditor);
        audit.totals = store.snapshot().unwrap().scan(TOTALS, ..).unwrap().into_iter().collect();
        let mut consumer = store.consumer(ALERTS, ConsumerStyle::ClientTx("audit".to_owned())).unwrap();
        let alerted = consumer.try_process(None, |record, _| {
            audit.alerts.push((record.key()?.to_owned(), record.value()?));
            Ok(Outcome::Commit)
        });
        alerted.unwrap();
        audit.alerts.sort();
        for (partition, next) in (0..).zip(store.committed_offsets("totals", "requests").unwrap()) {
            assert_eq!(store.offsets("requests", PartitionId(partition)).unwrap().1, next);
        }
        drop(consumer);
        store.close().unwrap();
        audit
    }
}

/// The nine fields of a line, of which one may be quoted or in brackets; `None` for anything else.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (field, behind) = match rest.chars().next()? {
            '"' => {
                let mut end = 1;
                while rest.as_bytes().get(end)? != &b'"' {
                    end += if rest.as_bytes()[end] == b'\\' { 2 } else { 1 };
                }
                (&rest[1..end], &rest[end + 1..])
            }
            '[' => rest[1..].split_once(']')?,
            _ => rest.find(' ').map_or((rest, ""), |end| rest.split_at(end)),
        };
        fields.push(field.to_owned());
        rest = behind.strip_prefix(' ').unwrap_or(behind);
    }
    (fields.len() == 9).then_some(fields)
}

/// A log with what real ones have: few busy clients and many rare ones, answers without bytes, quotes within quotes,
/// IPv6, and a line that was cut off.
pub(crate) fn made_up_log(lines: u64) -> String {
    let mut log = String::new();
    let mut state = 12345u64;
    let mut below = |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    for line in 1..=lines {
        let client = below(1800) * below(1800) / 1800;
        let client = if client % 7 == 0 {
            format!("2001:db8::{client:x}")
        } else {
            format!("192.0.{}.{}", client / 256, client % 256)
        };
        let bytes = if below(20) == 0 { "-".to_owned() } else { below(3_000_000).to_string() };
        let agent = if below(50) == 0 { r#"A \"quoted\" browser"# } else { "A browser (of some kind)" };
        let when = format!("17/May/2015:10:{:02}:{:02} +0000", below(60), below(60));
        let whole = format!(r#"{client} - - [{when}] "GET /page/{} HTTP/1.1" 200 {bytes} "-" "{agent}""#, below(500));
        log.push_str(if line == 8_899 { &whole[..whole.len() - 5] } else { &whole });
        log.push('\n');
    }
    log
}
