//! The stage `yardstick`, which evaluates what the policies of a seed are compared with: the reference and the exact optima;
//! and the evaluator of all policies.

use super::context::StageContext;
use super::files::{PROXY, load_json};
use super::reward_model::learned_reward;
use crate::error::Result;
use crate::plan::StageKind;
use crate::world::LoadedWorld;
use duel_evaluation::{
    CompletionTag, EvalKind, EvalResult, Evaluator, ExactEvaluator, PairwiseEvaluation, SampleSize, SampledEvaluator,
};
use duel_ledger::StageRecorder;
use duel_model::Policy;
use duel_reward::Scorer;
use duel_spec::{Clocks, EvaluationSettings, Recorder, Split, metrics};
use std::sync::Arc;

/// What the progress of a stage calls the evaluation of a finished policy.
pub(super) const EVALUATION: &str = "evaluation";

/// Metrics and completions of the reference; on grammar, of the exact optima too.
pub(super) fn run(context: &StageContext<'_>, recorder: &mut StageRecorder) -> Result<()> {
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    let reference = context.sft_policy(world)?;
    let evaluator = open_evaluator(context, &loaded, &reference)?;
    recorder.set_labels("reference", "sft", "sft");
    let mut progress = |done, all| recorder.progress(done, all, EVALUATION);
    for result in evaluator.measure(&reference, None, EvalKind::End, &mut progress)? {
        record(&result, EvalKind::End, Clocks::default(), recorder);
    }
    keep_completions(context, "reference", "sft", Clocks::default(), &loaded, &reference, &reference, recorder)?;
    if let Evaluator::Sampled { evaluator: sampled, .. } = &evaluator {
        let (ns, size) = best_of_n_sizes(&context.experiment.evaluation);
        for (done, split) in (0..).zip([Split::Validation, Split::Test]) {
            recorder.progress(done, 2, "best of N");
            for (n, result) in sampled.best_of_n(&ns, split, size)? {
                recorder.set_labels("best-of-n", "sampled", &format!("n={n}"));
                result.record(Clocks::default(), recorder);
            }
        }
    }
    if let Evaluator::Exact(exact) = &evaluator {
        exact.check_sampler(&reference, context.stage.seed)?;
        let ns: Vec<i32> = (1..=12).map(|i| 1 << i).collect();
        for (arm, point, result) in exact.theory(&optimum_betas(), &ns)? {
            recorder.set_labels(arm, "exact", &point);
            result.record(Clocks::default(), recorder);
        }
    }
    Ok(())
}

/// Records the metrics of a policy on one split and, when it is finished, its outcomes on test prompts.
pub(super) fn record(result: &EvalResult, kind: EvalKind, clocks: Clocks, recorder: &mut dyn Recorder) {
    result.record(clocks, recorder);
    if kind == EvalKind::End && result.split == Split::Test {
        recorder.outcomes(&result.outcomes);
    }
}

/// β of the exact optima, eight per decade: from nearly the reference to far beyond any useful KL.
fn optimum_betas() -> Vec<f64> {
    (0..=24).map(|i| 20.0 * 10f64.powf(-f64::from(i) / 8.0)).collect()
}

/// The N of best-of-N, none for one response alone, and the sample of whose subsets they are.
fn best_of_n_sizes(settings: &EvaluationSettings) -> (Vec<usize>, SampleSize) {
    let largest = settings.largest_best_of();
    let ns = (0..=largest.ilog2()).map(|i| 1 << i).filter(|_| largest > 1).collect();
    (ns, SampleSize { prompts: settings.best_of_prompts(), samples_per_prompt: largest })
}

/// Records responses of a policy, and how far the members of a reward model's ensemble disagree on them.
#[expect(clippy::too_many_arguments, reason = "passes on what a completion is made of")]
pub(super) fn keep_completions(
    context: &StageContext<'_>,
    arm: &str,
    point: &str,
    clocks: Clocks,
    loaded: &LoadedWorld,
    policy: &Policy,
    reference: &Policy,
    recorder: &mut StageRecorder,
) -> Result<()> {
    let world = loaded.world.as_ref();
    let reward = learned_reward(context, loaded)?;
    let tag = CompletionTag { arm, point, seed: context.stage.seed, step: clocks.step };
    let count = context.experiment.evaluation.completions;
    let reader = context.reader(world);
    let responses = duel_evaluation::completions(
        tag,
        world,
        &reader,
        policy,
        reference,
        loaded.gold.as_ref(),
        Some(&reward),
        count,
        recorder,
    )?;
    if let Some(spread) = reward.spread(&responses)? {
        recorder.record(&EvalResult::stage(Split::Test), clocks, metrics::ENSEMBLE_SD, spread);
    }
    Ok(())
}

