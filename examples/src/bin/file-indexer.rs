//! An index of the words of a directory of text files. Run it again after changes: it takes in what changed, and
//! forgets the words that went. Kill it at any moment: the index is of one state of each file.
//!
//! `file-indexer DIR FOLDER WORD...`: takes the files of FOLDER in, then says which have all of the words.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use oncelog::{Error, Outcome, Pair, Postcard, Processor, RecordRef, Result, Store, TableDef, TopicDef, Tx, Utf8};

/// The text of a file; a tombstone when it is gone.
const FILES: TopicDef<Utf8, Utf8> = TopicDef::new("files").partitions(2);
/// The text of each file as it was taken in last, to see what changed.
const TEXTS: TableDef<Utf8, Utf8> = TableDef::new("texts");
/// The words of each file.
const WORDS_OF: TableDef<Utf8, Postcard<BTreeSet<String>>> = TableDef::new("words-of").shards(2);
/// By word: a file that has it now (`true`), or no longer.
const WORDS: TopicDef<Utf8, Postcard<(String, bool)>> = TopicDef::new("words").partitions(4);
/// Which files have a word: a row for each word and file, in the partition of the word.
const PLACES: TableDef<Pair<Utf8, Utf8>, Utf8> = TableDef::new("places").shards(4);

fn words(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// What a file has more and less than before.
fn compare(file: RecordRef<'_, Utf8, Utf8>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let path = file.key()?;
    let now = if file.value_bytes().is_some() { words(file.value()?) } else { BTreeSet::new() };
    let mut words_of = tx.table(WORDS_OF)?;
    let before = words_of.get(path)?.unwrap_or_default();
    words_of.put(path, &now)?;
    for word in now.symmetric_difference(&before) {
        tx.append(WORDS, word, &(path.to_owned(), now.contains(word)))?;
    }
    Ok(Outcome::Commit)
}

fn place(word: RecordRef<'_, Utf8, Postcard<(String, bool)>>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let (path, there) = word.value()?;
    let key = (word.key()?.to_owned(), path);
    let mut places = tx.table(PLACES)?;
    if there {
        places.put(&key, "")?
    } else {
        places.delete(&key)?
    }
    Ok(Outcome::Commit)
}

/// Sends what is new, changed or gone. A file's record and the note of its text are one transaction, so no change is
/// sent twice or never.
fn take_in(store: &Store, folder: &Path) -> Result<u64> {
    let mut changes = 0;
    let mut gone: BTreeSet<String> = store.snapshot()?.scan(TEXTS, ..)?.into_iter().map(|(path, _)| path).collect();
    for entry in std::fs::read_dir(folder).map_err(Error::user)? {
        let path = entry.map_err(Error::user)?.path();
        let (Some(name), true) = (path.to_str(), path.is_file()) else { continue };
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        gone.remove(name);
        changes += u64::from(store.transact(|tx| {
            let mut texts = tx.table(TEXTS)?;
            if texts.get(name)?.as_deref() == Some(&*text) {
                return Ok(false);
            }
            texts.put(name, &text)?;
            tx.append(FILES, name, &text)?;
            Ok(true)
        })?);
    }
    for name in gone {
        changes += 1;
        store.transact(|tx| {
            tx.table(TEXTS)?.delete(&name)?;
            tx.append_record(FILES, None, Some(&name), None, &[], None)
        })?;
    }
    Ok(changes)
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(2);
    let Some(folder) = arguments.next() else {
        return Err(Error::user("usage: file-indexer DIR FOLDER WORD..."));
    };
    let store = Store::open(oncelog_examples::store_dir("file-indexer"))?;
    let comparer = Processor::new("compare", FILES).table(WORDS_OF).output(WORDS).start(&store, compare)?;
    let placer = Processor::new("place", WORDS).table(PLACES).start(&store, place)?;
    println!("{} changes", take_in(&store, Path::new(&folder))?);
    for run in [&comparer, &placer] {
        if !run.wait_caught_up(Duration::from_secs(600))? {
            return Err(Error::user("the indexer is slow today"));
        }
    }
    comparer.stop()?;
    placer.stop()?;

    let snapshot = store.snapshot()?;
    let mut found: Option<BTreeSet<String>> = None;
    for word in arguments {
        let rows = snapshot.group(PLACES, &word.to_lowercase())?;
        let files: BTreeSet<String> = rows.into_iter().map(|((_, file), _)| file).collect();
        found = Some(found.map_or(files.clone(), |found| &found & &files));
    }
    found.unwrap_or_default().iter().for_each(|file| println!("{file}"));
    drop(snapshot);
    store.close()
}
