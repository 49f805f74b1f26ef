//! probe
use oncelog::clock::Clock;
use oncelog::disk::{Disk, MemoryDisk, OpenMode};
use oncelog::{Bytes, ConsumerStyle, Outcome, StoreOptions, SyncPolicy, TableDef, TopicDef, U64, Utf8};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
struct Fixed;
impl Clock for Fixed {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) {}
}
#[test]
fn probe() {
    let disk = Arc::new(MemoryDisk::default());
    let store = StoreOptions::new()
        .disk(disk.clone())
        .clock(Arc::new(Fixed))
        .seed(1)
        .manual_duties()
        .journal_file_bytes(4096)
        .open("/s")
        .unwrap();
    let orders: TopicDef<Utf8, Bytes> = TopicDef::new("Orders").partitions(2);
    let p = store.producer(orders.clone()).unwrap();
    println!("{:?}", p.append("ann", b"first").unwrap());
    store.transact(|tx| tx.table(TableDef::<Utf8, U64>::new("totals"))?.put("ann", &5)).unwrap();
    let l = store.producer(orders.clone()).unwrap().sync_policy(SyncPolicy::Os);
    l.append("ann", b"second").unwrap();
    let mut c = store.consumer(orders, ConsumerStyle::ClientTx("audit".into())).unwrap();
    c.try_process(Some(1), |_, _| Ok(Outcome::Commit)).unwrap();
    while disk.list(Path::new("/s/owners/main/journal")).unwrap().len() < 2 {
        p.append("ann", &[7; 500]).unwrap();
    }
    fn walk(d: &MemoryDisk, dir: &Path) {
        for p in d.list(dir).unwrap() {
            if d.list(&p).is_ok() {
                walk(d, &p);
            } else {
                let b = d.open(&p, OpenMode::Read).unwrap().read_whole(1 << 20).unwrap();
                println!(
                    "{} {}: {}",
                    p.display(),
                    b.len(),
                    b.iter().take(600).map(|x| format!("{x:02x}")).collect::<String>()
                );
            }
        }
    }
    walk(&disk, Path::new("/s"));
    store.trim().unwrap();
    println!("----");
    walk(&disk, Path::new("/s/owners"));
}
