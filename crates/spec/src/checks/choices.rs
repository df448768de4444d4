//! The strings that a key accepts.

use super::key_pattern::matches_key;
use crate::document::Document;
use crate::method::METHODS;
use crate::pair_loss::PAIR_LOSSES;
use crate::values::{items, value_text};
use crate::{Error, Result};

const SCALINGS: [&str; 3] = ["raw", "scaled", "white"];

/// The choices of each key; `*` is any arm's name.
const CHOICES: &[(&str, &[&str])] = &[
    ("world.kind", &["grammar", "reviews", "rows"]),
    ("judge.kind", &["world", "sentiment", "ratings", "rules", "command", "model"]),
    ("world.rows.chat", &["auto", "always", "never"]),
    ("world.rows.turns", &["all", "last"]),
    ("judge.reads", &["response", "all"]),
    ("world.rows.long_prompts", &["drop", "cut"]),
    ("world.rows.long_responses", &["drop", "cut"]),
    ("model.numbers", &["f32", "bf16", "q8"]),
    ("evaluation.pairwise.numbers", &["f32", "bf16", "q8"]),
    ("learner.optimizer", &["adamw", "rmsprop", "lion"]),
    ("learner.schedule", &["constant", "linear", "cosine"]),
    ("stages.pairs.temperature", &["fixed", "bayes"]),
    ("stages.rm.model", &["transformer", "linear"]),
    ("stages.rm.start", &["sft", "base"]),
    ("stages.rm.score", &["last", "mean"]),
    ("stages.rm.ensemble_score", &["mean", "worst", "cautious"]),
    ("stages.rm.keep", &["last", "best"]),
    ("budget.unit", &["none", "steps", "tokens", "flops", "seconds"]),
    ("tuning.choose", &["gold", "proxy"]),
    ("arms.*.search", &["grid", "random", "tpe", "halving"]),
    ("arms.*.method", &METHODS),
    ("arms.*.reward", &["rm", "gold"]),
    ("arms.*.multi_objective_aggregation", &["sum_then_normalize", "normalize_then_sum"]),
    ("arms.*.loss", PAIR_LOSSES),
    ("arms.*.pair_loss", &["sigmoid", "hinge", "ipo"]),
    ("arms.*.keep", &["last", "gold", "proxy", "loss"]),
    ("arms.*.lora_targets", &["all", "attention", "mlp"]),
    ("arms.*.kl", &["reward", "loss"]),
    ("arms.*.kl_estimator", &["k1", "k2", "k3", "full"]),
    ("arms.*.kl_control", &["fixed", "adaptive", "target"]),
    ("arms.*.reference", &["frozen", "ema", "last"]),
    ("arms.*.scores", &SCALINGS),
    ("arms.*.truncated", &["keep", "mask"]),
    ("arms.*.loss_mean", &["tokens", "responses", "constant", "sum"]),
    ("arms.*.covariance_control", &["none", "clip", "kl"]),
    ("arms.*.trained_law", &["policy", "sampled"]),
    ("arms.*.policy_loss", &["ppo", "cispo", "sapo", "vespo"]),
    ("arms.*.importance_sampling_level", &["token", "sequence", "sequence_token"]),
    ("arms.*.advantages", &SCALINGS),
    ("arms.*.rewards", &SCALINGS),
    ("arms.*.critic", &["separate", "shared"]),
    ("arms.*.critic_start", &["scorer", "sft"]),
];

pub(super) fn check_choices(document: &Document) -> Result<()> {
    for (key, value, _) in document.resolved() {
        let Some((_, accepted)) = CHOICES.iter().find(|(pattern, _)| matches_key(pattern, &key)) else { continue };
        // the tables of a list of rewards are checked as they are resolved
        for choice in items(&value).iter().filter(|choice| !choice.is_table()) {
            let value = value_text(choice);
            if !accepted.contains(&value.as_str()) {
                let (accepted, span) = (accepted.to_vec(), document.span(&key));
                return Err(Error::UnknownChoice { key, found: value, accepted, span });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_that_is_one_of_several_has_its_choices() {
        let lines = include_str!("../defaults.toml").lines();
        let choices: Vec<(&str, &str)> = lines
            .filter_map(|line| line.split_once(" = \"")) // a string
            .filter(|(key, rest)| key.starts_with(char::is_lowercase) && rest.contains("\" | \""))
            .filter(|(key, _)| *key != "metric") // of a claim, which names what it lacks itself
            .collect();
        assert!(choices.len() > 15, "{}", choices.len());
        for (key, rest) in choices {
            let value = rest.split('"').next().unwrap_or_default();
            let listed = CHOICES.iter().filter(|(pattern, _)| pattern.rsplit('.').next() == Some(key));
            assert!(listed.into_iter().any(|(_, accepted)| accepted.contains(&value)), "`{key}` has no choices");
        }
    }
}
