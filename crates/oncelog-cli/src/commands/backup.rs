//! `oncelog backup`: whole stores copied while programs write, and stores made of that.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use oncelog::{ArchiveReach, BackupTarget, ErrorKind, Lsn, RestoreOptions, RestoreReport};
use serde::Serialize;

use crate::cli::{OutputArgument, StoreArgument};
use crate::exit::{self, Failure};
use crate::open;
use crate::out;

/// What `oncelog backup` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog backup create --to /mnt/backups --store ./data")]
pub(crate) struct BackupArguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Copy a store, beside the programs that write or without any
    Create(CreateArguments),
    /// List the backups in a place
    List(ListArguments),
    /// Make a store of a backup, with an identity of its own
    Restore(RestoreArguments),
    /// Read all of a backup, make a store of it, verify that, and remove it
    Verify(VerifyArguments),
    /// Remove old backups and what only they hold
    Prune(PruneArguments),
}

/// Where the backups are.
#[derive(Args, Debug)]
struct Place {
    /// Directory of the backups, or its URL, file:///DIR
    #[arg(long = "from", value_name = "DIR")]
    place: PathBuf,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog backup create --to /mnt/backups\n  \
                        oncelog backup create --to /mnt/backups --store ./data --output json\n\n\
                        Works beside the programs that have the store: nothing is asked of them. Only what no backup \
                        in the place holds yet is written. Tables that change faster than they can be read are for \
                        Store::backup, in the program itself; so is object storage.")]
struct CreateArguments {
    /// Directory of the backups, or its URL, file:///DIR; the first one makes it; not inside the store
    #[arg(long = "to", value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    store: StoreArgument,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog backup list --from /mnt/backups\n  \
                        oncelog backup list --from /mnt/backups --output json\n\n\
                        ARCHIVE says how far the archived journals carry a backup, and which frames are missing \
                        then: a later backup needs them no more. Exit code 4 where the manifest of one cannot be \
                        read; the others are listed. What they hold is looked at by `oncelog backup verify`.")]
struct ListArguments {
    #[command(flatten)]
    from: Place,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog backup restore --from /mnt/backups --into ./restored\n  \
                        oncelog backup restore --from /mnt/backups --backup 00000007-1f2e3d4c --into ./restored\n  \
                        oncelog backup restore --from /mnt/backups --time 2026-05-01T12:00:00Z --into ./restored\n\n\
                        A restore that was interrupted can be run again, into the same directory.")]
struct RestoreArguments {
    #[command(flatten)]
    from: Place,
    /// Directory of the new store: empty, or not there
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// The backup of this name: the newest unless set, or the newest from before that point
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// Go on to this frame, by the archive of the journal that the program keeps in the same place
    #[arg(long = "at", value_name = "LSN", conflicts_with = "time")]
    lsn: Option<u64>,
    /// Whose frame that is
    #[arg(long, value_name = "OWNER", requires = "lsn", default_value = open::MAIN)]
    owner: String,
    /// Go on to this time: milliseconds since 1970, or as in 2026-05-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    time: Option<i64>,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog backup verify --from /mnt/backups\n  \
                        oncelog backup verify --from /mnt/backups --backup 00000007-1f2e3d4c --scratch /var/tmp/s\n\n\
                        Exit code 4 where something is damaged or gone; it is told with its name, and with the file of \
                        the store to which it belongs.")]
struct VerifyArguments {
    #[command(flatten)]
    from: Place,
    /// The backup of this name: the newest unless set
    #[arg(long, value_name = "NAME")]
    backup: Option<String>,
    /// Where the store is made, with room for all of it: empty, or not there; among the temporary files unless set
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Read all chunks first, and rename those that are damaged: the next backup writes anew what its store still has
    #[arg(long)]
    set_aside: bool,
    #[command(flatten)]
    output: OutputArgument,
}

#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  oncelog backup prune --from /mnt/backups --keep 7\n  \
                        oncelog backup prune --from /mnt/backups --keep 7 --unlock\n\n\
                        Exit code 5 while a backup is made, and after one that was killed: --unlock forgets those, \
                        when none is at work any more.")]
struct PruneArguments {
    #[command(flatten)]
    from: Place,
    /// How many of each store stay, the newest
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep: u32,
    /// Nobody is at work there: forget what killed processes have left to say so
    #[arg(long)]
    unlock: bool,
    #[command(flatten)]
    output: OutputArgument,
}

/// Does what was asked.
///
/// # Errors
/// As told by what was asked.
pub(crate) fn run(arguments: BackupArguments) -> Result<(), Failure> {
    match arguments.verb {
        Verb::Create(arguments) => create(&arguments),
        Verb::List(arguments) => list(&arguments),
        Verb::Restore(arguments) => restore(&arguments),
        Verb::Verify(arguments) => verify(&arguments),
        Verb::Prune(arguments) => prune(&arguments),
    }
}

/// The directory that was named, by its path or by a URL.
fn directory(place: &Path) -> Result<PathBuf, Failure> {
    let Some((scheme, rest)) = place.to_str().and_then(|text| text.split_once("://")) else {
        return Ok(place.to_owned());
    };
    if scheme != "file" {
        let what = "a place for backups is a directory, or file:///DIR; object storage is for programs, by \
                    BackupTarget::objects";
        return Err(Failure::usage_of(what));
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    let decoded = path.starts_with('/').then(|| percent_decoded(path)).flatten();
    decoded.ok_or_else(|| Failure::usage_of("a file URL is file:///DIR, of this machine and with its whole path"))
}

/// The path in a URL (RFC 3986, 2.1); `None`: it is malformed.
fn percent_decoded(path: &str) -> Option<PathBuf> {
    let (mut decoded, mut rest) = (Vec::new(), path);
    while let Some((before, escaped)) = rest.split_once('%') {
        decoded.extend_from_slice(before.as_bytes());
        let digits = escaped.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))?;
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &escaped[2..];
    }
    decoded.extend_from_slice(rest.as_bytes());
    Some(PathBuf::from(OsString::from_vec(decoded))).filter(|path| !path.as_os_str().as_bytes().contains(&0))
}

impl Place {
    /// A directory that is not there has no backups, but is more likely mistyped.
    fn target(&self) -> Result<BackupTarget, Failure> {
        let place = directory(&self.place)?;
        if place.is_dir() {
            return Ok(BackupTarget::dir(place)?);
        }
        let what = format!("there is no directory {}", place.display());
        Err(Failure::new(exit::NOT_FOUND, what).hint("name the directory of the backups with --from DIR"))
    }
}

fn told(error: oncelog::Error) -> Failure {
    let hint = match error.kind() {
        ErrorKind::NotFound => "`oncelog backup list` shows what there is",
        ErrorKind::Locked => "wait for it; where its process was killed, `oncelog backup prune --unlock`",
        ErrorKind::Corrupt => "`oncelog backup list` shows the others; `verify` tells which of them are whole",
        _ => return Failure::from(error),
    };
    Failure::from(error).hint(hint)
}

fn parse_time(text: &str) -> Result<i64, String> {
    let ms = text.parse().ok().or_else(|| crate::time::parse_ms(text));
    ms.ok_or_else(|| "must be milliseconds since 1970, or a time as in 2026-05-01T12:00:00Z".to_owned())
}

fn time(ms: i64) -> String {
    DateTime::<Utc>::from_timestamp_millis(ms).map_or_else(|| ms.to_string(), |time| time.to_rfc3339())
}

#[derive(Serialize)]
struct Owner {
    name: String,
    lsn: u64,
}

fn owners(owners: &[(String, Lsn)]) -> Vec<Owner> {
    owners.iter().map(|(name, lsn)| Owner { name: name.clone(), lsn: lsn.0 }).collect()
}

fn owners_text(owners: &[Owner]) -> String {
    owners.iter().map(|owner| format!("{} at {}", owner.name, owner.lsn)).collect::<Vec<_>>().join(", ")
}

/// How far the archived journal of an owner carries a backup.
#[derive(Serialize)]
struct Archived {
    name: String,
    until: u64,
    /// The first and the last of the frames that are missing behind that.
    missing: Option<(u64, u64)>,
    other_history: Option<u64>,
    damage: Option<String>,
}

impl Archived {
    fn of(reach: &ArchiveReach) -> Archived {
        Archived {
            name: reach.owner.clone(),
            until: reach.until.0,
            missing: reach.gap.map(|(first, last)| (first.0, last.0)),
            other_history: reach.other_history.map(|lsn| lsn.0),
            damage: reach.damage.as_ref().map(ToString::to_string),
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{} to {}", self.name, self.until);
        if let Some((first, last)) = self.missing {
            text.push_str(&format!(" (then {first} to {last} missing)"));
        }
        if let Some(lsn) = self.other_history {
            text.push_str(&format!(" (another history, to {lsn})"));
        }
        text
    }
}

#[derive(Serialize)]
struct Created {
    backup: String,
    store: String,
    owners: Vec<Owner>,
    bytes: u64,
    new_chunks: u64,
    new_bytes: u64,
}

fn create(arguments: &CreateArguments) -> Result<(), Failure> {
    let target = BackupTarget::dir(directory(&arguments.to)?)?;
    let reader = open::reader(&arguments.store)?;
    let made = reader.backup(&target).map_err(|error| match error.kind() {
        ErrorKind::Locked => told(error),
        _ => Failure::from(error),
    })?;
    let created = Created {
        backup: made.name.clone(),
        store: made.store.to_string(),
        owners: owners(&made.owners),
        bytes: made.bytes,
        new_chunks: made.new_chunks,
        new_bytes: made.new_bytes,
    };
    out::answer(arguments.output.output, &created, |created| {
        let Created { backup, store, bytes, new_chunks, new_bytes, .. } = created;
        let lsns = owners_text(&created.owners);
        let new = format!("{new_bytes} bytes in {new_chunks} chunks");
        format!("backup  {backup}\nstore   {store}\nowners  {lsns}\nbytes   {bytes}\nnew     {new}\n")
    })
}

#[derive(Serialize)]
struct Listed {
    backup: String,
    /// These are `None` where its manifest cannot be read.
    taken: Option<String>,
    store: Option<String>,
    owners: Vec<Owner>,
    /// How far the archived journals carry it.
    archives: Vec<Archived>,
    bytes: Option<u64>,
    /// Why it cannot.
    damage: Option<String>,
}

fn list(arguments: &ListArguments) -> Result<(), Failure> {
    let found = arguments.from.target()?.list().map_err(told)?;
    let listed: Vec<Listed> = found
        .into_iter()
        .map(|backup| {
            let good = backup.damage.is_none();
            Listed {
                backup: backup.name,
                taken: good.then(|| time(backup.taken_ms)),
                store: good.then(|| backup.store.to_string()),
                owners: owners(&backup.owners),
                archives: backup.archives.iter().map(Archived::of).collect(),
                bytes: good.then_some(backup.bytes),
                damage: backup.damage.map(|error| error.to_string()),
            }
        })
        .collect();
    out::answer(arguments.output.output, &listed, |listed| {
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
        let row = |entry: &Listed| {
            let bytes = entry.bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string());
            let archives: Vec<_> = entry.archives.iter().map(Archived::text).collect();
            let archives = if archives.is_empty() { "-".to_owned() } else { archives.join(", ") };
            let (taken, store) = (text(&entry.taken), text(&entry.store));
            vec![entry.backup.clone(), taken, bytes, store, owners_text(&entry.owners), archives]
        };
        let rows: Vec<_> = listed.iter().map(row).collect();
        out::columns(&["BACKUP", "TAKEN", "BYTES", "STORE", "OWNERS", "ARCHIVE"], &rows)
    })?;
    match listed.iter().find_map(|entry| entry.damage.as_ref()) {
        Some(damage) => Err(Failure::new(exit::CORRUPT, damage)),
        None => Ok(()),
    }
}

#[derive(Serialize)]
struct Restored {
    backup: String,
    taken: String,
    source: String,
    store: String,
    owners: Vec<Owner>,
    topics: u64,
    records: u64,
    bytes: u64,
    newest: String,
    /// Owners that were taken back from that frame, to fit the others.
    held_back: Vec<Owner>,
    /// Owners of which the archive has another history too, to that frame.
    other_histories: Vec<Owner>,
    /// Owners whose frames are archived, and of which the backup has nothing.
    left_out: Vec<String>,
}

impl Restored {
    fn of(report: &RestoreReport) -> Restored {
        Restored {
            backup: report.backup.clone(),
            taken: time(report.taken_ms),
            source: report.source.to_string(),
            store: report.store.to_string(),
            owners: owners(&report.owners),
            topics: report.topics,
            records: report.records,
            bytes: report.bytes,
            newest: time(report.newest_ms),
            held_back: owners(&report.held_back),
            other_histories: owners(&report.other_histories),
            left_out: report.left_out.clone(),
        }
    }