/// What is sampled of each split to evaluate a checkpoint, and a finished policy.
fn sample_sizes(settings: &EvaluationSettings) -> [SampleSize; 2] {
    let EvaluationSettings { prompts, samples_per_prompt, curve_prompts, curve_samples_per_prompt, .. } = *settings;
    let curve = SampleSize { prompts: curve_prompts.min(prompts), samples_per_prompt: curve_samples_per_prompt };
    [curve, SampleSize { prompts, samples_per_prompt }]
}

pub(super) fn open_evaluator(
    context: &StageContext<'_>,
    loaded: &LoadedWorld,
    reference: &Policy,
) -> Result<Evaluator> {
    let reader = context.reader(loaded.world.as_ref());
    match &loaded.grammar {
        Some(grammar) => {
            let rm = context.plan.needed(context.stage, StageKind::Rm).expect("measuring stages need the reward model");
            let tables: (Vec<Vec<f64>>, Vec<Vec<f64>>) = load_json("rm", &context.folder(rm)?.file(PROXY))?;
            let table = |split| if split == Split::Validation { tables.0.clone() } else { tables.1.clone() };
            Ok(Evaluator::Exact(Box::new(ExactEvaluator::new(grammar, reader, reference, Some(&table)))))
        }
        None => {
            let reward: Arc<dyn Scorer> = Arc::new(learned_reward(context, loaded)?);
            let settings = &context.experiment.evaluation;
            let [curve, end] = sample_sizes(settings);
            let sampled = SampledEvaluator::new(
                loaded.world.clone(),
                reader,
                reference.clone(),
                loaded.gold.clone(),
                Some(reward),
                context.stage.seed,
            );
            let prompts = settings.pairwise.prompts;
            let pairwise = loaded.pairwise.clone().map(|scorer| PairwiseEvaluation { scorer, prompts });
            Ok(Evaluator::Sampled { evaluator: Box::new(sampled), curve, end, pairwise })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PlannedRun, recorded, recorder};
    use super::*;
    use burn::module::Module;
    use duel_data::grammar::token;
    use duel_evaluation::{distributions, proxy_table};
    use duel_spec::OutcomeRow;

    #[test]
    fn the_optima_go_from_20_to_a_fiftieth() {
        let betas = optimum_betas();
        assert_eq!(betas.len(), 25);
        let near = |actual: f64, expected: f64| (actual / expected - 1.0).abs() < 1e-12;
        assert!(near(betas[0], 20.0) && near(betas[24], 0.02), "{betas:?}");
        assert!(betas.windows(9).all(|decade| near(decade[0], 10.0 * decade[8])), "{betas:?}");
    }

    #[test]
    fn checkpoints_are_measured_on_what_is_set() {
        let sizes = |prompts, curve_prompts| {
            let further = EvaluationSettings::defaults();
            let settings = EvaluationSettings { prompts, curve_prompts, curve_samples_per_prompt: 3, ..further };
            sample_sizes(&settings).map(|size| [size.prompts, size.samples_per_prompt])
        };
        assert_eq!(sizes(512, 64), [[64, 3], [512, 4]]);
        assert_eq!(sizes(16, 64), [[16, 3], [16, 4]]);
    }

    #[test]
    fn the_best_are_of_as_many_samples_as_the_largest_n() {
        let sizes = |best_of, best_of_samples| {
            let settings = EvaluationSettings { prompts: 512, samples_per_prompt: 3, ..EvaluationSettings::defaults() };
            let (ns, size) = best_of_n_sizes(&EvaluationSettings { best_of, best_of_samples, ..settings });
            (ns, size.prompts, size.samples_per_prompt)
        };
        assert_eq!(sizes(16, 8192), (vec![1, 2, 4, 8, 16], 512, 16));
        // no more samples than are allowed, and no more prompts than are evaluated
        assert_eq!(sizes(256, 8192), ((0..=8).map(|i| 1 << i).collect(), 32, 256));
        assert_eq!(sizes(5, 1 << 20), (vec![1, 2, 4], 512, 4));
        assert_eq!(sizes(1, 8192), (vec![], 512, 1));
    }

    #[test]
    fn outcomes_are_those_of_a_finished_policy_on_test_prompts() -> Result<()> {
        let mut recorder = recorder();
        for (gold_reward, kind, split) in [
            (1.0, EvalKind::Curve, Split::Validation),
            (2.0, EvalKind::Curve, Split::Test),
            (3.0, EvalKind::End, Split::Validation),
            (4.0, EvalKind::End, Split::Test),
        ] {
            let outcomes = vec![OutcomeRow { prompt: 0, gold_reward, tokens: 3, share: 1.0 }];
            let values = vec![(metrics::GOLD, gold_reward)];
            record(&EvalResult { split, values, outcomes, prompts: vec![] }, kind, Clocks::default(), &mut recorder);
        }
        let (table, outcomes) = recorded(&recorder)?;
        let golds: Vec<f64> = outcomes.iter().flat_map(|policy| &policy.all).map(|row| row.gold_reward).collect();
        assert_eq!(golds, [4.0]);
        for (stage, expected) in [("evaluation-validation", [1.0, 3.0]), ("evaluation-test", [2.0, 4.0])] {
            let golds: Vec<f64> = table.of(stage, metrics::GOLD.name).map(|row| row.value).collect();
            assert_eq!(golds, expected, "{stage}");
        }
        Ok(())
    }

    #[test]
    fn completions_of_the_reference_are_kept() -> Result<()> {
        let run = PlannedRun::new(
            "[model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.sft]\nsteps = 1\nbatch_size = 8\n\
             [stages.pairs]\nrows = 8\nholdout_rows = 4\n[stages.rm]\nmodel = \"linear\"\nsamples = 8\n\
             [evaluation]\ncompletions = 3\n[arms.a]\nmethod = \"dpo\"\n",
        );
        for kind in [StageKind::Sft, StageKind::Pairs, StageKind::Rm] {
            run.make(kind)?;
        }
        let kept = duel_ledger::read_completions(&run.make(StageKind::Yardstick)?.file("completions.parquet"))?;
        let all: Vec<(String, String)> = kept.into_iter().map(|row| (row.arm, row.point)).collect();
        assert_eq!(all, vec![("reference".to_owned(), "sft".to_owned()); 3]);
        Ok(())
    }

    /// The proxy of the reference is the mean of the reward model's scores on the prompts of each split.
    #[test]
    fn each_split_has_the_proxy_of_its_own_prompts() -> Result<()> {
        let run = PlannedRun::new(
            "[model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.sft]\nsteps = 1\nbatch_size = 8\n\
             [stages.pairs]\nrows = 8\nholdout_rows = 4\n[stages.rm]\nsteps = 2\nbatch_size = 4\nsamples = 8\n\
             [arms.a]\nmethod = \"dpo\"\n",
        );
        for kind in [StageKind::Sft, StageKind::Pairs, StageKind::Rm] {
            run.make(kind)?;
        }
        let context = run.context(run.stage(StageKind::Yardstick));
        let loaded = context.load_world()?;
        let world = loaded.world.as_ref();
        let policy = context.sft_policy(world)?.no_grad();
        let (reward, reader) = (learned_reward(&context, &loaded)?, context.reader(world));
        let mut tables = vec![];
        for result in
            open_evaluator(&context, &loaded, &policy)?.measure(&policy, None, EvalKind::End, &mut |_, _| ())?
        {
            let prompts: Vec<Vec<u32>> = world.prompts(result.split).iter().map(|prompt| prompt.ids.clone()).collect();
            let laws = distributions(&policy, &reader, &prompts);
            let scores = proxy_table(&reward, &prompts, token::EOS)?;
            let means: Vec<f64> = laws.iter().zip(&scores).map(|(law, scores)| law.expect(scores)).collect();
            let expected = means.iter().sum::<f64>() / means.len() as f64;
            let actual = result.get(metrics::PROXY).expect("a proxy");
            assert!((actual - expected).abs() < 1e-9, "{:?}: {actual}, expected {expected}", result.split);
            tables.push(scores);
        }
        assert_ne!(tables[0], tables[1]);
        Ok(())
    }
}
