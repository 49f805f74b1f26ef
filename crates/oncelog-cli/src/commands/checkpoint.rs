//! `oncelog checkpoint`: the checkpoints of streams, in a directory of files or in a table of a store.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use oncelog::{
    CheckpointEntry, CheckpointId, CheckpointState, CheckpointStore, DamagedCheckpoint, ErrorKind, FileCheckpointStore,
    Offset,
};
use serde::Serialize;

use crate::cli::{LockArguments, OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::open;
use crate::out::{self, Stdout};

/// What `oncelog checkpoint` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog checkpoint list --dir ./checkpoints")]
pub(crate) struct CheckpointArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// List checkpoints, and which of them can be read
    List(ListArguments),
    /// Show what is in a checkpoint
    Show(ShowArguments),
    /// Make a checkpoint by hand, or from one of the earlier library
    Create(CreateArguments),
    /// Go back to a checkpoint: a new line begins there
    Restore(RestoreArguments),
    /// Delete old checkpoints, never the newest good one, nor damaged ones that are newer
    Prune(PruneArguments),
}

/// Where the checkpoints are.
#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("place").required(true))]
struct Place {
    /// Directory of checkpoint files
    #[arg(long = "dir", id = "files", value_name = "DIR", group = "place")]
    files: Option<PathBuf>,
    /// Name of the checkpoints in the store, whose table is checkpoints.NAME
    #[arg(long, value_name = "NAME", group = "place")]
    name: Option<String>,
    #[command(flatten)]
    store: StoreArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog checkpoint list --dir ./checkpoints\n  \
                        oncelog checkpoint list orders --name feeds --store ./data --output json\n\n\
                        A checkpoint that is not current was left behind by a rewind. Exit code 4 where one cannot be \
                        read; the others are listed.")]
struct ListArguments {
    /// Only this stream
    stream: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog checkpoint show orders --dir ./checkpoints\n  \
                        oncelog checkpoint show orders --sequence 300 --dir ./checkpoints\n  \
                        oncelog checkpoint show orders --operator totals --dir ./checkpoints > totals.bin\n\n\
                        Without --sequence it is the newest that can be read, from which the stream would go on.")]
struct ShowArguments {
    /// The stream
    stream: String,
    /// The checkpoint of this sequence
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    /// Write the state of this operator, as it is, and nothing else
    #[arg(long, value_name = "NAME", conflicts_with = "output")]
    operator: Option<String>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog checkpoint create orders --import old.bin --dir ./checkpoints\n  \
                        oncelog checkpoint create orders --sequence 300 --source feed-0=301 \
                        --operator totals=totals.bin --dir ./checkpoints\n\n\
                        It must be further than the newest there is, and its watermark not before that one's. What \
                        is not told of watermark and events is as in the newest that can be read. An offset is the \
                        next to read: a number, or as in \
                        timestamp:2026-05-01T12:00:00Z or custom:TEXT.")]
#[command(group = clap::ArgGroup::new("what").required(true))]
struct CreateArguments {
    /// The stream
    stream: String,
    /// A file that holds a checkpoint of the earlier library
    #[arg(long, value_name = "FILE", group = "what")]
    import: Option<PathBuf>,
    /// The last event that is included
    #[arg(long, value_name = "N", group = "what")]
    sequence: Option<u64>,
    /// The state of an operator, from a file
    #[arg(long = "operator", value_name = "NAME=FILE")]
    operators: Vec<Named>,
    /// What to read next of a source
    #[arg(long = "source", value_name = "NAME=OFFSET")]
    sources: Vec<Named>,
    /// A text that is kept with it
    #[arg(long, value_name = "NAME=TEXT")]
    metadata: Vec<Named>,
    /// How far event time has come, in nanoseconds since 1970
    #[arg(long, value_name = "N")]
    watermark_ns: Option<u64>,
    /// How many events are included
    #[arg(long, value_name = "N")]
    events: Option<u64>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  oncelog checkpoint restore orders --sequence 200 --dry-run --dir ./checkpoints\n  \
                        oncelog checkpoint restore orders --sequence 200 --dir ./checkpoints\n\n\
                        The stream goes on from there when it is next recovered. Later checkpoints stay until they \
                        make room, so this can be taken back by another restore. Stop the program first: it is \
                        refused from then on."
)]
struct RestoreArguments {
    /// The stream
    stream: String,
    /// To this one, or, if there is none or it cannot be read, the newest good one before it
    #[arg(long, value_name = "N")]
    sequence: u64,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog checkpoint prune orders --before 300 --dir ./checkpoints\n  \
                        oncelog checkpoint prune orders --keep 5 --dry-run --dir ./checkpoints\n  \
                        oncelog checkpoint prune orders --all --yes --dir ./checkpoints")]
#[command(group = clap::ArgGroup::new("which").required(true))]
struct PruneArguments {
    /// The stream
    stream: String,
    /// Those before this sequence, but not the newest good one
    #[arg(long, value_name = "N", group = "which")]
    before: Option<u64>,
    /// Those before the newest so many
    #[arg(long, value_name = "N", group = "which", value_parser = clap::value_parser!(u64).range(1..))]
    keep: Option<u64>,
    /// All of them: the stream begins anew
    #[arg(long, group = "which", requires = "yes")]
    all: bool,
    /// Yes, all of them: there is no way back
    #[arg(long, requires = "all")]
    yes: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    lock: LockArguments,
    #[command(flatten)]
    output: OutputArgument,
}

/// `NAME=WHAT`.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    what: String,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Named, String> {
        let (name, what) = text.split_once('=').ok_or("must be a name, an equals sign, and what it is")?;
        Ok(Named { name: name.to_owned(), what: what.to_owned() })
    }
}

/// Does what was asked.
///
/// # Errors
/// As told by what was asked.
pub(crate) fn run(arguments: CheckpointArguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::List(arguments) => list(&arguments),
        Verb::Show(arguments) => show(&arguments),
        Verb::Create(arguments) => create(&arguments),
        Verb::Restore(arguments) => restore(&arguments),
        Verb::Prune(arguments) => prune(&arguments),
    }
}

