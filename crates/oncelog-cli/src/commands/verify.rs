//! `oncelog verify`: every checksum and every invariant, beside whoever writes.

use clap::Args;
use serde::Serialize;

use crate::cli::{OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::open;
use crate::out;

/// What `oncelog verify` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog verify\n  oncelog verify --store /backup/store --output json\n\n\
                        Writes nothing and needs no lock: it works beside a process that writes. Exit code 4 where \
                        something is damaged; each damage is told with file and position.")]
pub(crate) struct VerifyArguments {
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Serialize)]
struct Verified {
    sound: bool,
    owners: u64,
    frames: u64,
    topics: u64,
    batches: u64,
    records: u64,
    rows: u64,
    claims: u64,
    lost: Vec<Lost>,
    notes: Vec<String>,
    damage: Vec<Damage>,
}

#[derive(Serialize)]
struct Lost {
    topic: String,
    partition: u32,
    from: u64,
    to: u64,
}

#[derive(Serialize)]
struct Damage {
    file: Option<String>,
    position: Option<u64>,
    what: String,
}

/// Verifies the store.
///
/// # Errors
/// It is damaged, or cannot be read.
pub(crate) fn run(arguments: &VerifyArguments) -> Result<(), Failure> {
    let reader = open::reader(&arguments.store)?;
    let bar = out::progress(None, "{human_pos} batches checked, {per_sec}, {elapsed}");
    let found = reader.verify(|batches| bar.set_position(batches));
    bar.finish_and_clear();
    let found = found?;
    let lost = found.lost.iter().map(|lost| {
        let (topic, offsets) = (lost.topic.clone(), &lost.offsets);
        Lost { topic, partition: lost.partition.0, from: offsets.start.0, to: offsets.end.0 }
    });
    let damage = found.damage.iter().map(|error| Damage {
        file: error.file().map(|file| file.display().to_string()),
        position: error.position(),
        what: error.to_string(),
    });
    let verified = Verified {
        sound: found.is_sound(),
        owners: found.owners,
        frames: found.frames,
        topics: found.topics,
        batches: found.batches,
        records: found.records,
        rows: found.rows,
        claims: found.claims,
        lost: lost.collect(),
        notes: found.notes.clone(),
        damage: damage.collect(),
    };
    out::answer(arguments.output.output, &verified, Verified::text)?;
    match verified.damage.len() {
        0 => Ok(()),
        1 => Err(damaged("1 place is damaged")),
        count => Err(damaged(&format!("{count} places are damaged"))),
    }
}

fn damaged(what: &str) -> Failure {
    Failure::new(exit::CORRUPT, what)
        .hint("restore from a backup; where there is none, `oncelog repair` tells what can be kept")
}

impl Verified {
    fn text(&self) -> String {
        let Verified { owners, frames, topics, batches, records, rows, claims, .. } = self;
        let mut text = format!(
            "owners   {owners}, {frames} frames to replay\ntopics   {topics}\nbatches  {batches}\nrecords  \
             {records}\nrows     {rows}\nclaims   {claims}\n"
        );
        for Lost { topic, partition, from, to } in &self.lost {
            text.push_str(&format!(
                "lost     topic {topic:?}, partition {partition}: {from}..{to}, as readers are told\n"
            ));
        }
        self.notes.iter().for_each(|note| text.push_str(&format!("note     {note}\n")));
        self.damage.iter().for_each(|damage| text.push_str(&format!("damage   {}\n", damage.what)));
        text.push_str(if self.sound { "result   sound\n" } else { "result   DAMAGED\n" });
        text
    }
}
