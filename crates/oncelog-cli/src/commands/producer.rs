//! `oncelog producer`: who has sent with stamps, and how far what is stored of it reaches.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use oncelog::{ProducerProgress, StoreReader};
use serde::Serialize;

use crate::cli::{OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::open;
use crate::out;

/// What `oncelog producer` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog producer list")]
pub(crate) struct ProducerArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List the producers of all owners, with the sequence that each is to send next
    List(ListArguments),
    /// Show the last batches of a producer, and where they are
    Describe(DescribeArguments),
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog producer list\n  oncelog producer list --output json\n\n\
                        Producers without a topic have stamped transactions; those of a coordinator are marked \
                        as such, and named BACKEND/PRODUCER.")]
struct ListArguments {
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog producer describe gate")]
struct DescribeArguments {
    /// The producer's name
    #[arg(value_name = "PRODUCER")]
    producer: String,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

/// Does what was asked.
///
/// # Errors
/// As told by what was asked.
pub(crate) fn run(arguments: ProducerArguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::List(arguments) => list(&arguments),
        Verb::Describe(arguments) => describe(&arguments),
    }
}

/// What is known of all producers, by name, with the owners that know it.
fn producers(reader: &StoreReader) -> Result<Vec<(String, ProducerProgress)>, Failure> {
    let mut all = BTreeMap::new();
    for owner in reader.owners()? {
        for found in reader.look(&owner.name, oncelog::Store::producers)? {
            let key =
                (found.producer.clone(), found.coordinated, found.topic.clone(), found.partition, owner.name.clone());
            all.insert(key, (owner.name.clone(), found));
        }
    }
    Ok(all.into_values().collect())
}

#[derive(Serialize)]
struct Listed {
    producer: String,
    /// Whether it sends to a coordinator.
    coordinated: bool,
    /// `None` for stamps on transactions.
    topic: Option<String>,
    partition: u32,
    next: u64,
    epoch: u64,
    owner: String,
}

/// What stands for nothing in a column.
fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let listed = producers(&reader)?.into_iter().map(|(owner, found)| Listed {
        producer: found.producer,
        coordinated: found.coordinated,
        topic: found.topic,
        partition: found.partition.0,
        next: found.next.0,
        epoch: found.epoch.0,
        owner,
    });
    let listed: Vec<_> = listed.collect();
    out::answer(arguments.output.output, &listed, |listed| {
        let row = |entry: &Listed| {
            let topic = if entry.coordinated { "(coordinator)".to_owned() } else { or_dash(entry.topic.as_ref()) };
            let partition = entry.partition.to_string();
            let numbers = (entry.next.to_string(), entry.epoch.to_string());
            vec![entry.producer.clone(), topic, partition, numbers.0, numbers.1, entry.owner.clone()]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        out::columns(&["PRODUCER", "TOPIC", "PARTITION", "NEXT", "EPOCH", "OWNER"], &rows)
    })
}

#[derive(Serialize)]
struct Described {
    topic: Option<String>,
    partition: u32,
    first: u64,
    count: u32,
    /// `None` for stamps that are tied to no records.
    offset: Option<u64>,
}

fn describe(arguments: &DescribeArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let producer = &arguments.producer;
    let found: Vec<_> = producers(&reader)?.into_iter().filter(|(_, found)| found.producer == *producer).collect();
    if found.is_empty() {
        let what = format!("there is no producer {producer:?}");
        return Err(Failure::new(exit::NOT_FOUND, what).hint("`oncelog producer list` shows what there is"));
    }
    let batches = found.into_iter().flat_map(|(_, found)| {
        let ProducerProgress { topic, partition, recent, .. } = found;
        recent.into_iter().map(move |batch| Described {
            topic: topic.clone(),
            partition: partition.0,
            first: batch.first.0,
            count: batch.count,
            offset: batch.offset.map(|offset| offset.0),
        })
    });
    let described: Vec<_> = batches.collect();
    out::answer(arguments.output.output, &described, |described| {
        let row = |batch: &Described| {
            let (topic, partition) = (or_dash(batch.topic.as_ref()), batch.partition.to_string());
            vec![topic, partition, batch.first.to_string(), batch.count.to_string(), or_dash(batch.offset)]
        };
        let rows: Vec<_> = described.iter().map(row).collect();
        out::columns(&["TOPIC", "PARTITION", "FIRST", "COUNT", "OFFSET"], &rows)
    })
}