impl Place {
    /// Looks at the checkpoints, beside whoever writes. May look again where the store moves on.
    fn look<R>(&self, mut look: impl FnMut(&dyn CheckpointStore) -> oncelog::Result<R>) -> Result<R, Failure> {
        match (&self.files, &self.name) {
            (Some(dir), _) => {
                check_dir(dir)?;
                FileCheckpointStore::open(dir).and_then(|store| look(&store)).map_err(told)
            }
            (None, name) => {
                let (name, reader) = (name.as_deref().unwrap_or_default(), open::reader(&self.store)?);
                let owner = reader.owner_of_table(&table_of(name))?.ok_or_else(|| no_table(name))?;
                reader.look(&owner, |store| look(&store.checkpoint_store(name))).map_err(told)
            }
        }
    }

    /// Changes them. However many there are, none makes room: how many are kept is for the program to say.
    fn change<R>(
        &self,
        lock: &LockArguments,
        change: impl FnOnce(&dyn CheckpointStore) -> oncelog::Result<R>,
    ) -> Result<R, Failure> {
        match (&self.files, &self.name) {
            (Some(_), _) if lock.takeover => {
                Err(Failure::usage_of("--takeover is for stores: whoever has files has them for a moment only"))
            }
            (Some(dir), _) => {
                let store = FileCheckpointStore::open(dir).map_err(told)?.max_per_stream(usize::MAX);
                // Whoever has it has it for a moment.
                change(&store.patience(Duration::from_secs(lock.wait.max(2)))).map_err(told)
            }
            (None, name) => {
                let name = name.as_deref().unwrap_or_default();
                let owner = open::reader(&self.store)?.owner_of_table(&table_of(name))?;
                let store = open::owner(&self.store, owner.as_deref().unwrap_or(open::MAIN), lock)?;
                let changed = change(&store.checkpoint_store(name).max_per_stream(usize::MAX));
                let closed = store.close();
                let changed = changed.map_err(told)?;
                closed?;
                Ok(changed)
            }
        }
    }
}

