//! Settings of the methods on rollouts.

use super::{first, message_of, parse, refusal};
use crate::{Document, Experiment, RewardSettings, RewardSource, RolloutSettings, Rule};

#[test]
fn parts_of_a_policy_loss_fit_or_are_refused() {
    for arm in [
        "method = \"grpo\"\nimportance_sampling_level = \"sequence\"\nclip_range = 3e-4\nclip_range_high = 4e-4\n",
        "method = \"ppo\"\nimportance_sampling_level = \"sequence_token\"\nclip_dual = 3\n",
        "method = \"rloo\"\npolicy_loss = \"cispo\"\nclip_range = inf\nclip_range_high = 4.0\n",
        "method = \"ppo\"\ntemperature = 0.7\ntop_p = 0.9\nimportance_sampling_cap = inf\n",
        "method = \"raft\"\ntemperature = 1.2\n",
        "method = \"ppo\"\ncovariance_control = \"clip\"\nclip_cov_high = inf\n",
        "method = \"grpo\"\ncovariance_control = \"kl\"\nkl_cov_coef = 0.5\ncovariance_share = 0.01\n",
        "method = \"reinforce\"\nadvantages = \"white\"\ntop_entropy_quantile = 0.2\n",
        "method = \"reinforce\"\npolicy_loss = \"sapo\"\nsapo_temperature_neg = 2.0\n",
        "method = \"rloo\"\ndynamic_sampling_rounds = 3\noverlong_buffer = 2\noverlong_penalty = 0.5\n",
        "method = \"grpo\"\nloss_mean = \"constant\"\noff_policy_mask_threshold = 0.5\n",
    ] {
        assert_eq!(refusal(arm), None, "{arm}");
    }
    for (arm, says) in [
        ("method = \"ppo\"\nimportance_sampling_level = \"sequence\"\n", "sequence_token"),
        ("method = \"ppo\"\nclip_dual = 1.2\n", "above 1.2"),
        ("method = \"ppo\"\nclip_range_high = 0.5\nclip_dual = 1.3\n", "above 1.5"),
        ("method = \"ppo\"\nclip_range = inf\nclip_dual = 3\n", "set `clip_range_high`"),
        ("method = \"ppo\"\nsapo_temperature_pos = 2\n", "not used"),
        ("method = \"grpo\"\npolicy_loss = \"cispo\"\nclip_dual = 3\n", "not used"),
        ("method = \"grpo\"\npolicy_loss = \"sapo\"\nclip_range_high = 0.3\n", "not used"),
        ("method = \"ppo\"\nimportance_sampling_cap = 2\n", "not used"),
        ("method = \"raft\"\ntemperature = 0.7\nimportance_sampling_cap = 2\n", "not used"),
        ("method = \"ppo\"\ntemperature = 0\n", "from 0.01 to 100"),
        ("method = \"ppo\"\nkl_cov_coef = 0.5\n", "not used"),
        ("method = \"ppo\"\ncovariance_control = \"clip\"\nkl_cov_coef = 0.5\n", "not used"),
        ("method = \"ppo\"\ncovariance_control = \"kl\"\nclip_cov_low = 0.5\n", "not used"),
        ("method = \"ppo\"\ncovariance_control = \"clip\"\nclip_cov_high = 0.5\n", "at least clip_cov_low = 1"),
        ("method = \"raft\"\ncovariance_control = \"kl\"\n", "not used"),
        ("method = \"raft\"\nadvantages = \"white\"\n", "not used"),
        ("method = \"online_dpo\"\ntop_entropy_quantile = 0.2\n", "not used"),
        ("method = \"ppo\"\ntop_entropy_quantile = 1.5\n", "from 0 to 1"),
        ("method = \"raft\"\npolicy_loss = \"sapo\"\n", "not used"),
        ("method = \"online_dpo\"\noff_policy_mask_threshold = 0.5\n", "not used"),
        ("method = \"reinforce\"\ndynamic_sampling_rounds = 1\n", "not used"),
        ("method = \"raft\"\ndynamic_sampling_rounds = 1\n", "not used"),
        ("method = \"grpo\"\ndynamic_sampling_rounds = 2000\n", "1000"),
        ("method = \"ppo\"\noverlong_penalty = 0.5\n", "not used"),
        ("method = \"ppo\"\npolicy_loss = \"gspo\"\n", "cispo"),
        ("method = \"ppo\"\nclip_range_high = -0.1\n", "at least 0"),
    ] {
        let message = message_of(arm);
        assert!(message.contains(says), "{arm}: {message}");
    }
}

