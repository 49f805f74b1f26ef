//! A ledger: four threads move money between accounts. Each transfer is one transaction over two rows and a record of
//! what was done, so the sum never changes, and the records alone give the same balances. Kill it at any moment.
//!
//! `transfer-ledger [DIR [TRANSFERS]]`

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::collections::BTreeMap;
use std::thread;

use oncelog::{ConsumerStyle, Error, Postcard, Result, Store, TableDef, TopicDef, U64, Whence};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Transfer {
    from: u64,
    to: u64,
    cents: u64,
}

const BALANCES: TableDef<U64, U64> = TableDef::new("balances");
const TRANSFERS: TopicDef<U64, Postcard<Transfer>> = TopicDef::new("transfers");

const ACCOUNTS: u64 = 20;
const FIRST_BALANCE: u64 = 100_000;
const THREADS: u64 = 4;

/// Opens the accounts, once: all of them or none.
fn open_accounts(store: &Store) -> Result<()> {
    store.transact(|tx| {
        let mut balances = tx.table(BALANCES)?;
        if balances.get(&0)?.is_none() {
            for account in 0..ACCOUNTS {
                balances.put(&account, &FIRST_BALANCE)?;
            }
        }
        Ok(())
    })
}

/// Moves money if it is there. What was read is looked at again when the transaction gets its place: if another one has
/// changed a row meanwhile, `transact` runs the closure again.
fn transfer(store: &Store, from: u64, to: u64, cents: u64) -> Result<bool> {
    store.transact(|tx| {
        let mut balances = tx.table(BALANCES)?;
        let left = balances.get(&from)?.unwrap_or(0);
        let Some(left) = left.checked_sub(cents) else { return Ok(false) };
        balances.put(&from, &left)?;
        balances.update(&to, |balance| balance.unwrap_or(0) + cents)?;
        tx.append(TRANSFERS, &from, &Transfer { from, to, cents })?;
        Ok(true)
    })
}

/// The balances as the records tell them, beside those of the table.
fn audit(store: &Store) -> Result<()> {
    let mut told: BTreeMap<u64, u64> = (0..ACCOUNTS).map(|account| (account, FIRST_BALANCE)).collect();
    for record in &mut store.consumer(TRANSFERS, ConsumerStyle::NonTx(Whence::Oldest))? {
        let record = record?;
        let Some(Transfer { from, to, cents }) = record.value_as::<Postcard<Transfer>>()? else { continue };
        *told.entry(from).or_default() -= cents;
        *told.entry(to).or_default() += cents;
    }
    let kept: BTreeMap<u64, u64> = store.snapshot()?.scan(BALANCES, ..)?.into_iter().collect();
    let sum: u64 = kept.values().sum();
    if kept != told || sum != ACCOUNTS * FIRST_BALANCE {
        return Err(Error::user(format!("the books are wrong: {kept:?} kept, {told:?} told")));
    }
    let (_, transfers) = store.offsets(TRANSFERS.name(), oncelog::PartitionId(0))?;
    println!("{transfers} transfers, {ACCOUNTS} accounts, {sum} cents in all: the books are right");
    Ok(())
}

fn main() -> Result<()> {
    let store = Store::open(oncelog_examples::store_dir("transfer-ledger"))?;
    open_accounts(&store)?;
    audit(&store)?; // after a crash too
    let each = oncelog_examples::number(2, 2_000) / THREADS;
    let work = |thread: u64| {
        let store = store.clone();
        move || -> Result<()> {
            for number in 0..each {
                let dice = (number * THREADS + thread).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let (from, to) = (dice >> 20 & 0xFFFF, dice >> 40 & 0xFFFF);
                transfer(&store, from % ACCOUNTS, to % ACCOUNTS, dice >> 56)?;
            }
            Ok(())
        }
    };
    let threads: Vec<_> = (0..THREADS).map(|thread| thread::spawn(work(thread))).collect();
    for thread in threads {
        thread.join().map_err(|_| Error::user("a thread panicked"))??;
    }
    audit(&store)?;
    store.close()
}
