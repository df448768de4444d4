//! What an unknown name may stand for: a name in another library, or a misspelling.

/// Names of settings and choices in TRL, OpenRLHF and verl, and the names here: a key of an arm, a key with its table, or a
/// choice. What differs in meaning is in docs/from-trl.md, docs/from-openrlhf.md and docs/from-verl.md.
const OTHER_LIBRARIES: &[(&str, &str)] = &[
    // of every training
    ("lr", "learning_rate"),
    ("actor_learning_rate", "learning_rate"),
    ("lr_scheduler_type", "learner.schedule"),
    ("lr_scheduler", "learner.schedule"),
    ("warmup_ratio", "learner.warmup"),
    ("warmup_steps", "learner.warmup"),
    ("lr_warmup_ratio", "learner.warmup"),
    ("lr_warmup_steps_ratio", "learner.warmup"),
    ("min_lr_ratio", "learner.final_rate"),
    ("optim", "learner.optimizer"),
    ("adam_betas", "learner.adam_beta2"),
    ("l2", "learner.weight_decay"),
    ("max_grad_norm", "learner.clip_norm"),
    ("max_norm", "learner.clip_norm"),
    ("grad_clip", "learner.clip_norm"),
    ("gradient_accumulation_steps", "learner.accumulate"),
    ("gradient_checkpointing", "learner.recompute"),
    ("bf16", "model.numbers"),
    ("load_in_4bit", "model.numbers"),
    ("model_name_or_path", "model.from"),
    ("per_device_train_batch_size", "batch_size"),
    ("per_device_train_batch_size", "episodes"),
    ("train_batch_size", "batch_size"),
    ("train_batch_size", "episodes"),
    ("rollout_batch_size", "episodes"),
    ("generation_batch_size", "episodes"),
    ("num_train_epochs", "epochs"),
    ("max_epochs", "epochs"),
    ("max_length", "world.rows.response_tokens"),
    ("max_prompt_length", "world.rows.prompt_tokens"),
    ("max_completion_length", "world.rows.response_tokens"),
    ("max_new_tokens", "world.rows.response_tokens"),
    ("response_length", "world.rows.response_tokens"),
    ("truncation_mode", "world.rows.long_prompts"),
    ("load_best_model_at_end", "keep"),
    ("lora_r", "lora_rank"),
    ("target_modules", "lora_targets"),
    // of losses on pairs
    ("loss_type", "loss"),
    ("f_divergence_type", "loss"),
    ("f_alpha_divergence_coef", "alpha"),
    ("simpo_gamma", "simpo_margin"),
    ("cpo_alpha", "nll_coef"),
    ("rpo_alpha", "nll_coef"),
    ("nll_loss_coef", "nll_coef"),
    ("desirable_weight", "kto_desirable"),
    ("undesirable_weight", "kto_undesirable"),
    ("sigmoid_norm", "sigmoid_averaged"),
    ("exo_pair", "exo"),
    ("nca_pair", "nca"),
    ("sppo_hard", "sppo"),
    ("sft", "preferred_ft"),
    // of the reward model
    ("center_rewards_coefficient", "stages.rm.centring"),
    ("reward_model_path", "stages.rm.from"),
    // on rollouts
    ("kl_coef", "beta"),
    ("init_kl_coef", "beta"),
    ("kl_loss_coef", "beta"),
    ("use_kl_loss", "kl"),
    ("num_ppo_epochs", "epochs"),
    ("ppo_epochs", "epochs"),
    ("num_iterations", "epochs"),
    ("num_mini_batches", "minibatches"),
    ("ppo_mini_batch_size", "minibatches"),
    ("total_episodes", "iterations"),
    ("num_episodes", "iterations"),
    ("max_steps", "iterations"),
    ("num_generations", "group"),
    ("n_samples_per_prompt", "group"),
    ("scale_rewards", "scale"),
    ("reward_funcs", "reward"),
    ("reward_weights", "reward"),
    ("cliprange", "clip_range"),
    ("epsilon", "clip_range"),
    ("eps_clip", "clip_range"),
    ("clip_ratio", "clip_range"),
    ("cliprange_value", "value_clip_range"),
    ("value_clip", "value_clip_range"),
    ("vf_coef", "value_coef"),
    ("lam", "lambda"),
    ("lambd", "lambda"),
    ("missing_eos_penalty", "eos_penalty"),
    ("mask_truncated_completions", "truncated"),
    ("whiten_rewards", "rewards"),
    ("loss_agg_mode", "loss_mean"),
    ("sync_ref_model", "reference"),
    ("entropy_coeff", "entropy_coef"),
    ("total_training_steps", "budget.amount"),
    ("freezing_actor_steps", "critic_warmup"),
    ("kl_penalty", "kl_estimator"),
];

/// What `name`, which is none of `known`, most likely stands for.
pub(crate) fn nearest(name: &str, known: &[&str]) -> Option<String> {
    let translated = OTHER_LIBRARIES
        .iter()
        .find(|(theirs, ours)| *theirs == name && (ours.contains('.') || known.contains(ours)))
        .map(|(_, ours)| *ours);
    let similar = || {
        known
            .iter()
            .map(|&candidate| (strsim::jaro_winkler(&name.to_lowercase(), candidate), candidate))
            .filter(|(similarity, _)| *similarity > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, candidate)| candidate)
    };
    translated.or_else(similar).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defaults::defaults_text;

    #[test]
    fn names_of_other_libraries_lead_to_keys_and_choices() {
        for (theirs, ours) in OTHER_LIBRARIES {
            let (table, key) = ours.rsplit_once('.').unwrap_or(("", ours));
            let is_key = defaults_text().lines().any(|line| line.starts_with(&format!("{key} = ")));
            let is_table = table.is_empty() || defaults_text().contains(&format!("\n[{table}]"));
            let is_choice = table.is_empty() && defaults_text().contains(&format!("\"{ours}\""));
            assert!(is_key && is_table || is_choice, "{theirs}: {ours} is not in defaults.toml");
            assert!(!table.is_empty() || nearest(theirs, &[ours]).as_deref() == Some(ours), "{theirs}");
        }
    }

    #[test]
    fn a_translation_comes_before_a_similar_name() {
        let of_dpo = ["batch_size", "epochs", "learning_rate", "lora", "loss"];
        assert_eq!(nearest("lr", &of_dpo).as_deref(), Some("learning_rate")); // not lora
        assert_eq!(nearest("warmup_ratio", &of_dpo).as_deref(), Some("learner.warmup"));
        assert_eq!(nearest("per_device_train_batch_size", &of_dpo).as_deref(), Some("batch_size"));
        assert_eq!(nearest("per_device_train_batch_size", &["episodes"]).as_deref(), Some("episodes"));
        assert_eq!(nearest("num_generations", &["learning_rate"]), Some("learning_rate".into())); // of ppo, which has no group
        assert_eq!(nearest("DPO", &["ppo", "dpo"]).as_deref(), Some("dpo"));
        assert_eq!(nearest("qqq", &of_dpo), None);
    }
}
