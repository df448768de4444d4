//! The stage `sft`: the policy that all arms start from and are compared with.

use super::batches::EpochSampler;
use super::context::{StageContext, adapted};
use crate::error::Result;
use crate::plan::StageKind;
use burn::module::Module;
use duel_data::PromptResponse;
use duel_evaluation::kl_grammar;
use duel_ledger::StageRecorder;
use duel_model::{Responses, weights};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Recorder, metrics};
use duel_training::logprobs::heldout_nll;
use duel_training::sft::Sft;
use duel_training::{Learner, invariants};
use std::path::Path;

/// Held-out rows that the language model's loss is measured on.
const HELDOUT_ROWS: usize = 2048;

/// The policy that all arms start from and are compared with.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let (settings, seed) = (&context.experiment.stages.sft, context.stage.seed);
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    let config = context.config(world)?;
    if settings.steps == 0 {
        return Ok(()); // the policy is the base model
    }
    let policy =
        match context.experiment.is_pretrained() || context.plan.needed(context.stage, StageKind::Base).is_some() {
            true => context.on_train_device(context.base_policy(world)?),
            false => context.fresh_policy(world, &mut seeds::stream(seed, Stream::SftInit, 0))?,
        };
    let policy = match settings.lora {
        true => {
            let mut rng = seeds::stream(seed, Stream::SftLora, 0);
            let rank_and_alpha = (settings.lora_rank, settings.lora_alpha);
            adapted(policy, rank_and_alpha, |_| true, &mut rng, &context.train_device())
        }
        false => weights::training(policy, |_| true),
    };
    let rows = responses(world.sft_rows(&mut seeds::stream(seed, Stream::SftCorpus, 0)));
    let mut method = Sft::new(context.train_reader(world), &config);
    let mut learner = Learner::new(policy, &context.experiment.learner, settings.learning_rate, settings.steps as u64);
    let sampler = EpochSampler::new(rows.len(), settings.batch_size, seed, Stream::SftRows);
    let mut sampler = sampler.dropping_last(settings.drop_last);
    let left_out = sampler.left_out();
    let batch = |step| -> Result<_> { Ok(rows.select(sampler.at(step))) };
    let clocks = context.train_alone("sft", &mut method, &mut learner, settings.steps, batch, recorder)?;

    let trained = learner.into_module().valid();
    let policy = trained.clone().for_inference();
    let reader = context.reader(world);
    let mut heldout = responses(world.heldout_rows(&mut seeds::stream(seed, Stream::SftHeldOut, 0)));
    heldout = heldout.select(&(0..heldout.len().min(HELDOUT_ROWS)).collect::<Vec<_>>());
    duel_training::probes::reads_are_sound(clocks.step, &reader, &policy, &heldout)?;
    let (token, sequence) = heldout_nll(&reader, &policy, &heldout);
    invariants::finite(clocks.step, "the loss on held-out rows", token)?;
    recorder.record("sft", clocks, metrics::ROWS_LEFT_OUT, left_out);
    recorder.record("sft", clocks, metrics::NLL_TOKEN, token);
    recorder.record("sft", clocks, metrics::NLL_SEQUENCE, sequence);
    if let Some(grammar) = &loaded.grammar {
        recorder.record("sft", clocks, metrics::KL_GRAMMAR, kl_grammar(grammar, &reader, &policy));
    }
    context.save_policy(trained, world, to)
}

fn responses(rows: Vec<PromptResponse>) -> Responses {
    let mut batch = Responses::default();
    for PromptResponse { prompt, response, mask } in rows {
        batch.prompts.push(prompt);
        batch.responses.push(response);
        batch.masks.push(mask);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::super::testing::PlannedRun;
    use super::*;
    use duel_spec::LossMask;

    /// Of 20 rows, batches of 8 leave 4 out of each epoch, or make a smaller batch of them.
    #[test]
    fn a_short_last_batch_is_dropped_or_trained_on() -> Result<()> {
        let metrics_of = |drop_last: bool| -> Result<Vec<f64>> {
            let run = PlannedRun::new(&format!(
                "[world.grammar]\nsft_rows = 20\n[model]\nlayers = 1\nwidth = 8\nheads = 2\n\
                 [stages.sft]\nsteps = 3\nbatch_size = 8\ndrop_last = {drop_last}\n[arms.a]\nmethod = \"dpo\"\n"
            ));
            let table = duel_ledger::read_metrics(&run.make(StageKind::Sft)?.file("metrics.parquet"))?;
            let last = |metric: &str| table.of("sft", metric).last().map_or(f64::NAN, |row| row.value);
            Ok(vec![last("rows_left_out"), last("updates"), last("trained_tokens")])
        };
        let (dropped, trained_on) = (metrics_of(true)?, metrics_of(false)?);
        assert_eq!((dropped[0], trained_on[0], dropped[1], trained_on[1]), (0.2, 0.0, 2.0, 2.0));
        assert!(trained_on[2] < dropped[2], "the third batch is of 4 rows in place of 8: {trained_on:?}, {dropped:?}");
        Ok(())
    }

    #[test]
    fn sft_learns_what_the_assistant_says() {
        let row = |mask| PromptResponse { prompt: vec![5], response: vec![6, 7, 2], mask };
        let mask = LossMask::new([[1, 3]], 3);
        let batch = responses(vec![row(None), row(mask.clone())]);
        assert_eq!((batch.lengths(), batch.mask(1)), (vec![3, 2], mask.as_ref()));
    }
}
