//! Steps that must come in their order, or be one, whatever a disk keeps of them. Each names its [`StepSite`], so that
//! a test build can swap or split them and see that something notices.

/// Where steps are, and what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[cfg_attr(not(oncelog_mutants), expect(unreachable_pub, reason = "public in the builds that test it"))]
pub enum StepSite {
    /// The stamps of a transaction are in its frame; split, their rows are in a frame behind it.
    StampsInFrame,
    /// The manifest names a trim point before the journal files behind it are used again.
    ManifestBeforeRecycling,
    /// A recovery makes its trim point before it removes what was the truth until then.
    TrimBeforeSweep,
    /// The trim point no longer names a segment before its file is removed.
    TrimBeforeRemoval,
    /// The trim point names the compacted segments before those that they replace are removed.
    TrimBeforeExchange,
    /// The progress of a consumer that is forgotten is gone before the claim on its id.
    ProgressBeforeClaim,
    /// A delayed record is appended, and waits no more, in one transaction; split, it waits until a second one.
    DueInOneStep,
    /// The outcome of a transaction is in its frame; split, it is in a frame before it.
    OutcomeInFrame,
    /// An id that is forgotten leaves with both of its rows in one transaction; split, in two.
    IdRowsTogether,
    /// A restored directory is recovered and closed before it becomes a store.
    RestoreBeforeStore,
    /// Frames are kept for the archive before the trim point passes them.
    ArchiveBeforeTrim,
}

#[cfg(oncelog_mutants)]
impl StepSite {
    /// Every site, for tests that break each in turn.
    pub const ALL: [StepSite; 9] = [
        StepSite::StampsInFrame,
        StepSite::ManifestBeforeRecycling,
        StepSite::TrimBeforeSweep,
        StepSite::TrimBeforeRemoval,
        StepSite::TrimBeforeExchange,
        StepSite::ProgressBeforeClaim,
        StepSite::DueInOneStep,
        StepSite::OutcomeInFrame,
        StepSite::IdRowsTogether,
    ];
}

/// Whether the steps are as they should be.
#[cfg(not(oncelog_mutants))]
#[inline]
pub(crate) fn is_kept(_site: StepSite) -> bool {
    true
}

/// Whether the steps are as they should be, or the mutant under test breaks them.
#[cfg(oncelog_mutants)]
pub(crate) fn is_kept(site: StepSite) -> bool {
    BROKEN.load(std::sync::atomic::Ordering::SeqCst) != site as usize + 1
}

#[cfg(oncelog_mutants)]
static BROKEN: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Breaks the steps of one site; `None` mends them. Only in builds with `--cfg oncelog_mutants`.
#[cfg(oncelog_mutants)]
pub fn break_steps(site: Option<StepSite>) {
    BROKEN.store(site.map_or(0, |site| site as usize + 1), std::sync::atomic::Ordering::SeqCst);
}
