//! Codecs: types that say how the keys and values of a topic or table become bytes. The id of each is stored with the
//! topic or table, so that opening it with another codec is an error and not garbage.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Why bytes are not a value of the codec that was asked for, or a value cannot be encoded.
#[derive(Debug)]
pub struct CodecError(Box<dyn StdError + Send + Sync>);

impl CodecError {
    /// Wraps the codec's own reason.
    pub fn new(reason: impl Into<Box<dyn StdError + Send + Sync>>) -> CodecError {
        CodecError(reason.into())
    }
}

impl fmt::Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for CodecError {}

/// How a key or a value becomes bytes and comes back. Implement it for a format of your own.
///
/// The bytes of equal values must be equal when the codec is used for keys: partitions and table rows are found by
/// bytes.
pub trait Codec: 'static {
    /// What is encoded, as it is handed in: `str`, `u64`, your type.
    type Value: ?Sized;
    /// What decoding gives when it may borrow from the record.
    type Ref<'a>;
    /// What decoding gives when it must stand alone.
    type Owned;
    /// The name stored with the topic or table; never change it once data is written.
    const ID: &'static str;

    /// [`Codec::ID`], with the parts of a codec that is made of others.
    #[must_use]
    fn id() -> Cow<'static, str> {
        Cow::Borrowed(Self::ID)
    }

    /// Appends the bytes of `value` to `out`.
    ///
    /// # Errors
    /// The value has no encoding; `out` may hold a part of it then, which is thrown away.
    fn encode(value: &Self::Value, out: &mut Vec<u8>) -> Result<(), CodecError>;
    /// The bytes that [`Codec::encode`] would append, where `value` holds them as they are: they are copied once less
    /// then. `None` unless the codec says otherwise.
    #[must_use]
    fn as_encoded(value: &Self::Value) -> Option<&[u8]> {
        let _ = value;
        None
    }
    /// The value of `bytes`, borrowing where it can.
    ///
    /// # Errors
    /// The bytes are not an encoding of this codec. Must not panic on any input.
    fn decode(bytes: &[u8]) -> Result<Self::Ref<'_>, CodecError>;
    /// The value of `bytes`, standing alone.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    fn decode_owned(bytes: &[u8]) -> Result<Self::Owned, CodecError>;

    /// What of an encoded key decides the partition of a record and the shard of a row: all of it, unless the codec
    /// says otherwise as [`Pair`](crate::Pair) does. Of keys that are to meet in one partition it must be equal, and
    /// never change once data is written. Must not panic on any input.
    #[must_use]
    fn route(encoded: &[u8]) -> Cow<'_, [u8]> {
        Cow::Borrowed(encoded)
    }
}

/// Bytes as they are.
#[derive(Clone, Copy, Debug)]
pub struct Bytes;

impl Codec for Bytes {
    type Value = [u8];
    type Ref<'a> = &'a [u8];
    type Owned = Vec<u8>;
    const ID: &'static str = "bytes";

    #[inline]
    fn encode(value: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value);
        Ok(())
    }

    #[inline]
    fn as_encoded(value: &[u8]) -> Option<&[u8]> {
        Some(value)
    }

    fn decode(bytes: &[u8]) -> Result<&[u8], CodecError> {
        Ok(bytes)
    }

    fn decode_owned(bytes: &[u8]) -> Result<Vec<u8>, CodecError> {
        Ok(bytes.to_owned())
    }
}

/// Text in UTF-8.
#[derive(Clone, Copy, Debug)]
pub struct Utf8;

impl Codec for Utf8 {
    type Value = str;
    type Ref<'a> = &'a str;
    type Owned = String;
    const ID: &'static str = "utf8";

    #[inline]
    fn encode(value: &str, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    #[inline]
    fn as_encoded(value: &str) -> Option<&[u8]> {
        Some(value.as_bytes())
    }

    fn decode(bytes: &[u8]) -> Result<&str, CodecError> {
        std::str::from_utf8(bytes).map_err(CodecError::new)
    }

    fn decode_owned(bytes: &[u8]) -> Result<String, CodecError> {
        Self::decode(bytes).map(str::to_owned)
    }
}

/// A `u64` as eight bytes, most significant first, so that keys sort by number.
#[derive(Clone, Copy, Debug)]
pub struct U64;

impl Codec for U64 {
    type Value = u64;
    type Ref<'a> = u64;
    type Owned = u64;
    const ID: &'static str = "u64-be";

    fn encode(value: &u64, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(&value.to_be_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<u64, CodecError> {
        let array: [u8; 8] =
            bytes.try_into().map_err(|_| CodecError::new(format!("a number has 8 bytes, here are {}", bytes.len())))?;
        Ok(u64::from_be_bytes(array))
    }

    fn decode_owned(bytes: &[u8]) -> Result<u64, CodecError> {
        Self::decode(bytes)
    }
}

/// Any serde type in the postcard format: compact, not self-describing, so a changed type needs a new topic or table.
#[derive(Clone, Copy, Debug)]
pub struct Postcard<T>(PhantomData<fn() -> T>);

impl<T: Serialize + DeserializeOwned + 'static> Codec for Postcard<T> {
    type Value = T;
    type Ref<'a> = T;
    type Owned = T;
    const ID: &'static str = "postcard-1";

    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), CodecError> {
        // postcard extends from an owned buffer; hand ours over and take it back.
        *out = postcard::to_extend(value, std::mem::take(out)).map_err(CodecError::new)?;
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<T, CodecError> {
        let (value, rest) = postcard::take_from_bytes(bytes).map_err(CodecError::new)?;
        if rest.is_empty() {
            Ok(value)
        } else {
            Err(CodecError::new(format!("{} bytes too many after the value", rest.len())))
        }
    }

    fn decode_owned(bytes: &[u8]) -> Result<T, CodecError> {
        Self::decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
    struct Order {
        customer: String,
        cents: u64,
    }

    proptest! {
        #[test]
        fn numbers_sort_by_bytes(a: u64, b: u64) {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            U64::encode(&a, &mut left).unwrap();
            U64::encode(&b, &mut right).unwrap();
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert_eq!(U64::decode(&left).unwrap(), a);
        }

        #[test]
        fn values_come_back_behind_what_was_there(customer: String, cents: u64) {
            let order = Order { customer, cents };
            let mut out = b"before".to_vec();
            Postcard::<Order>::encode(&order, &mut out).unwrap();
            prop_assert_eq!(&out[..6], b"before");
            prop_assert_eq!(Postcard::<Order>::decode(&out[6..]).unwrap(), order);
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes: Vec<u8>) {
            let _ = (Utf8::decode(&bytes), U64::decode(&bytes), Postcard::<Order>::decode(&bytes));
        }
    }

    #[test]
    fn trailing_bytes_are_an_error() {
        let mut out = Vec::new();
        Postcard::<u8>::encode(&7, &mut out).unwrap();
        out.push(0);
        assert!(Postcard::<u8>::decode(&out).is_err());
        assert!(U64::decode(&[0; 9]).is_err());
    }
}
