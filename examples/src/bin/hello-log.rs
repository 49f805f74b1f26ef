//! Hello, log: three records are written, and each is read once. Run it again: it reads the new ones only.
//!
//! `hello-log [DIR]`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use oncelog::{ConsumerStyle, Result, Store, TopicDef, Utf8};

const GREETINGS: TopicDef<Utf8, Utf8> = TopicDef::new("greetings");

fn main() -> Result<()> {
    let store = Store::open(oncelog_examples::store_dir("hello-log"))?;
    let greetings = store.producer(GREETINGS)?;
    for name in ["ann", "bob", "cleo"] {
        // On return it is on the disk: a power cut does not take it back.
        let offset = greetings.append(name, &format!("hello, {name}"))?;
        println!("wrote {offset}");
    }
    // A consumer with an id is remembered: what it has read is behind it, also after a restart.
    let mut reader = store.consumer(GREETINGS, ConsumerStyle::ClientTx("reader".into()))?;
    for record in &mut reader {
        let record = record?;
        println!("read {}: {}", record.id.offset, record.value_as::<Utf8>()?.unwrap_or("nothing"));
    }
    drop(reader);
    store.close()
}
