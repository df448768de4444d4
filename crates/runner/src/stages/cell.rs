//! The stage `cell`: one arm at one point, trained and measured.

use super::context::StageContext;
use super::evaluator::{EVALUATION, keep_completions, open_evaluator, record};
use super::files::{REFERENCE, load_json};
use super::registry;
use super::reward_model::{learned_reward, reward_config};
use super::training_inputs::TrainingInputs;
use crate::error::Result;
use crate::plan::StageKind;
use crate::world::{self, LoadedWorld};
use duel_data::World;
use duel_data::pairs::PreferenceRow;
use duel_evaluation::{EvalKind, EvalResult, Evaluator, HeldOut, OrderedPairs};
use duel_ledger::StageRecorder;
use duel_model::{Policy, Responses};
use duel_reward::Scorer;
use duel_spec::{Clocks, MethodSettings, Recorder, Split, metrics};
use duel_training::{PairBatch, Splits, invariants};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// One arm at one point.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let cell = context.stage.cell.as_ref().expect("a cell stage holds its cell");
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    let reference = context.sft_policy(world)?;
    let evaluator = open_evaluator(context, &loaded, &reference)?;
    let rows = context.rows()?;
    let reader = context.reader(world);
    let probe = probe(&rows, world);
    let held_out = HeldOut::new(reader.clone(), &reference, &rows);
    let inputs = training_inputs(context, &loaded, &reference, rows)?;
    let (reference_hash, splits) = (inputs.reference_hash.clone(), inputs.splits.clone());
    // without a KL penalty the objective has no optimum
    let beta = Some(cell.point.method.beta()).filter(|beta| *beta > 0.0);
    let mut evaluate =
        |policy: &Policy, clocks: Clocks, recorder: &mut dyn Recorder, kind: EvalKind| -> Result<EvalResult> {
            duel_training::probes::reads_are_sound(clocks.step, &reader, policy, &probe)?;
            invariants::frozen_weights_unchanged("the reference", clocks.step, &reference_hash, &reference.hash())?;
            let started = Instant::now();
            // a point of the curve is a part of the training
            let mut progress = |done, all| match kind {
                EvalKind::End => recorder.progress(done, all, EVALUATION),
                EvalKind::Curve => {}
            };
            let results = evaluator.measure(policy, beta, kind, &mut progress).map_err(|e| e.at_step(clocks.step))?;
            for result in &results {
                let prompts = result.prompts.iter().copied();
                splits.check_split("measures_prompts_of_the_split", clocks.step, result.split, prompts)?;
                record(result, kind, clocks, recorder);
            }
            for OrderedPairs { split, values, bins } in held_out.measure(policy) {
                let stage = EvalResult::stage(split);
                values.iter().for_each(|(metric, value)| recorder.record(&stage, clocks, *metric, *value));
                if kind == EvalKind::End {
                    bins.record("cell", split, recorder);
                }
            }
            recorder.record("train", clocks, metrics::EVALUATION_SECONDS, started.elapsed().as_secs_f64());
            Ok(results.into_iter().find(|result| result.split == Split::Validation).expect("both splits are measured"))
        };
    let (trained, clocks) = registry::run(&cell.point.method, inputs, &mut evaluate, recorder)?;
    let policy = trained.clone().for_inference();
    evaluate(&policy, clocks, recorder, EvalKind::End)?;
    if let Evaluator::Exact(exact) = &evaluator {
        exact.check_sampler(&policy, context.stage.seed).map_err(|e| e.at_step(clocks.step))?;
    }
    keep_completions(context, &cell.arm, &cell.point.label, clocks, &loaded, &policy, &reference, recorder)?;
    context.save_policy(trained, world, to)
}

