//! What things are called on the cluster. Pure.
//!
//! Invariant: no two names of ours become one name there. What Kafka does not take, and the `-` and `_` that we put
//! between and before, are written as `_` and two hexadecimal digits.

use std::fmt::Write as _;

use oncelog::{Error, ErrorKind, Result};

/// The longest name of a topic that Kafka takes.
const TOPIC_BYTES_MAX: usize = 249;

/// Whether Kafka takes it as a topic's name.
///
/// # Errors
/// `Invalid`: it does not.
pub(crate) fn check_topic(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let complaint = match name {
        "" | "." | ".." => "it means nothing to Kafka",
        name if name.len() > TOPIC_BYTES_MAX => "Kafka takes no more than 249 bytes",
        name if !name.bytes().all(fits) => "Kafka takes letters, digits, `.`, `_` and `-` only",
        _ => return Ok(()),
    };
    Err(Error::new(ErrorKind::Invalid, format!("topic {name:?}: bad name: {complaint}")))
}

fn escape(name: &str) -> String {
    name.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'.' {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "_{byte:02x}");
        }
        out
    })
}

/// The consumer group of a processor: one for all instances of the application.
pub(crate) fn group(application: &str, processor: &str) -> String {
    format!("{}-{}", escape(application), escape(processor))
}

/// The topic that holds the changes of a processor's table.
///
/// # Errors
/// `Invalid`: the names are too long.
pub(crate) fn changelog(application: &str, processor: &str, table: &str) -> Result<String> {
    let name = format!("{}-{}-changelog", group(application, processor), escape(table));
    check_topic(&name)?;
    Ok(name)
}

/// Who a thread of an instance is: to the group, and to the coordinator of transactions. The same after a restart, so
/// what it left open is ended when it comes back, and its partitions wait for it.
pub(crate) fn member(group: &str, instance: &str, thread: usize) -> String {
    format!("{group}-{instance}-{thread}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_names_stay_different() {
        assert_eq!(group("shop", "word count"), "shop-word_20count");
        assert_ne!(group("a-b", "c"), group("a", "b-c"));
        assert_ne!(group("a", "b_2d"), group("a", "b-"));
        let one = changelog("a", "b-c", "d").ok();
        let other = changelog("a", "b", "c-d").ok();
        assert_eq!(one.as_deref(), Some("a-b_2dc-d-changelog"));
        assert_ne!(one, other);
    }

    #[test]
    fn only_what_kafka_takes_is_a_topic() {
        for good in ["orders", "a.b_c-9"] {
            assert!(check_topic(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "caf\u{e9}", &"x".repeat(250)] {
            assert_eq!(check_topic(bad).map_err(|error| error.kind()), Err(ErrorKind::Invalid), "{bad}");
        }
        assert!(changelog("a", &"b".repeat(250), "c").is_err());
    }
}
