//! Opening: take the owner, load the trim point, replay what came after, make the result durable, serve.

use std::path::{Path, PathBuf};

use super::archive::{Shipping, archive_gap};
use super::background::Background;
use super::compact::Compacting;
use super::coordinator::Coordinated;
use super::copies::{self, check_place};
use super::fence::Fence;
use super::heir::Inherits;
use super::input::ForeignTopics;
use super::layout::Layout;
use super::loader::TopicLoader;
use super::manifest::{Manifest, ManifestFile, State};
use super::options::StoreOptions;
use super::page::OwnerPage;
use super::report::{LostOffsets, RecoveryReport, TornTailReport};
use super::retain::{Retaining, StoreTime};
use super::seen_ids::Remembering;
use super::take::take;
use super::{Core, Inner, Store};
use crate::chance::Chance;
use crate::disk::machine::RuntimeLock;
use crate::disk::{OpenMode, StepSite, is_kept};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Epoch, Lsn, OwnerId, StoreId};
use crate::journal::{self, FileName, Journal, JournalOptions, TornTail};
use crate::page::PageName;
use crate::process::Process;
use crate::segment::{OpenFiles, Standing};
use crate::table::{Pressure, ScanRange, TableBackend, TableFileName, TableHome, TableStore, Tables};
use crate::transaction::system::{self, CatalogueKey};
use crate::transaction::{Applier, Delays, Limits, Lingering, LoadTopics, Pipeline, Replayer, Spares, Topics};
use crate::view::View;
use crate::wake::{Arc, AtomicBool, AtomicU32, AtomicU64, Mutex, Ordering};

pub(super) fn open(options: StoreOptions, dir: &Path, owner: &str) -> Result<Store> {
    let (core, loader) = Taken::take(options, dir, owner)?.recover()?;
    serve(core, &loader)
}

/// An owner that is this process's, with an epoch of its own; nothing is recovered yet.
struct Taken {
    options: StoreOptions,
    layout: Layout,
    chance: Arc<Chance>,
    store: StoreId,
    identity: StoreId,
    only_copy: Option<RuntimeLock>,
    epoch: Epoch,
    fence: Arc<Fence>,
    page: Option<OwnerPage>,
    manifest: ManifestFile,
    manifest_repaired: bool,
    /// What the manifest says of the openings before.
    found: Manifest,
    inherits: Inherits,
}

impl Taken {
    /// Makes store and owner where they are not there, and takes the lock and the next epoch.
    fn take(options: StoreOptions, dir: &Path, owner: &str) -> Result<Taken> {
        let disk = Arc::clone(&options.disk);
        let layout = Layout::of(dir, owner);
        let layout = if options.restoring { layout.while_restoring() } else { layout };
        let chance = Arc::new(match options.seed {
            Some(seed) => Chance::from_seed(seed),
            None => Chance::from_os()?,
        });
        layout.ensure_store(&*disk, &chance, options.create)?;
        let (store, identity) = layout.read_identities(&*disk)?;
        check_place(&options, &layout)?;
        layout.ensure_owner(&*disk, &*options.clock, store, options.create)?;
        let mut manifest = take(&options, &layout)?;
        let (found, manifest_repaired) = manifest.read(store, &layout.name)?;
        let only_copy = copies::lock(&options, &layout, identity)?;
        let own = options.process.map_or_else(Process::own, Process::simulated);
        let inherits = Inherits::judge(&options, &layout, &manifest, &found, &own)?;
        manifest.write_holder(&own)?;
        if found.state == State::Open {
            layout.sync_names(&*disk)?;
        }
        let epoch = Epoch(found.epoch.0 + 1);
        // Before the manifest names the opening: whoever finds the opening there finds its page.
        let page = make_page(&options, &layout, store, epoch)?;
        // A repair appends nothing before its trim point: should it end before, what was closed in order still is.
        let state = if options.mends.is_some() { found.state } else { State::Open };
        let (found, fence) = manifest.take_epoch(&disk, chance.name(), state)?;
        Ok(Taken {
            options,
            layout,
            chance,
            store,
            identity,
            only_copy,
            epoch,
            fence,
            page,
            manifest,
            manifest_repaired,
            found,
            inherits,
        })
    }

