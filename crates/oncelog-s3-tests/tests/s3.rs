//! What is kept in S3: checkpoints through a crash, a rewind and rot; backups, their restoration and their pruning.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may fail by panic, and starts a server")]

mod common;

use std::sync::Arc;

use common::S3;
use object_store::{ObjectStore, ObjectStoreExt as _};
use oncelog::{
    BackupTarget, Bytes, CheckpointId, CheckpointManager, CheckpointState, CheckpointStore, ErrorKind,
    ObjectCheckpointStore, RestoreOptions, Result, Store, StoreReader, TopicDef, Whence,
};
use tokio::runtime::Runtime;

const LINES: TopicDef<Bytes, Bytes> = TopicDef::new("lines").file_roll_size(16 << 10);

fn all_of(runtime: &Runtime, objects: &Arc<dyn ObjectStore>) -> Vec<object_store::path::Path> {
    runtime.block_on(async {
        let mut stream = objects.list(None);
        let mut found = Vec::new();
        while let Some(object) = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await {
            found.push(object.unwrap().location);
        }
        found
    })
}

/// Turns a byte in the middle of an object over.
fn damage(runtime: &Runtime, objects: &Arc<dyn ObjectStore>, at: &object_store::path::Path) {
    runtime.block_on(async {
        let mut bytes = objects.get(at).await.unwrap().bytes().await.unwrap().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        objects.put(at, bytes.into()).await.unwrap();
    });
}

#[test]
fn checkpoints_in_s3() -> Result<()> {
    let Some(server) = S3::start() else { return Ok(()) };
    let runtime = Runtime::new().unwrap();
    let objects = server.objects();
    let open = || {
        let handle = runtime.handle().clone();
        ObjectCheckpointStore::new(server.objects(), "checkpoints/of us").max_per_stream(3).on_runtime(move |task| {
            drop(handle.spawn(task));
        })
    };
    let store = open();
    assert!(store.latest("orders")?.is_none());
    let stream = "orders/ä ?#%";
    for sequence in [100, 200, 300, 400] {
        let mut state = CheckpointState::new(CheckpointId::new(stream, sequence));
        state.set_operator_state("sum", sequence.to_be_bytes().to_vec());
        state.set_source_offset("feed", oncelog::Offset::Sequence(sequence + 1));
        store.save(&state)?;
    }
    assert_eq!(store.checkpoint_count(stream)?, 3, "no more than are kept");
    assert_eq!(open().streams()?, [stream]);
    assert_eq!(open().get(stream, 300)?.unwrap().id.sequence, 300);
    assert!(open().get(stream, 100)?.is_none());
    // The newest is damaged: the one before it is taken, and that is said.
    let newest = all_of(&runtime, &objects).into_iter().max().unwrap();
    damage(&runtime, &objects, &newest);
    let latest = open().latest(stream)?.unwrap();
    assert_eq!((latest.state.id.sequence, latest.damaged.len()), (300, 1));
    let manager = CheckpointManager::new(open(), 100);
    let recovered = manager.recover(stream)?.unwrap();
    assert_eq!((recovered.last, recovered.next), (300, Some(301)));
    (301..=450).try_for_each(|event| manager.on_event(stream, event, event).map(drop))?;
    manager.close()?;
    assert_eq!(open().latest(stream)?.unwrap().state.id.sequence, 450, "the last one by the orderly end");
    assert_eq!(store.clear(stream)?, 3);
    // A server that is gone is told as that.
    drop(server);
    assert_eq!(store.latest(stream).unwrap_err().kind(), ErrorKind::Unavailable);
    Ok(())
}

#[test]
fn backups_in_s3() -> Result<()> {
    let Some(server) = S3::start() else { return Ok(()) };
    let (runtime, home) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let objects = server.objects();
    let handle = runtime.handle().clone();
    let target = BackupTarget::objects(server.objects(), "backups")?.on_runtime(move |task| drop(handle.spawn(task)));
    let store = Store::open(home.path().join("data"))?;
    let lines = store.producer(LINES)?;
    let value = |n: u32| (0..1000u32).map(|at| at.wrapping_mul(n).to_le_bytes()[1]).collect::<Vec<_>>();
    (0..200u32).try_for_each(|n| lines.append(&n.to_be_bytes(), &value(n)).map(drop))?;
    store.trim()?;
    let first = store.backup(&target)?;
    lines.append(b"one more", b"")?;
    let second = store.backup(&target)?;
    assert!(second.new_bytes < first.new_bytes / 2, "what is there is not sent again: {first:?}, {second:?}");
    assert_eq!(target.list()?.iter().map(|info| &info.name).collect::<Vec<_>>(), [&first.name, &second.name]);
    // Elsewhere, with an identity of its own, beside the first.
    let copy = home.path().join("copy");
    RestoreOptions::new().restore(&target, &copy)?;
    let restored = Store::open(&copy)?;
    assert_ne!(restored.id(), store.id());
    let values = |dir: &std::path::Path| -> Result<Vec<_>> {
        StoreReader::open(dir)?
            .cursor("lines", Whence::Oldest)?
            .map(|record| record.map(|record| record.value))
            .collect()
    };
    assert_eq!(values(&copy)?, values(&home.path().join("data"))?);
    restored.close()?;
    assert!(RestoreOptions::new().verify(&target, home.path().join("scratch"))?.store.damage.is_empty());
    // A flipped bit is found, and told of before anything opens.
    let chunks = all_of(&runtime, &objects).into_iter().filter(|path| path.as_ref().contains("/chunks/"));
    chunks.for_each(|chunk| damage(&runtime, &objects, &chunk));
    let error = RestoreOptions::new().restore(&target, home.path().join("other")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(target.prune(1)?.removed.len(), 1);
    assert_eq!(target.list()?.len(), 1);
    store.close()
}
