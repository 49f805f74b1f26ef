//! Offsets of sources outside of the store, kept in a table of its own, with a hook that must hear of what has happened
//! and of nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use oncelog::{CollectingCommitHook, HookedOffsetStore, Offset, OffsetError, OffsetStore};

use super::ops::Done;
use super::world::World;
use crate::model::{Effect, Model};
use crate::schema::FEEDS;

/// Offsets by source; `None`: it is, or was, not there.
type Changes = BTreeMap<String, Option<u64>>;

/// What is asked of the store of offsets, with what the model says must come of it.
struct Ask {
    how: How,
    changes: Changes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Commit,
    CommitAll,
    Reset,
    Clear,
    ClearAll,
}

impl Ask {
    /// Does it; gives what was there before of each source that it changed.
    fn run(&self, store: &dyn OffsetStore) -> Result<Changes, OffsetError> {
        let number = |offset: Option<Offset>| offset.as_ref().and_then(Offset::as_sequence);
        let (source, next) = self.changes.first_key_value().map_or(("", None), |(source, next)| (&source[..], *next));
        let one = Offset::Sequence(next.unwrap_or(0));
        let before = match self.how {
            How::Commit => store.commit(source, &one)?,
            How::Reset => store.reset(source, &one)?,
            How::Clear => store.clear(source)?,
            How::CommitAll => {
                let offset = |next: &Option<u64>| Offset::Sequence(next.unwrap_or(0));
                let offsets = self.changes.iter().map(|(source, next)| (source.clone(), offset(next))).collect();
                let before = store.commit_all(&offsets)?;
                return Ok(before.into_iter().map(|(source, before)| (source, number(before))).collect());
            }
            How::ClearAll => {
                let before = store.clear_all()?;
                return Ok(before.into_iter().map(|(source, before)| (source, number(Some(before)))).collect());
            }
        };
        Ok(Changes::from([(source.to_owned(), number(before))]))
    }

    fn before(&self, model: &Model) -> Changes {
        self.changes.keys().map(|source| (source.clone(), model.row("feeds", source))).collect()
    }

    /// Whether it must be refused: only a reset goes back, and one that goes back stops all that come with it.
    fn goes_back(&self, model: &Model) -> bool {
        let lower = |(source, next): (&String, &Option<u64>)| *next < model.row("feeds", source);
        matches!(self.how, How::Commit | How::CommitAll) && self.changes.iter().any(lower)
    }

    fn effect(&self) -> Effect {
        let rows = self.changes.iter().map(|(source, next)| (("feeds", source.clone()), *next));
        Effect { rows: rows.collect(), ..Effect::default() }
    }
}

impl World {
    fn ask_outside(&mut self) -> Ask {
        let how = [How::Commit, How::Commit, How::CommitAll, How::Reset, How::Clear, How::ClearAll][self.dice.up_to(5)];
        let there = self.head.rows.range(("feeds", String::new())..("feeds~", String::new()));
        let there: Vec<String> = there.map(|((_, source), _)| source.clone()).collect();
        let sources = match how {
            How::ClearAll => there,
            How::CommitAll => (0..4).filter(|_| !self.dice.one_in(3)).map(|n| format!("feed-{n}")).collect(),
            _ => vec![format!("feed-{}", self.dice.below(4))],
        };
        let mut next = |source: &String| {
            let now = self.head.row("feeds", source).unwrap_or(0);
            Some((now + self.dice.below(6)).saturating_sub(1))
        };
        let clears = matches!(how, How::Clear | How::ClearAll);
        let changes = sources.into_iter().map(|source| (source.clone(), if clears { None } else { next(&source) }));
        Ask { how, changes: changes.collect() }
    }

    /// A change of the offsets of sources outside.
    pub(super) fn offsets_outside(&mut self) -> Done {
        let ask = self.ask_outside();
        let (before, goes_back) = (ask.before(&self.head), ask.goes_back(&self.head));
        let hook = Arc::new(CollectingCommitHook::new());
        let offsets = HookedOffsetStore::new(self.store()?.offset_store(FEEDS))
            .clock(Arc::clone(&self.clock) as _)
            .add_hook(Arc::clone(&hook));
        let answer = ask.run(&offsets);
        check_hook(&hook, if answer.is_ok() { Some((&ask, &before)) } else { None })?;
        match answer {
            Ok(_) if goes_back => Err(format!("{:?} goes back: {before:?} to {:?}", ask.how, ask.changes)),
            Ok(found) if found != before => Err(format!("{:?} replaced {found:?}, expected {before:?}", ask.how)),
            // What takes nothing away may need no frame.
            Ok(_) if before.values().chain(ask.changes.values()).all(Option::is_none) => Ok(()),
            Ok(_) => {
                self.is_durable(ask.effect());
                Ok(())
            }
            Err(OffsetError::InvalidOffset(_)) if goes_back => Ok(()),
            Err(OffsetError::Store(error)) => {
                self.in_doubt(if goes_back { vec![] } else { vec![ask.effect()] }, &error)
            }
            Err(error) => Err(format!("{:?} of {:?} over {before:?} says {error}", ask.how, ask.changes)),
        }
    }
}

/// The hook has heard of each change once, with what it replaced; of nothing where nothing is known to have happened.
fn check_hook(hook: &CollectingCommitHook, done: Option<(&Ask, &Changes)>) -> Done {
    let number = |offset: Option<Offset>| offset.as_ref().and_then(Offset::as_sequence);
    let commits =
        hook.commits().into_iter().map(|info| (info.source, (number(Some(info.offset)), number(info.previous_offset))));
    let deletes = hook.deletes().into_iter().map(|info| (info.source, (None, number(info.previous_offset))));
    let heard: Vec<_> = commits.chain(deletes).collect();
    let expected: Vec<_> = done.map_or_else(Vec::new, |(ask, before)| {
        let change = |(source, next): (&String, &Option<u64>)| (source.clone(), (*next, before[source]));
        // Where nothing was and nothing came nothing has happened.
        ask.changes.iter().map(change).filter(|(_, change)| *change != (None, None)).collect()
    });
    if heard == expected { Ok(()) } else { Err(format!("a hook was told {heard:?}, expected {expected:?}")) }
}
