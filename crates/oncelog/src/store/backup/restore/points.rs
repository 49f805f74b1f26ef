//! Up to which frame each owner is brought.
//!
//! Each owner has a journal of its own, and notes the time by itself. Restored to one time, one owner may be ahead of
//! what it has read of another one: then it is taken back, frame by frame, to the last one at which it is not. That may
//! leave another one ahead of it, so it is done until all fit. It ends, since owners only go back, and none further
//! than the backup, whose owners fit.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::super::super::reading::{Ends, Reads};
use super::Until;
use super::archived::{Archive, Trail};
use super::lay::{Site, owner_file};
use crate::backup::{JOURNAL, OwnerImage, PieceName};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Lsn, OwnerId, unescape_name};
use crate::table::{StateKey, Visit};
use crate::transaction::system;

/// Where an owner is restored to.
pub(super) struct Point {
    pub(super) goal: Lsn,
    /// The frame that the time asked for says, if it is a later one: at that the owner would be ahead of others.
    pub(super) held_back: Option<Lsn>,
    /// The latest moment of which it is known that all until then is in it.
    pub(super) newest_ms: i64,
    pub(super) trail: Trail,
}

/// Each round reads what is archived of all owners; one is enough unless they read each other in a circle. Behind so
/// many they are restored as the backup has them.
const ROUNDS: usize = 32;

