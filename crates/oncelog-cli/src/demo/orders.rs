//! Made-up orders: few customers order much, many order little. Order `n` of a seed is always the same one, so a worker
//! that starts again needs no position but the number.

use super::dice::{Dice, mix};
use super::parse::Parsed;

const CUSTOMERS: u64 = 5_000;
/// Steps of the draw that chooses a customer: its cube is spread over the customers, so that the first are the busiest.
const STEPS: u64 = 100_000;
const CENTS: std::ops::Range<u64> = 100..5_000;
const THINGS: [&str; 8] = ["lamp", "chair", "teapot", "bicycle", "blanket", "radio", "ladder", "kettle"];

/// Order `number`, counted from 0: its customer, its cents, and its line of text.
pub(super) fn order(seed: u64, number: u64) -> Parsed {
    let mut dice = Dice::new(mix(seed) ^ mix(number));
    let step = dice.below(STEPS);
    let customer = step * step * step / (STEPS * STEPS * STEPS / CUSTOMERS);
    let cents = CENTS.start + dice.below(CENTS.end - CENTS.start);
    let things = THINGS.iter().cycle().skip((dice.roll() & 7) as usize);
    let thing = things.copied().next().unwrap_or_default();
    let client = format!("customer-{customer:04}");
    let text = format!("order {number:07} {client} {}.{:02} EUR {thing}", cents / 100, cents % 100);
    Parsed { client, amount: cents, text: text.into_bytes() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_always_the_same_and_fits_its_text() {
        let first = order(1, 41);
        assert_eq!(first, order(1, 41));
        assert_ne!(first, order(2, 41));
        let text = String::from_utf8(first.text).unwrap();
        let words: Vec<_> = text.split(' ').collect();
        assert_eq!((words[1], words[2]), ("0000041", first.client.as_str()));
        assert_eq!(words[3].replace('.', "").parse(), Ok(first.amount));
    }

    #[test]
    fn few_customers_order_much() {
        let busiest = (0..10_000).filter(|number| order(1, *number).client == "customer-0000").count();
        assert!((400..800).contains(&busiest), "{busiest}");
    }
}
