//! A line of a web server's log in the combined format: who asked, and how many bytes went out. Pure.
//!
//! ```text
//! 192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 1234 "http://from.example/" "Browser"
//! client                                                           amount
//! ```
//!
//! The common format, which ends behind the bytes, is taken too, and so are further fields behind the combined ones. A
//! field that is cut off or out of place makes the line unreadable: it is never guessed at.

/// Longest name of a client: as long as a host name can be.
const CLIENT_BYTES_MAX: usize = 255;

/// What is counted of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parsed {
    /// Whose total it adds to.
    pub(crate) client: String,
    /// What it adds: bytes or cents.
    pub(crate) amount: u64,
    /// The line as it was, without its end.
    pub(crate) text: Vec<u8>,
}

/// The client and the bytes of a line without its end, if it can be read. No bytes, written `-`, are 0.
pub(super) fn access(line: &[u8]) -> Option<(&str, u64)> {
    let (client, rest) = split(line, b" ")?;
    let client = str::from_utf8(client).ok()?;
    if client.is_empty() || client.len() > CLIENT_BYTES_MAX || client.contains(char::is_control) {
        return None;
    }
    let (_identity_and_user, rest) = split(rest, b" [")?;
    let (_time, rest) = split(rest, b"] ")?;
    let rest = quoted(rest)?.strip_prefix(b" ")?;
    let (status, rest) = rest.split_first_chunk::<3>()?;
    let (amount, rest) = match split(rest.strip_prefix(b" ")?, b" ") {
        Some((amount, rest)) => (amount, Some(rest)),
        None => (rest.strip_prefix(b" ")?, None),
    };
    if let Some(rest) = rest {
        let behind = quoted(quoted(rest)?.strip_prefix(b" ")?)?;
        if !(behind.is_empty() || behind.starts_with(b" ")) {
            return None;
        }
    }
    status.iter().all(u8::is_ascii_digit).then_some((client, bytes(amount)?))
}

fn bytes(digits: &[u8]) -> Option<u64> {
    match digits {
        b"-" => Some(0),
        _ if digits.iter().all(u8::is_ascii_digit) => str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

/// What comes behind a quoted field; a backslash takes its meaning from the next byte.
fn quoted(field: &[u8]) -> Option<&[u8]> {
    let inside = field.strip_prefix(b"\"")?;
    let mut escaped = false;
    let end = inside.iter().position(|byte| {
        let ends = *byte == b'"' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        ends
    })?;
    Some(&inside[end + 1..])
}

fn split<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<(&str, u64)> {
        access(line.as_bytes())
    }

    #[test]
    fn the_combined_and_the_common_format_are_read() {
        let common = r#"192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 1234"#;
        assert_eq!(read(common), Some(("192.0.2.7", 1234)));
        assert_eq!(read(&format!(r#"{common} "-" "Browser (a \"good\" one)""#)), Some(("192.0.2.7", 1234)));
        assert_eq!(read(&format!(r#"{common} "-" "Browser" "203.0.113.9" 0.004"#)), Some(("192.0.2.7", 1234)));
        let named = r#"2001:db8::1 - Jo Doe [17/May/2015:10:05:03 +0000] "\x16\x03" 400 - "-" "-""#;
        assert_eq!(read(named), Some(("2001:db8::1", 0)));
    }

    #[test]
    fn what_is_cut_off_or_out_of_place_is_not_guessed_at() {
        let whole = r#"192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 1234 "-" "Browser""#;
        let readable: Vec<_> = (0..whole.len()).filter(|end| read(&whole[..*end]).is_some()).collect();
        // Cut within the bytes it is a whole line of the common format, as far as anybody can see.
        assert_eq!(readable, [68, 69, 70, 71].map(|end| end - (68 - whole.find("1234").unwrap() - 1)));
        for bad in
            ["", " ", "hello", &whole.replace("1234", "12x4"), &whole.replace("200", "2x0"), &format!(" {whole}")]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(read(&whole.replace("1234", "99999999999999999999")), None);
        assert_eq!(read(&whole.replace("192.0.2.7", &"h".repeat(256))), None);
        assert_eq!(access(&[0xFF; 40]), None);
    }
}
