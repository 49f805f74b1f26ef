//! Operations of a coordinator over the store: messages that come in order, again, too early and twice at once; commits
//! and aborts; outcomes that are asked for after crashes and forgotten.

use std::time::Duration;

use oncelog::{Coordinator, CoordinatorError, Error, PartitionId, ProducerStamp, Sequence, Store, TxnId, TxnOutcome};

use super::ops::Done;
use super::world::World;
use crate::model::{Effect, Model};
use crate::observe::outcome_key;
use crate::schema::{COORDINATED, FEED, OUT};

/// So many transactions are remembered, to be asked for later.
const TXNS_MAX: usize = 12;

fn stamp(sequence: u64) -> ProducerStamp {
    ProducerStamp::new(FEED, PartitionId(0), Sequence(sequence))
}

fn outcome_row(txn: TxnId) -> (&'static str, String) {
    ("outcomes", outcome_key(&[txn.epoch.to_be_bytes(), txn.number.to_be_bytes()].concat()))
}

impl World {
    /// A message is taken in by a transaction, or given up, or was taken in before.
    pub(super) fn coordinate(&mut self) -> Done {
        let name = (FEED, ("", 0));
        let next = self.head.stamp(name);
        let sequence = match self.dice.below(6) {
            0 => next.saturating_sub(1),
            1 => next + 1,
            _ => next,
        };
        let store = self.store()?;
        let coordinator = match store.state_backend(COORDINATED) {
            // Outcomes are forgotten by an operation of their own.
            Ok(backend) => Coordinator::new(backend).outcome_retention(Duration::MAX),
            Err(error) => return self.in_doubt(vec![], &error),
        };
        self.ask_for_outcomes(&coordinator)?;
        match coordinator.begin_transaction(&stamp(sequence)) {
            Ok(Some(txn)) if sequence == next => self.take_in_by(&coordinator, txn, next),
            Ok(None) if sequence < next => {
                self.reconcile()?;
                let durable = self.store.is_none() || self.certain.stamp(name) > sequence;
                if durable { Ok(()) } else { Err(format!("{FEED}: {sequence} is not durable yet")) }
            }
            Err(CoordinatorError::OutOfOrder { expected: Sequence(expected), .. })
                if expected == next && sequence > next =>
            {
                Ok(())
            }
            Err(CoordinatorError::Store(error)) => self.in_doubt(vec![], &error),
            other => Err(format!("{FEED} at {next}: {sequence} was answered {other:?}")),
        }
    }

    fn take_in_by(&mut self, coordinator: &Coordinator, txn: TxnId, next: u64) -> Done {
        self.txns.push(txn);
        if self.txns.len() > TXNS_MAX {
            self.txns.remove(0);
        }
        for again in [next, next + 1] {
            match coordinator.begin_transaction(&stamp(again)) {
                Err(CoordinatorError::InProgress(_)) => {}
                Err(CoordinatorError::Store(error)) => return self.in_doubt(vec![], &error),
                other => return Err(format!("{FEED}: beside an open transaction {again} was answered {other:?}")),
            }
        }
        let (key, gone) = (self.name(), self.name());
        let value = self.head.row("state", &key).unwrap_or(0) + 1;
        let mut rows = vec![(("state", key.clone()), Some(value)), (outcome_row(txn), Some(1))];
        if gone != key {
            rows.push((("state", gone.clone()), None));
        }
        let effect = Effect {
            appends: vec![(("out", 0), (key.clone().into_bytes(), value.to_be_bytes().to_vec()))],
            rows,
            stamps: vec![((FEED, ("", 0)), next + 1)],
            ..Effect::default()
        };
        if let Err(error) = fill(coordinator, txn, &self.head, &key, &gone, value) {
            return self.after_error(&error);
        }
        if self.dice.one_in(5) {
            coordinator.abort_transaction(txn).map_err(|error| format!("an abort says {error:?}"))?;
            return match coordinator.commit_transaction(txn) {
                Err(CoordinatorError::AlreadyFinalised(_)) => Ok(()),
                Err(CoordinatorError::Store(error)) => self.after_error(&error),
                other => Err(format!("committing what was aborted: {other:?}")),
            };
        }
        match coordinator.commit_transaction(txn) {
            Ok(_) => {
                self.is_durable(effect);
                match coordinator.commit_transaction(txn) {
                    Err(CoordinatorError::AlreadyCommitted(_)) => Ok(()),
                    Err(CoordinatorError::Store(error)) => self.after_error(&error),
                    other => Err(format!("committing again: {other:?}")),
                }
            }
            Err(CoordinatorError::Store(error)) => self.in_doubt(vec![effect], &error),
            Err(other) => Err(format!("a commit says {other:?}")),
        }
    }

    /// Of the transactions that are remembered: committed are exactly those whose effects are there.
    fn ask_for_outcomes(&mut self, coordinator: &Coordinator) -> Done {
        self.reconcile()?;
        // What is in doubt may come to be there, or not.
        if self.store.is_none() || !self.pending.is_empty() {
            return Ok(());
        }
        for txn in &self.txns {
            let row = outcome_row(*txn);
            let is_there = self.certain.row(row.0, &row.1).is_some();
            match coordinator.outcome(*txn) {
                Ok(TxnOutcome::Committed) if is_there => {}
                Ok(TxnOutcome::Aborted) if !is_there => {}
                Ok(TxnOutcome::Unknown) if !is_there && self.forgot => {}
                // The store ended meanwhile: the operation will find that out.
                Err(CoordinatorError::Store(_)) => return Ok(()),
                other => return Err(format!("transaction {txn}, committed: {is_there}, is told to be {other:?}")),
            }
        }
        Ok(())
    }

    /// Outcomes are forgotten, all of them; duplicates are not.
    pub(super) fn forget_outcomes(&mut self) -> Done {
        let store = self.store()?;
        let known = self.head.rows.keys().filter(|(table, _)| *table == "outcomes");
        let effect = Effect { rows: known.map(|key| (key.clone(), None)).collect(), ..Effect::default() };
        let forgotten = forget(&store);
        self.forgot |= !effect.rows.is_empty();
        match forgotten {
            Ok(()) if effect.rows.is_empty() => Ok(()),
            Ok(()) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }
}

fn forget(store: &Store) -> oncelog::Result<()> {
    // What is handed over and not durable yet is not looked at.
    store.flush()?;
    let coordinator = Coordinator::new(store.state_backend(COORDINATED)?).outcome_retention(Duration::ZERO);
    Ok(coordinator.maintenance().map(drop)?)
}

fn fill(coordinator: &Coordinator, txn: TxnId, head: &Model, key: &str, gone: &str, value: u64) -> oncelog::Result<()> {
    let found = coordinator.state_in(txn, key.as_bytes())?;
    let expected = head.row("state", key).map(|value| value.to_be_bytes().to_vec());
    assert_eq!(found, expected, "a transaction sees the state before it");
    coordinator.add_state_change(txn, key.as_bytes(), &value.to_be_bytes())?;
    if gone != key {
        coordinator.remove_state(txn, gone.as_bytes())?;
    }
    assert_eq!(coordinator.state_in(txn, key.as_bytes())?, Some(value.to_be_bytes().to_vec()), "and its own changes");
    coordinator.with_store(txn, |tx| tx.append(OUT, key, &value)).map_err(Error::from)
}
