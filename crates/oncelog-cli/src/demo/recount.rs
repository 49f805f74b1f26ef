//! What must come out: the input read from start to end in one go and added up, without a store.
//!
//! It shares with the worker only what a line means, and how lines are told apart.

use std::collections::BTreeMap;

use super::dice::mix;
use super::input::{Input, Line, Position, Reader};
use super::job::Totals;
use super::parse::Parsed;
use crate::exit::Failure;

/// The numbers of lines that are kept to be shown.
const SHOWN: usize = 5;

/// What the input holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Recount {
    pub(super) clients: BTreeMap<String, Client>,
    /// All lines, taken or not.
    pub(super) lines: u64,
    pub(super) not_parsed: Refused,
    pub(super) too_long: Refused,
    /// Differs, most likely, for inputs that differ.
    pub(super) digest: u64,
}

/// What must be found of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) totals: Totals,
    pub(super) trail: Trail,
    /// The first total above the limit.
    pub(super) alert: Option<u64>,
}

/// Lines that cannot be taken: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) count: u64,
    pub(super) first: Vec<u64>,
}

impl Refused {
    fn add(&mut self, line: u64) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push(line);
        }
    }
}

/// The order of a client's requests, in one number: equal for the same lines in the same order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trail(u64);

impl Trail {
    pub(super) fn add(&mut self, line: u64, amount: u64) {
        self.0 = mix(mix(self.0 ^ line).wrapping_add(amount));
    }

    fn add_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word), chunk.len() as u64);
        }
    }
}

impl Recount {
    /// Reads and adds up.
    ///
    /// # Errors
    /// The input cannot be read.
    pub(super) fn of(input: &Input, repeat: u64, alert_over: u64) -> Result<Recount, Failure> {
        let mut recount = Recount::default();
        let mut digest = Trail::default();
        let mut reader = Reader::new(input.clone(), repeat, Position::START);
        while let Some((number, line)) = reader.next()? {
            recount.lines += 1;
            match line {
                Line::NotParsed => recount.not_parsed.add(number),
                Line::TooLong => recount.too_long.add(number),
                Line::Taken(parsed) => {
                    if reader.position().pass == 0 {
                        digest.add(number, parsed.amount);
                        digest.add_bytes(&parsed.text);
                    }
                    recount.add(number, parsed, alert_over);
                }
            }
        }
        digest.add(recount.lines, recount.not_parsed.count);
        recount.digest = digest.0;
        Ok(recount)
    }

    /// How many records there must be.
    pub(super) fn records(&self) -> u64 {
        self.lines - self.not_parsed.count - self.too_long.count
    }

    /// The alerts there must be, by client.
    pub(super) fn alerts(&self) -> impl Iterator<Item = (&str, u64)> {
        self.clients.iter().filter_map(|(name, client)| Some((name.as_str(), client.alert?)))
    }

    fn add(&mut self, number: u64, parsed: Parsed, alert_over: u64) {
        let client = self.clients.entry(parsed.client).or_default();
        client.totals.hits += 1;
        client.totals.amount = client.totals.amount.saturating_add(parsed.amount);
        client.trail.add(number, parsed.amount);
        if client.alert.is_none() && client.totals.amount > alert_over {
            client.alert = Some(client.totals.amount);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_added_up_with_one_alert_for_each_customer_over_the_limit() {
        let orders = Input::Orders { records: 1000, seed: 1 };
        let (once, twice) = (Recount::of(&orders, 1, 100_000).unwrap(), Recount::of(&orders, 2, 100_000).unwrap());
        assert_eq!((once.records(), twice.records()), (1000, 2000));
        assert_ne!(once.digest, twice.digest);
        for (name, client) in &once.clients {
            assert_eq!(client.totals.hits * 2, twice.clients[name].totals.hits);
            assert_eq!(client.alert.is_some(), client.totals.amount > 100_000);
            assert!(client.alert.is_none_or(|alert| alert > 100_000 && alert <= client.totals.amount));
            assert!(client.alert.is_none() || client.alert == twice.clients[name].alert);
        }
        assert!(once.alerts().count() > 0);
    }

    #[test]
    fn a_trail_knows_order_and_repetition() {
        let trail = |lines: &[u64]| {
            let mut trail = Trail::default();
            lines.iter().for_each(|line| trail.add(*line, 5));
            trail
        };
        assert_eq!(trail(&[1, 2, 3]), trail(&[1, 2, 3]));
        for other in [&[1, 3, 2][..], &[1, 2], &[1, 2, 3, 3], &[2, 3]] {
            assert_ne!(trail(other), trail(&[1, 2, 3]));
        }
    }
}
