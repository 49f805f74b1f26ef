//! A table of many rows with long keys, of which whole ranges come and go: pages of the table file split, empty, are
//! freed and used again, over trims and crashes.

use super::ops::Done;
use super::world::World;
use crate::model::Effect;
use crate::schema::WIDE;

/// Rows that there may be.
const ROWS: u64 = 120;

/// Long enough that a page of the table file holds a few of them only.
fn key(number: u64) -> String {
    format!("{number:04}{}", "-".repeat(180))
}

impl World {
    /// One transaction that fills a range or empties it, and changes a few rows elsewhere; then a look at a range.
    pub(super) fn churn(&mut self) -> Done {
        let first = self.dice.below(ROWS);
        let end = (first + 1 + self.dice.below(60)).min(ROWS);
        let fills = self.dice.one_in(2);
        let mut rows = Vec::new();
        if fills {
            for number in (first..end).step_by(1 + self.dice.up_to(1)) {
                rows.push((("wide", key(number)), Some(self.dice.below(1000))));
            }
        } else {
            let gone = self.head.rows.range(("wide", key(first))..("wide", key(end)));
            rows.extend(gone.map(|(row, _)| (row.clone(), None)));
        }
        for _ in 0..self.dice.below(4) {
            let number = self.dice.below(ROWS);
            rows.push((("wide", key(number)), Some(number)));
        }
        let store = self.store()?;
        let ran = store.transact(|tx| {
            let mut table = tx.table(WIDE)?;
            if !fills {
                // What the range holds, as the transaction sees it, and not what the model says.
                for (found, _) in table.scan(&key(first)[..]..&key(end)[..])? {
                    table.delete(&found)?;
                }
            }
            for ((_, key), value) in &rows {
                match value {
                    Some(value) => table.put(key, value)?,
                    None => table.delete(key)?,
                }
            }
            Ok(())
        });
        let effect = Effect { rows, ..Effect::default() };
        match ran {
            Ok(()) => self.is_durable(effect),
            Err(error) => return self.in_doubt(vec![effect], &error),
        }
        self.look_at_range()
    }

    fn look_at_range(&mut self) -> Done {
        let first = self.dice.below(ROWS);
        let (from, to) = (key(first), key(first + 1 + self.dice.below(ROWS)));
        let found = self.store()?.snapshot().and_then(|snapshot| snapshot.scan(WIDE, &from[..]..&to[..]));
        let expected =
            self.head.rows.range(("wide", from)..("wide", to)).map(|((_, key), value)| (key.clone(), *value));
        match found {
            Ok(found) if found.iter().cloned().eq(expected.clone()) => Ok(()),
            Ok(found) => {
                Err(format!("rows from {first}: {} found, {} expected, or others", found.len(), expected.count()))
            }
            Err(error) => self.unreadable(&error),
        }
    }
}
