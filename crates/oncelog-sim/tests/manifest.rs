//! The second copy of the manifest: for when the first is damaged.

#![allow(clippy::unwrap_used, reason = "a test may fail by panic")]

use oncelog::disk::SyncSite;
use oncelog_sim::disk::Slip;
use oncelog_sim::rot::one_bad_copy;

#[test]
fn behind_an_answer_any_one_copy_may_be_damaged() {
    for seed in 1..6 {
        one_bad_copy(seed, None).unwrap();
        let missed = one_bad_copy(seed, Some(Slip::LeftOut(SyncSite::ManifestSecond)));
        assert!(missed.is_err(), "without its sync the second copy is not there");
    }
}
