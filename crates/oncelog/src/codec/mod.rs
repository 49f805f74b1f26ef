//! Numbers, lengths, checksums and typed values to bytes and back. Pure: no I/O, no state.
//!
//! Reading never panics and never allocates by what a length field claims: [`Input`] hands out slices of what is there.

mod checksum;
mod input;
mod pair;
mod value;

#[cfg(oncelog_mutants)]
pub use checksum::CheckSite;
#[cfg(not(oncelog_mutants))]
pub(crate) use checksum::CheckSite;
pub(crate) use checksum::same;
#[cfg(oncelog_mutants)]
pub use checksum::skip_check;
#[cfg(fuzzing)]
pub(crate) use checksum::trust_checksums;
pub(crate) use checksum::{crc32c, crc32c_of};
pub(crate) use input::{Input, put_bytes, put_varint, varint_len, zigzag, zigzag_back};
pub(crate) use pair::encode_first;
pub use pair::{Pair, PairRow, may_be_of, route_of};
pub use value::{Bytes, Codec, CodecError, Postcard, U64, Utf8};
