//! What a key of the experiment file accepts: words and ranges.

use crate::document::Document;
use crate::experiment::{SlurmSettings, value_text};
use crate::method::METHODS;
use crate::pair_loss::PAIR_LOSSES;
use crate::{Error, Result};
use toml::Value;

const SCALINGS: [&str; 3] = ["raw", "scaled", "white"];

/// The words that a key accepts.
const CHOICES: &[(&str, &[&str])] = &[
    ("world.kind", &["grammar", "reviews", "rows"]),
    ("judge.kind", &["world", "sentiment", "ratings", "rules", "command"]),
    ("judge.reads", &["response", "all"]),
    ("learner.optimizer", &["adamw", "rmsprop", "lion"]),
    ("learner.schedule", &["constant", "linear", "cosine"]),
    ("stages.pairs.temperature", &["fixed", "bayes"]),
    ("stages.rm.model", &["transformer", "linear"]),
    ("stages.rm.start", &["sft", "base"]),
    ("stages.rm.score", &["last", "mean"]),
    ("stages.rm.ensemble_score", &["mean", "worst", "cautious"]),
    ("stages.rm.keep", &["last", "best"]),
    ("tuning.choose", &["gold", "proxy"]),
    ("arms.*.search", &["grid", "random", "tpe", "halving"]),
    ("arms.*.method", &METHODS),
    ("arms.*.reward", &["rm", "gold"]),
    ("arms.*.loss", PAIR_LOSSES),
    ("arms.*.pair_loss", &["sigmoid", "hinge", "ipo"]),
    ("arms.*.keep", &["last", "gold", "proxy", "loss"]),
    ("arms.*.lora_targets", &["all", "attention", "mlp"]),
    ("arms.*.kl", &["reward", "loss"]),
    ("arms.*.kl_estimator", &["k1", "k2", "k3", "full"]),
    ("arms.*.kl_control", &["fixed", "adaptive", "target"]),
    ("arms.*.reference", &["frozen", "ema"]),
    ("arms.*.scores", &SCALINGS),
    ("arms.*.truncated", &["keep", "mask"]),
    ("arms.*.loss_mean", &["tokens", "responses"]),
    ("arms.*.advantages", &SCALINGS),
    ("arms.*.rewards", &SCALINGS),
    ("arms.*.critic", &["separate", "shared"]),
    ("arms.*.critic_start", &["scorer", "sft"]),
];

pub(crate) fn check_choices(document: &Document) -> Result<()> {
    for (key, value, _) in document.resolved() {
        let Some((_, accepted)) = CHOICES.iter().find(|(pattern, _)| matches_key(pattern, &key)) else { continue };
        let words = match &value {
            Value::Array(values) => values.clone(),
            single => vec![single.clone()],
        };
        for word in words {
            let found = value_text(&word);
            if !accepted.contains(&found.as_str()) {
                return Err(Error::UnknownChoice {
                    place: document.place(&key),
                    key,
                    found,
                    accepted: accepted.to_vec(),
                });
            }
        }
    }
    Ok(())
}

/// The longest time and the most memory that a cluster is asked for: a year, a thousand terabytes.
const MOST_MINUTES: f64 = 366.0 * 24.0 * 60.0;
const MOST_MEGABYTES: f64 = 1e9;

/// A number of plain digits.
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

/// Minutes of minutes and seconds.
fn below_an_hour(parts: &[f64]) -> f64 {
    parts.iter().zip([1.0, 1.0 / 60.0]).map(|(part, minutes)| part * minutes).sum()
}

/// An amount of memory as sbatch reads it.
fn megabytes(text: &str) -> Option<f64> {
    let units = [('K', 1e-3), ('M', 1.0), ('G', 1e3), ('T', 1e6)];
    let with_unit = units.iter().find_map(|(unit, times)| Some(digits(text.strip_suffix(*unit)?)? * times));
    with_unit.or_else(|| digits(text))
}

