//! `oncelog completions`: what a shell needs to complete arguments.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::exit::Failure;
use crate::out::Stdout;

/// What `oncelog completions` can be told.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  oncelog completions bash > ~/.local/share/bash-completion/completions/oncelog\n  \
                        oncelog completions zsh > ~/.zfunc/_oncelog"
)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// It cannot be written.
pub(crate) fn run(arguments: &CompletionsArguments) -> Result<(), Failure> {
    let (mut script, mut out) = (Vec::new(), Stdout::new());
    clap_complete::generate(arguments.shell, &mut Cli::command(), "oncelog", &mut script);
    out.write(&script)?;
    out.flush()
}
