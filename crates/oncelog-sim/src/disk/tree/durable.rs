//! The names as the disk holds them: what a sync of a directory saves, and what a power cut leaves.

#[cfg(test)]
use std::collections::BTreeMap;
use std::collections::BTreeSet;

#[cfg(test)]
use super::Dir;
use super::{Body, Change, Ino, Node, Plan, ROOT, Tree};

impl Tree {
    /// Makes the names in `dir` durable.
    pub(in crate::disk) fn sync_dir(&mut self, dir: Ino) {
        let needed = self.needed_for(dir);
        self.settle(|index, _| needed[index].then_some(true));
    }

    /// A directory sync that failed: what `plan` spares is durable, and later syncs do not know of the rest.
    pub(in crate::disk) fn fail_sync_dir(&mut self, dir: Ino, plan: &Plan) {
        let (needed, plan) = (self.needed_for(dir), plan.for_node(dir));
        let involved = self.log.iter().zip(&needed).filter(|(_, needed)| **needed);
        self.diverged.extend(involved.flat_map(|(change, _)| change.dirs()));
        self.settle(|index, change| needed[index].then(|| plan.keeps_entry(change.time)));
    }

    /// Which changes of the log a sync of `dir` saves: those in it, and for each of them the earlier ones of the same
    /// node or name, wherever they were. Saved out of order, a rename would be undone by the one before it.
    fn needed_for(&self, dir: Ino) -> Vec<bool> {
        let mut needed = vec![false; self.log.len()];
        let (mut inos, mut places) = (BTreeSet::new(), BTreeSet::new());
        for (index, change) in self.log.iter().enumerate().rev() {
            let earlier = inos.contains(&change.ino) || change.places().any(|place| places.contains(place));
            if earlier || change.dirs().any(|touched| touched == dir) {
                needed[index] = true;
                inos.insert(change.ino);
                places.extend(change.places());
            }
        }
        needed
    }

    /// The power goes: what `plan` spares of names and bytes is what there is now, and nobody has anything open.
    pub(in crate::disk) fn power_cut(&mut self, plan: &Plan) {
        let mut touched = std::mem::take(&mut self.diverged);
        touched.extend(self.log.iter().flat_map(Change::dirs));
        self.settle(|_, change| {
            let dir = change.dirs().last().unwrap_or(ROOT);
            Some(plan.for_node(dir).keeps_entry(change.time))
        });
        if !touched.is_empty() {
            touched.into_iter().for_each(|dir| self.show_durable(dir));
            self.sweep();
        }
        for (ino, node) in &mut self.nodes {
            if let Body::File(file) = &mut node.body {
                file.inode.power_cut(&plan.for_node(*ino));
            }
        }
        self.close_all();
    }

    /// All locks are free, and those who held them have their files still open.
    pub(in crate::disk) fn break_locks(&mut self) {
        for node in self.nodes.values_mut() {
            if let Body::File(file) = &mut node.body {
                file.lock = None;
            }
        }
    }

    /// All handles end: locks are free, and files without a name are gone.
    pub(in crate::disk) fn close_all(&mut self) {
        let mut unnamed = Vec::new();
        for (ino, node) in &mut self.nodes {
            if let Body::File(file) = &mut node.body {
                file.lock = None;
                file.handles = 0;
                if node.home.is_none() {
                    unnamed.push(*ino);
                }
            }
        }
        unnamed.into_iter().for_each(|ino| self.free_if_lost(ino));
    }

    /// Frees a file that no handle, no name, and no crash can bring back.
    pub(in crate::disk) fn free_if_lost(&mut self, ino: Ino) {
        let Some(Node { body: Body::File(file), home: None, durable_home: None }) = self.nodes.get(&ino) else {
            return;
        };
        if file.handles == 0 && !self.log.iter().any(|change| change.ino == ino) {
            self.nodes.remove(&ino);
        }
    }

