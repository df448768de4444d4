//! The numbers that a key accepts.

use super::key_pattern::matches_key;
use crate::Result;
use crate::document::Document;
use crate::values::{items, number};

/// Checks every number before it is typed: a negative count is then out of range, not of the wrong type.
pub(super) fn check_numbers(document: &Document) -> Result<()> {
    for (key, value, _) in document.resolved() {
        let Some(range) = range_of(&key) else { continue };
        for value in items(&value) {
            if number(value).is_some_and(|x| !range.accepts(x)) {
                return Err(document.out_of_range(key, value.to_string(), range.description()));
            }
        }
    }
    Ok(())
}

/// The range of a number. Each is bounded, so that values no experiment could run with are refused at once.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Constraint {
    /// A bound; infinite for no bound.
    Bound,
    /// A bound, or 0 for that of another key.
    BoundOrZero,
    Positive,
    AtLeastOne,
    NotNegative,
    /// A count that may be zero.
    Count,
    /// Divides logits.
    Temperature,
    /// Rounds of sampling, none included.
    Rounds,
    Fraction,
    PositiveFraction,
    /// A fraction above 0.
    Mixup,
    /// Passes over rows.
    Epochs,
    BelowOne,
    BelowHalf,
    Accuracy,
    Vocabulary,
    AtLeastTwo,
    Seeds,
    Seed,
    Size,
    Layers,
    /// Rows held in memory.
    Rows,
    /// Rows of a batch.
    Batch,
    /// Tokens of a text.
    Tokens,
    Seconds,
    Megabytes,
}

/// The largest and the smallest positive real number: within the range of single precision.
const LARGEST: f64 = 1e30;
const SMALLEST: f64 = 1e-30;

impl Constraint {
    /// The smallest and the largest value accepted.
    fn bounds(self) -> (f64, f64) {
        match self {
            Self::Bound | Self::Positive => (SMALLEST, LARGEST),
            Self::NotNegative | Self::BoundOrZero => (0.0, LARGEST),
            Self::AtLeastOne => (1.0, 1e9),
            Self::AtLeastTwo => (2.0, 1e6),
            Self::Count => (0.0, 1e9),
            Self::Temperature => (0.01, 100.0),
            Self::Rounds => (0.0, 1000.0),
            Self::Seeds => (1.0, 1000.0),
            Self::Seed => (0.0, 9_007_199_254_740_991.0), // 2^53 - 1: exact as a float too
            Self::Size => (1.0, 16384.0),
            Self::Layers => (1.0, 512.0),
            Self::Rows => (1.0, 1e7),
            Self::Batch => (1.0, 65536.0),
            Self::Tokens => (1.0, 1_048_576.0),
            Self::Seconds => (SMALLEST, 86_400.0),
            Self::Megabytes => (0.0, 1e6),
            Self::Fraction => (0.0, 1.0),
            Self::PositiveFraction => (1e-6, 1.0),
            Self::Mixup => (SMALLEST, 1.0),
            Self::Epochs => (1e-6, 1e7),
            Self::BelowOne => (0.0, 1.0f64.next_down()),
            Self::BelowHalf => (0.0, 0.5f64.next_down()),
            Self::Accuracy => (0.5f64.next_up(), 1.0f64.next_down()),
            Self::Vocabulary => (300.0, 4096.0),
        }
    }

    fn accepts(self, x: f64) -> bool {
        let (low, high) = self.bounds();
        (low..=high).contains(&x) || (x == f64::INFINITY && matches!(self, Self::Bound | Self::BoundOrZero))
    }

    fn description(self) -> String {
        let (low, high) = self.bounds();
        match self {
            Self::Bound => format!("a number above 0 and at most {LARGEST:e}, or inf"),
            Self::BoundOrZero => format!("a number of at least 0 and at most {LARGEST:e}, or inf"),
            Self::Positive => format!("a number above 0, from {SMALLEST:e} to {LARGEST:e}"),
            Self::NotNegative => format!("a number of at least 0 and at most {LARGEST:e}"),
            Self::Seconds => format!("seconds, above 0 and at most {high}"),
            Self::Megabytes => format!("megabytes, an integer from {low} to {high}"),
            Self::Temperature => format!("a number from {low} to {high}"),
            Self::Fraction => "a number from 0 to 1".into(),
            Self::PositiveFraction => "a number from 1e-6 to 1".into(),
            Self::Mixup => "a number above 0 and at most 1".into(),
            Self::Epochs => format!("a number from {low:e} to {high:e}"),
            Self::BelowOne => "a number of at least 0 and below 1".into(),
            Self::BelowHalf => "a number of at least 0 and below 0.5".into(),
            Self::Accuracy => "a number above 0.5 and below 1".into(),
            _ => format!("an integer from {low} to {high}"),
        }
    }
}

