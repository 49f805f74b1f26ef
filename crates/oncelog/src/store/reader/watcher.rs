//! Threads that wait for other owners, one for each owner that somebody waits for: what it shows is raised as news of
//! the own store. So whoever waits for several owners at once, and whoever waits as a task, waits for one thing.
//!
//! ```text
//! page of the other owner -- futex --> its watcher -- news --> consumers and tasks of this store
//! ```
//!
//! Invariant: a watcher says that it waits before it looks at what there is. So what comes after its look wakes it, and
//! what came before is raised.

use std::collections::BTreeMap;
use std::time::Duration;

use super::live::Live;
use super::owner::{OwnerReader, View};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::Epoch;
use crate::page::News;
use crate::view;
use crate::wake::{Arc, AtomicBool, Mutex, Ordering, Weak, spawn};

/// An owner that was killed, or overtaken and does not know it, is noticed after so long without news; so is a watcher
/// that nobody needs any more.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Without an owner nothing comes; one that opens is noticed after a pause of these, which double.
const LOOK_FOR_OWNER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(40));

/// The watchers of a store, by owner.
#[derive(Default)]
pub(in crate::store) struct Watchers(Mutex<BTreeMap<String, Weak<Watcher>>>);

/// A thread that watches an owner as long as somebody keeps this.
pub(in crate::store) struct Watcher {
    stop: Arc<AtomicBool>,
}

impl Watchers {
    /// The watcher of that owner, started if there is none. What it sees it raises as news of `view`.
    ///
    /// # Errors
    /// `Unavailable`: there is no thread to be had.
    pub(super) fn watch(&self, owner: &Arc<OwnerReader>, view: &Arc<view::View>) -> Result<Arc<Watcher>> {
        let mut watchers = self.0.lock();
        let name = &owner.layout.name;
        if let Some(watcher) = watchers.get(name).and_then(Weak::upgrade) {
            return Ok(watcher);
        }
        let watcher = Arc::new(Watcher { stop: Arc::default() });
        let (owner, view, stop) = (Arc::clone(owner), Arc::clone(view), Arc::clone(&watcher.stop));
        // Not joined: it ends by itself soon after it is told to, and only reads till then.
        spawn(format!("oncelog-watch-{name}"), move || watch(&owner, &view, &stop)).map_err(|error| {
            Error::new(ErrorKind::Unavailable, "no thread to wait for another owner").because(error)
        })?;
        watchers.insert(name.clone(), Arc::downgrade(&watcher));
        Ok(watcher)
    }

    /// Ends all of them.
    pub(in crate::store) fn end(&self) {
        for (_, watcher) in std::mem::take(&mut *self.0.lock()) {
            if let Some(watcher) = watcher.upgrade() {
                watcher.stop.store(true, Ordering::SeqCst);
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

/// What is to be seen of an owner.
enum Seen {
    Page(Arc<Live>, News),
    /// Nobody has it; the opening whose end is shown.
    Nobody(Epoch),
    /// What a look at it is answered with now.
    Error(ErrorKind),
}

impl PartialEq for Seen {
    fn eq(&self, other: &Seen) -> bool {
        match (self, other) {
            (Seen::Page(page, news), Seen::Page(other, others)) => Arc::ptr_eq(page, other) && news == others,
            (Seen::Nobody(epoch), Seen::Nobody(other)) => epoch == other,
            (Seen::Error(kind), Seen::Error(other)) => kind == other,
            _ => false,
        }
    }
}

fn watch(owner: &OwnerReader, view: &view::View, stop: &AtomicBool) {
    let (mut seen, mut pause) = (None, LOOK_FOR_OWNER.0);
    while !stop.load(Ordering::SeqCst) {
        let found = look(owner);
        if seen.as_ref() != Some(&found) {
            seen = Some(found);
            pause = LOOK_FOR_OWNER.0;
            view.news.raise();
            continue;
        }
        match &found {
            Seen::Page(live, news) => {
                live.watch.wait_behind(news, LOOK_AGAIN);
                if live.watch.news() == *news {
                    // An error is met by the next look.
                    let _ = owner.look_again();
                }
            }
            _ => {
                owner.clock.sleep(pause);
                pause = (pause * 2).min(LOOK_FOR_OWNER.1);
            }
        }
    }
}

fn look(owner: &OwnerReader) -> Seen {
    match owner.view() {
        Ok(View::Live(live)) => {
            let news = live.watch.news();
            Seen::Page(live, news)
        }
        Ok(View::Offline(offline)) => Seen::Nobody(offline.epoch),
        Err(error) => Seen::Error(error.kind()),
    }
}
