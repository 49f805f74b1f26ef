//! The only source of chance: salts and identities. Seeded by the operating system, or by a given number so that a
//! simulated run can be repeated. Not for secrets.

use crate::error::{Error, ErrorKind, Result};
use crate::wake::Mutex;

/// A stream of numbers from one seed (SplitMix64, Steele, Lea and Flood 2014).
#[derive(Debug)]
pub(crate) struct Chance {
    state: Mutex<u64>,
}

impl Chance {
    /// The stream that belongs to `seed`, always the same.
    #[must_use]
    pub(crate) fn from_seed(seed: u64) -> Chance {
        Chance { state: Mutex::new(seed) }
    }

    /// A stream that nobody can foretell.
    ///
    /// # Errors
    /// `Unavailable`: the operating system gave no random bytes.
    pub(crate) fn from_os() -> Result<Chance> {
        let seed = getrandom::u64()
            .map_err(|error| Error::new(ErrorKind::Unavailable, format!("no random bytes to be had: {error}")))?;
        Ok(Chance::from_seed(seed))
    }

    /// A number that goes with the stream as a whole, and is none of its next ones.
    pub(crate) fn name(&self) -> u64 {
        mix(!*self.state.lock())
    }

    /// The next number, any of 2^64.
    pub(crate) fn next_u64(&self) -> u64 {
        let mut state = self.state.lock();
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(*state)
    }
}

fn mix(mut mixed: u64) -> u64 {
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
