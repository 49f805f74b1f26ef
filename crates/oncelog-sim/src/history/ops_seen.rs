//! Operations with ids of the outer world: one comes for the first time or again, and all of them are forgotten.

use oncelog::{KeepIds, SeenIds};

use super::ops::Done;
use super::world::World;
use crate::model::Effect;
use crate::schema::{ROWS, SEEN, SEEN_NAME};

impl World {
    /// A message with an id, which counts once.
    pub(super) fn first_time(&mut self) -> Done {
        let id = format!("id {}", self.dice.below(8));
        let known = self.head.row("ids", &id).is_some();
        let taken = self.head.row("rows", "by id").unwrap_or(0) + 1;
        let effect = Effect {
            rows: vec![
                (("ids", id.clone()), Some(1)),
                (("ids-by-age", id.clone()), Some(1)),
                (("rows", "by id".to_owned()), Some(taken)),
            ],
            ..Effect::default()
        };
        let mut told = None;
        let ran = self.store()?.transact(|tx| {
            let first_time = tx.first_time(SEEN, &id)?;
            told = Some(first_time);
            if first_time { tx.table(ROWS)?.put("by id", &taken) } else { Ok(()) }
        });
        if told.is_some_and(|first_time| first_time == known) {
            return Err(format!("{id:?}, known: {known}, was told to come for the first time: {told:?}"));
        }
        match ran {
            // What was only read is durable, and so is all before it that it read.
            Ok(()) if known => self.reconcile(),
            Ok(()) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) => self.in_doubt(if known { vec![] } else { vec![effect] }, &error),
        }
    }

    /// All ids are forgotten.
    pub(super) fn forget_ids(&mut self) -> Done {
        let store = self.store()?;
        // What is handed over and not durable yet is not looked at.
        let forgotten = store.flush().and_then(|()| store.forget_ids(&SeenIds::new(SEEN_NAME, KeepIds::last(0))));
        let known = self.head.rows.keys().filter(|(table, _)| matches!(*table, "ids" | "ids-by-age"));
        let effect = Effect { rows: known.map(|key| (key.clone(), None)).collect(), ..Effect::default() };
        // Not any more from here on, however that ended.
        let again = store.forget_ids(&SEEN);
        match forgotten.and_then(|count| again.map(|_| count)) {
            Ok(count) if 2 * count != effect.rows.len() as u64 => {
                Err(format!("{count} ids were forgotten, of {}", effect.rows.len() / 2))
            }
            Ok(0) => Ok(()),
            Ok(_) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }
}
