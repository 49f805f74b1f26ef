//! Reads everything that a user can see of a store into a [`Model`].

use std::collections::BTreeMap;

use oncelog::{
    ErrorKind, LogOffset, Offset, PartitionId, ReaderSnapshot, RecordView, Result, Sequence, Snapshot, Step, Store,
};

use crate::model::{Log, Model, Place, Rows, Way};
use crate::schema::{
    CONSUMER, COORDINATED, DEVICE, FEED, FEEDS_ROWS, GATE, GLOBAL, IDS, IDS_BY_AGE, JOINED, JOINER, LATE, OUTCOMES,
    PROCESSOR, ROUND, ROWS, STATE, TOPICS, TOTALS, WIDE, way_of,
};

/// What the store shows now.
///
/// # Errors
/// Whatever the store answers; a typed gap is no error here but part of what is seen.
pub fn observe(store: &Store) -> Result<Model> {
    let mut seen = look(&store.snapshot()?)?;
    for (consumer, topic) in [
        (PROCESSOR, "Spread/3"),
        (CONSUMER, "plain"),
        (JOINER, "Spread/3"),
        (JOINER, "side"),
        (LATE, "plain"),
        (ROUND, "plain"),
        (GLOBAL, "lax"),
    ] {
        let committed = match store.committed_offsets(consumer, topic) {
            Ok(committed) => committed,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for (partition, next) in (0u32..).zip(committed) {
            if next.0 > 0 {
                seen.progress.insert((consumer, (topic, partition)), next.0);
            }
        }
    }
    for (_, spec) in store.topics()? {
        if let Some((topic, _)) = TOPICS.into_iter().find(|(topic, _)| spec.name == *topic)
            && Way::from(&spec) != way_of(topic)
        {
            seen.ways.insert(topic, Way::from(&spec));
        }
    }
    Ok(seen)
}

/// What a snapshot shows: records and rows.
///
/// # Errors
/// As [`observe`].
pub fn look(snapshot: &Snapshot) -> Result<Model> {
    let mut seen = Model::default();
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            match read(snapshot, (topic, partition)) {
                Ok(log) if log == Log::default() => {}
                Ok(log) => drop(seen.logs.insert((topic, partition), log)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    for name in [(GATE, ("stamped", 0)), (GATE, ("stamped", 1)), (DEVICE, ("", 0))] {
        let (producer, (topic, partition)) = name;
        let topic = Some(topic).filter(|topic| !topic.is_empty());
        match snapshot.next_sequence(producer, topic, PartitionId(partition)) {
            Ok(Some(Sequence(next))) if next > 0 => drop(seen.stamps.insert(name, next)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(Sequence(next)) = snapshot.next_coordinated(COORDINATED, FEED, PartitionId(0))? {
        seen.stamps.insert((FEED, ("", 0)), next);
    }
    for (name, table) in [("rows", ROWS), ("totals", TOTALS), ("joined", JOINED), ("wide", WIDE)] {
        seen.rows.extend(snapshot.scan(table, ..)?.into_iter().map(|(key, value)| ((name, key), value)));
    }
    seen.rows.extend(feeds(snapshot.scan(FEEDS_ROWS, ..)?));
    seen.rows.extend(coordinated(snapshot.scan(STATE, ..)?, snapshot.scan(OUTCOMES, ..)?));
    seen.rows.extend(ids(snapshot.scan(IDS, ..)?, snapshot.scan(IDS_BY_AGE, ..)?));
    Ok(seen)
}

/// The records that a reader shows which is not the owner.
///
/// # Errors
/// As [`observe`].
pub fn look_beside(snapshot: &ReaderSnapshot) -> Result<BTreeMap<Place, Log>> {
    let mut seen = BTreeMap::new();
    for (topic, partitions) in TOPICS {
        for number in 0..partitions {
            let partition = PartitionId(number);
            let end = match snapshot.end_offset(topic, partition) {
                Ok(end) => end,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let read = |from, visit: &mut dyn FnMut(RecordView<'_>) -> Result<Step>| {
                snapshot.read(topic, partition, from, visit)
            };
            seen.insert((topic, number), read_all(end, read)?);
        }
    }
    Ok(seen)
}

/// The rows that a reader shows which is not the owner.
///
/// # Errors
/// As [`observe`]; `Conflict`: the owner has gone on.
pub fn rows_beside(snapshot: &ReaderSnapshot) -> Result<Rows> {
    let mut seen = Rows::new();
    for (name, table) in [("rows", ROWS), ("totals", TOTALS), ("joined", JOINED), ("wide", WIDE)] {
        seen.extend(snapshot.scan(table, ..)?.into_iter().map(|(key, value)| ((name, key), value)));
    }
    seen.extend(feeds(snapshot.scan(FEEDS_ROWS, ..)?));
    seen.extend(coordinated(snapshot.scan(STATE, ..)?, snapshot.scan(OUTCOMES, ..)?));
    seen.extend(ids(snapshot.scan(IDS, ..)?, snapshot.scan(IDS_BY_AGE, ..)?));
    Ok(seen)
}

/// Offsets of sources as rows; one that is no number is told apart from all that are.
fn feeds(rows: Vec<(String, String)>) -> impl Iterator<Item = ((&'static str, String), u64)> {
    let number = |text: &str| text.parse().ok().as_ref().and_then(Offset::as_sequence);
    rows.into_iter().map(move |(source, text)| (("feeds", source), number(&text).unwrap_or(u64::MAX)))
}

type Raw = Vec<(Vec<u8>, Vec<u8>)>;

/// State of a coordinator, with a row for each transaction that is known to be committed.
fn coordinated(state: Raw, outcomes: Raw) -> impl Iterator<Item = ((&'static str, String), u64)> {
    let number = |bytes: Vec<u8>| bytes.try_into().map_or(u64::MAX, u64::from_be_bytes);
    let name = |key: Vec<u8>| String::from_utf8_lossy(&key).into_owned();
    let state = state.into_iter().map(move |(key, value)| (("state", name(key)), number(value)));
    let named = outcomes.into_iter().filter(|(key, _)| !key.is_empty());
    state.chain(named.map(|(key, _)| (("outcomes", outcome_key(&key)), 1)))
}

/// Ids that are known, each by both of its rows: the time that they name must be the same.
fn ids(by_id: Raw, by_age: Raw) -> impl Iterator<Item = ((&'static str, String), u64)> {
    let times: BTreeMap<Vec<u8>, Vec<u8>> = by_id.iter().cloned().collect();
    let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let row = move |key: Vec<u8>| {
        let (time, id) = key.split_at(8);
        let same = times.get(id).is_some_and(|came| came == time);
        (("ids-by-age", name(id)), if same { 1 } else { 2 })
    };
    let by_id = by_id.into_iter().map(move |(id, _)| (("ids", name(&id)), 1));
    by_id.chain(by_age.into_iter().map(move |(key, _)| row(key)))
}

/// What the model calls the row of an outcome.
#[must_use]
pub fn outcome_key(key: &[u8]) -> String {
    key.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read(snapshot: &Snapshot, (topic, partition): Place) -> Result<Log> {
    let partition = PartitionId(partition);
    let end = snapshot.end_offset(topic, partition)?;
    read_all(end, |from, visit| snapshot.read(topic, partition, from, visit))
}

/// Everything up to `end`, across what is lost.
fn read_all(
    end: LogOffset,
    mut read: impl FnMut(LogOffset, &mut dyn FnMut(RecordView<'_>) -> Result<Step>) -> Result<LogOffset>,
) -> Result<Log> {
    let mut log = Log { next: end.0, ..Log::default() };
    let mut from = LogOffset(0);
    loop {
        let read = read(from, &mut |record| {
            let content = (record.key.unwrap_or_default().to_vec(), record.value.unwrap_or_default().to_vec());
            log.records.insert(record.offset.0, content);
            Ok(Step::Next)
        });
        match read {
            Ok(_) => return Ok(log),
            Err(error) => match error.gap() {
                Some(lost) => from = lost.end,
                None => return Err(error),
            },
        }
    }
}
