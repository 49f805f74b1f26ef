//! Keys of two parts, of which the first decides where the key belongs: all windows of a user, all prices of a symbol.
//!
//! The first part is written so that it ends by itself and sorts as its bytes do: each zero byte is followed by 0xFF,
//! and two zero bytes end it (the way of the FoundationDB tuple layer). The second part follows as it is.

use std::borrow::{Borrow, Cow};
use std::marker::PhantomData;

use super::value::{Bytes, Codec, CodecError, Postcard, U64, Utf8};

/// Keys of two parts, which sort by the first and then by the second. **The first alone decides the partition**, and
/// the shard of a table, exactly as if it were the whole key: a processor over a topic keyed by `A` can keep as many
/// rows for a key as it likes.
///
/// ```
/// use oncelog::{Outcome, Pair, Processor, Result, Store, TableDef, TopicDef, U64, Utf8};
/// # fn main() -> Result<()> {
/// const VISITS: TopicDef<Utf8, U64> = TopicDef::new("visits").partitions(4);
/// // How many visits of a user in each hour.
/// const HOURS: TableDef<Pair<Utf8, U64>, U64> = TableDef::new("hours").shards(4);
/// let store = Store::in_memory()?;
/// let run = Processor::new("hours", VISITS).table(HOURS).start(&store, |visit, tx| {
///     let hour = visit.value()? / 3_600;
///     tx.table(HOURS)?.update(&(visit.key()?.to_owned(), hour), |count| count.unwrap_or(0) + 1)?;
///     Ok(Outcome::Commit)
/// })?;
/// store.producer(VISITS)?.append("ann", &7_300)?;
/// assert!(run.wait_caught_up(std::time::Duration::from_secs(60))?);
/// assert_eq!(store.snapshot()?.group(HOURS, "ann")?, [(("ann".to_owned(), 2), 1)]);
/// run.stop()?;
/// # store.close()
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Pair<A, B>(PhantomData<fn() -> (A, B)>);

/// A row of a table with keys of two parts: both parts of the key, and the value.
pub type PairRow<A, B, V> = ((<A as Codec>::Owned, <B as Codec>::Owned), <V as Codec>::Owned);

impl<A: Codec, B: Codec> Codec for Pair<A, B>
where
    A::Owned: Borrow<A::Value>,
    B::Owned: Borrow<B::Value>,
{
    type Value = (A::Owned, B::Owned);
    type Ref<'a> = (A::Owned, B::Owned);
    type Owned = (A::Owned, B::Owned);
    const ID: &'static str = "pair";

    fn id() -> Cow<'static, str> {
        format!("{}({},{})", Self::ID, A::id(), B::id()).into()
    }

    fn encode((first, second): &Self::Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
        encode_first::<A>(first.borrow(), out)?;
        B::encode(second.borrow(), out)
    }

    fn decode(bytes: &[u8]) -> Result<Self::Ref<'_>, CodecError> {
        let (first, second) = split(bytes).ok_or_else(|| CodecError::new("the first part of the pair has no end"))?;
        let first =
            A::decode_owned(&unescaped(first)).map_err(|reason| CodecError::new(format!("first part: {reason}")))?;
        let second = B::decode_owned(second).map_err(|reason| CodecError::new(format!("second part: {reason}")))?;
        Ok((first, second))
    }

    fn decode_owned(bytes: &[u8]) -> Result<Self::Owned, CodecError> {
        Self::decode(bytes)
    }

    fn route(encoded: &[u8]) -> Cow<'_, [u8]> {
        match split(encoded) {
            Some((first, _)) if first.contains(&0) => Cow::Owned(A::route(&unescaped(first)).into_owned()),
            Some((first, _)) => A::route(first),
            None => Cow::Borrowed(encoded),
        }
    }
}

/// What [`Codec::route`] of the codec with that id, as a topic or table stores it, says of an encoded key: for whoever
/// knows a topic and not its types. `None`: the id is that of a user's own codec, which only its program can ask.
///
/// ```
/// # use std::borrow::Cow;
/// assert_eq!(oncelog::route_of("utf8", b"ann"), Some(Cow::Borrowed(&b"ann"[..])));
/// assert_eq!(oncelog::route_of("pair(utf8,u64-be)", b"ann\0\0\0\0\0\0\0\0\0\x07"), Some(Cow::Borrowed(&b"ann"[..])));
/// assert_eq!(oncelog::route_of("orders-2", b"ann"), None);
/// ```
#[must_use]
pub fn route_of<'k>(codec_id: &str, encoded: &'k [u8]) -> Option<Cow<'k, [u8]>> {
    let whole = [Bytes::ID, Utf8::ID, U64::ID, Postcard::<()>::ID];
    if whole.contains(&codec_id) {
        return Some(Cow::Borrowed(encoded));
    }
    let first_id = first_id(codec_id)?;
    match split(encoded) {
        Some((first, _)) if first.contains(&0) => {
            let first = unescaped(first);
            Some(Cow::Owned(route_of(first_id, &first)?.into_owned()))
        }
        Some((first, _)) => route_of(first_id, first),
        None => route_of(first_id, &[]).map(|_| Cow::Borrowed(encoded)),
    }
}

