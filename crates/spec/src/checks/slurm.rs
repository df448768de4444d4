//! Slurm settings: they are written into scripts, so each is limited to safe characters.

use crate::Result;
use crate::document::Document;
use crate::experiment::SlurmSettings;

/// The longest time limit and the most memory of a job: a year, a thousand terabytes.
const MAX_MINUTES: f64 = 366.0 * 24.0 * 60.0;
const MAX_MEGABYTES: f64 = 1e9;

/// A number written as plain digits.
fn digits(text: &str) -> Option<f64> {
    (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A time limit as sbatch reads it.
fn minutes(text: &str) -> Option<f64> {
    let (days, rest) = text.split_once('-').map_or((None, text), |(days, rest)| (Some(days), rest));
    let parts: Vec<f64> = rest.split(':').map(digits).collect::<Option<_>>()?;
    Some(match (days, &parts[..]) {
        (Some(days), [hours, smaller @ ..]) if smaller.len() <= 2 => {
            digits(days)? * 1440.0 + hours * 60.0 + below_an_hour(smaller)
        }
        (None, [minutes]) => *minutes,
        (None, [minutes, seconds]) => minutes + seconds / 60.0,
        (None, [hours, smaller @ ..]) if smaller.len() == 2 => hours * 60.0 + below_an_hour(smaller),
        _ => return None,
    })
}

/// Minutes of `[minutes, seconds]`.
fn below_an_hour(parts: &[f64]) -> f64 {
    parts.iter().zip([1.0, 1.0 / 60.0]).map(|(part, minutes)| part * minutes).sum()
}

/// An amount of memory as sbatch reads it.
fn megabytes(text: &str) -> Option<f64> {
    let units = [('K', 1e-3), ('M', 1.0), ('G', 1e3), ('T', 1e6)];
    let with_unit = units.iter().find_map(|(unit, times)| Some(digits(text.strip_suffix(*unit)?)? * times));
    with_unit.or_else(|| digits(text))
}

/// Checks what is written into job scripts.
pub(super) fn check_slurm(slurm: &SlurmSettings, document: &Document) -> Result<()> {
    let refuse = |key: &str, value: &str, accepted: &str| {
        Err(document.out_of_range(format!("slurm.{key}"), format!("{value:?}"), accepted))
    };
    let is_made_of = |text: &str, accepted: fn(char) -> bool| text.chars().all(accepted);
    if !is_made_of(&slurm.partition, |c| c.is_ascii_alphanumeric() || "-_.,+".contains(c)) {
        return refuse("partition", &slurm.partition, "partition names, separated by commas");
    }
    if !minutes(&slurm.time).is_some_and(|minutes| (1.0..=MAX_MINUTES).contains(&minutes)) {
        return refuse("time", &slurm.time, "minutes, or for example \"04:00:00\" or \"2-12:00:00\", at most a year");
    }
    if !megabytes(&slurm.memory).is_some_and(|memory| memory <= MAX_MEGABYTES) {
        return refuse("memory", &slurm.memory, "a number with K, M, G or T, for example \"4G\", at most 1000T");
    }
    let is_option = |option: &str| option.starts_with('-') && is_made_of(option, |c| !c.is_control());
    if let Some(option) = slurm.extra.iter().find(|option| !is_option(option)) {
        return refuse("extra", option, "sbatch options, one per entry, for example \"--account=lab\"");
    }
    if !is_made_of(&slurm.setup, |c| !c.is_control() || "\n\t".contains(c)) {
        return refuse("setup", &slurm.setup, "shell lines without control characters");
    }
    Ok(())
}
