//! Whole files with something changed in them: what every reader of outside bytes is tried with. A case is a function of its
//! number, so every run tries the same ones: as many as the test says, or for `DUEL_FUZZ_SECONDS` (`scripts/dev/nightly`).
//! `DUEL_FUZZ_CASE=N` tries one again. Every test that uses this has `damaged` or `mutated` in its name.
#![allow(dead_code, reason = "each crate's tests take what they need")]

use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A case that takes longer hangs. Far above what any takes, on any machine.
const LIMIT: Duration = Duration::from_secs(60);
/// Memory that a case may take.
const LIMIT_BYTES: u64 = 1 << 30;
/// A case is never longer than the file it came from and this.
const GROWTH: usize = 1 << 16;

/// Numbers at the edges of what formats hold.
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

/// The same as text.
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
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `count`; 0 where there is none.
    pub fn below(&mut self, count: usize) -> usize {
        if count == 0 { 0 } else { (self.next() % count as u64) as usize }
    }

    pub fn one_of<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}

/// One of the whole files with one to six changes. `words` are those of the format.
pub fn mutated(case: u64, whole: &[&[u8]], words: &[&str]) -> Vec<u8> {
    let mut dice = Dice::new(case);
    let mut bytes = dice.one_of(whole).to_vec();
    let most = bytes.len() + GROWTH;
    for _ in 0..=dice.below(6) {
        change(&mut bytes, whole, words, &mut dice);
        bytes.truncate(most);
    }
    bytes
}

fn change(bytes: &mut Vec<u8>, whole: &[&[u8]], words: &[&str], dice: &mut Dice) {
    let length = bytes.len();
    // headers stand at the beginning, footers at the end
    let at = match dice.below(4) {
        0 => dice.below(length.min(256)),
        1 => length - dice.below(length.min(256)),
        _ => dice.below(length),
    };
    let span = |dice: &mut Dice, most: usize| at..(at + 1 + dice.below(most)).min(length).max(at);
    match dice.below(11) {
        0 if at < length => bytes[at] ^= 1 << dice.below(8),
        1 if at < length => bytes[at] = *dice.one_of(b"\0\x01\x7f\x80\xff\"\\{}[],:\n\t 9-"),
        2 => {
            let number = dice.one_of(&EDGES).to_le_bytes();
            let width = *dice.one_of(&[1, 2, 4, 8]);
            let end = (at + width).min(length);
            bytes[at..end].copy_from_slice(&number[..end - at]);
        }
        3 => drop(bytes.drain(span(dice, 64))),
        4 => {
            let piece = bytes[span(dice, 64)].to_vec().repeat(1 + dice.below(200));
            drop(bytes.splice(at..at, piece));
        }
        5 => {
            // another number where one stands
            let is_digit = |byte: &u8| byte.is_ascii_digit();
            let start = at + bytes[at..].iter().position(is_digit).unwrap_or(0);
            let end = start + bytes[start..].iter().take_while(|byte| is_digit(byte)).count();
            drop(bytes.splice(start..end, dice.one_of(&NUMBERS).bytes()));
        }
        6 if dice.below(3) == 0 => bytes.truncate(at),
        7 => {
            let other = *dice.one_of(whole);
            let from = dice.below(other.len());
            let to = (from + dice.below(512)).min(other.len());
            drop(bytes.splice(at..at, other[from..to].iter().copied()));
        }
        8 => {
            let (one, other) = (span(dice, 16), dice.below(length));
            let piece: Vec<u8> = bytes.drain(one).collect();
            let other = other.min(bytes.len());
            drop(bytes.splice(other..other, piece));
        }
        _ if !words.is_empty() => {
            let end = if dice.below(2) == 0 { at } else { span(dice, 16).end };
            drop(bytes.splice(at..end, dice.one_of(words).bytes()));
        }
        _ => drop(bytes.splice(at..at, [dice.next() as u8])),
    }
}

/// Tries a reader on `cases` mutated files, or on as many as there is time for. What the reader returns is its own affair; a
/// panic, more than [`LIMIT_BYTES`] or more than [`LIMIT`] fails the test and leaves the bytes in a file.
///
/// `read` is given the number of a case and its bytes.
pub fn every(name: &str, cases: u64, whole: &[&[u8]], words: &[&str], read: impl Fn(u64, &[u8])) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(()); // so that time and memory are those of the case
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let number = |key: &str| std::env::var(key).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{key}: {e}")));
    let began = Instant::now();
    let (first, cases, seconds) = match number("DUEL_FUZZ_CASE") {
        Some(case) => (case, 1, 0),
        None => (0, cases, number("DUEL_FUZZ_SECONDS").unwrap_or(0)),
    };
    let keep = |case: u64| {
        let path = std::env::temp_dir().join(format!("duel-{name}-{case}"));
        let written = std::fs::write(&path, mutated(case, whole, words));
        let problem = written.err().map_or(String::new(), |e| format!(" ({e})"));
        format!("case {case} of `{name}`, whose bytes are in {}{problem}", path.display())
    };

    let (now, since, is_over) = (AtomicU64::new(first), AtomicU64::new(0), AtomicBool::new(false));
    let before = resident();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // a reader that hangs cannot be ended from without: the whole process is
            while !is_over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(20));
                let took = began.elapsed().saturating_sub(Duration::from_millis(since.load(Ordering::Relaxed)));
                let memory = resident().saturating_sub(before);
                if took > LIMIT || memory > LIMIT_BYTES {
                    say(&format!("{}: {took:?}, {} MiB", keep(now.load(Ordering::Relaxed)), memory >> 20));
                    std::process::abort();
                }
            }
        });
        let failed = (first..).find_map(|case| {
            if case >= first + cases && began.elapsed().as_secs() >= seconds {
                return Some(None);
            }
            now.store(case, Ordering::Relaxed);
            since.store(began.elapsed().as_millis() as u64, Ordering::Relaxed);
            let bytes = mutated(case, whole, words);
            catch_unwind(AssertUnwindSafe(|| read(case, &bytes))).err().map(|e| Some((case, e)))
        });
        is_over.store(true, Ordering::Relaxed);
        if let Some(Some((case, panic))) = failed {
            say(&format!("{}: a panic", keep(case)));
            resume_unwind(panic);
        }
    });
}

/// Past the capture of the tests' output, which an abort would lose.
fn say(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
