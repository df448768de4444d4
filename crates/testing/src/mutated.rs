//! Fuzzing of every reader of external bytes: valid files with random changes. A case is a function of its number, so every run
//! tries the same ones: as many as the test asks for, or for `DUEL_FUZZ_SECONDS` (`scripts/dev/nightly`). `DUEL_FUZZ_CASE=N`
//! repeats one. Every test that uses this has `damaged` or `mutated` in its name.

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A case that takes longer counts as hanging. Far above what any case takes on any machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Memory that a case may use.
const LIMIT_BYTES: u64 = 1 << 30;
/// How much longer a case may be than the file it was made from.
const GROWTH: usize = 1 << 16;

/// Edge cases of integer types.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    7,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0001,
    1 << 40,
    u64::MAX >> 1,
    u64::MAX,
];

/// Edge cases of numbers as text.
const NUMBERS: [&str; 12] = [
    "0",
    "-1",
    "1e308",
    "-1e999",
    "NaN",
    "0.5",
    "255",
    "4294967297",
    "9223372036854775808",
    "18446744073709551615",
    "99999999999999999999999",
    "1e-320",
];

/// SplitMix64 (Steele, Lea and Flood 2014).
#[derive(Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `count`, or 0 if `count` is 0.
    pub fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { (self.next_u64() % count as u64) as usize }
    }

    pub fn one_of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// One of the `originals`, which are valid files, with one to six changes. `words` are tokens of the format.
pub fn mutated(case: u64, originals: &[&[u8]], words: &[&str]) -> Vec<u8> {
    let mut rng = SplitMix64::new(case);
    let mut bytes = rng.one_of(originals).to_vec();
    let limit = bytes.len() + GROWTH;
    for _ in 0..=rng.below(6) {
        change(&mut bytes, originals, words, &mut rng);
        bytes.truncate(limit);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, originals: &[&[u8]], words: &[&str], rng: &mut SplitMix64) {
    let length = bytes.len();
    // headers are at the beginning, footers at the end
    let start = match rng.below(4) {
        0 => rng.below(length.min(256)),
        1 => length - rng.below(length.min(256)),
        _ => rng.below(length),
    };
    let span = |rng: &mut SplitMix64, limit: usize| start..(start + 1 + rng.below(limit)).min(length).max(start);
    match rng.below(11) {
        0 if start < length => bytes[start] ^= 1 << rng.below(8),
        1 if start < length => bytes[start] = *rng.one_of(b"\0\x01\x7f\x80\xff\"\\{}[],:\n\t 9-"),
        2 => {
            let number = rng.one_of(&EDGES).to_le_bytes();
            let width = *rng.one_of(&[1, 2, 4, 8]);
            let end = (start + width).min(length);
            bytes[start..end].copy_from_slice(&number[..end - start]);
        }
        3 => drop(bytes.drain(span(rng, 64))),
        4 => {
            let piece = bytes[span(rng, 64)].to_vec().repeat(1 + rng.below(200));
            drop(bytes.splice(start..start, piece));
        }
        5 => {
            // replace a number by another
            let is_digit = |byte: &u8| byte.is_ascii_digit();
            let start = start + bytes[start..].iter().position(is_digit).unwrap_or(0);
            let end = start + bytes[start..].iter().take_while(|byte| is_digit(byte)).count();
            drop(bytes.splice(start..end, rng.one_of(&NUMBERS).bytes()));
        }
        6 if rng.below(3) == 0 => bytes.truncate(start),
        7 => {
            let other = *rng.one_of(originals);
            let from = rng.below(other.len());
            let to = (from + rng.below(512)).min(other.len());
            drop(bytes.splice(start..start, other[from..to].iter().copied()));
        }
        8 => {
            let (source, target) = (span(rng, 16), rng.below(length));
            let piece: Vec<u8> = bytes.drain(source).collect();
            let target = target.min(bytes.len());
            drop(bytes.splice(target..target, piece));
        }
        _ if !words.is_empty() => {
            let end = if rng.below(2) == 0 { start } else { span(rng, 16).end };
            drop(bytes.splice(start..end, rng.one_of(words).bytes()));
        }
        _ => drop(bytes.splice(start..start, [rng.next_u64() as u8])),
    }
}

/// Tries a reader on `cases` mutated files, or on as many as there is time for. Its result is ignored; a panic, more than
/// 1 GiB or more than a minute fails the test and leaves the bytes in a file.
///
/// `read` takes the number of a case and its bytes.
pub fn every(name: &str, cases: u64, originals: &[&[u8]], words: &[&str], read: impl Fn(u64, &[u8])) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(()); // so that time and memory are those of the case
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let number = |key: &str| std::env::var(key).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{key}: {e}")));
    let start = Instant::now();
    let (first, cases, seconds) = match number("DUEL_FUZZ_CASE") {
        Some(case) => (case, 1, 0),
        None => (0, cases, number("DUEL_FUZZ_SECONDS").unwrap_or(0)),
    };
    let save = |case: u64| {
        let path = std::env::temp_dir().join(format!("duel-{name}-{case}"));
        let result = std::fs::write(&path, mutated(case, originals, words));
        let problem = result.err().map_or(String::new(), |e| format!(" ({e})"));
        format!("case {case} of `{name}`, its bytes in {}{problem}", path.display())
    };

    let (current, case_start, is_over) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    let before = resident();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // a hanging reader cannot be stopped from outside: abort the process
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                let elapsed = start.elapsed().saturating_sub(Duration::from_millis(case_start.load(Ordering::Relaxed)));
                let memory = resident().saturating_sub(before);
                if elapsed > LIMIT || memory > LIMIT_BYTES {
                    print_uncaptured(&format!(
                        "{}: {elapsed:?}, {} MiB",
                        save(current.load(Ordering::Relaxed)),
                        memory >> 20
                    ));
                    std::process::abort();
                }
            }
        });
        let failed = (first..).find_map(|case| {
            if case >= first + cases && start.elapsed().as_secs() >= seconds {
                return Some(None);
            }
            current.store(case, Ordering::Relaxed);
            case_start.store(start.elapsed().as_millis() as u64, Ordering::Relaxed);
            let bytes = mutated(case, originals, words);
            catch_unwind(AssertUnwindSafe(|| read(case, &bytes))).err().map(|e| Some((case, e)))
        });
        is_over.store(true, Ordering::Relaxed);
        if let Some(Some((case, panic))) = failed {
            print_uncaptured(&format!("{}: a panic", save(case)));
            resume_unwind(panic);
        }
    });
}

/// Bypasses the test harness' capture, which an abort would lose.
fn print_uncaptured(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
