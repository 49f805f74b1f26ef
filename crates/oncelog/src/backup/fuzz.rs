//! What fuzzers may do to backups.

use std::path::Path;

use super::manifest;
use super::piece::Piece;

/// The bytes of a manifest: what decodes encodes to the same again, but for checksums, which may have been trusted.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(found) = manifest::decode(bytes) else { return };
    let again = manifest::encode(&found).expect("what was just decoded");
    assert_eq!(again.len(), bytes.len(), "encoded again, it has another length");
    let unsummed = |bytes: &[u8]| [&bytes[..60], &bytes[64..bytes.len() - 4]].concat();
    assert!(unsummed(&again) == unsummed(bytes), "encoded again, it is another");
}

/// The bytes of a piece of an archived journal: its frames are in order, or are told not to be.
pub(crate) fn piece(bytes: &[u8]) {
    let Ok(piece) = Piece::decode(bytes, Path::new("/piece")) else { return };
    let mut next = piece.first;
    let read = piece.each(|lsn, _| {
        assert_eq!(lsn, next, "out of order");
        next = next.next();
        Ok(())
    });
    if read.is_ok() {
        assert_eq!(Piece::decode(&piece.encode(), Path::new("/piece")).expect("what was just encoded"), piece);
    }
}
