//! CRC-32C, and the one place where a stored checksum is compared with a computed one.
//!
//! Every comparison names its [`CheckSite`], so that a test build can skip the checks of one place and see that
//! something notices.

/// Where a checksum is compared, and so what it protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[cfg_attr(not(oncelog_mutants), expect(unreachable_pub, reason = "public in the builds that test it"))]
pub enum CheckSite {
    /// The head of a journal file.
    JournalFile,
    /// The head of a frame, with the file's salt, the place and the frame before.
    FrameHead,
    /// What a frame holds.
    FrameBody,
    /// The head of a segment.
    SegmentHead,
    /// The place of a batch in its segment, with the fields that Kafka's own checksum omits.
    BatchPlace,
    /// What a batch holds (Kafka's checksum).
    BatchBody,
    /// A copy of the manifest.
    Manifest,
    /// The head of a table file.
    TableHead,
    /// A block of a table file.
    TableBlock,
    /// The file that makes a directory a store.
    StoreFile,
    /// The claim that names a topic's owner and id.
    TopicClaim,
    /// Epoch and opening in the manifest, after the sync of a commit and before its answer: no checksum, but looked at
    /// through one.
    Fence,
    /// The index beside a segment.
    IndexFile,
    /// The head of a checkpoint.
    CheckpointHead,
    /// A whole checkpoint.
    CheckpointBody,
    /// The head of a backup's manifest.
    BackupHead,
    /// A whole manifest of a backup.
    BackupBody,
    /// A chunk of a backup: its SHA-256.
    BackupChunk,
    /// A file of offsets, but for the decimal numbers of an earlier client, which have none.
    OffsetFile,
}

#[cfg(oncelog_mutants)]
impl CheckSite {
    /// Every site of a store, for tests that skip each in turn. Those of checkpoints, backups and offset files have
    /// tests of their own.
    pub const ALL: [CheckSite; 13] = [
        CheckSite::JournalFile,
        CheckSite::FrameHead,
        CheckSite::FrameBody,
        CheckSite::SegmentHead,
        CheckSite::BatchPlace,
        CheckSite::BatchBody,
        CheckSite::Manifest,
        CheckSite::TableHead,
        CheckSite::TableBlock,
        CheckSite::StoreFile,
        CheckSite::TopicClaim,
        CheckSite::Fence,
        CheckSite::IndexFile,
    ];
}

/// CRC-32C (Castagnoli) of `bytes`.
#[must_use]
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
}

/// CRC-32C of `parts` one after the other.
#[must_use]
pub(crate) fn crc32c_of(parts: &[&[u8]]) -> u32 {
    parts.iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part))
}

/// Whether a stored checksum is the computed one.
#[cfg(not(any(oncelog_mutants, fuzzing)))]
#[inline]
pub(crate) fn same(_site: CheckSite, stored: u32, computed: u32) -> bool {
    stored == computed
}

/// Whether a stored checksum is the computed one, or the mutant under test does not look.
#[cfg(any(oncelog_mutants, fuzzing))]
pub(crate) fn same(site: CheckSite, stored: u32, computed: u32) -> bool {
    let skipped = SKIPPED.load(std::sync::atomic::Ordering::SeqCst);
    stored == computed || skipped == site as usize + 1 || (skipped == ALL_OURS && site != CheckSite::TableBlock)
}

/// All but the blocks of tables: what reads these is the embedded library, which asserts that its pages are its own.
#[cfg(any(oncelog_mutants, fuzzing))]
const ALL_OURS: usize = usize::MAX;

#[cfg(any(oncelog_mutants, fuzzing))]
static SKIPPED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Makes the checks of one site pass always; `None` mends them. Only in builds with `--cfg oncelog_mutants`.
#[cfg(oncelog_mutants)]
pub fn skip_check(site: Option<CheckSite>) {
    SKIPPED.store(site.map_or(0, |site| site as usize + 1), std::sync::atomic::Ordering::SeqCst);
}

/// Makes the checks in front of our own parsers pass always, or mends them, so that a fuzzer's bytes come to these.
#[cfg(fuzzing)]
pub(crate) fn trust_checksums(trust: bool) {
    SKIPPED.store(if trust { ALL_OURS } else { 0 }, std::sync::atomic::Ordering::SeqCst);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_castagnoli() {
        // RFC 3720, B.4: 32 bytes of zeros, 32 bytes of ones, and the check value of the polynomial's catalogue entry.
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c_of(&[b"1234", b"", b"56789"]), crc32c(b"123456789"));
    }
}