fn table_of(name: &str) -> String {
    format!("checkpoints.{name}")
}

fn no_table(name: &str) -> Failure {
    let what = format!("the store has no checkpoints under the name {name:?}");
    Failure::new(exit::NOT_FOUND, what).hint("`oncelog table list` shows what there is")
}

/// A directory that is not there has no checkpoints, but is more likely mistyped.
fn check_dir(dir: &Path) -> Result<(), Failure> {
    if dir.is_dir() {
        return Ok(());
    }
    let what = format!("there is no directory {}", dir.display());
    Err(Failure::new(exit::NOT_FOUND, what).hint("name the directory of the checkpoints with --dir DIR"))
}

fn told(error: oncelog::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::Corrupt => "`oncelog checkpoint list` shows which can be read, and `restore` goes back to one",
        ErrorKind::Locked => "call again, or wait for it with --wait SECONDS",
        ErrorKind::NotFound => "`oncelog checkpoint list` shows what there is",
        _ => return Failure::from(error),
    };
    Failure::from(error).hint(hint)
}

fn no_stream(stream: &str) -> Failure {
    let what = format!("stream {stream:?} has no checkpoint");
    Failure::new(exit::NOT_FOUND, what).hint("`oncelog checkpoint list` shows what there is")
}

#[derive(Serialize)]
struct Listed {
    stream: String,
    sequence: u64,
    line: u32,
    current: bool,
    /// These are `None` where it cannot be read.
    taken: Option<String>,
    events: Option<u64>,
    bytes: Option<usize>,
    /// Why it cannot.
    damage: Option<String>,
}

impl Listed {
    fn of(store: &dyn CheckpointStore, stream: &str, entry: &CheckpointEntry) -> oncelog::Result<Option<Listed>> {
        let (sequence, line, current) = (entry.sequence, entry.lineage.number, entry.is_current);
        let stream = stream.to_owned();
        let state = match store.get(&stream, sequence) {
            Ok(Some(state)) => state,
            // It has made room meanwhile.
            Ok(None) => return Ok(None),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::UnsupportedVersion) => {
                let damage = Some(error.to_string());
                return Ok(Some(Listed {
                    stream,
                    sequence,
                    line,
                    current,
                    taken: None,
                    events: None,
                    bytes: None,
                    damage,
                }));
            }
            Err(error) => return Err(error),
        };
        let (taken, events, bytes) =
            (Some(state.id.created_at.to_rfc3339()), Some(state.event_count), Some(state.serialize()?.len()));
        Ok(Some(Listed { stream, sequence, line, current, taken, events, bytes, damage: None }))
    }
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let listed = arguments.place.look(|store| {
        let streams = match &arguments.stream {
            Some(stream) => vec![stream.clone()],
            None => store.streams()?,
        };
        let mut listed = Vec::new();
        for stream in streams {
            for entry in store.list(&stream)? {
                listed.extend(Listed::of(store, &stream, &entry)?);
            }
        }
        Ok(listed)
    })?;
    if let Some(stream) = arguments.stream.as_ref().filter(|_| listed.is_empty()) {
        return Err(no_stream(stream));
    }
    out::answer(arguments.output.output, &listed, |listed| {
        let row = |entry: &Listed| {
            let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
            vec![
                entry.stream.clone(),
                entry.sequence.to_string(),
                entry.line.to_string(),
                if entry.current { "yes" } else { "no" }.to_owned(),
                number(entry.events),
                number(entry.bytes.map(|bytes| bytes as u64)),
                entry.taken.clone().unwrap_or_else(|| "-".to_owned()),
                entry.damage.clone().unwrap_or_else(|| "whole".to_owned()),
            ]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        out::columns(&["STREAM", "SEQUENCE", "LINE", "CURRENT", "EVENTS", "BYTES", "TAKEN", "STATE"], &rows)
    })?;
    match listed.iter().filter(|entry| entry.damage.is_some()).count() {
        0 => Ok(()),
        1 => Err(unreadable("1 checkpoint cannot be read")),
        count => Err(unreadable(&format!("{count} checkpoints cannot be read"))),
    }
}