/// Ranges by key; `*` is any arm's name, and the axes of its grid and space have the range of their setting.
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
    ("world.rows.pairs_per_prompt", Constraint::Batch),
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
    ("learner.logits_memory", Constraint::Megabytes),
    ("learner.weight_decay", Constraint::NotNegative),
    ("learner.clip_norm", Constraint::Bound),
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
    ("stages.rm.steps", Constraint::Count),
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
    ("evaluation.best_of_samples", Constraint::Rows),
    ("evaluation.curve_points", Constraint::Size),
    ("evaluation.curve_prompts", Constraint::AtLeastTwo),
    ("evaluation.curve_samples_per_prompt", Constraint::Size),
    ("evaluation.completions", Constraint::Rows),
    ("evaluation.pairwise.prompts", Constraint::AtLeastTwo),
    ("evaluation.pairwise.timeout", Constraint::Seconds),
    ("evaluation.pairwise.batch", Constraint::Size),
    ("budget.amount", Constraint::NotNegative),
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
    ("arms.*.beta", Constraint::NotNegative),
    ("arms.*.iterations", Constraint::AtLeastOne),
    ("arms.*.episodes", Constraint::Rows),
    ("arms.*.epochs", Constraint::Epochs),
    ("arms.*.max_steps", Constraint::Count),
    ("arms.*.group", Constraint::Batch),
    ("arms.*.minibatches", Constraint::Rows),
    ("arms.*.batch_size", Constraint::Batch),
    ("arms.*.learning_rate", Constraint::Positive),
    ("arms.*.clip_range", Constraint::Bound),
    ("arms.*.clip_range_high", Constraint::BoundOrZero),
    ("arms.*.clip_dual", Constraint::Bound),
    ("arms.*.sapo_temperature_pos", Constraint::Positive),
    ("arms.*.sapo_temperature_neg", Constraint::Positive),
    ("arms.*.vespo_k_pos", Constraint::NotNegative),
    ("arms.*.vespo_lambda_pos", Constraint::Positive),
    ("arms.*.vespo_k_neg", Constraint::NotNegative),
    ("arms.*.vespo_lambda_neg", Constraint::Positive),
    ("arms.*.temperature", Constraint::Temperature),
    ("arms.*.top_p", Constraint::PositiveFraction),
    ("arms.*.importance_sampling_cap", Constraint::Bound),
    ("arms.*.top_entropy_quantile", Constraint::Fraction),
    ("arms.*.covariance_share", Constraint::Fraction),
    ("arms.*.clip_cov_low", Constraint::NotNegative),
    ("arms.*.clip_cov_high", Constraint::Bound),
    ("arms.*.kl_cov_coef", Constraint::NotNegative),
    ("arms.*.off_policy_mask_threshold", Constraint::Bound),
    ("arms.*.value_clip_range", Constraint::Bound),
    ("arms.*.kl_target", Constraint::Positive),
    ("arms.*.kl_horizon", Constraint::Positive),
    ("arms.*.reference_decay", Constraint::BelowOne),
    ("arms.*.score_clip", Constraint::Bound),
    ("arms.*.label_temperature", Constraint::NotNegative),
    ("arms.*.xpo_alpha", Constraint::NotNegative),
    ("arms.*.eos_penalty", Constraint::NotNegative),
    ("arms.*.overlong_buffer", Constraint::Count),
    ("arms.*.overlong_penalty", Constraint::NotNegative),
    ("arms.*.dynamic_sampling_rounds", Constraint::Rounds),
    ("arms.*.entropy_coef", Constraint::NotNegative),
    ("arms.*.entropy_target", Constraint::Positive),
    ("arms.*.entropy_coef_delta", Constraint::Positive),
    ("arms.*.entropy_coef_min", Constraint::NotNegative),
    ("arms.*.entropy_coef_max", Constraint::Positive),
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
    ("arms.*.loss_weights.*", Constraint::Positive),
    ("arms.*.ld_alpha", Constraint::Fraction),
    ("arms.*.dynamic_beta", Constraint::NotNegative),
    ("arms.*.dynamic_beta_momentum", Constraint::BelowOne),
    ("arms.*.dynamic_beta_filter", Constraint::PositiveFraction),
    ("arms.*.ref_model_mixup_alpha", Constraint::Mixup),
    ("arms.*.ref_model_sync_steps", Constraint::AtLeastOne),
    ("stages.pairs.length_bias", Constraint::NotNegative),
    ("stages.pairs.ties", Constraint::NotNegative),
];

pub(crate) fn range_of(key: &str) -> Option<Constraint> {
    RANGES.iter().find(|(pattern, _)| matches_key(pattern, key)).map(|(_, range)| *range)
}
