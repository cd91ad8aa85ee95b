//! More than fits into memory, in temporary files: sorted roughly into buckets, which are looked at one by one.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Result, Seek as _, Write as _};
use std::marker::PhantomData;

/// Into how many parts everything is split. Each has a file, of which a process may open 1,024 by default.
const BUCKETS: usize = 64;

/// What is written by its fields, always in as many bytes.
pub(super) trait Fixed: Sized {
    const SIZE: usize;

    fn write(&self, to: &mut Vec<u8>);

    /// From that many bytes.
    fn read(from: &mut Fields<'_>) -> Self;
}

/// The bytes of one item, taken field by field. What is missing counts as 0.
pub(super) struct Fields<'b>(&'b [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> [u8; N] {
        let Some((field, rest)) = self.0.split_first_chunk() else {
            return [0; N];
        };
        self.0 = rest;
        *field
    }
}

/// Items in buckets. The files have no name, and go away with the process, however it ends.
pub(super) struct Spill<T> {
    buckets: Vec<BufWriter<File>>,
    buffer: Vec<u8>,
    items: PhantomData<T>,
}

impl<T: Fixed> Spill<T> {
    pub(super) fn new() -> Result<Self> {
        let bucket = |_| Ok(BufWriter::new(tempfile::tempfile()?));
        Ok(Self {
            buckets: (0..BUCKETS).map(bucket).collect::<Result<_>>()?,
            buffer: Vec::with_capacity(T::SIZE),
            items: PhantomData,
        })
    }

    /// Puts an item into the bucket of all with this hash.
    pub(super) fn push(&mut self, hash: u64, item: &T) -> Result<()> {
        self.buffer.clear();
        item.write(&mut self.buffer);
        let bucket = usize::try_from(hash % BUCKETS as u64).unwrap_or(0);
        self.buckets[bucket].write_all(&self.buffer)
    }

    /// The buckets, each as it is read.
    pub(super) fn into_buckets(self) -> impl Iterator<Item = Result<Vec<T>>> {
        self.buckets.into_iter().map(|bucket| {
            let mut file = bucket.into_inner().map_err(|error| error.into_error())?;
            let items = usize::try_from(file.stream_position()?).unwrap_or(0) / T::SIZE;
            file.rewind()?;
            let (mut file, mut bytes) = (BufReader::new(file), vec![0; T::SIZE]);
            let mut read = || {
                file.read_exact(&mut bytes)?;
                Ok(T::read(&mut Fields(&bytes)))
            };
            (0..items).map(|_| read()).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Item(u64, i16);

    impl Fixed for Item {
        const SIZE: usize = 10;

        fn write(&self, to: &mut Vec<u8>) {
            to.extend(self.0.to_le_bytes());
            to.extend(self.1.to_le_bytes());
        }

        fn read(from: &mut Fields<'_>) -> Self {
            Self(
                u64::from_le_bytes(from.take()),
                i16::from_le_bytes(from.take()),
            )
        }
    }

    #[test]
    fn what_has_the_same_hash_is_found_together_and_nothing_is_lost() -> Result<()> {
        let mut spill = Spill::new()?;
        for n in 0..10_000 {
            spill.push(n % 100, &Item(n, -1))?;
        }
        let mut found = 0;
        for bucket in spill.into_buckets() {
            let bucket = bucket?;
            found += bucket.len();
            assert!(bucket.iter().all(|item| item.1 == -1));
            for hash in 0..100 {
                let of_hash = bucket.iter().filter(|item| item.0 % 100 == hash).count();
                assert!([0, 100].contains(&of_hash), "{hash}: {of_hash}");
            }
        }
        assert_eq!(found, 10_000);
        Ok(())
    }
}