fn unreadable(what: &str) -> Failure {
    Failure::new(exit::CORRUPT, what)
        .hint("`oncelog checkpoint show STREAM` shows from which one the stream would go on")
}

#[derive(Serialize)]
struct Shown {
    stream: String,
    sequence: u64,
    next: Option<u64>,
    line: u32,
    parent: u32,
    from: u64,
    taken: String,
    events: u64,
    watermark_ns: u64,
    operators: Vec<Operator>,
    sources: Vec<Source>,
    metadata: std::collections::BTreeMap<String, String>,
    /// Newer ones that cannot be read.
    damage: Vec<String>,
}

#[derive(Serialize)]
struct Operator {
    name: String,
    bytes: usize,
}

#[derive(Serialize)]
struct Source {
    name: String,
    next: String,
}

impl Shown {
    fn of(state: &CheckpointState, damaged: &[DamagedCheckpoint]) -> Shown {
        let operators = state.operator_states.iter();
        let sources = state.source_offsets.iter();
        Shown {
            stream: state.id.stream_id.clone(),
            sequence: state.id.sequence,
            next: state.id.sequence.checked_add(1),
            line: state.lineage.number,
            parent: state.lineage.parent,
            from: state.lineage.from,
            taken: state.id.created_at.to_rfc3339(),
            events: state.event_count,
            watermark_ns: state.watermark_ns,
            operators: operators.map(|(name, state)| Operator { name: name.clone(), bytes: state.len() }).collect(),
            sources: sources.map(|(name, next)| Source { name: name.clone(), next: next.to_string() }).collect(),
            metadata: state.metadata.clone(),
            damage: damaged.iter().map(|damaged| damaged.error.to_string()).collect(),
        }
    }

    fn text(&self) -> String {
        let next = self.next.map_or_else(|| "-".to_owned(), |next| next.to_string());
        let line = match self.line {
            0 => "0".to_owned(),
            line => format!("{line}, from line {} at {}", self.parent, self.from),
        };
        let Shown { stream, sequence, taken, events, watermark_ns, .. } = self;
        let mut text = format!(
            "stream     {stream}\nsequence   {sequence}\nnext       {next}\nline       {line}\ntaken      {taken}\n\
             events     {events}\nwatermark  {watermark_ns} ns\n"
        );
        self.operators.iter().for_each(|operator| {
            text.push_str(&format!("operator   {}: {} bytes\n", operator.name, operator.bytes));
        });
        self.sources.iter().for_each(|source| text.push_str(&format!("source     {}: {}\n", source.name, source.next)));
        self.metadata.iter().for_each(|(name, value)| text.push_str(&format!("metadata   {name}: {value}\n")));
        self.damage.iter().for_each(|damage| text.push_str(&format!("damage     {damage}\n")));
        text
    }
}

