//! A store whose last offsets are lost, with no record behind them.

#[path = "copy.rs"]
mod copy;

use std::path::Path;

use copy::copy_dir;
use oncelog::{Store, StoreOptions, SyncPolicy, TopicDef, U64, Utf8};

/// What a crash leaves in `dir/cut` of a lax append to `topic` that was made durable before it: one record of the value
/// 7, and behind it offsets that may have been given out, up to the bound.
pub(crate) fn with_a_gap_at_the_end(dir: &Path, topic: TopicDef<Utf8, U64>) -> Store {
    let whole = dir.join("whole");
    let store = StoreOptions::new().manual_duties().open(&whole).unwrap();
    let lax = store.producer(topic).unwrap().sync_policy(SyncPolicy::Os);
    lax.append("k", &7).unwrap();
    store.flush().unwrap();
    copy_dir(&whole, &dir.join("cut"));
    drop((lax, store));
    let store = Store::open(dir.join("cut")).unwrap();
    assert_eq!(store.recovery_report().lost.len(), 1);
    store
}