    /// Recovers what the openings before have left, and makes it durable in new places.
    fn recover(self) -> Result<(Arc<Core>, Arc<TopicLoader>)> {
        let (disk, layout, epoch) = (Arc::clone(&self.options.disk), self.layout.clone(), self.epoch);
        let is_copy = self.inherits == Inherits::Copy;
        let shared = self.found.trim.as_ref().filter(|_| is_copy).map(|(_, root)| root.file.epoch);
        let mut opened = None;
        let Taken { options, chance, store, fence, page, found, inherits, .. } = self;
        let opening = Opening::new(options, layout.clone(), chance, (store, epoch, fence, page), (&found, inherits));
        let recovered = opening.and_then(|mut opening| {
            (opening.identity, opening.only_copy) = (self.identity, self.only_copy);
            opening.report.manifest_repaired = self.manifest_repaired;
            let (topics, loader) = (Arc::clone(&opening.topics), Arc::clone(&opening.loader));
            opened = Some(topics);
            let core = Arc::new(opening.recover(self.manifest, &found)?);
            if !is_kept(StepSite::TrimBeforeSweep) {
                core.sweep()?;
            }
            if !core.report.clean || is_copy {
                core.trim(State::Open)?;
            }
            Ok((core, loader))
        });
        recovered.inspect_err(|error| {
            // Space is what is wanting: give back what this attempt took. Nothing names it, and the trim point did not
            // move.
            if error.kind() == ErrorKind::Full {
                let used = opened.as_ref().map(|topics: &Arc<Topics>| topics.all_loaded()).unwrap_or_default();
                let partitions = used.iter().flat_map(|topic| &topic.partitions);
                let dirs: Vec<_> = partitions.map(|partition| partition.dir().to_owned()).collect();
                layout.remove_epoch(&*disk, epoch, shared, &dirs);
                OwnerPage::forget_own(&*disk, &layout.page, epoch);
            }
        })
    }
}

/// Takes away what nothing names any more, shows readers what there is, and starts the background.
fn serve(core: Arc<Core>, loader: &TopicLoader) -> Result<Store> {
    let core = with_sweep(core)?;
    OwnerPage::forget_earlier(&*core.disk, &core.layout.page, core.epoch);
    if !core.options.continued {
        core.sweep_deleted()?;
    }
    core.show_loaded(loader)?;
    if core.options.manual_duties {
        core.show_what_is_left();
    }
    if !core.report.clean {
        tracing::info!(dir = %core.layout.dir.display(), "{}", core.report);
    }
    if core.options.manual_duties {
        let weak = Arc::downgrade(&core);
        let trim = move || weak.upgrade().map_or_else(|| Err(Error::closed()), |core| core.trim(State::Open));
        core.pipeline.pressure.trim_by(Arc::new(trim));
    }
    let background = if core.options.manual_duties { None } else { Some(Background::start(&core)?) };
    let shipping = Mutex::new(Shipping::start(&core)?);
    Ok(Store { inner: Arc::new(Inner { core, background: Mutex::new(background), shipping }) })
}

fn make_page(options: &StoreOptions, layout: &Layout, store: StoreId, epoch: Epoch) -> Result<Option<OwnerPage>> {
    if !options.shared_page {
        return Ok(None);
    }
    let name = PageName { store, epoch, pid: std::process::id(), boot: options.disk.boot_id() };
    OwnerPage::make(&options.disk, &*options.clock, &layout.page, name).map(Some)
}

/// Removes what nothing names. Only after the trim point is durable, since until then the old files are the truth.
fn with_sweep(core: Arc<Core>) -> Result<Arc<Core>> {
    let swept = core.sweep()?;
    let mut core = Arc::try_unwrap(core).map_err(|_| Error::closed())?;
    if !core.report.clean {
        core.report.swept.extend(swept);
    }
    Ok(Arc::new(core))
}

