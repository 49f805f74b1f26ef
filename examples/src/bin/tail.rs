//! Two processes: one writes, one follows. The reader takes no lock, sees nothing before it is durable, and is woken by
//! the writer; it does not look again and again.
//!
//! `tail [DIR [RECORDS]]`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use oncelog::{Error, Result, Store, StoreReader, TopicDef, U64, Utf8, Whence};

const TICKS: TopicDef<U64, Utf8> = TopicDef::new("ticks");

fn write(records: u64) -> Result<()> {
    let store = Store::open(oncelog_examples::store_dir("tail"))?;
    let ticks = store.producer(TICKS)?;
    for number in 0..records {
        ticks.append(&number, &format!("tick {number} of process {}", std::process::id()))?;
        thread::sleep(Duration::from_millis(20));
    }
    store.close()
}

fn follow(records: u64) -> Result<()> {
    let dir = oncelog_examples::store_dir("tail");
    let reader = StoreReader::open(&dir)?;
    let mut ticks = reader.cursor(TICKS.name(), Whence::Latest)?;
    let me = std::env::current_exe().map_err(Error::user)?;
    let count = records.to_string();
    let writer = Command::new(me).arg(&dir).args([&count, "write"]).stdin(Stdio::null()).spawn();
    let mut writer = writer.map_err(Error::user)?;
    for _ in 0..records {
        let Some(record) = ticks.next_record(Duration::from_secs(60))? else {
            return Err(Error::user("the writer is silent"));
        };
        println!("{}: {}", record.id.offset, record.value_as::<Utf8>()?.unwrap_or("nothing"));
    }
    let ended = writer.wait().map_err(Error::user)?;
    if ended.success() { Ok(()) } else { Err(Error::user(format!("the writer: {ended}"))) }
}

fn main() -> Result<()> {
    let records = oncelog_examples::number(2, 20);
    if std::env::args().nth(3).as_deref() == Some("write") {
        return write(records);
    }
    // Makes the store and the topic, so that there is something to follow.
    let store = Store::open(oncelog_examples::store_dir("tail"))?;
    store.producer(TICKS)?;
    store.close()?;
    follow(records)
}