#[test]
fn rewards_are_one_or_several_with_weights() {
    let reward = |arm: &str| {
        let experiment = parse(&format!("[world]\nkind = \"reviews\"\n[arms.a]\n{arm}\n"));
        let method = first(&experiment.unwrap_or_else(|e| panic!("{arm}: {e}")));
        method.on_policy().expect("on rollouts").reward.clone()
    };
    let weights = |reward: &RewardSettings| {
        let sources = [RewardSource::Rm, RewardSource::Gold, RewardSource::Length, RewardSource::Rules];
        sources.map(|source| reward.weight(source))
    };
    let single = reward("method = \"ppo\"\nreward = \"gold\"");
    assert_eq!((weights(&single), single.rules()), ([None, Some(1.0), None, None], &[][..]));
    let several = "[{ from = \"rm\" }, { from = \"length\", weight = -1 }, \
                   { from = \"rules\", weight = 0.5, rules = [{ rule = \"json\" }] }]";
    for method in ["ppo", "reinforce", "rloo", "grpo", "raft", "online_dpo"] {
        let sum = reward(&format!("method = \"{method}\"\nreward = {several}"));
        assert_eq!(weights(&sum), [Some(1.0), None, Some(-1.0), Some(0.5)], "{method}");
        assert_eq!(sum.rules(), [Rule::Json { weight: 1.0 }]);
    }
    // a table each, and a run's own copy of its experiment
    let tables = "[arms.a]\nmethod = \"grpo\"\nmulti_objective_aggregation = \"normalize_then_sum\"\n\
                  [[arms.a.reward]]\nfrom = \"rm\"\n[[arms.a.reward]]\nfrom = \"gold\"\nweight = 0.2\n";
    let document = Document::parse("t", tables, &[]).expect("valid");
    let copy = Document::parse("t", &document.to_toml(), &[]).expect("a copy");
    for document in [document, copy] {
        let method = first(&Experiment::from_document(&document).expect("valid"));
        assert!(method.on_policy().is_some_and(RolloutSettings::normalizes_each_reward));
        assert!(method.maximizes(RewardSource::Gold) && !method.maximizes(RewardSource::Length));
    }
    let single = serde_json::to_string(&single).expect("JSON");
    assert_eq!(single, "\"gold\"", "as before there were several");
}

#[test]
fn rewards_that_cannot_be_summed_are_refused() {
    let ppo = |reward: &str| format!("method = \"ppo\"\nreward = {reward}\n");
    let gdpo = "multi_objective_aggregation = \"normalize_then_sum\"\n";
    let two = "reward = [{ from = \"rm\" }, { from = \"length\", weight = -0.1 }]\n";
    for (arm, says) in [
        (ppo("\"length\""), "`rm` or `gold`"),
        (ppo("3"), "a string"),
        (ppo("[]"), "at least one reward"),
        (ppo("[\"rm\", \"gold\"]"), "a list such as"),
        (ppo("[{ weight = 1.0 }]"), "one of rm, gold, length, rules"),
        (ppo("[{ from = \"judge\" }]"), "`rm` or `gold` or `length` or `rules`"),
        (ppo("[{ from = \"rm\", wieght = 1.0 }]"), "did you mean `weight`?"),
        (ppo("[{ from = \"rm\", weight = \"1\" }]"), "a number"),
        (ppo("[{ from = \"rm\", weight = nan }]"), "the weight of \"rm\" is NaN"),
        (ppo("[{ from = \"rm\", weight = 1e10 }]"), "from -1e9 to 1e9"),
        (ppo("[{ from = \"rm\", weight = 0 }]"), "not 0"),
        (ppo("[{ from = \"rm\" }, { from = \"gold\" }, { from = \"rm\" }]"), "\"rm\" twice"),
        (ppo("[{ from = \"rules\" }]"), "\"rules\" without rules"),
        (ppo("[{ from = \"rules\", rules = [{ rule = \"yaml\" }] }]"), "in reward 1"),
        (ppo("[{ from = \"rules\", rules = [{ rule = \"length\", words = 1, per = 0 }] }]"), "in rule 1"),
        (ppo("[{ from = \"gold\", rules = [{ rule = \"json\" }] }]"), "rules of \"gold\""),
        (ppo("[{ from = \"rules\", rules = [{ rule = \"json\" }] }]"), "responses of grammar are not"),
        (format!("method = \"ppo\"\n{gdpo}"), "not used"),
        (format!("method = \"grpo\"\nreward = [{{ from = \"rm\", weight = 0.5 }}]\n{gdpo}"), "a single reward"),
        (format!("method = \"ppo\"\n{two}{gdpo}"), "within the group"),
        (format!("method = \"rloo\"\n{two}{gdpo}"), "within the group"),
        (format!("method = \"grpo\"\nkl = \"reward\"\n{two}{gdpo}"), "none of the rewards that are normalized"),
        (format!("method = \"grpo\"\nscale = false\n{two}{gdpo}"), "not used"),
        (format!("method = \"grpo\"\nscores = \"white\"\n{two}{gdpo}"), "not used"),
        (format!("method = \"grpo\"\noverlong_buffer = 3\n{two}{gdpo}"), "not used"),
        (format!("method = \"grpo\"\n{two}multi_objective_aggregation = \"gdpo\"\n"), "normalize_then_sum"),
        (format!("method = \"dpo\"\n{two}"), "unknown key"),
        ("method = \"ppo\"\nreward_weights = [1.0]\n".into(), "did you mean `reward`?"),
        ("method = \"ppo\"\ngrid.reward = [[{ from = \"rm\" }], \"gold\"]\n".into(), "a string"),
    ] {
        let message = message_of(&arm);
        assert!(message.contains(says), "{arm}: {message}");
    }
    let no_kl =
        format!("method = \"grpo\"\nbeta = 0\n{two}{gdpo}dynamic_sampling_rounds = 2\nadvantages = \"white\"\n");
    assert_eq!(refusal(&no_kl), None);
    // the position is that of the list
    let error = parse(&format!("[arms.a]\n{}", ppo("[{ from = \"rn\" }]"))).expect_err("no such reward");
    let span = error.span().expect("a position");
    assert!(span.text[span.span.clone()].contains("rn"), "{:?}", &span.text[span.span.clone()]);
}

