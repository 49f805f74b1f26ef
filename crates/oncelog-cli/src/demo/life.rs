//! One worker process from its start to its end, and the proof of how it ended.
//!
//! Invariant: a kill counts only if the operating system says that signal 9 ended the process, it was this demo that
//! sent it, and the process had not said `done`.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::kills::Fate;
use super::protocol::Message;
use crate::exit::Failure;

const SIGKILL: i32 = 9;
/// Messages on their way; a worker that talks faster than it is heard waits.
const MESSAGES: usize = 64;

/// How a worker ended.
#[derive(Debug)]
pub(super) enum End {
    /// By itself, with everything done.
    Finished,
    /// By our kill.
    Killed {
        /// It had begun to open the store and was not yet ready.
        opening: bool,
    },
    /// By itself, before its time.
    Failed(Failure),
}

/// A running worker.
pub(super) struct Life {
    child: Child,
    messages: Receiver<Message>,
    listener: JoinHandle<()>,
    pub(super) seen: Seen,
}

/// What a worker has said so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    opening: Option<Instant>,
    /// How long it took to open the store.
    pub(super) opened_in: Option<Duration>,
    /// Lines that it found loaded.
    pub(super) loaded_before: Option<u64>,
    pub(super) loaded: u64,
    pub(super) processed: u64,
    done: bool,
    failed: Option<(u8, String)>,
}

impl Life {
    /// Starts a worker.
    ///
    /// # Errors
    /// There is no process to be had.
    pub(super) fn start(command: &mut Command) -> Result<Life, Failure> {
        let failed = |error| Failure::io("start the worker", &error);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
        let (sender, messages) = sync_channel(MESSAGES);
        let Some(stdout) = child.stdout.take() else { return Err(Failure::plain("the worker has no output")) };
        let listener = std::thread::spawn(move || listen(stdout, &sender));
        Ok(Life { child, messages, listener, seen: Seen::default() })
    }

    /// Follows it to its end, and brings that about if its fate says so. Calls `tell` for each step of progress.
    ///
    /// # Errors
    /// The process cannot be killed or waited for.
    pub(super) fn follow(&mut self, fate: Fate, mut tell: impl FnMut(&Seen)) -> Result<End, Failure> {
        let mut killed = false;
        let mut deadline = None;
        loop {
            let message = match deadline {
                Some(deadline) if !killed => self.messages.recv_timeout(deadline - Instant::now().min(deadline)),
                _ => self.messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match message {
                Ok(message) => {
                    self.seen.note(message);
                    tell(&self.seen);
                    deadline = if self.seen.done { None } else { deadline.or_else(|| self.seen.deadline(fate)) };
                }
                Err(RecvTimeoutError::Timeout) => {
                    killed = true;
                    self.child.kill().map_err(|error| Failure::io("kill the worker", &error))?;
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().map_err(|error| Failure::io("wait for the worker", &error))?;
        Ok(self.seen.end(killed, status))
    }

    /// The process's number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the listener, which has nothing left to listen to.
    pub(super) fn bury(self) -> Seen {
        // It only passes lines on; if it panicked, its lines are missing and the worker counts as failed.
        let _ = self.listener.join();
        self.seen
    }
}

fn listen(stdout: ChildStdout, sender: &SyncSender<Message>) {
    for line in BufReader::new(stdout).lines() {
        // A line that was cut off by a kill means nothing and is the last one.
        let Some(message) = line.ok().and_then(|line| line.parse().ok()) else { return };
        if sender.send(message).is_err() {
            return;
        }
    }
}

impl Seen {
    fn note(&mut self, message: Message) {
        match message {
            Message::Opening => self.opening = Some(Instant::now()),
            Message::Ready { loaded, .. } => {
                self.opened_in = self.opening.map(|opening| opening.elapsed());
                self.loaded_before = Some(loaded);
                self.loaded = loaded;
            }
            Message::Progress { loaded, processed } => (self.loaded, self.processed) = (loaded, processed),
            Message::Done => self.done = true,
            Message::Failed { code, message } => self.failed = Some((code, message)),
        }
    }

    /// When the fate is to strike, as far as it can be said by now.
    fn deadline(&self, fate: Fate) -> Option<Instant> {
        match fate {
            Fate::Lives => None,
            Fate::DiesOpening(delay) => self.opening.map(|opening| opening + delay),
            Fate::DiesAt(work, delay) => (self.loaded + self.processed >= work).then(|| Instant::now() + delay),
        }
    }

    fn end(&self, killed: bool, status: ExitStatus) -> End {
        if let Some((code, message)) = &self.failed {
            return End::Failed(Failure::new(*code, message));
        }
        match (self.done, status.signal()) {
            (true, _) => End::Finished,
            (false, Some(SIGKILL)) if killed => {
                End::Killed { opening: self.opening.is_some() && self.opened_in.is_none() }
            }
            (false, _) => {
                let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| (1..=5).contains(code));
                End::Failed(Failure::new(code.unwrap_or(1), format_args!("it ended early, {status}")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, fate: Fate) -> End {
        let mut life = Life::start(Command::new("sh").args(["-c", script])).unwrap();
        life.follow(fate, |_| {}).unwrap()
    }

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn only_a_kill_of_ours_before_the_end_counts() {
        let sleep = "exec sleep 60";
        let end = shell(&format!("echo opening; {sleep}"), Fate::DiesOpening(AT_ONCE));
        assert!(matches!(end, End::Killed { opening: true }), "{end:?}");
        let working =
            format!("echo opening; echo ready loaded=1 frames=1; echo progress loaded=2 processed=3; {sleep}");
        let end = shell(&working, Fate::DiesAt(5, AT_ONCE));
        assert!(matches!(end, End::Killed { opening: false }), "{end:?}");
        let end = shell("echo opening; echo done", Fate::DiesOpening(Duration::from_secs(60)));
        assert!(matches!(end, End::Finished), "{end:?}");
        let end = shell("echo opening; kill -9 $$", Fate::DiesOpening(Duration::from_secs(60)));
        assert!(matches!(end, End::Failed(Failure::Told { code: 1, .. })), "{end:?}");
        let end = shell("echo opening; exit 4", Fate::Lives);
        assert!(matches!(end, End::Failed(Failure::Told { code: 4, .. })), "{end:?}");
        let End::Failed(failure) = shell("echo failed code=5 in use; exit 5", Fate::Lives) else {
            panic!("no failure")
        };
        assert_eq!(failure, Failure::new(5, "in use"));
    }
}
