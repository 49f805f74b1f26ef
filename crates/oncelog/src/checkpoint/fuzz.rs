//! What fuzzers may do to checkpoints.

use super::bytes;

/// The bytes of a checkpoint: what decodes encodes to the same again, but for checksums, which may have been trusted.
pub(crate) fn checkpoint(bytes: &[u8]) {
    let Ok(state) = bytes::decode(bytes) else { return };
    let again = bytes::encode(&state).expect("what was just decoded");
    assert_eq!(again.len(), bytes.len(), "encoded again, it has another length");
    let unsummed = |bytes: &[u8]| [&bytes[..72], &bytes[76..bytes.len() - 4]].concat();
    assert!(unsummed(&again) == unsummed(bytes), "encoded again, it is another");
}

/// The bytes of the earlier library; what they say is as good as what we write.
pub(crate) fn import(bytes: &[u8]) {
    let Ok(state) = bytes::import("stream".to_owned(), bytes) else { return };
    let again = bytes::encode(&state).expect("what was just imported");
    assert_eq!(bytes::decode(&again).expect("what was just encoded"), state);
}
