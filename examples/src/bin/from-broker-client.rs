//! For those who come from a broker's client library with hooks and offsets on the client's side: its directory is
//! opened as it is, shared by several processes, and a hook hears of each commit.
//!
//! `from-broker-client DIR [MESSAGES]`: takes in so many messages more. See docs/migrate/broker-client.md.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use oncelog::{
    CommitInfo, Error, HookError, HookedOffsetStore, LockFileOffsetStore, NumericOffsets, OffsetError, PostCommitHook,
    Result,
};

const TOPIC: u32 = 1;
const CONSUMER: u64 = 100;

/// Tells the commits that pass a hundred.
struct Hundreds;

impl PostCommitHook for Hundreds {
    fn on_commit(&self, info: &CommitInfo) -> std::result::Result<(), HookError> {
        let hundreds =
            |offset: Option<&oncelog::Offset>| offset.and_then(|offset| offset.as_sequence()).unwrap_or(0) / 100;
        let (before, now) = (hundreds(info.previous_offset.as_ref()), hundreds(Some(&info.offset)));
        if now > before {
            println!("{} has passed {}", info.source, now * 100);
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let base = oncelog_examples::store_dir("from-broker-client");
    let messages = oncelog_examples::number(2, 60);
    leave_what_the_old_client_left(&base).map_err(Error::user)?;

    // A file that is no offset, or of another name, is an error that names it: nothing begins at zero for it.
    let offsets = HookedOffsetStore::new(LockFileOffsetStore::open(&base, "billing")?).add_hook(Hundreds);
    for _ in 0..messages {
        // Another process may have saved meanwhile: what is read is what is there now.
        let next = offsets.load(TOPIC, CONSUMER)?.unwrap_or(0);
        match offsets.save(TOPIC, CONSUMER, next + 1) {
            // It was done in the meantime, and further. Nothing goes back.
            Ok(_) | Err(OffsetError::InvalidOffset(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (key, next) in offsets.list_all()? {
        println!("{key}: {next}");
    }
    // The commits have happened, whatever the hooks said of them.
    for failure in offsets.take_failures() {
        println!("a hook failed: {failure:?}");
    }
    Ok(())
}

/// `BASE/CONSUMER/topic-1-consumer-100.offset` with a decimal number, the next to read.
fn leave_what_the_old_client_left(base: &std::path::Path) -> std::io::Result<()> {
    let dir = base.join("billing");
    if !dir.exists() {
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("topic-1-consumer-100.offset"), "42\n")?;
    }
    Ok(())
}