/// Whether bytes can be an encoding of the codec with that id, as far as it is known by it: of a codec that is a user's
/// own all can.
///
/// ```
/// assert!(oncelog::may_be_of("pair(utf8,u64-be)", b"ann\0\0\0\0\0\0\0\0\0\x07"));
/// assert!(!oncelog::may_be_of("pair(utf8,u64-be)", b"ann"));
/// ```
#[must_use]
pub fn may_be_of(codec_id: &str, bytes: &[u8]) -> bool {
    if codec_id == Utf8::ID {
        return std::str::from_utf8(bytes).is_ok();
    }
    if codec_id == U64::ID {
        return bytes.len() == size_of::<u64>();
    }
    let Some((first_id, second_id)) = part_ids(codec_id) else { return true };
    split(bytes).is_some_and(|(first, second)| may_be_of(first_id, &unescaped(first)) && may_be_of(second_id, second))
}

/// The id of the first part, of the id of a pair.
fn first_id(codec_id: &str) -> Option<&str> {
    part_ids(codec_id).map(|(first, _)| first)
}

/// The ids of both parts: they are parted by the comma that is in no inner pair.
fn part_ids(codec_id: &str) -> Option<(&str, &str)> {
    let inner = codec_id.strip_prefix("pair(")?.strip_suffix(')')?;
    let mut depth = 0usize;
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => return Some((inner.get(..at)?, inner.get(at + 1..)?)),
            _ => {}
        }
    }
    None
}

/// What the encodings of all pairs with this first part begin with, and of no others.
pub(crate) fn encode_first<A: Codec>(first: &A::Value, out: &mut Vec<u8>) -> Result<(), CodecError> {
    let mut bytes = Vec::new();
    A::encode(first, &mut bytes)?;
    for byte in bytes {
        out.push(byte);
        if byte == 0 {
            out.push(ESCAPED);
        }
    }
    out.extend_from_slice(&END);
    Ok(())
}

/// Behind a zero byte of the first part.
const ESCAPED: u8 = 0xFF;
/// Behind the first part.
const END: [u8; 2] = [0, 0];

/// The first part as it is written, and the second.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
        match bytes.get(at + 1)? {
            0 => return Some((&bytes[..at], &bytes[at + 2..])),
            &ESCAPED => at += 2,
            _ => return None,
        }
    }
}

fn unescaped(first: &[u8]) -> Cow<'_, [u8]> {
    if !first.contains(&0) {
        return Cow::Borrowed(first);
    }
    let mut bytes = Vec::with_capacity(first.len());
    let mut rest = first.iter();
    while let Some(byte) = rest.next() {
        bytes.push(*byte);
        if *byte == 0 {
            rest.next();
        }
    }
    Cow::Owned(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Key = Pair<Bytes, Bytes>;

    fn encoded<C: Codec>(value: &C::Value) -> Vec<u8> {
        let mut bytes = Vec::new();
        C::encode(value, &mut bytes).unwrap();
        bytes
    }

    /// Few values, so that equal beginnings and zero bytes come often.
    fn part() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0xFF), any::<u8>()], 0..6)
    }

    proptest! {
        #[test]
        fn pairs_come_back_and_sort_as_their_parts_do(a in part(), b in part(), c in part(), d in part()) {
            let (left, right) = ((a, b), (c, d));
            let (left_bytes, right_bytes) = (encoded::<Key>(&left), encoded::<Key>(&right));
            prop_assert_eq!(left.cmp(&right), left_bytes.cmp(&right_bytes));
            prop_assert_eq!(Key::decode(&left_bytes).unwrap(), left.clone());
            let mut begin = Vec::new();
            encode_first::<Bytes>(&left.0, &mut begin).unwrap();
            prop_assert_eq!(right_bytes.starts_with(&begin), left.0 == right.0);
        }

        #[test]
        fn the_first_part_decides_where_a_pair_belongs(a in part(), b in part(), number: u64) {
            let key = encoded::<Key>(&(a.clone(), b.clone()));
            prop_assert_eq!(Key::route(&key).into_owned(), a);
            let nested = encoded::<Pair<U64, Key>>(&(number, (b.clone(), b)));
            prop_assert_eq!(Pair::<U64, Key>::route(&nested).into_owned(), encoded::<U64>(&number));
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in part()) {
            let _ = (Key::decode(&bytes), Key::route(&bytes).len());
            // Whoever knows only the id is told the same.
            prop_assert_eq!(route_of(&Key::id(), &bytes), Some(Key::route(&bytes)));
            type Nested = Pair<Pair<Bytes, U64>, Utf8>;
            prop_assert_eq!(route_of(&Nested::id(), &bytes), Some(Nested::route(&bytes)));
            prop_assert_eq!(may_be_of(&Nested::id(), &bytes), Nested::decode(&bytes).is_ok());
        }
    }

    #[test]
    fn a_pair_says_what_it_is_made_of() {
        assert_eq!(Pair::<Utf8, Pair<U64, Bytes>>::id(), "pair(utf8,pair(u64-be,bytes))");
        let error = Key::decode(b"no end").unwrap_err();
        assert!(error.to_string().contains("no end"), "{error}");
    }
}