/// What the arms of a cell train from.
pub(super) fn training_inputs<'a>(
    context: &StageContext<'a>,
    loaded: &LoadedWorld,
    reference: &Policy,
    rows: Vec<PreferenceRow>,
) -> Result<TrainingInputs<'a>> {
    let world = loaded.world.as_ref();
    Ok(TrainingInputs {
        seed: context.stage.seed,
        world: loaded.world.clone(),
        config: context.config(world)?,
        pretrained: context.experiment.is_pretrained(),
        numbers: context.experiment.model.numbers,
        learner: &context.experiment.learner,
        budget: context.experiment.budget,
        reference: reference.clone(),
        start: context.on_train_device(reference.clone()),
        // loaded again: clones of a module share their parameters' ids, and with them their gradients
        critic_start: context.on_train_device(context.sft_policy(world)?),
        reader: context.reader(world),
        train_reader: context.train_reader(world),
        gold: loaded.gold.clone(),
        rules: own_rules(context, loaded)?,
        reward: learned_reward(context, loaded)?,
        reward_config: reward_config(context, world)?,
        rows,
        reference_hash: reference.hash(),
        reference_logp: match context.plan.needed(context.stage, StageKind::Reference) {
            Some(stage) => Some(load_json("reference", &context.folder(stage)?.file(REFERENCE))?),
            None => None,
        },
        curve_points: context.experiment.evaluation.curve_points,
        splits: Splits::of(world),
        stop: context.stop,
    })
}

/// The rules among the rewards of the cell's arm.
fn own_rules(context: &StageContext<'_>, loaded: &LoadedWorld) -> Result<Option<Arc<dyn Scorer>>> {
    let method = context.stage.cell.as_ref().map(|cell| &cell.point.method);
    let rules = method.and_then(MethodSettings::on_policy).map_or(&[][..], |shared| shared.reward.rules());
    if rules.is_empty() { Ok(None) } else { world::rules_scorer(context.experiment, loaded, rules) }
}

/// Responses of validation rows, on which invariants of the policy are checked.
fn probe(rows: &[PreferenceRow], world: &dyn World) -> Responses {
    let validation = (0..rows.len()).filter(|&i| rows[i].split == Split::Validation);
    let probe: Vec<usize> = validation.take(duel_training::probes::probe_rows(world.space())).collect();
    PairBatch::new(rows, &probe).both
}

#[cfg(test)]
mod tests {
    use super::super::testing::PlannedRun;
    use super::*;
    use duel_data::grammar::GrammarWorld;

    /// Of the points of its curve, the one of the most gold on validation prompts.
    #[test]
    fn a_policy_is_chosen_on_validation_prompts() -> Result<()> {
        let run = PlannedRun::new(
            "[model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.sft]\nsteps = 1\nbatch_size = 8\n\
             [stages.pairs]\nrows = 16\nholdout_rows = 4\n[stages.rm]\nmodel = \"linear\"\nsamples = 8\n\
             [evaluation]\ncurve_points = 3\ncompletions = 2\n[arms.a]\nmethod = \"dpo\"\nkeep = \"gold\"\nepochs = 3\n\
             batch_size = 8\nlearning_rate = 0.1\n",
        );
        for kind in [StageKind::Sft, StageKind::Pairs, StageKind::Rm, StageKind::Reference] {
            run.make(kind)?;
        }
        let table = duel_ledger::read_metrics(&run.make(StageKind::Cell)?.file("metrics.parquet"))?;
        let golds = |split| {
            let stage = EvalResult::stage(split);
            table.of(&stage, metrics::GOLD.name).map(|row| row.value).collect::<Vec<f64>>()
        };
        let (validation, test) = (golds(Split::Validation), golds(Split::Test));
        assert_eq!((validation.len(), test.len()), (4, 4), "three points and the end");
        let largest = |points: &[f64]| points.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(validation[3], largest(&validation[..3]), "{validation:?}");
        assert!(test[..3].iter().any(|gold| *gold != test[3]), "the points differ: {test:?}");
        Ok(())
    }

    #[test]
    fn policies_are_probed_on_the_first_validation_rows() {
        let world = GrammarWorld::new(0.02, 1);
        let count = duel_training::probes::probe_rows(world.space());
        let row = |i: u32| {
            let split = Split::ALL[i as usize % 3];
            PreferenceRow::new(split, vec![i], vec![1000 + i], vec![2000 + i])
        };
        let rows: Vec<PreferenceRow> = (0..3 * count as u32 + 30).map(row).collect();
        let probe = probe(&rows, &world);
        let prompts: Vec<u32> = (0..count as u32).map(|i| 3 * i + 1).collect();
        assert_eq!(probe.prompts.concat(), [prompts.clone(), prompts.clone()].concat());
        assert_eq!(probe.responses[0], [1001]);
        assert_eq!(probe.responses[count], [2001]);
    }
}
