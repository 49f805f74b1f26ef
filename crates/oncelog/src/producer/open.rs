//! The stamps that open transactions have staged: of two that want the same one, the second is told so at once.

use std::collections::BTreeSet;

use crate::wake::{Arc, Mutex};

/// Keys of stamps that are staged and not decided.
#[derive(Debug, Default)]
pub(crate) struct OpenStamps(Mutex<BTreeSet<Vec<u8>>>);

/// As long as it lives, no other transaction can stage a stamp under this key.
#[derive(Debug)]
pub(crate) struct StampClaim {
    open: Arc<OpenStamps>,
    key: Vec<u8>,
}

impl OpenStamps {
    /// Claims `key`; `None` when another transaction has it.
    pub(crate) fn claim(self: &Arc<Self>, key: &[u8]) -> Option<StampClaim> {
        let claimed = self.0.lock().insert(key.to_vec());
        claimed.then(|| StampClaim { open: Arc::clone(self), key: key.to_vec() })
    }
}

impl Drop for StampClaim {
    fn drop(&mut self) {
        self.open.0.lock().remove(&self.key);
    }
}
