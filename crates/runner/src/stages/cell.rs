//! The stage `cell`: one arm at one point, trained and measured.

use super::context::StageContext;
use super::evaluator::{evaluator, keep_completions};
use super::files::{REFERENCE, load_json};
use super::registry::{self, TrainingInputs};
use super::reward_model::learned_reward;
use crate::error::Result;
use crate::plan::StageKind;
use duel_evaluation::{EvalKind, EvalResult, Evaluator, HeldOut};
use duel_ledger::StageRecorder;
use duel_model::Policy;
use duel_spec::{Clocks, Recorder, Split, metrics};
use duel_training::{PairBatch, Splits, invariants};
use std::path::Path;
use std::time::Instant;

/// One arm at one point.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let cell = context.stage.cell.as_ref().expect("a cell stage holds its cell");
    let scene = context.scene()?;
    let world = scene.world.as_ref();
    let reference = context.sft_policy(world)?;
    let yardstick = evaluator(context, &scene, &reference)?;
    let reference_hash = reference.hash();
    let rows = context.rows()?;
    let reader = context.reader(world);
    let probe: Vec<usize> = (0..rows.len())
        .filter(|&i| rows[i].split == Split::Validation)
        .take(invariants::probe(world.space()))
        .collect();
    let probe = PairBatch::new(&rows, &probe).both;
    let held_out = HeldOut::new(reader.clone(), &reference, &rows);
    let splits = Splits::of(world);
    let work = TrainingInputs {
        seed: context.stage.seed,
        world: scene.world.clone(),
        config: context.config(world)?,
        pretrained: context.experiment.is_pretrained(),
        learner: &context.experiment.learner,
        reference: reference.clone(),
        start: context.on_train_device(reference.clone()),
        // loaded anew: clones of a module share their parameters' ids, and with them their gradients
        critic_start: context.on_train_device(context.sft_policy(world)?),
        reader: context.reader(world),
        train_reader: context.train_reader(world),
        gold: scene.gold.clone(),
        reward: learned_reward(context, world)?,
        rows,
        reference_hash: reference_hash.clone(),
        reference_logp: match context.plan.needed(context.stage, StageKind::Reference) {
            Some(stage) => Some(load_json("reference", &context.folder(stage)?.file(REFERENCE))?),
            None => None,
        },
        curve_points: context.experiment.evaluation.curve_points,
        splits: splits.clone(),
        stop: context.stop,
    };
    let beta = Some(cell.point.method.beta());
    let mut look =
        |policy: &Policy, clocks: Clocks, recorder: &mut dyn Recorder, moment: EvalKind| -> Result<EvalResult> {
            invariants::reads_are_sound(clocks.step, &reader, policy, &probe)?;
            invariants::frozen_weights_unchanged("the reference", clocks.step, &reference_hash, &reference.hash())?;
            let started = Instant::now();
            let scores = yardstick.measure(policy, beta, moment).map_err(|e| e.at_step(clocks.step))?;
            for score in &scores {
                let prompts = score.prompts.iter().copied();
                splits.check_disjoint("measures_prompts_of_the_split", clocks.step, score.split, prompts)?;
                score.record(clocks, recorder);
            }
            for (split, values) in held_out.measure(policy) {
                let stage = EvalResult::stage(split);
                values.iter().for_each(|(metric, value)| recorder.record(&stage, clocks, *metric, *value));
            }
            if moment == EvalKind::End {
                scores.iter().filter(|s| s.split == Split::Test).for_each(|s| recorder.outcomes(&s.outcomes));
            }
            recorder.record("train", clocks, metrics::EVALUATION_SECONDS, started.elapsed().as_secs_f64());
            Ok(scores.into_iter().find(|score| score.split == Split::Validation).expect("both splits are measured"))
        };
    let (trained, clocks) = registry::run(&cell.point.method, work, &mut look, recorder)?;
    let policy = trained.clone().for_inference();
    look(&policy, clocks, recorder, EvalKind::End)?;
    if let Evaluator::Exact(exact) = &yardstick {
        exact.check_sampler(&policy, context.stage.seed).map_err(|e| e.at_step(clocks.step))?;
    }
    keep_completions(context, &cell.arm, &cell.point.label, clocks.step, &scene, &policy, &reference, recorder)?;
    context.save_policy(trained, world, to)
}
