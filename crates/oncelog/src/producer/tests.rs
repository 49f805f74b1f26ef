//! The pure room against a model that remembers every batch for ever.

use proptest::prelude::*;

use super::*;
use crate::ids::{LogOffset, ProducerEpoch, Sequence};

fn stamp(epoch: u64, first: u64, count: u32) -> Stamp {
    Stamp { epoch: (epoch > 0).then_some(ProducerEpoch(epoch)), first: Sequence(first), count }
}

#[test]
fn a_producer_starts_at_its_initial_sequence() {
    let state = StampState::unknown(Sequence(40));
    assert_eq!(state.check(&stamp(1, 40, 1)), Verdict::New);
    assert_eq!(state.check(&stamp(1, 41, 1)), Verdict::Gap { expected: Sequence(40) });
    assert_eq!(state.check(&stamp(1, 39, 1)), Verdict::OldDuplicate);
    assert_eq!(state.check(&stamp(1, 39, 2)), Verdict::Gap { expected: Sequence(40) });
}

#[test]
fn five_batches_answer_with_their_offset_and_older_ones_without() {
    let mut state = StampState::unknown(Sequence(0));
    for batch in 0..6u64 {
        state.advance(&stamp(1, batch * 2, 2), Some(LogOffset(100 + batch * 10)));
    }
    assert_eq!(state.check(&stamp(1, 0, 2)), Verdict::OldDuplicate);
    assert_eq!(state.check(&stamp(1, 2, 2)), Verdict::Duplicate(Some(LogOffset(110))));
    assert_eq!(state.check(&stamp(1, 11, 1)), Verdict::Duplicate(Some(LogOffset(151))));
    assert_eq!(state.check(&stamp(1, 11, 2)), Verdict::Gap { expected: Sequence(12) });
}

#[test]
fn an_epoch_fences_the_older_and_hides_no_duplicate() {
    let mut state = StampState::unknown(Sequence(0));
    state.advance(&stamp(1, 0, 1), Some(LogOffset(7)));
    state.epoch = ProducerEpoch(2);
    assert_eq!(state.check(&stamp(1, 1, 1)), Verdict::Fenced { current: ProducerEpoch(2) });
    assert_eq!(state.check(&stamp(1, 0, 1)), Verdict::Fenced { current: ProducerEpoch(2) });
    assert_eq!(state.check(&stamp(2, 0, 1)), Verdict::Duplicate(Some(LogOffset(7))));
    assert_eq!(state.check(&stamp(0, 1, 1)), Verdict::New, "without an epoch nothing is fenced");
    assert_eq!(state.check(&stamp(3, 1, 1)), Verdict::New);
}

#[test]
fn the_last_sequence_of_all_is_no_overflow() {
    let state = StampState::unknown(Sequence(u64::MAX));
    assert_eq!(state.check(&stamp(1, u64::MAX, 7)), Verdict::New);
    assert_eq!(StampState::unknown(Sequence(0)).check(&stamp(1, u64::MAX, 7)), Verdict::Gap { expected: Sequence(0) });
}

#[test]
fn a_claim_ends_with_its_holder() {
    let open = crate::wake::Arc::new(OpenStamps::default());
    let claim = open.claim(b"ann").unwrap();
    assert!(open.claim(b"ann").is_none());
    assert!(open.claim(b"bob").is_some());
    drop(claim);
    assert!(open.claim(b"ann").is_some());
}

/// Every batch ever stored, as (epoch, first, count, offset).
#[derive(Default)]
struct Remembered(Vec<(u64, u64, u32, u64)>);

impl Remembered {
    fn expect(&self, epoch: u64, first: u64, count: u32) -> Verdict {
        let newest = self.0.iter().map(|batch| batch.0).max().unwrap_or(0);
        let next = self.0.iter().map(|batch| batch.1 + u64::from(batch.2)).max().unwrap_or(0);
        if epoch > 0 && epoch < newest {
            return Verdict::Fenced { current: ProducerEpoch(newest) };
        }
        if first == next {
            return Verdict::New;
        }
        if first + u64::from(count) > next {
            return Verdict::Gap { expected: Sequence(next) };
        }
        let at = self.0.iter().position(|batch| (batch.1..batch.1 + u64::from(batch.2)).contains(&first));
        let at = at.expect("all sequences below the next are stored");
        let (_, batch_first, _, offset) = self.0[at];
        let offset = LogOffset(offset + first - batch_first);
        if self.0.len() - at <= 5 { Verdict::Duplicate(Some(offset)) } else { Verdict::OldDuplicate }
    }
}

proptest! {
    #[test]
    fn any_stamps_are_judged_as_by_one_who_remembers_all(
        tries in prop::collection::vec((0u64..4, 0u64..4, 1u32..4, 0u64..8, any::<bool>()), 1..60),
    ) {
        let mut state = StampState::unknown(Sequence(0));
        let mut remembered = Remembered::default();
        let mut offset = 0;
        for (epoch, ahead, count, behind, is_next) in tries {
            let next = state.next.0;
            let first = if is_next { next } else { (next + ahead).saturating_sub(behind) };
            let tried = stamp(epoch, first, count);
            let verdict = state.check(&tried);
            prop_assert_eq!(verdict, remembered.expect(epoch, first, count));
            if verdict == Verdict::New {
                // Other producers append in between.
                offset += 3;
                state.advance(&tried, Some(LogOffset(offset)));
                remembered.0.push((epoch, first, count, offset));
                offset += u64::from(count);
            }
        }
    }
}