#[test]
fn options_of_rollouts_fit_or_are_refused() {
    for arm in [
        "method = \"raft\"\ntemperature = 1.2\ntrained_law = \"sampled\"\n",
        "method = \"ppo\"\ntemperature = 0.7\ntop_p = 0.9\ntrained_law = \"sampled\"\nimportance_sampling_cap = 2\n",
        "method = \"grpo\"\nuse_adaptive_entropy = true\nentropy_target = 1\nentropy_coef = 0.1\n",
        "method = \"online_dpo\"\nxpo_alpha = 1e-5\nreference = \"ema\"\n",
        "method = \"grpo\"\npolicy_loss = \"vespo\"\nvespo_k_neg = 1\n",
        "method = \"grpo\"\nkl = \"reward\"\nkl_estimator = \"k1\"\nkl_to_come = true\n",
    ] {
        assert_eq!(refusal(arm), None, "{arm}");
    }
    for (arm, says) in [
        ("method = \"ppo\"\ntrained_law = \"sampled\"\n", "temperature = 1"),
        ("method = \"ppo\"\ntop_p = 0.9\ntrained_law = \"sampled\"\n", "temperature = 1"),
        (
            "method = \"ppo\"\ntemperature = 2\ntrained_law = \"sampled\"\nimportance_sampling_cap = 2\n",
            "trained_law = \"sampled\"",
        ),
        ("method = \"ppo\"\ntemperature = 2\ntrained_law = \"both\"\n", "sampled"),
        ("method = \"ppo\"\nentropy_target = 1\n", "use_adaptive_entropy = false"),
        ("method = \"raft\"\nuse_adaptive_entropy = true\n", "not used"),
        ("method = \"ppo\"\nuse_adaptive_entropy = true\nentropy_coef = 2\n", "entropy_coef_max = 1"),
        (
            "method = \"ppo\"\nuse_adaptive_entropy = true\nentropy_coef_min = 0.2\nentropy_coef_max = 0.1\n",
            "at least entropy_coef_min = 0.2",
        ),
        ("method = \"ppo\"\nxpo_alpha = 0.1\n", "unknown key"),
        ("method = \"ppo\"\nvespo_k_pos = 1\n", "policy_loss = \"ppo\""),
        ("method = \"grpo\"\npolicy_loss = \"vespo\"\nclip_range = 0.3\n", "not used"),
        (
            "method = \"grpo\"\npolicy_loss = \"vespo\"\nimportance_sampling_level = \"sequence\"\n",
            "whatever the level",
        ),
        ("method = \"ppo\"\nkl_to_come = true\n", "method = \"ppo\""),
        ("method = \"grpo\"\nkl_to_come = true\n", "kl = \"loss\""),
        ("method = \"rloo\"\nbeta = 0\nkl_to_come = true\n", "beta = 0"),
    ] {
        let message = message_of(arm);
        assert!(message.contains(says), "{arm}: {message}");
    }
}
