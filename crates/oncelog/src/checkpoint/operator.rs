//! What a manager takes the state of.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{Codec, Postcard};
use crate::error::{Error, ErrorKind, Result};
use crate::wake::{Arc, Mutex};

/// Something with a state that a checkpoint must hold. [`OperatorState`] is one for any serde type.
///
/// The manager calls it under the lock of the stream: it must not call the manager.
pub trait CheckpointOperator: Send + Sync {
    /// Its state, such as [`CheckpointOperator::restore`] takes.
    ///
    /// # Errors
    /// There is none to be had: then no checkpoint is taken.
    fn snapshot(&self) -> Result<Vec<u8>>;

    /// Goes back to a state; `None` is the beginning.
    ///
    /// # Errors
    /// It cannot: then the stream does not go on.
    fn restore(&self, state: Option<&[u8]>) -> Result<()>;
}

impl<O: CheckpointOperator + ?Sized> CheckpointOperator for Arc<O> {
    fn snapshot(&self) -> Result<Vec<u8>> {
        (**self).snapshot()
    }

    fn restore(&self, state: Option<&[u8]>) -> Result<()> {
        (**self).restore(state)
    }
}

/// A value that checkpoints hold, in the postcard format. It begins as `T::default()`.
///
/// ```
/// use std::collections::BTreeMap;
/// use oncelog::{CheckpointOperator, OperatorState};
/// # fn main() -> oncelog::Result<()> {
/// let totals = OperatorState::<BTreeMap<String, u64>>::default();
/// totals.with(|totals| *totals.entry("ann".to_owned()).or_default() += 7);
/// let again = OperatorState::<BTreeMap<String, u64>>::default();
/// again.restore(Some(&totals.snapshot()?))?;
/// assert_eq!(again.with(|totals| totals["ann"]), 7);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct OperatorState<T>(Mutex<T>);

impl<T> OperatorState<T> {
    /// Looks at the value, or changes it.
    pub fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut self.0.lock())
    }
}

impl<T: Serialize + DeserializeOwned + Default + Send + 'static> CheckpointOperator for OperatorState<T> {
    fn snapshot(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Postcard::<T>::encode(&self.0.lock(), &mut bytes).map_err(Error::user)?;
        Ok(bytes)
    }

    fn restore(&self, state: Option<&[u8]>) -> Result<()> {
        let value = state.map_or_else(|| Ok(T::default()), Postcard::<T>::decode_owned).map_err(Error::user)?;
        *self.0.lock() = value;
        Ok(())
    }
}

/// Calls an operator; what it says or how it panics is told with its name.
pub(super) fn call<R>(name: &str, doing: &str, call: impl FnOnce() -> Result<R>) -> Result<R> {
    let because = |error: Box<dyn std::error::Error + Send + Sync>| {
        let what = format!("operator {name:?} failed to {doing}");
        Error::new(ErrorKind::User, what).because(error)
    };
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(because(error.into())),
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Err(because(format!("panicked: {said}").into()))
        }
    }
}
