//! The metric catalogue: each name once, with its unit and its formula.
//!
//! FLOPs are counted by one rule everywhere (docs/verdicts.md, FLOPs): with N matrix parameters, a forward pass
//! costs 2N FLOPs per token and a backward pass 4N, plus attention: `2·layers·context·width` per token of the forward pass.

use std::fmt;

/// A metric of the catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    /// The formula, with its denominator.
    pub meaning: &'static str,
    /// The tags under which TRL's trainers show the same quantity in TensorBoard.
    pub trl: &'static [&'static str],
}

impl Metric {
    /// Whether it measures time or memory, and so differs between runs.
    pub fn is_machine_dependent(&self) -> bool {
        matches!(self.unit, "s" | "bytes")
    }

    /// The smallest and the largest value of a share; one of something that may be negative has no smallest.
    pub fn range(&self) -> Option<[f64; 2]> {
        let of_signed = [ETA, IDEAL_ETA, OBJECTIVE_SHARE, EXPLAINED_VARIANCE].contains(self);
        (self.unit == "share").then_some([if of_signed { f64::NEG_INFINITY } else { 0.0 }, 1.0])
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! catalogue {
    ($($constant:ident = $name:literal, $unit:literal, $meaning:literal $(, trl $($tag:literal)|+)?;)*) => {
        $(
            #[doc = concat!($meaning, " \\[", $unit, "\\]")]
            pub const $constant: Metric = Metric { name: $name, unit: $unit, meaning: $meaning, trl: &[$($($tag),+)?] };
        )*
        /// Every metric, in the catalogue's order.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

catalogue! {
    // every training
    LOSS = "loss", "nats", "the stage's training loss, mean over its batch";
    LEARNING_RATE = "learning_rate", "1", "the optimizer's rate at this step";
    GRAD_NORM = "grad_norm", "1", "global L2 norm of the gradient before clipping";
    UPDATE_RATIO = "update_ratio", "1", "L2 norm of the step over L2 norm of the weights";
    PEAK_RSS = "peak_rss", "bytes", "largest resident set of the worker process so far";
    PARAMETERS = "parameters", "1", "trained parameters";
    UPDATES = "updates", "updates", "updates of the whole module, with a learning rate above 0 and no frozen part, summed over the stage";
    ROWS_LEFT_OUT = "rows_left_out", "share", "share of rows in no batch of an epoch, since all batches have the same size; other rows in each epoch";
    MODELS_RESIDENT = "models_resident", "1", "models the training keeps in memory";
    TRAINING_BYTES = "training_bytes", "bytes", "what the training keeps of its models, by count: weights, gradients, the optimizer's moments, models that are only read, the reference's log-probs";
    TRAINED_TOKENS = "trained_tokens", "tokens", "tokens of backward passes, summed over the stage";
    SAMPLED_TOKENS = "sampled_tokens", "tokens", "tokens that the policy generated during the training, summed over the stage";
    STAGE_SECONDS = "stage_seconds", "s", "seconds of the whole stage, without evaluation";
    BUDGET_USED = "budget_used", "1", "what the training used of its budget; above 1 by what its last iteration went beyond";
    CHECK_SECONDS = "check_seconds", "s", "seconds of stage_seconds spent on the training's invariants";
    // language models
    NLL_TOKEN = "nll_per_token", "nats", "negative log-likelihood over counted tokens, held-out rows";
    NLL_SEQUENCE = "nll_per_sequence", "nats", "negative log-likelihood summed over a response, mean over rows";
    KL_GRAMMAR = "kl_grammar_reference", "nats", "exact KL(grammar || reference) per response, mean over all prompts";
    // pairs and reward model
    ROWS_READ = "rows_read", "rows", "rows of the user's own files";
    ROWS_KEPT = "rows_kept", "rows", "pairs made of them that are trained on or judged by";
    ROWS_UNREADABLE = "rows_unreadable", "rows", "rows left out as they cannot be read or trained on";
    ROWS_SAME = "rows_same", "rows", "rows left out as their completions are the same tokens";
    ROWS_DUPLICATE = "rows_duplicate", "rows", "rows left out as duplicates of earlier ones";
    ROWS_LONG_PROMPT = "rows_long_prompt", "rows", "rows left out for a prompt of too many tokens";
    ROWS_LONG_RESPONSE = "rows_long_response", "rows", "rows left out for a completion of too many tokens";
    ROWS_PROMPT_CUT = "rows_prompt_cut", "rows", "rows whose prompt is cut at its beginning";
    ROWS_RESPONSE_CUT = "rows_response_cut", "rows", "rows with a completion that is cut at its end, so that it has no end token";
    ROWS_CUT_AT_EOS = "rows_cut_at_eos", "rows", "rows with a completion that is cut at its first end token";
    ROWS_MERGED = "rows_merged", "rows", "rows whose prompt ends before a token that holds the beginning of a completion";
    JUDGE_PAIRS = "judge_pairs", "pairs", "pairs on validation and test prompts that the judge is learned from (judge.kind = world on own rows)";
    BAYES_ACCURACY = "bayes_accuracy", "share", "mean over rows of the larger label probability: an upper bound for any judge";
    TAU = "tau", "gold reward", "temperature of the Bradley-Terry labels";
    PAIR_ACCURACY_TRAIN = "pair_accuracy_train", "share", "rows where the chosen response scores higher, ties half; train prompts", trl "train/accuracy";
    PAIR_ACCURACY_VALIDATION = "pair_accuracy_validation", "share", "as pair_accuracy_train, on validation prompts", trl "eval/accuracy";
    PAIR_ACCURACY_TEST = "pair_accuracy_test", "share", "as pair_accuracy_train, on test prompts";
    RM_MARGIN = "rm_margin", "score", "mean raw score of chosen minus rejected over the batch", trl "train/margin";
    RM_LOSS_VALIDATION = "rm_loss_validation", "nats", "Bradley-Terry loss on validation prompts";
    RM_SPEARMAN_GOLD = "rm_spearman_gold", "1", "rank correlation of proxy and gold over held-out responses";
    RM_LENGTH_CORRELATION = "rm_length_correlation", "1", "correlation of proxy and response length over held-out responses";
    RM_TRAP_SLOPE = "rm_trap_slope", "score", "mean change of the proxy when a second x is added: the manipulation check of docs/worlds.md";
    RM_CALIBRATION = "rm_calibration_error", "share", "expected calibration error of the raw scores on test prompts, 10 bins of the higher score's probability";
    RM_CUT = "rm_cut", "sequences", "sequences longer than the context of a reward model with its own tokenizer, of which it read the end, over the stage";
    CALIBRATION_SAID = "calibration_said", "share", "per bin (its number is the step): mean probability that the raw scores give to the higher one, test prompts";
    CALIBRATION_WAS = "calibration_was", "share", "per bin: share of its pairs in which the higher score was chosen, ties half";
    CALIBRATION_PAIRS = "calibration_pairs", "pairs", "per bin: its pairs";
    PAIRS_IN_BIN = "pairs_in_bin", "pairs", "per bin of pairs (its number is the step; split and division are in the stage): its pairs";
    VALUE_IN_BIN = "value_in_bin", "by division", "per bin: mean of what pairs are divided by, a difference of gold, of scores or of tokens, or a label's strength";
    ACCURACY_IN_BIN = "accuracy_in_bin", "share", "per bin: pairs whose chosen response scores higher, ties half; of a policy by its log-ratio to the reference";
    CEILING_IN_BIN = "ceiling_in_bin", "share", "per bin: mean of the larger label probability, an upper bound for any judge";
    ENSEMBLE_ALIKE = "ensemble_alike", "share", "test pairs that all members of an ensemble order alike";
    ENSEMBLE_AGREEMENT = "ensemble_agreement", "share", "test pairs that two members of an ensemble order alike, mean over pairs of members";
    ENSEMBLE_KAPPA = "ensemble_kappa", "1", "Cohen's kappa of two members' orders (as labelled, reversed, tied), mean over pairs of members; 0: no more alike than their accuracies imply";
    ENSEMBLE_SD_PAIRS = "ensemble_sd_pairs", "score", "standard deviation of the members' scores of a response, each member centred, mean over both responses of test pairs";
    ENSEMBLE_SD = "ensemble_sd", "score", "the same over sampled responses: the SFT policy's in stage rm, a finished policy's kept completions in its evaluation";
    KEPT_STEP = "kept_step", "updates", "the step whose weights are kept, where that is not the last";
    GOLD_ACCURACY = "gold_accuracy", "share", "accuracy of the gold scorer on full held-out reviews";
    GOLD_ACCURACY_WINDOW = "gold_accuracy_window", "share", "accuracy of the gold scorer on the first judged words of held-out reviews";
    GOLD_HUMAN_AGREEMENT = "gold_human_agreement", "share", "pairs of human-rated sentences, with means at least 1 apart, that are ordered the same";
    GOLD_CALIBRATION = "gold_calibration_error", "share", "expected calibration error on the first judged words of held-out reviews, 10 bins";
    // DPO
    DPO_MARGIN = "dpo_margin", "reward", "mean of beta times (log-ratio of chosen minus log-ratio of rejected)", trl "train/rewards/margins";
    DPO_MARGIN_SD = "dpo_margin_sd", "reward", "standard deviation of the same over the batch";
    DPO_ACCURACY = "dpo_accuracy", "share", "rows with a positive margin, ties half", trl "train/rewards/accuracies";
    REWARD_CHOSEN = "reward_chosen", "reward", "mean of beta times the log-ratio of the chosen response", trl "train/rewards/chosen";
    REWARD_REJECTED = "reward_rejected", "reward", "mean of beta times the log-ratio of the rejected response", trl "train/rewards/rejected";
    LOGP_CHOSEN = "logp_chosen", "nats", "mean log-probability of the chosen response, summed over tokens", trl "train/logps/chosen";
    LOGP_REJECTED = "logp_rejected", "nats", "mean log-probability of the rejected response, summed over tokens", trl "train/logps/rejected";
    DPO_SATURATED = "dpo_saturated", "share", "rows whose gradient weight sg(-u) is below .01";
    DPO_BETA = "dpo_beta", "reward per nat", "beta of the batch, where it is dynamic";
    DPO_LOSS_VALIDATION = "dpo_loss_validation", "nats", "DPO loss on validation prompts", trl "eval/loss";
    DPO_ACCURACY_VALIDATION = "dpo_accuracy_validation", "share", "DPO accuracy on validation prompts", trl "eval/rewards/accuracies";
    // any policy, on held-out pairs
    LOG_RATIO_CHOSEN = "log_ratio_chosen", "nats", "mean log pi - log reference of the chosen responses of 256 held-out pairs of the split";
    LOG_RATIO_REJECTED = "log_ratio_rejected", "nats", "the same of the rejected responses";
    ORDERED_PAIRS = "ordered_pairs", "share", "of the same pairs, those whose chosen response has the larger log-ratio, ties half";
    // PPO
    ROLLOUT_PROXY = "rollout_proxy", "reward", "mean score of the rollout's responses, as the judge gave it; of several rewards, their weighted sum", trl "train/objective/scores" | "train/reward";
    ROLLOUT_REWARD_RM = "rollout_reward_rm", "score", "of several rewards: mean score by the learned reward model over the rollout's responses, before its weight";
    ROLLOUT_REWARD_GOLD = "rollout_reward_gold", "gold reward", "of several rewards: mean gold reward of the rollout's responses, before its weight";
    ROLLOUT_REWARD_LENGTH = "rollout_reward_length", "tokens", "of several rewards: mean tokens of the rollout's responses, before its weight";
    ROLLOUT_REWARD_RULES = "rollout_reward_rules", "score", "of several rewards: mean score by the arm's own rules over the rollout's responses, before its weight";
    ROLLOUT_KL = "rollout_kl", "nats", "mean over responses of the summed log-ratio to the reference (k1)", trl "train/objective/kl";
    KL_PRICE = "kl_price", "reward", "beta of the iteration: the KL coefficient", trl "train/beta";
    ROLLOUT_RETURN = "rollout_return", "reward", "mean over responses of score minus beta times k1", trl "train/objective/rlhf_reward";
    ROLLOUT_LENGTH = "rollout_length", "tokens", "mean counted tokens of the rollout's responses", trl "train/completions/mean_length";
    POLICY_ENTROPY = "policy_entropy", "nats", "exact entropy of the rollout's policy at each counted token, mean; with use_adaptive_entropy";
    ENTROPY_COEF = "entropy_coef", "reward per nat", "weight of the entropy bonus in the iteration's updates; with use_adaptive_entropy";
    ROLLOUT_ENTROPY = "rollout_entropy", "nats", "mean over counted tokens of minus the sampled log-probability";
    ROLLOUT_UNENDED = "rollout_unended", "share", "responses cut off before EOS", trl "train/completions/clipped_ratio";
    ROLLOUT_UNIQUE = "rollout_unique", "share", "distinct (prompt, response) over responses";
    GROUPS_WITHOUT_SPREAD = "groups_without_spread", "share", "groups of responses to one prompt whose scores are all the same, as first sampled";
    GROUPS_REPLACED = "groups_replaced", "groups", "groups sampled in place of such ones (dynamic_sampling_rounds)";
    IMPORTANCE_CAPPED = "importance_capped", "share", "sampled tokens whose importance weight is above importance_sampling_cap";
    RATIO_MAX = "ratio_max", "1", "largest probability ratio to the rollout's policy over the iteration";
    CLIP_SHARE = "clip_share", "share", "counted tokens on which the clip was binding (A·clip(r) < A·r), mean over minibatches", trl "train/policy/clipfrac_avg" | "train/clip_ratio/region_mean";
    KL_STEP = "kl_step", "nats", "k3 of KL(rollout's policy || new policy) per token, last minibatch";
    UPDATES_SKIPPED = "updates_skipped", "share", "minibatches skipped because target_kl was exceeded";
    UPDATES_EMPTY = "updates_empty", "share", "minibatches skipped because all of their responses are cut off and truncated = mask";
    ADVANTAGE_SD = "advantage_sd", "reward", "standard deviation of raw advantages over counted tokens";
    VALUE_LOSS = "value_loss", "reward²", "clipped value loss, mean over counted tokens and minibatches", trl "train/loss/value_avg";
    EXPLAINED_VARIANCE = "explained_variance", "share", "1 - var(return - value) / var(return) over counted tokens";
    // evaluation, the same for every arm
    GOLD = "gold_reward", "gold reward", "mean gold reward of the policy's responses to the split's prompts";
    GOLD_SE = "gold_reward_se", "gold reward", "standard error of gold_reward, clustered by prompt; 0 where exact";
    GOLD_SD = "gold_reward_sd", "gold reward", "standard deviation of gold reward over responses";
    PROXY = "proxy_reward", "score", "mean proxy reward of the same responses";
    KL = "kl", "nats", "KL(policy || reference) per response: exact on grammar, Rao-Blackwell estimate elsewhere";
    KL_SE = "kl_se", "nats", "standard error of kl, clustered by prompt; 0 where exact";
    KL_K1 = "kl_k1", "nats", "sampled log-ratio, a cross-check of the Rao-Blackwell estimate";
    WIN_RATE = "win_rate", "share", "probability that the policy's response has more gold than the reference's, ties half";
    TIE_RATE = "tie_rate", "share", "probability of equal gold";
    PAIRWISE_WIN_RATE = "pairwise_win_rate", "share", "how often the judge of pairs prefers the policy's response to the reference's, ties half: mean over pairs, each shown in both orders; test prompts, finished policies";
    PAIRWISE_WIN_RATE_SE = "pairwise_win_rate_se", "share", "standard error of pairwise_win_rate over its pairs, one for each prompt";
    PAIRWISE_GOLD_WIN_RATE = "pairwise_gold_win_rate", "share", "win_rate of the same pairs: by gold";
    PAIRWISE_TIE_RATE = "pairwise_tie_rate", "share", "answers of the judge of pairs, two for each pair, in which neither response is better";
    PAIRWISE_ORDER_DECIDES = "pairwise_order_decides", "share", "pairs of which the judge prefers one response in one order and the other in the other";
    PAIRWISE_FIRST_RATE = "pairwise_first_rate", "share", "answers that prefer the response shown first, ties half: ½ without position bias";
    PAIRWISE_GOLD_AGREEMENT = "pairwise_gold_agreement", "share", "of the pairs whose gold differs, those in which the judge, over both orders, prefers the one with more gold; undecided ones half";
    LENGTH = "length", "tokens", "mean counted tokens of a response, EOS included";
    ENTROPY = "entropy", "nats", "entropy of the policy per response";
    TRAP_MASS = "trap_mass", "share", "probability of a response with two or more x (grammar)";
    DISTINCT_2 = "distinct_2", "share", "distinct bigrams over bigrams of the sampled responses";
    OBJECTIVE = "objective", "gold reward", "gold_reward - beta * kl at the point's beta";
    REGRET = "regret", "gold reward", "the exact optimum's objective at the point's beta - objective";
    OBJECTIVE_SHARE = "objective_share", "share", "objective / the exact optimum's objective at the point's beta, where that is positive";
    TOTAL_VARIATION = "total_variation", "share", "half the sum of |policy - exact optimum at the point's beta| over responses";
    ETA = "eta", "share", "(gold - reference gold) / (exact optimum's gold at this kl - reference gold)";
    OPTIMUM_GOLD = "optimum_gold", "gold reward", "gold of the exact optimum at this policy's kl";
    IDEAL_GOLD = "ideal_gold", "gold reward", "gold of the PPO-ideal, ref*exp(proxy/b), at this policy's kl";
    IDEAL_ETA = "ideal_eta", "share", "eta of the PPO-ideal at this policy's kl";
    TOTAL_PROBABILITY = "total_probability", "1", "sum of the policy's probabilities over all enumerated responses";
    EVALUATION_SECONDS = "evaluation_seconds", "s", "seconds of evaluating the policy, validation and test together; on no clock";
    PERPLEXITY_REFERENCE = "reference_nll_per_token", "nats", "the reference's negative log-likelihood of the policy's responses, per token";
}

/// Finds a metric by its name.
pub fn find(name: &str) -> Option<Metric> {
    ALL.iter().copied().find(|m| m.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_found() {
        let names: std::collections::HashSet<_> = ALL.iter().map(|m| m.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(find("gold_reward"), Some(GOLD));
        assert_eq!(find("gold"), None);
    }

    #[test]
    fn a_share_is_at_most_one() {
        assert_eq!(WIN_RATE.range(), Some([0.0, 1.0]));
        assert_eq!(ETA.range(), Some([f64::NEG_INFINITY, 1.0]), "gold below the reference's");
        assert_eq!(GOLD.range(), None);
    }

    #[test]
    fn a_trl_tag_belongs_to_one_metric() {
        let tags: Vec<&str> = ALL.iter().flat_map(|m| m.trl).copied().collect();
        let distinct: std::collections::HashSet<_> = tags.iter().collect();
        assert_eq!(distinct.len(), tags.len());
        for tag in tags {
            match tag.split_once('/') {
                Some(("train", name)) => assert_eq!(find(name), None, "{tag} is the tag of a metric already"),
                split => assert!(matches!(split, Some(("eval", _))), "{tag}"), // no stage is called so
            }
        }
        assert_eq!(DPO_MARGIN.trl, ["train/rewards/margins"]);
        assert_eq!(ROLLOUT_PROXY.trl, ["train/objective/scores", "train/reward"]);
        assert!(ETA.trl.is_empty());
    }
}
