//! A map of any number of keys in bounded memory, for duplicates and leaks among millions of rows.
//!
//! The newest keys are in memory; older ones are in temporary files, sorted, with a Bloom filter of ten bits a key in memory. So a
//! key that is new is rarely looked for in a file, and every answer is exact.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Result, Seek, SeekFrom, Write};

/// Entries in memory: those of the largest table of 2^19 buckets, 9 MB.
const MAX_RECENT: usize = 7 << 16;
/// Bytes of an entry in a file, and entries that are read at once.
const ENTRY: usize = 16;
const BLOCK: usize = 256;
/// Bits of a Bloom filter per key, and those that a key sets: 1% of false positives.
const BITS_PER_KEY: usize = 10;
const BITS_SET: u64 = 7;

/// Keys, which are hashes, with a number each.
#[derive(Debug)]
pub(super) struct KeyMap {
    recent: HashMap<u64, u64>,
    max_recent: usize,
    runs: Vec<SortedRun>,
    len: usize,
}

impl KeyMap {
    pub(super) fn new() -> Self {
        Self::with_max_recent(MAX_RECENT)
    }

    fn with_max_recent(max_recent: usize) -> Self {
        Self { recent: HashMap::new(), max_recent, runs: vec![], len: 0 }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The value of a key. A key without one gets `value`, and `None` is returned.
    ///
    /// # Errors
    /// A temporary file that cannot be written or read.
    pub(super) fn get_or_insert(&mut self, key: u64, value: u64) -> Result<Option<u64>> {
        if let Some(value) = self.recent.get(&key) {
            return Ok(Some(*value));
        }
        for run in self.runs.iter_mut().rev() {
            if let Some(value) = run.get(key)? {
                return Ok(Some(value));
            }
        }
        if self.recent.len() == self.max_recent {
            let mut entries: Vec<(u64, u64)> = self.recent.drain().collect();
            entries.sort_unstable();
            self.runs.push(SortedRun::new(&entries)?);
        }
        self.recent.insert(key, value);
        self.len += 1;
        Ok(None)
    }
}

/// Sorted entries in a temporary file.
#[derive(Debug)]
struct SortedRun {
    file: File,
    len: usize,
    /// The first key of each block.
    first_keys: Vec<u64>,
    filter: BloomFilter,
}

impl SortedRun {
    fn new(entries: &[(u64, u64)]) -> Result<Self> {
        let mut writer = BufWriter::new(tempfile::tempfile()?);
        let mut filter = BloomFilter::new(entries.len());
        for (key, value) in entries {
            writer.write_all(&key.to_le_bytes())?;
            writer.write_all(&value.to_le_bytes())?;
            filter.insert(*key);
        }
        let first_keys = entries.iter().step_by(BLOCK).map(|(key, _)| *key).collect();
        Ok(Self { file: writer.into_inner()?, len: entries.len(), first_keys, filter })
    }

    fn get(&mut self, key: u64) -> Result<Option<u64>> {
        if !self.filter.may_contain(key) {
            return Ok(None);
        }
        let Some(block) = self.first_keys.partition_point(|first| *first <= key).checked_sub(1) else {
            return Ok(None);
        };
        let first = block * BLOCK;
        let mut bytes = vec![0; (self.len - first).min(BLOCK) * ENTRY];
        self.file.seek(SeekFrom::Start((first * ENTRY) as u64))?;
        self.file.read_exact(&mut bytes)?;
        let (numbers, _) = bytes.as_chunks::<8>();
        let (entries, _) = numbers.as_chunks::<2>();
        let index = entries.binary_search_by_key(&key, |[key, _]| u64::from_le_bytes(*key));
        Ok(index.ok().map(|index| u64::from_le_bytes(entries[index][1])))
    }
}

/// Which keys may be in a set: all that are, and few others.
///
/// # Source
/// Bloom 1970; the bits of a key by two hashes, as in Kirsch & Mitzenmacher 2006.
#[derive(Debug)]
struct BloomFilter {
    words: Vec<u64>,
}

impl BloomFilter {
    fn new(keys: usize) -> Self {
        Self { words: vec![0; (keys * BITS_PER_KEY).div_ceil(64).max(1)] }
    }

    /// The word and the bit of each of a key's bits. Keys are hashes: their halves are independent.
    fn bits(&self, key: u64) -> impl Iterator<Item = (usize, u64)> + use<> {
        let count = 64 * self.words.len() as u64;
        (0..BITS_SET).map(move |index| {
            let bit = key.wrapping_add(index.wrapping_mul(key.rotate_left(32) | 1)) % count;
            ((bit / 64) as usize, 1 << (bit % 64))
        })
    }

    fn insert(&mut self, key: u64) {
        self.bits(key).for_each(|(word, bit)| self.words[word] |= bit);
    }

    fn may_contain(&self, key: u64) -> bool {
        self.bits(key).all(|(word, bit)| self.words[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::text_key;

    /// Keys that repeat at any distance, against a table of all, with little in memory and with everything.
    #[test]
    fn a_key_keeps_its_first_value_wherever_it_is() {
        for max_recent in [1, 7, 300, 1000, MAX_RECENT] {
            let (mut map, mut expected) = (KeyMap::with_max_recent(max_recent), HashMap::new());
            for number in 0..6000u64 {
                let key = text_key(&(number * number % 4001).to_string());
                let first = expected.get(&key).copied();
                assert_eq!(map.get_or_insert(key, number).expect("written"), first, "{max_recent}, {number}");
                expected.entry(key).or_insert(number);
            }
            assert_eq!((map.len(), expected.len()), (2001, 2001));
            assert_eq!(map.runs.len(), 2000 / max_recent, "in memory: {max_recent}");
        }
        let mut ends = KeyMap::with_max_recent(2);
        for key in [u64::MAX, 0, 1, u64::MAX - 1, 5] {
            assert_eq!(ends.get_or_insert(key, key).expect("written"), None);
        }
        for key in [0, u64::MAX, 5, 1, u64::MAX - 1] {
            assert_eq!(ends.get_or_insert(key, 7).expect("read"), Some(key));
        }
    }

    #[test]
    fn a_filter_has_all_its_keys_and_few_others() {
        let key = |number: usize| text_key(&number.to_string());
        let mut filter = BloomFilter::new(10_000);
        (0..10_000).for_each(|number| filter.insert(key(number)));
        assert!((0..10_000).all(|number| filter.may_contain(key(number))));
        let others = (10_000..20_000).filter(|number| filter.may_contain(key(*number))).count();
        assert!(others < 200, "{others} of 10,000; 1% is expected");
    }
}
