//! Who holds the lock of an owner, written behind the copies of its manifest: for the message that others get, and so
//! that a process which was stopped can be told from one that has ended.

use crate::codec::{Input, crc32c};
use crate::disk::DiskFile;
use crate::process::Process;

/// Its place in the file of the manifest, and its size.
pub(super) const HOLDER_AT: usize = 16384;
pub(super) const HOLDER_BYTES: usize = 64;
const HOLDER_SUMMED_BYTES: usize = 40;

/// The process that has the lock or had it last, if it said so.
pub(super) fn read_holder(file: &dyn DiskFile) -> Option<Process> {
    let mut bytes = [0; HOLDER_BYTES];
    let read = file.read_full_at(&mut bytes, HOLDER_AT as u64).ok()?;
    let mut input = Input::new(&bytes[..read]);
    let (pid, _zero) = (input.u32()?, input.u32()?);
    let (started, boot, namespace) = (input.u64()?, input.array()?, input.u64()?);
    let sum = input.u32()?;
    let holder = Process { pid, started, boot, namespace };
    (pid != 0 && sum == crc32c(&bytes[..HOLDER_SUMMED_BYTES])).then_some(holder)
}

pub(super) fn encode_holder(holder: &Process) -> Vec<u8> {
    let mut out = Vec::with_capacity(HOLDER_BYTES);
    out.extend_from_slice(&holder.pid.to_le_bytes());
    out.resize(8, 0);
    out.extend_from_slice(&holder.started.to_le_bytes());
    out.extend_from_slice(&holder.boot);
    out.extend_from_slice(&holder.namespace.to_le_bytes());
    let sum = crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out.resize(HOLDER_BYTES, 0);
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::disk::{Disk, MemoryDisk, OpenMode};

    #[test]
    fn the_holder_comes_back_and_a_torn_one_is_nobody() {
        let file = MemoryDisk::default().open(Path::new("/MANIFEST"), OpenMode::Create).unwrap();
        let holder = Process { pid: 7, started: 8, boot: [9; 16], namespace: 10 };
        let put = |bytes: &[u8], at: usize| file.write_all_at(bytes, at as u64).unwrap();
        put(&encode_holder(&holder), HOLDER_AT);
        assert_eq!(read_holder(&*file), Some(holder));
        put(&[0], HOLDER_AT + 12);
        put(&[1], HOLDER_AT + 8);
        assert_eq!(read_holder(&*file), None);
    }
}
