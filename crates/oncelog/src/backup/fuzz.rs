//! What fuzzers may do to backups.

use super::manifest;

/// The bytes of a manifest: what decodes encodes to the same again, but for checksums, which may have been trusted.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(found) = manifest::decode(bytes) else { return };
    let again = manifest::encode(&found).expect("what was just decoded");
    assert_eq!(again.len(), bytes.len(), "encoded again, it has another length");
    let unsummed = |bytes: &[u8]| [&bytes[..60], &bytes[64..bytes.len() - 4]].concat();
    assert!(unsummed(&again) == unsummed(bytes), "encoded again, it is another");
}