/// An owner on its way from the trim point to serving.
pub(super) struct Opening {
    pub(super) options: StoreOptions,
    pub(super) layout: Layout,
    pub(super) store: StoreId,
    identity: StoreId,
    only_copy: Option<RuntimeLock>,
    pub(super) epoch: Epoch,
    fence: Arc<Fence>,
    pub(super) chance: Arc<Chance>,
    pub(super) view: Arc<View>,
    pub(super) backend: Arc<TableStore>,
    pub(super) tables: Arc<Tables>,
    pub(super) loader: Arc<TopicLoader>,
    pub(super) topics: Arc<Topics>,
    page: Option<OwnerPage>,
    pub(super) report: RecoveryReport,
}

impl Opening {
    /// With the tables as of the trim point.
    fn new(
        options: StoreOptions,
        layout: Layout,
        chance: Arc<Chance>,
        (store, epoch, fence, page): (StoreId, Epoch, Arc<Fence>, Option<OwnerPage>),
        (found, inherits): (&Manifest, Inherits),
    ) -> Result<Opening> {
        let home = TableHome {
            disk: Arc::clone(&options.disk),
            dir: layout.state.clone(),
            store,
            memory: options.table_memory / 2,
        };
        let backend = Arc::new(match &found.trim {
            Some((at, root)) if inherits == Inherits::Copy => {
                TableStore::copy(&home, root, Lsn(at.next_lsn.0 - 1), epoch)?
            }
            Some((at, root)) => match TableStore::open(&home, root, Lsn(at.next_lsn.0 - 1), OpenMode::Write) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    // Before the first frame there is no row, and the journal has all frames.
                    let mends = options.mends.as_ref().filter(|_| at.next_lsn == Lsn(1));
                    let Some(mends) = mends else { return Err(error) };
                    mends.tables(&home, &root.file, &error)?;
                    TableStore::create(&home, TableFileName { epoch, salt: chance.next_u64() })?
                }
                opened => opened?,
            },
            None => TableStore::create(&home, TableFileName { epoch, salt: chance.next_u64() })?,
        });
        let view = Arc::new(View::default());
        let tables = Arc::new(Tables::new(Arc::clone(&backend) as Arc<dyn TableBackend>, Arc::clone(&view)));
        let standing: Standing = {
            let fence = Arc::clone(&fence);
            Arc::new(move || fence.check())
        };
        let loader = Arc::new(TopicLoader {
            files: Arc::new(OpenFiles::new(Arc::clone(&options.disk), standing, options.open_files_max)),
            chance: Arc::clone(&chance),
            store,
            owner: layout.name.clone(),
            epoch,
            topics: layout.topics.clone(),
            view: Arc::clone(&view),
            tables: Arc::clone(&tables),
            orderly_since: AtomicU64::new(epoch.0),
            swept: Mutex::default(),
            board: Mutex::default(),
            mends: options.mends.clone(),
        });
        let topics = Arc::new(Topics::new(Arc::clone(&loader) as Arc<dyn LoadTopics>));
        let report = RecoveryReport::default();
        Ok(Opening {
            options,
            layout,
            store,
            identity: store,
            only_copy: None,
            epoch,
            fence,
            chance,
            view,
            backend,
            tables,
            loader,
            topics,
            page,
            report,
        })
    }

    fn recover(mut self, manifest: ManifestFile, found: &Manifest) -> Result<Core> {
        let mends = self.options.mends.clone();
        // What is mended goes to new places, as after a crash.
        let clean = found.state == State::Closed && mends.is_none();
        self.report.clean = clean;
        self.report.archive_gap = archive_gap(&self.options, found);
        if let Some((at, _)) = &found.trim {
            self.view.publish(Lsn(at.next_lsn.0 - 1));
            if clean {
                self.loader.orderly_since.store(self.last_unclean()?.0, Ordering::SeqCst);
            }
        }
        let disk = Arc::clone(&self.options.disk);
        let mut applier = Applier::new(Arc::clone(&self.view), self.page.as_ref().and_then(OwnerPage::board).cloned());
        let options = JournalOptions {
            dir: self.layout.journal.clone(),
            file_bytes: self.options.journal_file_bytes,
            spares_max: usize::try_from(self.options.trim_bytes / self.options.journal_file_bytes).unwrap_or(0).min(64)
                + 2,
            queue_bytes_max: self.options.queue_bytes_max,
            fence: {
                let fence = Arc::clone(&self.fence);
                Arc::new(move || fence.settle().and_then(|()| fence.check()))
            },
        };
        let journal = match &found.trim {
            Some((at, _)) if clean => {
                Journal::open(disk, Arc::clone(&self.chance), self.store, self.epoch, options, *at, applier)?
            }
            _ => {
                let next_lsn = match &mends {
                    Some(mends) => self.replay_mending(&mut applier, found, mends)?,
                    None => self.replay(&mut applier, found)?,
                };
                if !self.options.beside_owner && !self.options.restoring {
                    self.skip_bounds(&mut applier, Lsn(next_lsn.0 - 1))?;
                }
                if let Some(mends) = &mends {
                    self.mend_segments(mends, Lsn(next_lsn.0 - 1))?;
                }
                self.note_unclean(Lsn(next_lsn.0 - 1))?;
                Journal::create(disk, Arc::clone(&self.chance), self.store, self.epoch, options, next_lsn, applier)?
            }
        };
        self.report.swept = std::mem::take(&mut *self.loader.swept.lock());
        let store_time = self.store_time()?;
        Ok(self.into_core(manifest, found.number, journal, store_time))
    }

    fn store_time(&self) -> Result<StoreTime> {
        let row = self.tables.shard(system::TIME, system::SHARD).get(system::TIME_KEY, self.view.visible())?;
        let recorded = row.map(|row| system::decode_row(&row)).transpose()?;
        Ok(StoreTime::go_on(recorded, &*self.options.clock))
    }

    /// The newest opening that found the owner not closed in order, itself included once it has recovered.
    fn last_unclean(&self) -> Result<Epoch> {
        let rows = self.tables.shard(system::CATALOGUE, system::SHARD);
        let row = rows.get(&CatalogueKey::Unclean.encode(), self.view.visible())?;
        row.map_or(Ok(Epoch(0)), |row| system::decode_row(&row))
    }

    /// Becomes durable with the trim point that ends this recovery: from then on no segment of an earlier opening is
    /// written on, whenever its topic is used again.
    fn note_unclean(&self, lsn: Lsn) -> Result<()> {
        let row = system::encode_row(&self.epoch)?;
        let rows = self.tables.shard(system::CATALOGUE, system::SHARD);
        rows.turn().put(CatalogueKey::Unclean.encode(), Some(row.into()), lsn);
        Ok(())
    }

    /// Applies the frames after the trim point; gives the LSN of the next frame.
    pub(super) fn replay(&mut self, applier: &mut Applier, found: &Manifest) -> Result<Lsn> {
        let Some((start, _)) = &found.trim else { return Ok(Lsn(1)) };
        let mut replayer = Replayer::new(&self.tables, &self.topics, &self.view, applier);
        replayer.may_skip = self.options.over_holes;
        let (disk, until) = (&*self.options.disk, self.options.replay_until);
        let replayed = journal::replay(disk, &self.layout.journal, self.store, *start, until, |lsn, body| {
            replayer.frame(lsn, body).map_err(|error| error.in_file(&self.layout.journal))
        })?;
        replayer.finish()?;
        self.report.frames = replayed.frames;
        self.report.frames_bytes = replayed.frames_bytes;
        if let Some(torn) = &replayed.torn {
            self.report.torn = Some(self.keep_aside(torn, replayed.end.next_lsn)?);
        }
        Ok(replayed.end.next_lsn)
    }

    pub(super) fn keep_aside(&self, torn: &TornTail, lsn: Lsn) -> Result<TornTailReport> {
        let kept_in = self.layout.aside.join(format!("{:020}-{:010}.torn", lsn.0, self.epoch.0));
        let written =
            self.options.disk.open(&kept_in, OpenMode::Create).and_then(|file| file.write_all_at(&torn.bytes, 0));
        written.map_err(|error| Error::io(&kept_in, "keep a torn tail", error))?;
        Ok(TornTailReport { file: torn.file.clone(), position: torn.position, kept_in })
    }

    /// Partitions that answered appends before they were durable continue at their bound: what lies below it may have
    /// been given out, and no offset is given out twice.
    fn skip_bounds(&mut self, applier: &mut Applier, lsn: Lsn) -> Result<()> {
        let bounds = self.tables.shard(system::BOUNDS, system::SHARD);
        for (key, value) in bounds.scan(ScanRange::ALL, lsn)? {
            let malformed = || Error::new(ErrorKind::Corrupt, "a bound is malformed").in_file(&self.layout.state);
            let (topic, partition) = system::read_partition_key(&key).ok_or_else(malformed)?;
            let bound = system::decode_row(&value)?;
            let topic = self.topics.get(topic)?;
            let partition = topic.partition(partition)?;
            let mut turn = partition.turn();
            if bound > turn.next_offset {
                let offsets = turn.next_offset..bound;
                let (topic, id) = (topic.spec.name.clone(), partition.id);
                self.report.lost.push(LostOffsets { topic, partition: id, offsets });
                turn.skip_to(bound);
                partition.set_end(lsn, bound);
                applier.touch(partition);
            }
            drop(turn);
            bounds.turn().put(key, None, lsn);
        }
        Ok(())
    }

    fn into_core(
        self,
        manifest: ManifestFile,
        owner: OwnerId,
        journal: Journal<Applier>,
        store_time: StoreTime,
    ) -> Core {
        let limits = Limits {
            record_bytes_max: self.options.record_bytes_max,
            transaction_bytes_max: self.options.transaction_bytes_max,
            batch_bytes: self.options.batch_bytes,
        };
        let pipeline = Pipeline {
            journal,
            tables: Arc::clone(&self.tables),
            topics: self.topics,
            view: self.view,
            clock: Arc::clone(&self.options.clock),
            limits,
            open_stamps: Arc::default(),
            lingering: Lingering::default(),
            spares: Spares::default(),
            sync_within: AtomicU64::new(u64::MAX),
            has_background: !self.options.manual_duties,
            spread: AtomicU32::new(0),
            trim_at: AtomicU64::new(self.options.trim_bytes),
            pressure: Pressure::new(self.options.table_memory / 2),
            closing: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            archive_full: AtomicBool::new(false),
            delays: Delays::new(self.epoch),
        };
        Core {
            disk: Arc::clone(&self.options.disk),
            layout: self.layout,
            store: self.store,
            identity: self.identity,
            only_copy: Mutex::new(self.only_copy),
            owner,
            epoch: self.epoch,
            pipeline: Arc::new(pipeline),
            backend: self.backend,
            tables: self.tables,
            manifest: Mutex::new(manifest),
            fence: self.fence,
            page: self.page,
            foreign: ForeignTopics::default(),
            creating: Mutex::new(()),
            dead_letters: Mutex::default(),
            consumers: Mutex::default(),
            coordinated: Coordinated::default(),
            remembering: Remembering::default(),
            claimed: Mutex::default(),
            trimming: Mutex::default(),
            removing: Mutex::default(),
            retaining: Retaining::default(),
            compacting: Compacting::default(),
            delivering: Mutex::default(),
            store_time,
            archiving: Default::default(),
            unsynced_since: Mutex::default(),
            report: self.report,
            closed: AtomicBool::new(false),
            files: Arc::clone(&self.loader.files),
            options: self.options,
        }
    }
}

impl Core {
    /// Removes journal and table files that are not in use. Never what a later opening has made: this one may have lost
    /// its lock and not know it.
    fn sweep(&self) -> Result<Vec<PathBuf>> {
        let mut swept = Vec::new();
        let in_use = self.pipeline.journal.file_names();
        self.sweep_dir(&self.layout.journal, &mut swept, |path| {
            FileName::of_path(path).is_some_and(|name| name.epoch <= self.epoch && !in_use.contains(&name))
        })?;
        self.sweep_dir(&self.layout.state, &mut swept, |path| {
            TableFileName::of_path(path).is_some_and(|name| name.epoch <= self.epoch && name != self.backend.name())
        })?;
        Ok(swept)
    }

    fn sweep_dir(&self, dir: &Path, swept: &mut Vec<PathBuf>, stray: impl Fn(&Path) -> bool) -> Result<()> {
        let mut found = self.disk.list(dir).map_err(|error| Error::io(dir, "list leftover files", error))?;
        found.sort();
        for path in found.into_iter().filter(|path| stray(path)) {
            self.disk.remove(&path).map_err(|error| Error::io(&path, "remove a leftover file", error))?;
            swept.push(path);
        }
        Ok(())
    }
}
