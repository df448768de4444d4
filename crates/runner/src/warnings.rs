//! What the trainings of an experiment will do, checked before they start: whether an update changes anything, and whether every
//! row is in a batch. What they did is in the metrics `updates` and `rows_left_out`.

use duel_ppo::planned;
use duel_report::ROWS_LEFT_OUT_WARNING;
use duel_reward::Linear;
use duel_spec::{ArmPoint, Experiment, LearnerSettings, MethodSettings, RmModel, RmStage, WorldKind};
use duel_training::rate;

/// What trains nothing, or on less than a person may think.
pub(crate) fn warnings(experiment: &Experiment) -> Vec<String> {
    let Experiment { stages, learner, world, .. } = experiment;
    let mut warnings = vec![];
    // of a person's file no more are read than this, and how many there are is known once it was read
    let pairs = (world.kind != WorldKind::Rows).then_some(stages.pairs.rows);
    if world.kind == WorldKind::Reviews && !experiment.is_pretrained() {
        warnings.extend(without_updates("base", learner, stages.base.steps as u64, stages.base.learning_rate));
    }
    if stages.sft.steps > 0 {
        warnings.extend(without_updates("sft", learner, stages.sft.steps as u64, stages.sft.learning_rate));
        if experiment.is_pretrained() && !stages.sft.lora {
            warnings.extend(high_rate_of_all_weights("sft", stages.sft.learning_rate));
        }
        let rows = (world.kind == WorldKind::Grammar).then_some(world.grammar.sft_rows);
        warnings.extend(
            rows.filter(|_| stages.sft.drop_last).and_then(|rows| left_out("sft", rows, stages.sft.batch_size)),
        );
    }
    if stages.rm.model == RmModel::Transformer && stages.rm.steps > 0 {
        warnings.extend(without_updates("rm", learner, stages.rm.steps as u64, stages.rm.learning_rate));
        warnings
            .extend(pairs.filter(|_| stages.rm.drop_last).and_then(|rows| left_out("rm", rows, stages.rm.batch_size)));
        warnings.extend(high_rate(&stages.rm));
    }
    if let (RmModel::Linear, Some(rows)) = (stages.rm.model, pairs)
        && rows < ROWS_PER_WEIGHT * Linear::WEIGHTS
    {
        let weights = Linear::WEIGHTS;
        warnings.push(format!(
            "rm: the linear reward model fits {weights} weights to {rows} rows; {} or more tell them from noise",
            ROWS_PER_WEIGHT * weights
        ));
    }
    warnings.extend(experiment.budget.warning().map(str::to_owned));
    for (name, arm) in &experiment.arms {
        let of_arm = arm.representative_points().into_iter().flat_map(|point| {
            let name = format!("arm {name}");
            let is_in_full = experiment.is_pretrained() && !point.method.common().lora;
            let rate = is_in_full.then(|| high_rate_of_all_weights(&name, point.method.learning_rate())).flatten();
            let of_point = match experiment.budget.is_set() {
                true => left_out_of_point(&name, &point, pairs).into_iter().collect(),
                false => of_point(&name, &point, learner, pairs),
            };
            of_point.into_iter().chain(rate)
        });
        for warning in of_arm {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
    warnings
}

/// Rows for each weight of a logistic model below which its weights are hardly known: Peduzzi et al. 1996.
const ROWS_PER_WEIGHT: usize = 10;

/// What is to be said of one point of an arm; `pairs` are its preference rows, where their number is known.
fn of_point(name: &str, point: &ArmPoint, learner: &LearnerSettings, pairs: Option<usize>) -> Vec<String> {
    let mut warnings = vec![];
    if let Some(shared) = point.method.on_policy() {
        warnings.extend(without_updates(name, learner, planned(shared), shared.learning_rate));
    }
    match &point.method {
        MethodSettings::Dpo(dpo) => {
            let Some(rows) = pairs else { return warnings };
            let updates = dpo.steps(rows);
            warnings.extend(without_updates(name, learner, updates, dpo.learning_rate));
            warnings.extend(left_out_of_point(name, point, Some(rows)));
            if dpo.sync_ref_model && dpo.ref_model_sync_steps >= updates {
                let steps = dpo.ref_model_sync_steps;
                warnings.push(format!(
                    "{name}: the reference is updated every {steps} steps, and {updates} are made, so that no step uses an updated one; \
                     lower ref_model_sync_steps"
                ));
            }
        }
        MethodSettings::Ppo(ppo) if ppo.critic_warmup >= ppo.shared.iterations => {
            let (warmup, iterations) = (ppo.critic_warmup, ppo.shared.iterations);
            warnings.push(format!(
                "{name}: the critic warms up for {warmup} of {iterations} iterations, so that the policy is never trained; \
                 lower critic_warmup"
            ));
        }
        _ => {}
    }
    warnings
}

/// Rows of an arm on pairs that an epoch has no batch for.
fn left_out_of_point(name: &str, point: &ArmPoint, pairs: Option<usize>) -> Option<String> {
    match &point.method {
        MethodSettings::Dpo(dpo) if dpo.drop_last => left_out(name, pairs?, dpo.batch_size),
        _ => None,
    }
}

/// A training whose every update is at rate 0.
fn without_updates(name: &str, learner: &LearnerSettings, updates: u64, peak: f64) -> Option<String> {
    if (0..updates).any(|step| rate(learner, peak, step, updates) > 0.0) {
        return None;
    }
    let count = if updates == 1 { "its one update is".into() } else { format!("all of its {updates} updates are") };
    Some(format!(
        "{name}: {count} at learning rate 0, where the warm-up begins, so that nothing is trained; \
         let it make more updates, or set learner.warmup = 0"
    ))
}

/// Learning rate of all weights of a pretrained model from which on it forgets what it knows; published runs use 1e-6 to 5e-5.
const HIGH_RATE: f64 = 2e-4;

/// A pretrained model that is trained in full at the rate of a small new one, or of adapters.
fn high_rate_of_all_weights(name: &str, rate: f64) -> Option<String> {
    (rate >= HIGH_RATE).then(|| {
        format!(
            "{name}: all weights of the pretrained model are trained at learning rate {rate:e}, which suits adapters or a small new \
             model; set 1e-5 or so, or `lora = true`"
        )
    })
}

/// A trained reward model that is trained further, all weights of it, at the rate of a new one.
fn high_rate(rm: &RmStage) -> Option<String> {
    let is_high = rm.is_pretrained() && !rm.lora && rm.learning_rate >= RmStage::defaults().learning_rate;
    is_high.then(|| {
        let RmStage { steps, learning_rate, .. } = rm;
        format!(
            "rm: all weights of the reward model of stages.rm.from are trained further, {steps} steps at learning rate \
             {learning_rate:e}, which is one for a new head; set stages.rm.learning_rate, 1e-5 or so"
        )
    })
}

/// Rows that an epoch has no batch for.
fn left_out(name: &str, rows: usize, batch_size: usize) -> Option<String> {
    if batch_size > rows {
        return Some(format!(
            "{name}: a batch of {batch_size} is more than the {rows} rows there are, so that each batch has all of them"
        ));
    }
    let rest = rows % batch_size;
    (rest as f64 >= ROWS_LEFT_OUT_WARNING * rows as f64 && rest > 0)
        .then(|| format!("{name}: each epoch skips {rest} of {rows} rows, which fill no batch of {batch_size}; different ones each time"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::Document;

    fn of(text: &str) -> Vec<String> {
        let document = Document::parse("t", text, &[]).expect("valid");
        warnings(&Experiment::from_document(&document).expect("valid"))
    }

    #[test]
    fn trainings_that_move_nothing_are_named() {
        let all = "[stages.sft]\nsteps = 1\n[stages.rm]\nsteps = 1\n[stages.pairs]\nrows = 64\n";
        let arms = "[arms.d]\nmethod = \"dpo\"\nepochs = 1\n\
                    [arms.p]\nmethod = \"ppo\"\niterations = 1\nepochs = 1\nminibatches = 1\n\
                    [arms.w]\nmethod = \"ppo\"\niterations = 3\ncritic_warmup = 3\n";
        let warnings = of(&format!("{all}{arms}"));
        let one = |warning: &String, name: &str| warning.starts_with(name) && warning.contains("its one update is at");
        assert!(one(&warnings[0], "sft:") && one(&warnings[1], "rm:"), "{warnings:?}");
        assert!(one(&warnings[2], "arm d:") && one(&warnings[3], "arm p:"), "{warnings:?}");
        assert!(warnings[4].starts_with("arm w: the critic warms up for 3 of 3 iterations"), "{warnings:?}");
        // two updates: the second moves; without a warm-up the only one does
        let two = all.replace("steps = 1", "steps = 2").replace("rows = 64", "rows = 128");
        assert_eq!(of(&format!("{two}{}", &arms[..arms.find("[arms.p]").expect("there")])), Vec::<String>::new());
        assert_eq!(
            of(&format!("[learner]\nwarmup = 0.0\n{all}[arms.d]\nmethod = \"dpo\"\nepochs = 1\n")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_reference_that_is_never_updated_is_named() {
        let arm = |sync_steps: usize| {
            of(&format!(
                "[stages.pairs]\nrows = 128\n[arms.d]\nmethod = \"dpo\"\nepochs = 3\nsync_ref_model = true\nref_model_sync_steps = {sync_steps}\n"
            ))
        };
        assert_eq!(arm(5), Vec::<String>::new());
        let warnings = arm(6);
        assert!(
            warnings[0].starts_with("arm d: the reference is updated every 6 steps, and 6 are made"),
            "{warnings:?}"
        );
    }

    #[test]
    fn a_trained_reward_model_at_the_rate_of_a_new_one_is_named() {
        let of_rm = |settings: &str| {
            let rest = "[world]\nkind = \"reviews\"\n[arms.d]\nmethod = \"dpo\"\n";
            of(&format!("[stages.rm]\nfrom = \"DIR\"\nsteps = 32\n{settings}{rest}"))
        };
        let warnings = of_rm("");
        assert!(warnings[0].starts_with("rm: all weights") && warnings[0].contains("1e-3"), "{warnings:?}");
        for settings in ["learning_rate = 1e-5\n", "lora = true\n"] {
            assert_eq!(of_rm(settings), Vec::<String>::new());
        }
    }

    #[test]
    fn a_linear_reward_model_of_few_rows_is_named() {
        let linear = |rows: usize| {
            of(&format!(
                "[stages.pairs]\nrows = {rows}\n[stages.rm]\nmodel = \"linear\"\n[arms.d]\nmethod = \"dpo\"\nbatch_size = 1\n"
            ))
        };
        assert!(linear(3)[0].starts_with("rm: the linear reward model fits 12 weights to 3 rows; 120 or more"));
        assert_eq!(linear(120), Vec::<String>::new());
    }

    #[test]
    fn rows_that_no_batch_holds_are_counted() {
        let arm = |rows: usize, size: usize| {
            of(&format!(
                "[stages.pairs]\nrows = {rows}\n[stages.rm]\nbatch_size = {rows}\n[arms.d]\nmethod = \"dpo\"\nbatch_size = {size}\n"
            ))
        };
        assert_eq!(
            arm(100, 64),
            ["arm d: each epoch skips 36 of 100 rows, which fill no batch of 64; different ones each time"]
        );
        assert_eq!(
            arm(40, 64),
            ["arm d: a batch of 64 is more than the 40 rows there are, so that each batch has all of them"]
        );
        assert_eq!(arm(128, 64), Vec::<String>::new());
        assert_eq!(arm(6401, 64), Vec::<String>::new(), "one of 6,401 is nothing");
    }

    #[test]
    fn a_pretrained_model_in_full_wants_a_low_rate() {
        let of = |more: &str| {
            let text = format!(
                "[world]\nkind = \"rows\"\n[world.rows]\ntrain = \"rows.jsonl\"\n[model]\nfrom = \"model\"\n{more}"
            );
            of(&text).into_iter().filter(|warning| warning.contains("all weights")).collect::<Vec<_>>()
        };
        let warnings = of("[arms.d]\nmethod = \"dpo\"\n[arms.p]\nmethod = \"ppo\"\nlora = true\n");
        assert!(
            warnings.len() == 2 && warnings[0].starts_with("sft: ") && warnings[1].starts_with("arm d: "),
            "{warnings:?}"
        );
        assert!(of("[stages.sft]\nsteps = 0\n[arms.d]\nmethod = \"dpo\"\nlearning_rate = 1e-5\n").is_empty());
    }
}
