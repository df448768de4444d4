//! What a key of the experiment file accepts: words and ranges.

use crate::document::Document;
use crate::experiment::plain;
use crate::method::{METHODS, PAIR_LOSSES};
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
    ("arms.*.loss", &PAIR_LOSSES),
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
            let found = plain(&word);
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
                    accepted: rule.text().into(),
                    place: document.place(key_path),
                });
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Range {
    /// Infinite where there is none.
    Bound,
    Positive,
    AtLeastOne,
    NotNegative,
    Fraction,
    BelowOne,
    BelowHalf,
    Accuracy,
    Vocabulary,
    AtLeastTwo,
    Seeds,
    Size,
}

impl Range {
    fn holds(self, x: f64) -> bool {
        (x.is_finite() || (x > 0.0 && self == Self::Bound))
            && match self {
                Self::Bound | Self::Positive => x > 0.0,
                Self::AtLeastOne => x >= 1.0,
                Self::AtLeastTwo => x >= 2.0,
                Self::Seeds => (1.0..=1000.0).contains(&x),
                Self::Size => (1.0..=16384.0).contains(&x),
                Self::NotNegative => x >= 0.0,
                Self::Fraction => (0.0..=1.0).contains(&x),
                Self::BelowOne => (0.0..1.0).contains(&x),
                Self::BelowHalf => (0.0..0.5).contains(&x),
                Self::Accuracy => x > 0.5 && x < 1.0,
                Self::Vocabulary => (300.0..=4096.0).contains(&x),
            }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Bound => "a number above 0, or inf",
            Self::Positive => "a number above 0",
            Self::AtLeastOne => "an integer of at least 1",
            Self::AtLeastTwo => "an integer of at least 2",
            Self::Seeds => "an integer from 1 to 1000",
            Self::Size => "an integer from 1 to 16384",
            Self::NotNegative => "a number of at least 0",
            Self::Fraction => "a number from 0 to 1",
            Self::BelowOne => "a number of at least 0 and below 1",
            Self::BelowHalf => "a number of at least 0 and below 0.5",
            Self::Accuracy => "a number above 0.5 and below 1",
            Self::Vocabulary => "an integer from 300 to 4096",
        }
    }
}

