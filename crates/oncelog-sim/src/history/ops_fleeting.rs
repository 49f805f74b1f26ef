//! A topic that comes and goes, and questions for times.

use oncelog::{ErrorKind, LogOffset, PartitionId, Step};

use super::ops::Done;
use super::world::World;
use crate::model::Effect;
use crate::schema::{FLEETING, GATHERED, LAX};

impl World {
    /// Appends to a topic that is made for it, or deletes it. One made anew begins at offset 0.
    pub(super) fn fleeting(&mut self) -> Done {
        if self.dice.one_in(3) {
            return self.delete_fleeting();
        }
        if self.dice.one_in(3) {
            // Together with others, which are mostly there.
            let made = self.store()?.create_topics([LAX.spec(), FLEETING.spec(), GATHERED.spec()]);
            if let Err(error) = made {
                return self.in_doubt(Vec::new(), &error);
            }
        }
        let place = ("fleeting", 0);
        let (key, value) = (self.name().into_bytes(), self.bytes());
        let effect = Effect { appends: vec![(place, (key.clone(), value.clone()))], ..Effect::default() };
        match self.store()?.producer(FLEETING).and_then(|producer| producer.append(&key, &value)) {
            Ok(offset) => self.durable_at(effect, &[(place, offset.0)]),
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    fn delete_fleeting(&mut self) -> Done {
        let effect = Effect { deleted: Some("fleeting"), ..Effect::default() };
        // A snapshot does not keep files.
        self.held = None;
        match self.store()?.delete_topic("fleeting") {
            Ok(()) => {
                self.is_durable(effect);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound && self.head.next(("fleeting", 0)) == 0 => Ok(()),
            Err(error) => self.in_doubt(vec![effect], &error),
        }
    }

    /// The first record since a time, by the index and by looking at all.
    pub(super) fn ask_for_a_time(&mut self) -> Done {
        let (store, topic) = (self.store()?, "plain");
        let mut times = Vec::new();
        let looked = store.snapshot().and_then(|snapshot| {
            snapshot.read(topic, PartitionId(0), LogOffset(0), |record| {
                times.push(record.timestamp_ms);
                Ok(Step::Next)
            })
        });
        let asked = match times.len() {
            0 => 0,
            count => {
                times[usize::try_from(self.dice.below(count as u64)).unwrap_or(0)] + i64::from(self.dice.one_in(2))
            }
        };
        match looked.and_then(|_| store.offset_at_time(topic, PartitionId(0), asked)) {
            Ok(found) => {
                let expected = times.iter().take_while(|time| **time < asked).count() as u64;
                if found.0 == expected { Ok(()) } else { Err(format!("since {asked}: {found}, expected {expected}")) }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => self.unreadable(&error),
        }
    }
}
