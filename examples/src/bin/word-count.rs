//! Word count, exactly once: lines -> words -> counts, through two processors. Kill it at any moment and run it again:
//! the counts are as if nothing had happened.
//!
//! `word-count [DIR [FILE]]`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::time::Duration;

use oncelog::{
    Error, IdempotentProducerConfig, Outcome, Processor, RecordRef, Result, Store, TableDef, TopicDef, Tx, U64, Utf8,
};

/// Lines by their number.
const LINES: TopicDef<U64, Utf8> = TopicDef::new("lines");
/// How often a word is in a line. Keyed by the word, so all of a word meet in one partition.
const WORDS: TopicDef<Utf8, U64> = TopicDef::new("words").partitions(4);
/// How often a word is in all lines. Its shards are the partitions of its processor's input.
const COUNTS: TableDef<Utf8, U64> = TableDef::new("counts").shards(4);

const TEXT: &str = "It was the best of times, it was the worst of times,\n\
                    it was the age of wisdom, it was the age of foolishness";
const PATIENCE: Duration = Duration::from_secs(600);

/// A line is consumed and its words are written in one atomic step.
fn split(line: RecordRef<'_, U64, Utf8>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let text = line.value()?.to_lowercase();
    let mut words = BTreeMap::new();
    for word in text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()) {
        *words.entry(word).or_insert(0) += 1;
    }
    for (word, count) in words {
        tx.append(WORDS, word, &count)?;
    }
    Ok(Outcome::Commit)
}

/// A word is consumed and its count is raised in one atomic step.
fn count(word: RecordRef<'_, Utf8, U64>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let more = word.value()?;
    tx.table(COUNTS)?.update(word.key()?, |count| count.unwrap_or(0) + more)?;
    Ok(Outcome::Commit)
}

fn main() -> Result<()> {
    let text = match std::env::args_os().nth(2) {
        Some(file) => std::fs::read_to_string(file).map_err(Error::user)?,
        None => TEXT.to_owned(),
    };
    let store = Store::open(oncelog_examples::store_dir("word-count"))?;

    let splitter = Processor::new("split", LINES).output(WORDS).start(&store, split)?;
    let counter = Processor::new("count", WORDS).table(COUNTS).threads(2).start(&store, count)?;

    // Line n has sequence n: what an earlier run has stored is not stored again.
    let lines = store.idempotent_producer(LINES, IdempotentProducerConfig::new("text"))?;
    let mut last = None;
    for (number, line) in (0..).zip(text.lines()).skip_while(|(number, _)| *number < lines.current_sequence().0) {
        last = Some(lines.submit(&number, line)?);
    }
    if let Some(last) = last {
        last.wait()?; // those before it are durable when it is
    }

    // First the lines, then the words that came of them.
    for run in [&splitter, &counter] {
        if !run.wait_caught_up(PATIENCE)? {
            return Err(Error::user("the processors are slow today"));
        }
    }
    let mut counts = store.snapshot()?.scan(COUNTS, ..)?;
    counts.sort_by(|(word, count), (other_word, other)| other.cmp(count).then(word.cmp(other_word)));
    for (word, count) in counts.iter().take(10) {
        println!("{count:8} {word}");
    }
    splitter.stop()?;
    counter.stop()?;
    store.close()
}