impl Site<'_> {
    /// The points of all owners, in the order of the manifest.
    pub(super) fn points(&self) -> Result<Vec<Point>> {
        self.check_owner()?;
        let mut points = self.manifest.owners.iter().map(|owner| self.point_of(owner)).collect::<Result<Vec<_>>>()?;
        if matches!(self.options.until, Until::Time(_)) && points.len() > 1 {
            self.make_fit(&mut points)?;
        }
        Ok(points)
    }

    /// Whether the owner that is to be restored to a frame is in the backup.
    fn check_owner(&self) -> Result<()> {
        let Until::Lsn(name, _) = &self.options.until else { return Ok(()) };
        if self.manifest.owners.iter().any(|owner| owner.name == *name && owner.rows_lsn.is_some()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("no frame of an owner {name:?} is in the backup")))
    }

    /// Owners whose journals are archived and that cannot be brought to any time: the backup has nothing of them.
    pub(super) fn left_out(&self) -> Result<Vec<String>> {
        if !matches!(self.options.until, Until::Time(_)) {
            return Ok(Vec::new());
        }
        let folder = format!("{JOURNAL}/{}", self.manifest.identity);
        let mut left_out = BTreeSet::new();
        for object in self.target.list_objects(&folder, 2)? {
            let Some((owner, piece)) = object.split_once('/') else { continue };
            let (Some(owner), Some(_)) = (unescape_name(owner), PieceName::read(piece)) else { continue };
            if !self.manifest.owners.iter().any(|image| image.name == owner && image.rows_lsn.is_some()) {
                left_out.insert(owner);
            }
        }
        Ok(left_out.into_iter().collect())
    }

    pub(super) fn archive<'a>(&'a self, owner: &'a OwnerImage) -> Archive<'a> {
        Archive::of(self.target, self.manifest, owner)
    }

    fn point_of(&self, owner: &OwnerImage) -> Result<Point> {
        let newest_ms = self.manifest.taken_ms;
        let as_it_is = Point { goal: owner.lsn, held_back: None, newest_ms, trail: Trail::default() };
        let archive = self.archive(owner);
        match &self.options.until {
            _ if owner.rows_lsn.is_none() => Ok(as_it_is),
            Until::Lsn(name, lsn) if *name == owner.name => {
                if owner.rows_lsn.is_some_and(|rows| rows > *lsn) {
                    let what = format!("the backup of owner {name:?} is from after frame {lsn}");
                    return Err(Error::new(ErrorKind::NotFound, what));
                }
                if *lsn <= owner.lsn {
                    return Ok(Point { goal: *lsn, ..as_it_is });
                }
                let trail = archive.trail(&self.options.until)?;
                if trail.end < *lsn {
                    trail.check_gap(&archive)?;
                    let what = format!("the archive of owner {name:?} ends at frame {}, before {lsn}", trail.end);
                    return Err(Error::new(ErrorKind::NotFound, what));
                }
                Ok(Point { goal: *lsn, trail, ..as_it_is })
            }
            Until::Backup | Until::Lsn(..) => Ok(as_it_is),
            Until::Time(ms) if self.manifest.taken_ms > *ms => {
                Err(Error::new(ErrorKind::NotFound, "the backup is from after that time"))
            }
            Until::Time(ms) => {
                let trail = archive.trail(&self.options.until)?;
                let (mut goal, mut newest_ms) = (owner.lsn, newest_ms);
                let has_passed = archive.each_mark(&trail, |mark| {
                    if mark.ms > *ms {
                        return Visit::Stop;
                    }
                    goal = goal.max(mark.lsn);
                    newest_ms = newest_ms.max(mark.ms);
                    Visit::Next
                })?;
                if !has_passed {
                    trail.check_gap(&archive)?;
                }
                Ok(Point { goal, held_back: None, newest_ms, trail })
            }
        }
    }

    /// Takes owners back that are ahead of what they have read.
    fn make_fit(&self, points: &mut [Point]) -> Result<()> {
        let wanted: Vec<Lsn> = points.iter().map(|point| point.goal).collect();
        let owners = &self.manifest.owners;
        let begun = owners.iter().map(|owner| self.state_of(owner)).collect::<Result<Vec<_>>>()?;
        let mut rounds = 0;
        while self.take_back(points, &begun)? {
            rounds += 1;
            if rounds == ROUNDS {
                points.iter_mut().zip(owners).for_each(|(point, owner)| point.goal = owner.lsn);
                break;
            }
        }
        for ((point, wanted), owner) in points.iter_mut().zip(wanted).zip(owners) {
            if point.goal < wanted {
                point.held_back = Some(wanted);
                point.newest_ms = self.newest_ms_of(point, owner)?;
            }
        }
        Ok(())
    }

    /// Takes each owner back to the last frame at which it is not ahead of the others as they are now. Whether one was.
    fn take_back(&self, points: &mut [Point], begun: &[(Ends, Reads)]) -> Result<bool> {
        let owners = &self.manifest.owners;
        let mut ends: BTreeMap<OwnerId, Ends> = BTreeMap::new();
        for ((owner, point), (begun, _)) in owners.iter().zip(&*points).zip(begun) {
            let mut at = begun.clone();
            let behind = (owner.lsn.next(), point.goal);
            self.archive(owner)
                .each_frame(&point.trail, behind, &mut |_, body| at.frame(body).map(|()| Visit::Next))?;
            ends.insert(owner.number, at);
        }
        let mut is_changed = false;
        for ((owner, point), (_, begun)) in owners.iter().zip(points).zip(begun) {
            let (mut reads, mut fits_at) = (begun.clone(), owner.lsn);
            let mut is_ahead = reads.ahead_of(&ends).is_some();
            let behind = (owner.lsn.next(), point.goal);
            self.archive(owner).each_frame(&point.trail, behind, &mut |lsn, body| {
                if reads.frame(body)? {
                    is_ahead = reads.ahead_of(&ends).is_some();
                }
                if !is_ahead {
                    fits_at = lsn;
                }
                Ok(Visit::Next)
            })?;
            is_changed |= fits_at < point.goal;
            point.goal = point.goal.min(fits_at);
        }
        Ok(is_changed)
    }

    /// Topics and progress of an owner, as the backup has them.
    fn state_of(&self, owner: &OwnerImage) -> Result<(Ends, Reads)> {
        let (mut ends, mut reads) = (Ends::default(), Reads::of(owner.number));
        if owner.rows_lsn.is_none() {
            return Ok((ends, reads));
        }
        self.open(&owner_file(&owner.name, "rows"))?.rows(|key, value| {
            let Some((table, shard, own)) = StateKey::read(key) else { return Ok(ControlFlow::Continue(())) };
            // By key, and the store's own tables come first.
            if table > system::NEWEST {
                return Ok(ControlFlow::Break(()));
            }
            if shard == system::SHARD {
                ends.row(table, own, Some(value))?;
                reads.row(table, own, Some(value))?;
            }
            Ok(ControlFlow::Continue(()))
        })?;
        self.open(&owner_file(&owner.name, "frames"))?.frames(|_, body| {
            reads.frame(body)?;
            ends.frame(body)
        })?;
        Ok((ends, reads))
    }

    fn newest_ms_of(&self, point: &Point, owner: &OwnerImage) -> Result<i64> {
        let mut newest_ms = self.manifest.taken_ms;
        self.archive(owner).each_mark(&point.trail, |mark| {
            if mark.lsn > point.goal {
                return Visit::Stop;
            }
            newest_ms = newest_ms.max(mark.ms);
            Visit::Next
        })?;
        Ok(newest_ms)
    }
}
