//! An order book: orders for several symbols are matched by price, then by time. The book of a symbol is as many rows
//! as it needs, in the partition of the symbol; the order's consumption, the rows and the trades are one atomic step.
//!
//! `order-book [DIR [ORDERS]]`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::time::Duration;

use oncelog::{
    ConsumerStyle, Direction, Error, IdempotentProducerConfig, Outcome, Pair, PairRow, PartitionId, Postcard,
    Processor, RecordRef, Result, Store, TableDef, TopicDef, Tx, U64, Utf8, Whence,
};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Buy,
    Sell,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
struct Order {
    side: Side,
    price: u64,
    quantity: u64,
}

#[derive(Serialize, Deserialize, Clone, Copy, Debug)]
struct Trade {
    price: u64,
    quantity: u64,
}

const ORDERS: TopicDef<Utf8, Postcard<Order>> = TopicDef::new("orders").partitions(2);
const TRADES: TopicDef<Utf8, Postcard<Trade>> = TopicDef::new("trades").partitions(2);

/// What waits on one side: quantity by symbol, rank and time. The symbol decides the partition, the rest the order.
type Book = TableDef<Pair<Utf8, Pair<U64, U64>>, U64>;
type Waiting = PairRow<Utf8, Pair<U64, U64>, U64>;
const BUYS: Book = TableDef::new("buys").shards(2);
const SELLS: Book = TableDef::new("sells").shards(2);

impl Side {
    fn book(self) -> Book {
        match self {
            Side::Buy => BUYS,
            Side::Sell => SELLS,
        }
    }

    /// The best price has the lowest rank: the lowest of those who sell, the highest of those who buy.
    fn rank(self, price: u64) -> u64 {
        match self {
            Side::Buy => u64::MAX - price,
            Side::Sell => price,
        }
    }

    fn other(self) -> Side {
        match self {
            Side::Buy => Side::Sell,
            Side::Sell => Side::Buy,
        }
    }
}

fn trade(record: RecordRef<'_, Utf8, Postcard<Order>>, tx: &mut Tx<'_>) -> Result<Outcome> {
    let (symbol, Order { side, price, quantity }) = (record.key()?, record.value()?);
    // The offset is the time of arrival, and never twice the same in a partition.
    let arrived = record.offset().0;
    let other = side.other();
    let mut left = quantity;
    while left > 0 {
        // The best of the other side that is at least as good as the price asked for.
        let (from, to) = ((symbol.to_owned(), (0, 0)), (symbol.to_owned(), (other.rank(price), u64::MAX)));
        let best = tx.table(other.book())?.page(&from..=&to, Direction::Up, 1)?;
        let Some((key, waiting)) = best.into_iter().next() else { break };
        let quantity = left.min(waiting);
        left -= quantity;
        let mut book = tx.table(other.book())?;
        if waiting == quantity {
            book.delete(&key)?
        } else {
            book.put(&key, &(waiting - quantity))?
        }
        tx.append(TRADES, symbol, &Trade { price: other.rank(key.1.0), quantity })?;
    }
    if left > 0 {
        tx.table(side.book())?.put(&(symbol.to_owned(), (side.rank(price), arrived)), &left)?;
    }
    Ok(Outcome::Commit)
}

/// The orders of this example.
fn order(number: u64) -> (&'static str, Order) {
    let dice = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 24;
    let side = if dice & 1 == 0 { Side::Buy } else { Side::Sell };
    let symbol = ["AAA", "BBB", "CCC"][(dice >> 1) as usize % 3];
    (symbol, Order { side, price: 90 + (dice >> 8) % 20, quantity: 1 + (dice >> 16) % 10 })
}

fn main() -> Result<()> {
    let store = Store::open(oncelog_examples::store_dir("order-book"))?;
    let run =
        Processor::new("matcher", ORDERS).table(BUYS).table(SELLS).output(TRADES).threads(2).start(&store, trade)?;
    // A numbered producer writes to one partition; here one for each.
    let gates: Vec<_> = (0..2)
        .map(|number| IdempotentProducerConfig::new("gate").partition(PartitionId(number)))
        .map(|config| store.idempotent_producer(ORDERS, config))
        .collect::<Result<_>>()?;
    let end = oncelog_examples::number(2, 2_000);
    let mut bought: BTreeMap<&str, u64> = BTreeMap::new();
    let mut sold: BTreeMap<&str, u64> = BTreeMap::new();
    let mut issued = [0, 0];
    let mut answers = Vec::new();
    for (symbol, order) in (0..end).map(order) {
        let PartitionId(partition) = ORDERS.partition_of(symbol)?;
        let (gate, issued) = (&gates[partition as usize], &mut issued[partition as usize]);
        if *issued >= gate.current_sequence().0 {
            answers.push(gate.submit(symbol, &order)?);
        }
        *issued += 1;
        *if order.side == Side::Buy { &mut bought } else { &mut sold }.entry(symbol).or_default() += order.quantity;
    }
    answers.into_iter().try_for_each(|answer| answer.wait().map(drop))?;
    if !run.wait_caught_up(Duration::from_secs(600))? {
        return Err(Error::user("the matcher is slow today"));
    }
    run.stop()?;

    let mut traded: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for record in &mut store.consumer(TRADES, ConsumerStyle::NonTx(Whence::Oldest))? {
        let record = record?;
        let (Some(symbol), Some(trade)) = (record.key_as::<Utf8>()?, record.value_as::<Postcard<Trade>>()?) else {
            return Err(Error::user("a trade without content"));
        };
        let (trades, quantity) = traded.entry(symbol.to_owned()).or_default();
        *trades += 1;
        *quantity += trade.quantity;
    }
    let snapshot = store.snapshot()?;
    for symbol in ["AAA", "BBB", "CCC"] {
        let (buys, sells) = (snapshot.group(BUYS, symbol)?, snapshot.group(SELLS, symbol)?);
        let (trades, quantity) = traded.get(symbol).copied().unwrap_or_default();
        let waiting = |rows: &[Waiting]| rows.iter().map(|(_, quantity)| quantity).sum::<u64>();
        let best = |rows: &[Waiting], side: Side| rows.first().map(|row| side.rank(row.0.1.0));
        let (bid, ask) = (best(&buys, Side::Buy), best(&sells, Side::Sell));
        // Nothing is lost, nothing is doubled, and nobody waits who could have traded.
        let whole = |all: &BTreeMap<&str, u64>| all.get(symbol).copied().unwrap_or(0);
        if whole(&bought) != quantity + waiting(&buys) || whole(&sold) != quantity + waiting(&sells) {
            return Err(Error::user(format!("{symbol}: the quantities do not add up")));
        }
        if let (Some(bid), Some(ask)) = (bid, ask)
            && bid >= ask
        {
            return Err(Error::user(format!("{symbol}: the book is crossed, {bid} bid and {ask} asked")));
        }
        println!("{symbol}: {trades} trades over {quantity}; bid {bid:?}, ask {ask:?}");
    }
    store.close()
}
