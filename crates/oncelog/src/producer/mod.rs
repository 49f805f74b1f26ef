//! Stamps: who wrote what last, so that what is sent again is stored once, and an old generation is refused.
//!
//! ```text
//! producer --(name, epoch, sequence)--> check: New | Duplicate | OldDuplicate | Gap | Fenced
//!                                         | New, and the frame has its LSN
//!                                         v
//!                                       advance, and the row of the stamp with it
//! ```
//!
//! Invariants:
//! * A [`StampState`] is kept for each producer name, topic and partition, for ever: memory goes by producers, never by
//!   messages or time.
//! * A producer's sequences are stored in order and without a hole. So one number, the next sequence, says which are
//!   there; the last five batches are remembered with their offsets besides.
//! * The epoch only fences. What is a duplicate is decided by the sequence alone, across epochs.
//! * The state changes by [`StampState::advance`] alone, when a frame is decided and when it is replayed: both end in
//!   the same state.
//!
//! Pure but for [`OpenStamps`], which knows what open transactions of this process have staged. Neighbours:
//! `transaction` above keeps the states as rows and the stamps in frames. The idea is that of Kafka's idempotent
//! producer (KIP-98), with names for ids, sequences of 64 bits, and no end to what is remembered.

mod open;
mod state;
#[cfg(test)]
mod tests;

pub(crate) use open::{OpenStamps, StampClaim};
pub(crate) use state::{Stamp, StampState, Verdict};