/// Ranges by key; `*` stands for an arm's name, and the axes of its grid and space have the range of their key.
const RANGES: &[(&str, Range)] = &[
    ("seeds", Range::Seeds),
    ("seed", Range::NotNegative),
    ("world.grammar.rho", Range::Fraction),
    ("world.grammar.sft_rows", Range::AtLeastOne),
    ("world.reviews.vocabulary", Range::Vocabulary),
    ("world.reviews.prompt_tokens", Range::AtLeastOne),
    ("world.reviews.response_tokens", Range::AtLeastTwo),
    ("world.reviews.judged_words", Range::AtLeastOne),
    ("world.reviews.gold_clip", Range::Positive),
    ("world.rows.holdout", Range::BelowHalf),
    ("world.rows.prompt_tokens", Range::AtLeastOne),
    ("world.rows.response_tokens", Range::AtLeastTwo),
    ("world.rows.judged_words", Range::AtLeastOne),
    ("judge.clip", Range::Positive),
    ("judge.timeout", Range::Positive),
    ("judge.batch", Range::Size),
    ("model.layers", Range::Size),
    ("model.width", Range::Size),
    ("model.heads", Range::Size),
    ("learner.adam_beta1", Range::BelowOne),
    ("learner.adam_beta2", Range::BelowOne),
    ("learner.adam_epsilon", Range::Positive),
    ("learner.rms_alpha", Range::BelowOne),
    ("learner.rms_epsilon", Range::Positive),
    ("learner.rms_momentum", Range::BelowOne),
    ("learner.lion_beta1", Range::BelowOne),
    ("learner.lion_beta2", Range::BelowOne),
    ("learner.accumulate", Range::AtLeastOne),
    ("learner.weight_decay", Range::NotNegative),
    ("learner.clip_norm", Range::Positive),
    ("learner.warmup", Range::BelowOne),
    ("learner.final_rate", Range::Fraction),
    ("stages.base.steps", Range::AtLeastOne),
    ("stages.base.batch_size", Range::AtLeastOne),
    ("stages.base.window", Range::Size),
    ("stages.base.learning_rate", Range::Positive),
    ("stages.sft.steps", Range::NotNegative),
    ("stages.sft.lora_rank", Range::Size),
    ("stages.sft.lora_alpha", Range::Positive),
    ("stages.sft.batch_size", Range::AtLeastOne),
    ("stages.sft.learning_rate", Range::Positive),
    ("stages.pairs.rows", Range::AtLeastOne),
    ("stages.pairs.holdout_rows", Range::AtLeastOne),
    ("stages.pairs.tau", Range::Positive),
    ("stages.pairs.bayes_accuracy", Range::Accuracy),
    ("stages.pairs.label_flips", Range::BelowHalf),
    ("stages.pairs.max_edits", Range::Bound),
    ("stages.rm.steps", Range::AtLeastOne),
    ("stages.rm.batch_size", Range::AtLeastOne),
    ("stages.rm.learning_rate", Range::Positive),
    ("stages.rm.ridge", Range::Positive),
    ("stages.rm.ensemble", Range::Size),
    ("stages.rm.margin", Range::NotNegative),
    ("stages.rm.centring", Range::NotNegative),
    ("stages.rm.label_smoothing", Range::BelowHalf),
    ("stages.rm.tie_margin", Range::NotNegative),
    ("stages.rm.checks", Range::Size),
    ("stages.rm.patience", Range::Bound),
    ("stages.rm.samples", Range::AtLeastTwo),
    ("stages.rm.lora_rank", Range::Size),
    ("stages.rm.lora_alpha", Range::Positive),
    ("evaluation.prompts", Range::AtLeastTwo),
    ("evaluation.samples_per_prompt", Range::AtLeastOne),
    ("evaluation.best_of", Range::Size),
    ("evaluation.curve_points", Range::Size),
    ("evaluation.completions", Range::AtLeastOne),
    ("tuning.configurations", Range::NotNegative),
    ("tuning.seeds", Range::Seeds),
    ("tuning.seed", Range::NotNegative),
    ("tuning.flops", Range::Bound),
    ("tuning.kl", Range::Positive),
    ("tuning.at_once", Range::Size),
    ("slurm.shared_cores", Range::Size),
    ("slurm.retries", Range::NotNegative),
    ("slurm.poll", Range::Positive),
    ("arms.*.patience", Range::Bound),
    ("arms.*.lora_rank", Range::Size),
    ("arms.*.lora_alpha", Range::Positive),
    ("arms.*.lora_dropout", Range::BelowOne),
    ("arms.*.beta", Range::Positive),
    ("arms.*.iterations", Range::AtLeastOne),
    ("arms.*.episodes", Range::AtLeastOne),
    ("arms.*.epochs", Range::AtLeastOne),
    ("arms.*.group", Range::AtLeastOne),
    ("arms.*.minibatches", Range::AtLeastOne),
    ("arms.*.batch_size", Range::AtLeastOne),
    ("arms.*.learning_rate", Range::Positive),
    ("arms.*.clip_range", Range::Bound),
    ("arms.*.value_clip_range", Range::Bound),
    ("arms.*.kl_target", Range::Positive),
    ("arms.*.kl_horizon", Range::Positive),
    ("arms.*.reference_decay", Range::BelowOne),
    ("arms.*.score_clip", Range::Bound),
    ("arms.*.label_temperature", Range::NotNegative),
    ("arms.*.eos_penalty", Range::NotNegative),
    ("arms.*.entropy_coef", Range::NotNegative),
    ("arms.*.critic_warmup", Range::NotNegative),
    ("arms.*.value_coef", Range::NotNegative),
    ("arms.*.gamma", Range::Fraction),
    ("arms.*.lambda", Range::Fraction),
    ("arms.*.target_kl", Range::Bound),
    ("arms.*.label_smoothing", Range::BelowHalf),
    ("arms.*.simpo_margin", Range::NotNegative),
    ("arms.*.positive_lambda", Range::NotNegative),
    ("arms.*.discopop_tau", Range::Positive),
    ("arms.*.alpha", Range::BelowOne),
    ("arms.*.unlikelihood_alpha", Range::Fraction),
    ("arms.*.margin", Range::NotNegative),
    ("arms.*.tie_margin", Range::NotNegative),
    ("arms.*.kto_desirable", Range::NotNegative),
    ("arms.*.kto_undesirable", Range::NotNegative),
    ("arms.*.nll_coef", Range::NotNegative),
    ("stages.pairs.length_bias", Range::NotNegative),
    ("stages.pairs.ties", Range::NotNegative),
];

pub(crate) fn range_of(key: &str) -> Option<Range> {
    RANGES.iter().find(|(pattern, _)| matches_key(pattern, key)).map(|(_, range)| *range)
}

fn matches_key(pattern: &str, key: &str) -> bool {
    let key = key.replacen(".grid.", ".", 1).replacen(".space.", ".", 1);
    let key = [".low", ".high", ".choices"].iter().find_map(|end| key.strip_suffix(end)).unwrap_or(&key);
    let (pattern, key): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), key.split('.').collect());
    pattern.len() == key.len() && pattern.iter().zip(&key).all(|(p, k)| *p == "*" || p == k)
}