fn show(arguments: &ShowArguments) -> Result<(), Failure> {
    let stream = &arguments.stream;
    let found = arguments.place.look(|store| match arguments.sequence {
        Some(sequence) => Ok(store.get(stream, sequence)?.map(|state| (state, Vec::new()))),
        None => Ok(store.latest(stream)?.map(|latest| (latest.state, latest.damaged))),
    })?;
    let (state, damaged) = found.ok_or_else(|| match arguments.sequence {
        Some(sequence) => {
            let what = format!("stream {stream:?} has no checkpoint {sequence}");
            Failure::new(exit::NOT_FOUND, what).hint("`oncelog checkpoint list` shows what there is")
        }
        None => no_stream(stream),
    })?;
    let Some(operator) = &arguments.operator else {
        return out::answer(arguments.output.output, &Shown::of(&state, &damaged), Shown::text);
    };
    let Some(bytes) = state.operator_states.get(operator) else {
        return Err(Failure::new(exit::NOT_FOUND, format!("the checkpoint has no operator {operator:?}")));
    };
    let mut stdout = Stdout::new();
    stdout.write(bytes)?;
    stdout.flush()
}

fn create(arguments: &CreateArguments) -> Result<(), Failure> {
    let mut state = arguments.state()?;
    let stream = &arguments.stream;
    let saved = arguments.place.change(&arguments.lock, |store| {
        let newest =
            store.list(stream)?.into_iter().filter(|entry| entry.is_current).max_by_key(|entry| entry.sequence);
        if let Some(newest) = newest {
            if newest.sequence >= state.id.sequence {
                return Ok(Err(newest.sequence));
            }
            state.lineage = newest.lineage;
            arguments.go_on_from(store, &mut state)?;
        }
        store.save(&state)?;
        Ok(Ok(Shown::of(&state, &[])))
    })?;
    let saved = saved.map_err(|newest| {
        let what = format!("stream {stream:?} is at {newest} already; a checkpoint before that would not count");
        Failure::usage_of(what).hint("`oncelog checkpoint restore` goes back")
    })?;
    out::answer(arguments.output.output, &saved, Shown::text)
}

impl CreateArguments {
    /// What is to be saved.
    ///
    /// # Errors
    /// A file cannot be read, or is something else; an offset is none.
    fn state(&self) -> Result<CheckpointState, Failure> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| Failure::io(format_args!("read {}", path.display()), &error))
        };
        let now = CheckpointId::new(&self.stream, self.sequence.unwrap_or_default());
        let mut state = match &self.import {
            Some(path) => {
                let imported = CheckpointState::import(&self.stream, &read(path)?);
                imported.map_err(|error| Failure::from(error).while_doing(&path.display().to_string()))?
            }
            None => CheckpointState::new(now.clone()),
        };
        state.id.created_at = now.created_at;
        for Named { name, what } in &self.operators {
            state.set_operator_state(name, read(Path::new(what))?);
        }
        for Named { name, what } in &self.sources {
            let offset =
                what.parse::<Offset>().map_err(|error| Failure::usage_of(format_args!("--source: {error}")))?;
            state.set_source_offset(name, offset);
        }
        state.metadata.extend(self.metadata.iter().map(|Named { name, what }| (name.clone(), what.clone())));
        state.watermark_ns = self.watermark_ns.unwrap_or(state.watermark_ns);
        state.event_count = self.events.unwrap_or(state.event_count);
        Ok(state)
    }

    /// Takes from the newest that can be read what neither an argument nor an import says.
    fn go_on_from(&self, store: &dyn CheckpointStore, state: &mut CheckpointState) -> oncelog::Result<()> {
        let newest = match store.latest(&self.stream) {
            Ok(Some(newest)) if self.import.is_none() => newest.state,
            Ok(_) => return Ok(()),
            // None can be read: this one mends that.
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(()),
            Err(error) => return Err(error),
        };
        state.watermark_ns = self.watermark_ns.unwrap_or(newest.watermark_ns);
        state.event_count = self.events.unwrap_or(newest.event_count);
        Ok(())
    }
}

#[derive(Serialize)]
struct Restored {
    stream: String,
    from: Option<u64>,
    to: u64,
    /// `None` where nothing was done.
    line: Option<u32>,
    done: bool,
    /// What could not be read on the way.
    damage: Vec<String>,
}

