//! `oncelog man`, which only packagers call: the manual pages, one for each command.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory as _};

use crate::cli::Cli;
use crate::exit::Failure;

/// What `oncelog man` can be told.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  oncelog man target/man")]
pub(crate) struct ManArguments {
    /// Directory to write to, made if it is not there
    dir: PathBuf,
}

/// Writes the pages.
///
/// # Errors
/// The directory or a page cannot be written.
pub(crate) fn run(arguments: &ManArguments) -> Result<(), Failure> {
    let dir = &arguments.dir;
    let failed = |error| Failure::io(format_args!("write the manual to {}", dir.display()), &error);
    fs::create_dir_all(dir).map_err(failed)?;
    write(dir, "oncelog", Cli::command()).map_err(failed)
}

fn write(dir: &Path, name: &str, command: clap::Command) -> std::io::Result<()> {
    // Its arguments and those of the commands in it are put together by this.
    let mut command = command.disable_help_subcommand(true);
    command.build();
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        write(dir, &format!("{name}-{}", inner.get_name()), inner.clone())?;
    }
    let page = clap_mangen::Man::new(command.display_name(name.to_owned())).title(name.to_owned());
    let mut bytes = Vec::new();
    page.render(&mut bytes)?;
    fs::write(dir.join(format!("{name}.1")), bytes)
}