/// What is written into scripts for a cluster: one line each, of letters that mean nothing there.
pub(crate) fn check_slurm(document: &Document, slurm: &SlurmSettings) -> Result<()> {
    let refuse = |key: &str, found: &str, accepted: &str| {
        let (key, found) = (format!("slurm.{key}"), format!("{found:?}"));
        Err(Error::OutOfRange { place: document.place(&key), key, found, accepted: accepted.into() })
    };
    let of = |text: &str, accepted: fn(char) -> bool| text.chars().all(accepted);
    if !of(&slurm.partition, |c| c.is_ascii_alphanumeric() || "-_.,+".contains(c)) {
        return refuse("partition", &slurm.partition, "names of partitions, with commas between them");
    }
    if !minutes(&slurm.time).is_some_and(|minutes| (1.0..=MOST_MINUTES).contains(&minutes)) {
        return refuse(
            "time",
            &slurm.time,
            "minutes, or for example \"04:00:00\" or \"2-12:00:00\", of at most a year",
        );
    }
    if !megabytes(&slurm.memory).is_some_and(|memory| memory <= MOST_MEGABYTES) {
        return refuse("memory", &slurm.memory, "a number with K, M, G or T, for example \"4G\", of at most 1000T");
    }
    if let Some(option) = slurm.extra.iter().find(|option| !option.starts_with('-') || !of(option, |c| !c.is_control()))
    {
        return refuse("extra", option, "options of sbatch, a line each, for example \"--account=lab\"");
    }
    if !of(&slurm.setup, |c| !c.is_control() || "\n\t".contains(c)) {
        return refuse("setup", &slurm.setup, "lines for the shell, without control characters");
    }
    Ok(())
}

/// Every number against its range, before types are taken: a negative count is out of range, not of a wrong type.
pub(crate) fn check_numbers(document: &Document) -> Result<()> {
    for (key, value, _) in document.resolved() {
        let key_path = key.as_str();
        let Some(rule) = range_of(key_path) else { continue };
        let values = match &value {
            Value::Array(values) => values.clone(),
            single => vec![single.clone()],
        };
        for value in values {
            let number = match value {
                Value::Integer(i) => i as f64,
                Value::Float(f) => f,
                _ => continue,
            };
            if !rule.holds(number) {
                return Err(Error::OutOfRange {
                    key: key_path.into(),
                    found: value.to_string(),
                    accepted: rule.text(),
                    place: document.place(key_path),
                });
            }
        }
    }
    Ok(())
}

/// From where to where a number may lie. Every one has an end: what no experiment could bear is refused before it is begun.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Constraint {
    /// Infinite where there is none.
    Bound,
    Positive,
    AtLeastOne,
    NotNegative,
    /// A count that may be none.
    Count,
    Fraction,
    BelowOne,
    BelowHalf,
    Accuracy,
    Vocabulary,
    AtLeastTwo,
    Seeds,
    Seed,
    Size,
    Layers,
    /// Rows that are held in memory.
    Rows,
    /// Rows that are read at once.
    Batch,
    /// Tokens of a text.
    Tokens,
    Seconds,
}

/// The largest and the smallest real number: within what single precision holds.
const MOST: f64 = 1e30;
const LEAST: f64 = 1e-30;

impl Constraint {
    /// The smallest and the largest that are accepted.
    fn ends(self) -> (f64, f64) {
        match self {
            Self::Bound | Self::Positive => (LEAST, MOST),
            Self::NotNegative => (0.0, MOST),
            Self::AtLeastOne => (1.0, 1e9),
            Self::AtLeastTwo => (2.0, 1e6),
            Self::Count => (0.0, 1e9),
            Self::Seeds => (1.0, 1000.0),
            Self::Seed => (0.0, 9_007_199_254_740_991.0), // 2^53 - 1: whole in a float too
            Self::Size => (1.0, 16384.0),
            Self::Layers => (1.0, 512.0),
            Self::Rows => (1.0, 1e7),
            Self::Batch => (1.0, 65536.0),
            Self::Tokens => (1.0, 1_048_576.0),
            Self::Seconds => (LEAST, 86_400.0),
            Self::Fraction => (0.0, 1.0),
            Self::BelowOne => (0.0, 1.0f64.next_down()),
            Self::BelowHalf => (0.0, 0.5f64.next_down()),
            Self::Accuracy => (0.5f64.next_up(), 1.0f64.next_down()),
            Self::Vocabulary => (300.0, 4096.0),
        }
    }

    fn holds(self, x: f64) -> bool {
        let (from, to) = self.ends();
        (from..=to).contains(&x) || (x == f64::INFINITY && self == Self::Bound)
    }