fn restore(arguments: &RestoreArguments) -> Result<(), Failure> {
    let (stream, sequence) = (&arguments.stream, arguments.sequence);
    let from = arguments.place.look(|store| {
        let current = store.list(stream)?.into_iter().filter(|entry| entry.is_current);
        Ok(current.map(|entry| entry.sequence).max())
    })?;
    if from.is_none() {
        return Err(no_stream(stream));
    }
    let found = if arguments.dry_run {
        arguments.place.look(|store| store.at_or_before(stream, sequence))?
    } else {
        arguments.place.change(&arguments.lock, |store| store.rewind(stream, sequence))?
    };
    let restored = Restored {
        stream: stream.clone(),
        from,
        to: found.state.id.sequence,
        line: (!arguments.dry_run).then_some(found.state.lineage.number),
        done: !arguments.dry_run,
        damage: found.damaged.iter().map(|damaged| damaged.error.to_string()).collect(),
    };
    out::answer(arguments.output.output, &restored, |restored| {
        let mut text = format!("stream  {}\nfrom    {}\nto      {}\n", restored.stream, from.unwrap_or(0), restored.to);
        restored.damage.iter().for_each(|damage| text.push_str(&format!("damage  {damage}\n")));
        text.push_str(&match restored.line {
            Some(line) => format!("line    {line}\n"),
            None => "nothing was done, because of --dry-run\n".to_owned(),
        });
        text
    })
}

#[derive(Serialize)]
struct Pruned {
    stream: String,
    deleted: u64,
    left: u64,
    done: bool,
}

fn prune(arguments: &PruneArguments) -> Result<(), Failure> {
    let stream = &arguments.stream;
    let (count, before, would_go) = arguments.place.look(|store| {
        let entries = store.list(stream)?;
        let before = arguments.before_of(&entries);
        let would_go = before.map_or(Ok(entries.len() as u64), |before| would_go(store, stream, &entries, before))?;
        Ok((entries.len() as u64, before, would_go))
    })?;
    if count == 0 {
        return Err(no_stream(stream));
    }
    let (deleted, left) = if arguments.dry_run {
        (would_go, count - would_go)
    } else {
        arguments.place.change(&arguments.lock, |store| {
            let deleted = match before {
                Some(before) => store.delete_before(stream, before)?,
                None => store.clear(stream)?,
            };
            Ok((deleted, store.checkpoint_count(stream)?))
        })?
    };
    let pruned = Pruned { stream: stream.clone(), deleted, left, done: !arguments.dry_run };
    out::answer(arguments.output.output, &pruned, |pruned| {
        let note = if pruned.done { "" } else { "nothing was done, because of --dry-run\n" };
        format!("deleted  {}\nleft     {}\n{note}", pruned.deleted, pruned.left)
    })
}

impl PruneArguments {
    /// The sequence before which they go; `None` is all of them.
    fn before_of(&self, entries: &[CheckpointEntry]) -> Option<u64> {
        let newest = |keep: u64| {
            let current = entries.iter().rev().filter(|entry| entry.is_current);
            let kept = current.take(usize::try_from(keep).unwrap_or(usize::MAX));
            kept.last().map_or(0, |entry| entry.sequence)
        };
        if self.all { None } else { self.before.or(self.keep.map(newest)) }
    }
}

/// How many a deletion of those before a sequence would delete.
fn would_go(
    store: &dyn CheckpointStore,
    stream: &str,
    entries: &[CheckpointEntry],
    before: u64,
) -> oncelog::Result<u64> {
    let mut old: Vec<_> = entries.iter().filter(|entry| entry.sequence < before).collect();
    if !old.is_empty() {
        let Some(good) = store.latest(stream)? else { return Ok(0) };
        let good = (good.state.lineage.number, good.state.id.sequence);
        old.retain(|entry| (entry.lineage.number, entry.sequence) < good);
    }
    Ok(old.len() as u64)
}
