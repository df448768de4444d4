//! The stage `yardstick`, which evaluates what the policies of a seed are compared with: the reference and the exact optima;
//! and the evaluator of all policies.

use super::context::StageContext;
use super::files::{PROXY, load_json};
use super::reward_model::learned_reward;
use crate::error::Result;
use crate::plan::StageKind;
use crate::world::LoadedWorld;
use duel_evaluation::{CompletionTag, EvalKind, Evaluator, ExactEvaluator, SampleSize, SampledEvaluator};
use duel_ledger::StageRecorder;
use duel_model::Policy;
use duel_reward::Scorer;
use duel_spec::{Clocks, Recorder, Split};
use std::sync::Arc;

/// Prompts and samples of a curve point where evaluation samples.
const CURVE_EFFORT: SampleSize = SampleSize { prompts: 128, samples_per_prompt: 1 };
/// Metrics and completions of the reference; on grammar, of the exact optima too.
pub(super) fn run(context: &StageContext<'_>, recorder: &mut StageRecorder) -> Result<()> {
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    let reference = context.sft_policy(world)?;
    let evaluator = open_evaluator(context, &loaded, &reference)?;
    recorder.set_labels("reference", "sft", "sft");
    for result in evaluator.measure(&reference, None, EvalKind::End)? {
        result.record(Clocks::default(), recorder);
        if result.split == Split::Test {
            recorder.outcomes(&result.outcomes);
        }
    }
    keep_completions(context, "reference", "sft", 0, &loaded, &reference, &reference, recorder)?;
    if let Evaluator::Sampled { evaluator: sampled, end, .. } = &evaluator {
        let ns: Vec<usize> = (1..=context.experiment.evaluation.best_of.ilog2()).map(|i| 1 << i).collect();
        let size = SampleSize { samples_per_prompt: ns.last().copied().unwrap_or(1), ..*end };
        for split in [Split::Validation, Split::Test] {
            for (n, result) in sampled.best_of_n(&ns, split, size)? {
                recorder.set_labels("best-of-n", "sampled", &format!("n={n}"));
                result.record(Clocks::default(), recorder);
            }
        }
    }
    if let Evaluator::Exact(exact) = &evaluator {
        exact.check_sampler(&reference, context.stage.seed)?;
        // from nearly the reference to far beyond any useful KL
        let betas: Vec<f64> = (0..=24).map(|i| 20.0 * 10f64.powf(-f64::from(i) / 8.0)).collect();
        let ns: Vec<i32> = (1..=12).map(|i| 1 << i).collect();
        for (arm, point, result) in exact.theory(&betas, &ns)? {
            recorder.set_labels(arm, "exact", &point);
            result.record(Clocks::default(), recorder);
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "passes on what a completion is made of")]
pub(super) fn keep_completions(
    context: &StageContext<'_>,
    arm: &str,
    point: &str,
    step: u64,
    loaded: &LoadedWorld,
    policy: &Policy,
    reference: &Policy,
    recorder: &mut StageRecorder,
) -> Result<()> {
    let world = loaded.world.as_ref();
    let reward = learned_reward(context, loaded)?;
    let tag = CompletionTag { arm, point, seed: context.stage.seed, step };
    let count = context.experiment.evaluation.completions;
    let reader = context.reader(world);
    duel_evaluation::completions(
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
    Ok(())
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
            let end = SampleSize { prompts: settings.prompts, samples_per_prompt: settings.samples_per_prompt };
            let curve = SampleSize { prompts: CURVE_EFFORT.prompts.min(settings.prompts), ..CURVE_EFFORT };
            let sampled = SampledEvaluator::new(
                loaded.world.clone(),
                reader,
                reference.clone(),
                loaded.gold.clone(),
                Some(reward),
                context.stage.seed,
            );
            Ok(Evaluator::Sampled { evaluator: Box::new(sampled), curve, end })
        }
    }
}
