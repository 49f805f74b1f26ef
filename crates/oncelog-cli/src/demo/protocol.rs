//! What a worker tells the demo: one line each on its standard output. Pure.
//!
//! `opening` comes before the store is opened and `ready` after, so a worker that dies between the two dies in
//! recovery.

use std::fmt;
use std::str::FromStr;

use crate::exit::Failure;

/// A line from the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// It begins to open the store.
    Opening,
    /// The store is open, with so many lines loaded by earlier lives, and so many frames replayed.
    Ready { loaded: u64, frames: u64 },
    /// Lines loaded and records processed, over all lives.
    Progress { loaded: u64, processed: u64 },
    /// Everything is loaded and processed and the store is closed.
    Done,
    /// It ends because of this.
    Failed { code: u8, message: String },
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::Opening => f.write_str("opening"),
            Message::Ready { loaded, frames } => write!(f, "ready loaded={loaded} frames={frames}"),
            Message::Progress { loaded, processed } => write!(f, "progress loaded={loaded} processed={processed}"),
            Message::Done => f.write_str("done"),
            Message::Failed { code, message } => write!(f, "failed code={code} {message}"),
        }
    }
}

impl FromStr for Message {
    type Err = Failure;

    fn from_str(line: &str) -> Result<Message, Failure> {
        read(line).ok_or_else(|| Failure::plain(format_args!("the worker said {line:?}, which means nothing")))
    }
}

fn read(line: &str) -> Option<Message> {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let number = |word: &str, name: &str| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok();
    match verb {
        "opening" => Some(Message::Opening),
        "ready" => {
            let (loaded, frames) = rest.split_once(' ')?;
            Some(Message::Ready { loaded: number(loaded, "loaded")?, frames: number(frames, "frames")? })
        }
        "progress" => {
            let (loaded, processed) = rest.split_once(' ')?;
            Some(Message::Progress { loaded: number(loaded, "loaded")?, processed: number(processed, "processed")? })
        }
        "done" => Some(Message::Done),
        "failed" => {
            let (code, message) = rest.split_once(' ')?;
            let code = number(code, "code")?.try_into().ok()?;
            Some(Message::Failed { code, message: message.to_owned() })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back() {
        let failed = Message::Failed { code: 5, message: "in use, held by process 7".to_owned() };
        let progress = Message::Progress { loaded: 12, processed: 7 };
        for message in [Message::Opening, Message::Ready { loaded: 9, frames: 3 }, progress, Message::Done, failed] {
            assert_eq!(message.to_string().parse(), Ok(message));
        }
        for bad in ["", "ready", "ready loaded=1 frames=x", "progress loaded=1", "failed code=300 x", "hello"] {
            assert!(bad.parse::<Message>().is_err(), "{bad}");
        }
    }
}