    /// Goes over the log in order: `Some(true)` makes a change durable, `Some(false)` forgets it, `None` leaves it.
    fn settle(&mut self, verdict: impl Fn(usize, &Change) -> Option<bool>) {
        let mut lost = Vec::new();
        for (index, change) in std::mem::take(&mut self.log).into_iter().enumerate() {
            match verdict(index, &change) {
                Some(true) => lost.extend(self.make_durable(&change)),
                Some(false) => lost.push(change.ino),
                None => self.log.push(change),
            }
        }
        lost.into_iter().for_each(|ino| self.free_if_lost(ino));
    }

    /// Applies one change to the durable names, which need not be those it was made on: changes before it may have been
    /// lost. A removal removes whatever has the name; a new name replaces what had it, and the node's older name.
    /// Returns the nodes that lost their name.
    fn make_durable(&mut self, change: &Change) -> Vec<Ino> {
        let stale_home = self.nodes.get_mut(&change.ino).and_then(|node| match change.to {
            Some(_) => node.durable_home.take(),
            None => None,
        });
        let removed = if change.to.is_some() { stale_home } else { change.from.clone() };
        let mut lost: Vec<_> =
            removed.and_then(|(dir, name)| self.dir_mut(dir).durable.remove(&name)).into_iter().collect();
        if let Some((dir, name)) = &change.to {
            lost.extend(self.dir_mut(*dir).durable.insert(name.clone(), change.ino));
        }
        for ino in &lost {
            if let Some(node) = self.nodes.get_mut(ino) {
                node.durable_home = None;
            }
        }
        if let (Some(to), Some(node)) = (&change.to, self.nodes.get_mut(&change.ino)) {
            node.durable_home = Some(to.clone());
        }
        lost
    }

    /// Forgets the cached names of `dir` for the durable ones.
    fn show_durable(&mut self, ino: Ino) {
        let dir = self.dir_mut(ino);
        let before = std::mem::replace(&mut dir.entries, dir.durable.clone());
        let after: Vec<_> = dir.durable.iter().map(|(name, child)| (*child, name.clone())).collect();
        for child in before.values() {
            // Not when another directory, shown before, has it by now.
            if let Some(node) = self.nodes.get_mut(child)
                && node.home.as_ref().is_some_and(|(dir, _)| *dir == ino)
            {
                node.home = None;
            }
        }
        for (child, name) in after {
            if let Some(node) = self.nodes.get_mut(&child) {
                node.home = Some((ino, name));
            }
        }
    }

    /// Drops what cannot be reached from the root.
    fn sweep(&mut self) {
        let mut reached = BTreeSet::new();
        let mut open = vec![ROOT];
        while let Some(ino) = open.pop() {
            reached.insert(ino);
            if let Ok(dir) = self.dir(ino) {
                open.extend(dir.entries.values());
            }
        }
        self.nodes.retain(|ino, _| reached.contains(ino));
    }
}

#[cfg(test)]
impl Tree {
    /// Checks the invariants at the head of the module above.
    pub(in crate::disk) fn assert_sound(&self) {
        let (mut homes, mut durable_homes) = (BTreeMap::new(), BTreeMap::new());
        for (dir, node) in &self.nodes {
            let Body::Dir(Dir { entries, durable }) = &node.body else { continue };
            let is_clean =
                !self.diverged.contains(dir) && self.log.iter().all(|change| change.dirs().all(|at| at != *dir));
            assert!(!is_clean || entries == durable, "directory {dir} differs from the disk, and nothing says so");
            for (entries, homes) in [(entries, &mut homes), (durable, &mut durable_homes)] {
                for (name, ino) in entries {
                    assert!(homes.insert(*ino, (*dir, name.clone())).is_none(), "{ino} has two names");
                }
            }
        }
        for (ino, node) in &self.nodes {
            assert_eq!(homes.remove(ino), node.home, "cached name of {ino}");
            assert_eq!(durable_homes.remove(ino), node.durable_home, "durable name of {ino}");
        }
        assert!(homes.is_empty() && durable_homes.is_empty(), "a name without a node");
        assert!(self.log.iter().all(|change| self.nodes.contains_key(&change.ino)), "a change without a node");
    }
}