    fn text(self) -> String {
        let (from, to) = self.ends();
        match self {
            Self::Bound => format!("a number above 0 and at most {MOST:e}, or inf"),
            Self::Positive => format!("a number above 0, from {LEAST:e} to {MOST:e}"),
            Self::NotNegative => format!("a number of at least 0 and at most {MOST:e}"),
            Self::Seconds => format!("seconds, above 0 and at most {to}"),
            Self::Fraction => "a number from 0 to 1".into(),
            Self::BelowOne => "a number of at least 0 and below 1".into(),
            Self::BelowHalf => "a number of at least 0 and below 0.5".into(),
            Self::Accuracy => "a number above 0.5 and below 1".into(),
            _ => format!("an integer from {from} to {to}"),
        }
    }
}

/// Ranges by key; `*` stands for an arm's name, and the axes of its grid and space have the range of their key.
const RANGES: &[(&str, Constraint)] = &[
    ("seeds", Constraint::Seeds),
    ("seed", Constraint::Seed),
    ("world.grammar.rho", Constraint::Fraction),
    ("world.grammar.sft_rows", Constraint::Rows),
    ("world.reviews.vocabulary", Constraint::Vocabulary),
    ("world.reviews.prompt_tokens", Constraint::Tokens),
    ("world.reviews.response_tokens", Constraint::AtLeastTwo),
    ("world.reviews.judged_words", Constraint::Tokens),
    ("world.reviews.gold_clip", Constraint::Positive),
    ("world.rows.holdout", Constraint::BelowHalf),
    ("world.rows.prompt_tokens", Constraint::Tokens),
    ("world.rows.response_tokens", Constraint::AtLeastTwo),
    ("world.rows.judged_words", Constraint::Tokens),
    ("judge.clip", Constraint::Positive),
    ("judge.timeout", Constraint::Seconds),
    ("judge.batch", Constraint::Size),
    ("model.layers", Constraint::Layers),
    ("model.width", Constraint::Size),
    ("model.heads", Constraint::Size),
    ("learner.adam_beta1", Constraint::BelowOne),
    ("learner.adam_beta2", Constraint::BelowOne),
    ("learner.adam_epsilon", Constraint::Positive),
    ("learner.rms_alpha", Constraint::BelowOne),
    ("learner.rms_epsilon", Constraint::Positive),
    ("learner.rms_momentum", Constraint::BelowOne),
    ("learner.lion_beta1", Constraint::BelowOne),
    ("learner.lion_beta2", Constraint::BelowOne),
    ("learner.accumulate", Constraint::Batch),
    ("learner.weight_decay", Constraint::NotNegative),
    ("learner.clip_norm", Constraint::Positive),
    ("learner.warmup", Constraint::BelowOne),
    ("learner.final_rate", Constraint::Fraction),
    ("stages.base.steps", Constraint::AtLeastOne),
    ("stages.base.batch_size", Constraint::Batch),
    ("stages.base.window", Constraint::Size),
    ("stages.base.learning_rate", Constraint::Positive),
    ("stages.sft.steps", Constraint::Count),
    ("stages.sft.lora_rank", Constraint::Size),
    ("stages.sft.lora_alpha", Constraint::Positive),
    ("stages.sft.batch_size", Constraint::Batch),
    ("stages.sft.learning_rate", Constraint::Positive),
    ("stages.pairs.rows", Constraint::Rows),
    ("stages.pairs.holdout_rows", Constraint::Rows),
    ("stages.pairs.tau", Constraint::Positive),
    ("stages.pairs.bayes_accuracy", Constraint::Accuracy),
    ("stages.pairs.label_flips", Constraint::BelowHalf),
    ("stages.pairs.max_edits", Constraint::Bound),
    ("stages.rm.steps", Constraint::AtLeastOne),
    ("stages.rm.batch_size", Constraint::Batch),
    ("stages.rm.learning_rate", Constraint::Positive),
    ("stages.rm.ridge", Constraint::Positive),
    ("stages.rm.ensemble", Constraint::Size),
    ("stages.rm.margin", Constraint::NotNegative),
    ("stages.rm.centring", Constraint::NotNegative),
    ("stages.rm.label_smoothing", Constraint::BelowHalf),
    ("stages.rm.tie_margin", Constraint::NotNegative),
    ("stages.rm.checks", Constraint::Size),
    ("stages.rm.patience", Constraint::Bound),
    ("stages.rm.samples", Constraint::AtLeastTwo),
    ("stages.rm.lora_rank", Constraint::Size),
    ("stages.rm.lora_alpha", Constraint::Positive),
    ("evaluation.prompts", Constraint::AtLeastTwo),
    ("evaluation.samples_per_prompt", Constraint::Size),
    ("evaluation.best_of", Constraint::Size),
    ("evaluation.curve_points", Constraint::Size),
    ("evaluation.completions", Constraint::Rows),
    ("tuning.configurations", Constraint::Count),
    ("tuning.seeds", Constraint::Seeds),
    ("tuning.seed", Constraint::Seed),
    ("tuning.flops", Constraint::Bound),
    ("tuning.kl", Constraint::Positive),
    ("tuning.at_once", Constraint::Size),
    ("slurm.shared_cores", Constraint::Size),
    ("slurm.retries", Constraint::Count),
    ("slurm.poll", Constraint::Seconds),
    ("arms.*.patience", Constraint::Bound),
    ("arms.*.lora_rank", Constraint::Size),
    ("arms.*.lora_alpha", Constraint::Positive),
    ("arms.*.lora_dropout", Constraint::BelowOne),
    ("arms.*.beta", Constraint::Positive),
    ("arms.*.iterations", Constraint::AtLeastOne),
    ("arms.*.episodes", Constraint::Rows),
    ("arms.*.epochs", Constraint::Rows),
    ("arms.*.group", Constraint::Batch),
    ("arms.*.minibatches", Constraint::Rows),
    ("arms.*.batch_size", Constraint::Batch),
    ("arms.*.learning_rate", Constraint::Positive),
    ("arms.*.clip_range", Constraint::Bound),
    ("arms.*.value_clip_range", Constraint::Bound),
    ("arms.*.kl_target", Constraint::Positive),
    ("arms.*.kl_horizon", Constraint::Positive),
    ("arms.*.reference_decay", Constraint::BelowOne),
    ("arms.*.score_clip", Constraint::Bound),
    ("arms.*.label_temperature", Constraint::NotNegative),
    ("arms.*.eos_penalty", Constraint::NotNegative),
    ("arms.*.entropy_coef", Constraint::NotNegative),
    ("arms.*.critic_warmup", Constraint::Count),
    ("arms.*.value_coef", Constraint::NotNegative),
    ("arms.*.gamma", Constraint::Fraction),
    ("arms.*.lambda", Constraint::Fraction),
    ("arms.*.target_kl", Constraint::Bound),
    ("arms.*.label_smoothing", Constraint::BelowHalf),
    ("arms.*.simpo_margin", Constraint::NotNegative),
    ("arms.*.positive_lambda", Constraint::NotNegative),
    ("arms.*.discopop_tau", Constraint::Positive),
    ("arms.*.alpha", Constraint::BelowOne),
    ("arms.*.unlikelihood_alpha", Constraint::Fraction),
    ("arms.*.margin", Constraint::NotNegative),
    ("arms.*.tie_margin", Constraint::NotNegative),
    ("arms.*.kto_desirable", Constraint::NotNegative),
    ("arms.*.kto_undesirable", Constraint::NotNegative),
    ("arms.*.nll_coef", Constraint::NotNegative),
    ("stages.pairs.length_bias", Constraint::NotNegative),
    ("stages.pairs.ties", Constraint::NotNegative),
];

pub(crate) fn range_of(key: &str) -> Option<Constraint> {
    RANGES.iter().find(|(pattern, _)| matches_key(pattern, key)).map(|(_, range)| *range)
}

fn matches_key(pattern: &str, key: &str) -> bool {
    let key = key.replacen(".grid.", ".", 1).replacen(".space.", ".", 1);
    let key = [".low", ".high", ".choices"].iter().find_map(|end| key.strip_suffix(end)).unwrap_or(&key);
    let (pattern, key): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), key.split('.').collect());
    pattern.len() == key.len() && pattern.iter().zip(&key).all(|(p, k)| *p == "*" || p == k)
}
