//! Moments as people write them (RFC 3339), in milliseconds since the Unix epoch; and places in a topic.

use oncelog::{LogOffset, Whence};

const DAY_MS: i64 = 86_400_000;

/// Reads `oldest`, `latest`, an offset or a moment.
///
/// # Errors
/// What it must be.
pub(crate) fn parse_place(text: &str) -> Result<Whence, String> {
    let place = match text {
        "oldest" => Some(Whence::Oldest),
        "latest" => Some(Whence::Latest),
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().ok().map(|offset| Whence::Position(LogOffset(offset)))
        }
        moment => parse_ms(moment).map(Whence::Time),
    };
    place.ok_or_else(|| "must be oldest, latest, an offset, or a time as in 2026-05-01T12:30Z".to_owned())
}

/// Reads `2026-05-01`, `2026-05-01T12:30`, `2026-05-01T12:30:05.250Z`, `2026-05-01T12:30+02:00`; UTC unless said.
pub(crate) fn parse_ms(text: &str) -> Option<i64> {
    let (date, time) = match text.split_once(['T', 't', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let exists = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if parts.next().is_some() || !exists {
        return None;
    }
    Some(days_since_epoch(year, month, day) * DAY_MS + time.map_or(Some(0), time_ms)?)
}

fn time_ms(text: &str) -> Option<i64> {
    let (text, zone_ms) = match text.strip_suffix(['Z', 'z']) {
        Some(text) => (text, 0),
        None => match text.rfind(['+', '-']) {
            Some(at) => (&text[..at], zone_ms(&text[at..])?),
            None => (text, 0),
        },
    };
    let mut parts = text.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second_ms = parts.next().map_or(Some(0), second_ms)?;
    let exists = hour < 24 && minute < 60 && parts.next().is_none();
    exists.then_some(((hour * 60 + minute) * 60_000) + second_ms - zone_ms)
}

fn second_ms(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = digits(whole, 2).filter(|second| *second < 60)?;
    let is_number = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let ms: String = fraction.chars().chain("000".chars()).take(3).collect();
    if is_number { Some(whole * 1000 + ms.parse::<i64>().ok()?) } else { None }
}

fn zone_ms(text: &str) -> Option<i64> {
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = text[1..].split_once(':')?;
    let (hours, minutes) = (digits(hours, 2)?, digits(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60_000)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let fits = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if fits { text.parse().ok() } else { None }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Whole years with their leap days, then whole months, then days.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let leap_days = |year: i64| (year - 1).div_euclid(4) - (year - 1).div_euclid(100) + (year - 1).div_euclid(400);
    let years = 365 * (year - 1970) + leap_days(year) - leap_days(1970);
    years + (1..month).map(|month| days_in(year, month)).sum::<i64>() + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read() {
        for (text, ms) in [
            ("1970-01-01", 0),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
            ("2024-02-29T12:30", 1_709_209_800_000),
            ("2026-11-28T06:41:00.25+02:00", 1_795_840_860_250),
            ("2026-11-28 04:41:00", 1_795_840_860_000),
        ] {
            assert_eq!(parse_ms(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_moment_is_refused() {
        let wrong =
            ["", "now", "2026-13-01", "2026-02-29", "2026-1-1", "2026-01-01T", "2026-01-01T24:00", "2026-01-01T1:00"];
        for text in
            wrong.into_iter().chain(["2026-01-01T00:00:00.", "2026-01-01T00:00+1", "2026-01-01-01", "+026-01-01"])
        {
            assert_eq!(parse_ms(text), None, "{text}");
        }
    }
}