    fn text(&self) -> String {
        let Restored { backup, taken, source, store, topics, records, newest, .. } = self;
        let lsns = owners_text(&self.owners);
        let of = format!("backup   {backup}, of {taken}\nsource   {source}\n");
        let held = |owner: &Owner| format!("held     {}, from {}, to fit the other owners\n", owner.name, owner.lsn);
        let other = |owner: &Owner| format!("other    {} has another history there, to {}\n", owner.name, owner.lsn);
        let left = |owner: &String| format!("left out {owner}, which was made after the backup: a later one has it\n");
        let told = self.held_back.iter().map(held).chain(self.other_histories.iter().map(other));
        let told: String = told.chain(self.left_out.iter().map(left)).collect();
        let what = format!("store    {store}\nowners   {lsns}\ntopics   {topics}\nrecords  {records}\n");
        format!("{of}{what}newest   {newest}\n{told}")
    }
}

fn options(backup: Option<&String>) -> RestoreOptions {
    let options = RestoreOptions::new();
    match backup {
        Some(name) => options.backup(name),
        None => options,
    }
}

fn restore(arguments: &RestoreArguments) -> Result<(), Failure> {
    let target = arguments.from.target()?;
    let mut options = options(arguments.backup.as_ref());
    if let Some(lsn) = arguments.lsn {
        options = options.until_lsn(&arguments.owner, Lsn(lsn));
    }
    if let Some(ms) = arguments.time {
        options = options.until_time(ms);
    }
    let report = options.restore(&target, &arguments.into).map_err(told)?;
    out::answer(arguments.output.output, &Restored::of(&report), Restored::text)
}

#[derive(Serialize)]
struct Verified {
    sound: bool,
    restored: Restored,
    archives: Vec<Archived>,
    damage: Vec<String>,
}

/// Of the backup of that name, or the newest.
fn set_aside(target: &BackupTarget, backup: Option<&String>) -> Result<(), Failure> {
    let name = match backup {
        Some(name) => Some(name.clone()),
        None => target.list().map_err(told)?.pop().map(|newest| newest.name),
    };
    // That there is none the verification tells.
    let damaged = name.map_or(Ok(Vec::new()), |name| target.set_damaged_aside(&name)).map_err(told)?;
    let Some(first) = damaged.first() else { return Ok(()) };
    let what = format!("{first}; {} in all, which are set aside: make a backup, and verify again", damaged.len());
    Err(Failure::new(exit::CORRUPT, what))
}

fn verify(arguments: &VerifyArguments) -> Result<(), Failure> {
    let target = arguments.from.target()?;
    if arguments.set_aside {
        set_aside(&target, arguments.backup.as_ref())?;
    }
    // Removed with all that is in it, whatever happens.
    let temporary = tempfile::Builder::new().prefix("oncelog-verify-").tempdir();
    let temporary = temporary.map_err(|error| Failure::io("make a temporary directory", &error))?;
    let scratch = arguments.scratch.clone().unwrap_or_else(|| temporary.path().join("store"));
    let found = options(arguments.backup.as_ref()).verify(&target, &scratch).map_err(told)?;
    let archives: Vec<_> = found.archives.iter().map(Archived::of).collect();
    let damage: Vec<String> = found.store.damage.iter().map(ToString::to_string).collect();
    let damage: Vec<String> =
        damage.into_iter().chain(archives.iter().filter_map(|archive| archive.damage.clone())).collect();
    let verified = Verified { sound: found.is_sound(), restored: Restored::of(&found.restored), archives, damage };
    out::answer(arguments.output.output, &verified, |verified| {
        let damage: String = verified.damage.iter().map(|damage| format!("damage   {damage}\n")).collect();
        let sound = if verified.sound { "sound" } else { "damaged" };
        let archives = verified.archives.iter().map(|archive| format!("archive  {}\n", archive.text()));
        format!("{}{}{damage}result   {sound}\n", verified.restored.text(), archives.collect::<String>())
    })?;
    match verified.damage.first() {
        Some(damage) => Err(Failure::new(exit::CORRUPT, damage)),
        None => Ok(()),
    }
}

#[derive(Serialize)]
struct Pruned {
    removed: Vec<String>,
    kept: Vec<String>,
    removed_chunks: u64,
    removed_pieces: u64,
}

fn prune(arguments: &PruneArguments) -> Result<(), Failure> {
    let target = arguments.from.target()?;
    if arguments.unlock {
        target.unlock()?;
    }
    let pruned = target.prune(usize::try_from(arguments.keep).unwrap_or(usize::MAX)).map_err(told)?;
    let pruned = Pruned {
        removed: pruned.removed,
        kept: pruned.kept,
        removed_chunks: pruned.removed_chunks,
        removed_pieces: pruned.removed_pieces,
    };
    out::answer(arguments.output.output, &pruned, |pruned| {
        let mut text: String = pruned.removed.iter().map(|name| format!("removed  {name}\n")).collect();
        text.extend(pruned.kept.iter().map(|name| format!("kept     {name}\n")));
        text.push_str(&format!(
            "chunks   {} removed\npieces   {} removed\n",
            pruned.removed_chunks, pruned.removed_pieces
        ));
        text
    })
}
