//! Sensitivity: each sync left out and each checksum not looked at, in turn, must be noticed by the very runs that find
//! nothing wrong otherwise. A safety test that passes without the safety proves nothing.

use oncelog::disk::SyncSite;

use crate::history::{self, Plan};
use crate::rot;

/// The sites whose missing sync is noticed within a few thousand crashes.
pub const QUICK: [SyncSite; 12] = [
    SyncSite::JournalGroup,
    SyncSite::JournalRotate,
    SyncSite::JournalFile,
    SyncSite::JournalDir,
    SyncSite::Segment,
    SyncSite::SegmentDir,
    SyncSite::TopicDir,
    SyncSite::TopicClaim,
    SyncSite::TableFile,
    SyncSite::TableDir,
    SyncSite::ManifestFirst,
    SyncSite::ManifestSecond,
];

/// Runs histories without the syncs of `site` until one violates a promise; gives how many crashes that took.
#[must_use]
pub fn hunt_sync(site: SyncSite, crashes_max: u64) -> Option<(u64, String)> {
    if site == SyncSite::ManifestSecond {
        return (1..20).find_map(|seed| Some((seed, rot::one_bad_copy(seed, Some(site)).err()?)));
    }
    let mut crashes = 0;
    let mut seed = 1;
    while crashes < crashes_max {
        match history::run(Plan { seed, crashes: 25, dropped: Some(site) }) {
            Ok(outcome) => crashes += outcome.crashes,
            Err(violation) => return Some((crashes + 1, violation.what)),
        }
        seed += 1;
    }
    None
}

/// Damages specimens with the checks of `site` passing always, until something silent comes of it.
#[cfg(oncelog_mutants)]
#[must_use]
pub fn hunt_check(site: oncelog::CheckSite) -> Option<(u64, String)> {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rot::{Specimen, survey, survey_guarded};
    if site == oncelog::CheckSite::Fence {
        return hunt_fence();
    }
    let mut tried = 0;
    let mut first = None;
    for (seed, closed) in [(1, true), (2, false)] {
        let Ok(specimen) = Specimen::make(seed, closed) else { continue };
        oncelog::skip_check(Some(site));
        let mut tell = |silent: &str| {
            first.get_or_insert_with(|| silent.to_owned());
        };
        let surveyed = catch_unwind(AssertUnwindSafe(|| {
            survey_guarded(&specimen, 61, &mut tell).tried + survey(&specimen, 601, &mut tell).tried
        }));
        oncelog::skip_check(None);
        tried += surveyed.unwrap_or(0);
        if first.is_some() {
            break;
        }
    }
    first.map(|what| (tried, what))
}

/// Lets commits be answered without looking whether another has the owner: histories have zombies that must notice.
#[cfg(oncelog_mutants)]
fn hunt_fence() -> Option<(u64, String)> {
    oncelog::skip_check(Some(oncelog::CheckSite::Fence));
    let mut crashes = 0;
    let caught = (1..200).find_map(|seed| match history::run(Plan { seed, crashes: 25, dropped: None }) {
        Ok(outcome) => {
            crashes += outcome.crashes;
            None
        }
        Err(violation) => Some(violation.what),
    });
    oncelog::skip_check(None);
    caught.map(|what| (crashes + 1, what))
}
