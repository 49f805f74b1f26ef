//! One owner, as a reader sees it: alive or not, changing from one to the other.

use std::collections::HashMap;
use std::time::Duration;

use super::super::layout::Layout;
use super::super::manifest::{Manifest, ManifestFile};
use super::super::options::Beside;
use super::live::{Found, Live};
use super::offline::Offline;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, PartitionId, StoreId, TopicId};
use crate::page::{Ends, Watched};
use crate::wake::{Arc, Mutex};

/// Pauses while an owner is being opened.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));
/// An answer that an owner's coming or going has spoilt is asked for again, so often at most.
pub(super) const ATTEMPTS: u32 = 16;

/// See the module.
pub(super) struct OwnerReader {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) layout: Layout,
    pub(super) store: StoreId,
    pub(super) patience: Duration,
    /// Bytes of memory for what is read from the table file.
    pub(super) table_memory: usize,
    view: Mutex<Option<View>>,
}

/// Where answers come from.
#[derive(Clone)]
pub(super) enum View {
    Live(Arc<Live>),
    Offline(Arc<Offline>),
}

impl View {
    pub(super) fn is(&self, other: &View) -> bool {
        match (self, other) {
            (View::Live(one), View::Live(other)) => Arc::ptr_eq(one, other),
            (View::Offline(one), View::Offline(other)) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

impl OwnerReader {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        clock: Arc<dyn Clock>,
        layout: Layout,
        store: StoreId,
        patience: Duration,
        table_memory: usize,
    ) -> OwnerReader {
        OwnerReader { disk, clock, layout, store, patience, table_memory, view: Mutex::default() }
    }

    /// Where answers come from now.
    ///
    /// # Errors
    /// `Unavailable`: the owner is being opened and takes longer than the reader's patience.
    pub(super) fn view(&self) -> Result<View> {
        let mut held = self.view.lock();
        if let Some(view) = held.as_ref()
            && self.stands(view)?
        {
            return Ok(view.clone());
        }
        *held = None;
        Ok(held.insert(self.find()?).clone())
    }

    /// Whether an answer from `view` counts still.
    fn stands(&self, view: &View) -> Result<bool> {
        match view {
            View::Live(live) => live.lives(&self.layout),
            View::Offline(offline) => Ok(self.manifest()?.epoch == offline.epoch),
        }
    }

    /// Asks the manifest too: an owner that was overtaken may hold its page for long, and shows nothing new.
    pub(super) fn look_again(&self) -> Result<()> {
        let mut held = self.view.lock();
        if let Some(View::Live(live)) = held.as_ref()
            && self.manifest()?.epoch != live.epoch
        {
            *held = None;
        }
        Ok(())
    }

    pub(super) fn manifest(&self) -> Result<Manifest> {
        let path = &self.layout.manifest;
        let found = ManifestFile::peek(&*self.disk, path)?;
        let found = found.ok_or_else(|| Error::corrupt(path, 0, "the manifest is gone or damaged"))?;
        if found.store != self.store || found.owner != self.layout.name {
            return Err(Error::corrupt(path, 0, "this is the manifest of another owner or store"));
        }
        Ok(found)
    }

    fn find(&self) -> Result<View> {
        let deadline = self.clock.monotonic().saturating_add(self.patience);
        let mut pause = PAUSES.0;
        loop {
            let manifest = self.manifest()?;
            let same = || Ok::<_, Error>(self.manifest()?.epoch == manifest.epoch);
            match Live::find(&self.disk, &self.layout, self.store, manifest.epoch)? {
                Found::Serving(live) if same()? => return Ok(View::Live(live)),
                Found::Nobody { failed_at } => {
                    let made =
                        Offline::recover(&self.disk, &self.clock, &self.layout, &manifest, failed_at, Beside::Nobody);
                    if same()? {
                        return made.map(|offline| View::Offline(Arc::new(offline)));
                    }
                }
                Found::Serving(_) | Found::Opening => {}
            }
            if self.clock.monotonic() >= deadline {
                return Err(self.takes_its_time("is being opened"));
            }
            self.clock.sleep(pause);
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Whether what `view` said may be wrong because an owner has come or gone.
    pub(super) fn is_spoilt(&self, view: &View) -> Result<bool> {
        let moved = match view {
            View::Live(live) => self.manifest()?.epoch != live.epoch,
            View::Offline(_) => false,
        };
        Ok(moved || !self.stands(view)?)
    }

    /// Asks the view, and again if it was spoilt meanwhile. What a recovery in memory answers lies in part in the files
    /// beneath it, so it counts only if no owner has begun to change them before it was given.
    fn ask<R>(&self, ask: impl Fn(&View) -> Result<R>) -> Result<R> {
        for _ in 0..ATTEMPTS {
            let view = self.view()?;
            let answer = ask(&view);
            let counts = answer.is_ok() && matches!(view, View::Live(_));
            if counts || !self.is_spoilt(&view)? {
                return answer;
            }
            self.look_again()?;
        }
        Err(self.restless())
    }

    pub(super) fn restless(&self) -> Error {
        let what = format!("the owner {:?} comes and goes", self.layout.name);
        Error::new(ErrorKind::Unavailable, what).in_file(&self.layout.owner)
    }

    /// How many partitions the topic has; 0: this owner has no topic of that id and name. A claim may say otherwise:
    /// when the making of a topic fails, the id that it names goes to the next one that is made.
    pub(super) fn partitions(&self, topic: TopicId, name: &str) -> Result<u32> {
        self.ask(|view| match view {
            View::Live(live) => live.watch.partitions(topic, name),
            View::Offline(offline) => match offline.store.core().pipeline.topics.get(topic) {
                Ok(topic) => Ok(if topic.spec.name == name { topic.spec.partitions } else { 0 }),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
                Err(error) => Err(error),
            },
        })
    }

    /// A partition now; `None`: there is no such one.
    pub(super) fn partition(&self, topic: TopicId, partition: PartitionId) -> Result<Option<Watched>> {
        self.ask(|view| match view {
            View::Live(live) => live.watch.partition(topic, partition),
            View::Offline(offline) => {
                let core = offline.store.core();
                let topic = match core.pipeline.topics.get(topic) {
                    Ok(topic) => topic,
                    Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                    Err(error) => return Err(error),
                };
                let Ok(partition) = topic.partition(partition) else { return Ok(None) };
                let end = partition.end_at(core.pipeline.view.visible());
                Ok(Some(Watched { start: partition.start(), end }))
            }
        })
    }

    /// All partitions as of one LSN, and where that was seen.
    pub(super) fn all(&self) -> Result<(View, Lsn, Ends)> {
        self.ask(|view| match view {
            View::Live(live) => live.watch.all().map(|(lsn, ends)| (view.clone(), lsn, ends)),
            View::Offline(offline) => {
                let core = offline.store.core();
                let lsn = core.pipeline.view.visible();
                let mut ends = HashMap::new();
                for (topic, _, partition, watched) in core.partitions_now()? {
                    ends.insert((topic, partition), watched);
                }
                Ok((view.clone(), lsn, ends))
            }
        })
    }
}
