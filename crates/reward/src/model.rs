//! The reward model: the policy's body under a scalar head, fitted to preference pairs.
//! Stiennon et al. 2020, §3.2. Deviations: none by default; scores are centred and scaled on SFT samples afterwards.

use crate::{RewardReader, invariants};
use burn::tensor::{Tensor, TensorData};
use duel_model::{Flops, ResponseReader, ScalarModel, Tokens, TransformerConfig, weights};
use duel_objectives::{BradleyTerryOptions, ChosenRejected, bradley_terry_loss};
use duel_spec::{RmStage as Settings, metrics};
use duel_training::{
    IterationCost, Learner, Method, Metrics, PairBatch, invariants as training_invariants, pairs::accuracy,
    pairs::halves, probes,
};

/// The training of a reward model.
#[derive(Debug)]
pub struct RewardModel {
    settings: Settings,
    reader: RewardReader,
    flops: Flops,
}

impl RewardModel {
    /// `settings` in full; see `defaults.toml` for units and sources. `reader` is on the autodiff device; `config` is that of
    /// the reward model.
    pub fn new(settings: Settings, reader: impl Into<RewardReader>, config: &TransformerConfig) -> Self {
        Self { settings, reader: reader.into(), flops: Flops::scalar(config) }
    }

    /// The options of the loss of some pairs.
    fn terms(&self, pairs: &PairBatch) -> BradleyTerryOptions {
        let Settings { margin, centring, label_smoothing, tie_margin, .. } = self.settings;
        let strengths = || {
            let strengths: Vec<f32> = pairs.strengths.iter().map(|s| (margin * s) as f32).collect();
            Tensor::from_data(TensorData::new(strengths, [pairs.len()]), self.reader.reader.device()) // [N]
        };
        let tied = || {
            let tied: Vec<f32> = pairs.ties.iter().map(|&tie| f32::from(tie)).collect();
            (Tensor::from_data(TensorData::new(tied, [pairs.len()]), self.reader.reader.device()), tie_margin) // [N]
        };
        BradleyTerryOptions {
            strengths: (margin != 0.0).then(strengths),
            centring,
            ties: (tie_margin > 0.0).then(tied),
            label_smoothing,
        }
    }

    fn scores(reader: &ResponseReader, model: &ScalarModel, pairs: &PairBatch) -> ChosenRejected {
        halves(reader.scores(model, &pairs.both))
    }

    /// Share of pairs whose chosen response scores higher, ties half; of pairs as `reader` reads them. `reader` and `model`
    /// carry no gradient.
    pub fn accuracy(reader: &RewardReader, model: &ScalarModel, pairs: &PairBatch) -> f64 {
        let scores = reader.scores(model, &pairs.both);
        let (chosen, rejected) = scores.split_at(pairs.len());
        accuracy(&chosen.iter().zip(rejected).map(|(c, r)| c - r).collect::<Vec<_>>())
    }

    /// Checks the invariants of a reward model on some pairs as it reads them.
    ///
    /// # Errors
    /// The violated invariant.
    pub fn check(&self, step: u64, model: &ScalarModel, pairs: &PairBatch) -> duel_training::Result<()> {
        let (reader, model) = probes::without_graph(&self.reader.reader, model);
        training_invariants::eos_counts_and_pad_does_not(step, &reader, &pairs.both)?;
        let values = |reader: &ResponseReader, model: &ScalarModel, tokens: &Tokens| {
            let (columns, responses) = (tokens.ids.dims()[1], reader.space().response_tokens);
            model.forward(tokens.clone()).narrow(1, columns - responses, responses) // [B, T]
        };
        let rows = pairs.both.first(probes::PROBE_ROWS);
        let size = |x: Vec<f32>| training_invariants::largest(x.into_iter().map(f32::abs));
        let value = size(weights::host(values(&reader, &model, &reader.tokens(&rows))));
        probes::padding_is_inert(step, &reader, &model, &rows, value, values)?;

        let loss = |scores| first(bradley_terry_loss(scores, BradleyTerryOptions::default()).loss);
        let scores = Self::scores(&reader, &model, pairs);
        let score = size([scores.chosen.clone(), scores.rejected.clone()].map(weights::host::<1>).concat());
        let raised = ChosenRejected { chosen: scores.chosen.clone() + 1.0, rejected: scores.rejected.clone() + 1.0 };
        invariants::tied_pairs_cost_ln_2(step, loss(Self::scores(&reader, &model, &pairs.tied())), score)?;
        invariants::a_constant_changes_no_loss(step, loss(scores), loss(raised), score)
    }
}

impl Method for RewardModel {
    type Module = ScalarModel;
    type Batch = PairBatch;
    type State = ();

    fn prompts(pairs: &PairBatch) -> Vec<u64> {
        pairs.both.prompt_hashes()
    }

    fn iteration(&mut self, pairs: &PairBatch, learner: &mut Learner<ScalarModel>) -> duel_training::Result<Metrics> {
        let mut metrics = Metrics::default();
        let pairs = &*self.reader.pairs(pairs)?;
        if learner.step() == 0 {
            metrics.check(|| {
                self.check(0, learner.module(), pairs)?;
                probes::parts_make_the_same_gradient(
                    learner,
                    pairs.len().min(probes::probe_rows(self.reader.reader.space())),
                    |model, rows| {
                        let part = pairs.select(rows);
                        let scores = Self::scores(&self.reader.reader, model, &part);
                        (bradley_terry_loss(scores, self.terms(&part)).loss, rows.len() as f64)
                    },
                )
            })?;
        }

        // Score both responses of every pair in one pass, and improve.
        let mut margins = vec![]; // [N]
        let update = learner.minimize_in_parts(
            pairs.len(),
            |rows| rows.len() as f64,
            |model, rows| {
                let part = pairs.select(rows);
                let outcome = bradley_terry_loss(Self::scores(&self.reader.reader, model, &part), self.terms(&part));
                margins.extend(weights::host(outcome.margins.inner()));
                outcome.loss
            },
        )?;
        let tokens = pairs.both.token_count();
        metrics.record_update(
            update,
            IterationCost { trained_tokens: tokens, flops: self.flops.train(tokens), ..IterationCost::default() },
        );
        metrics.put(metrics::RM_MARGIN, margins.iter().map(|&m| f64::from(m)).sum::<f64>() / margins.len() as f64);
        metrics.put(metrics::PAIR_ACCURACY_TRAIN, accuracy(&margins));
        Ok(metrics)
    }

    fn state(&self) {}

    fn resume(&mut self, (): ()) {}
}

/// The value of a one-element tensor.
fn first(x: Tensor<1>) -> f64 {
    f64::from(weights::host(x)[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_data::pairs::PreferenceRow;
    use duel_model::{Policy, count_flops};
    use duel_spec::{LearnerSettings, Split, seeds};
    use duel_testing_tensors::trajectory;

    /// A step makes one forward and one backward pass over all tokens of both responses.
    #[test]
    fn a_step_costs_what_its_model_counts() -> duel_training::Result<()> {
        let space = trajectory::space(12, [0, 2], 3, 4);
        let device = Device::flex().autodiff();
        let config = TransformerConfig::small(12, space.context(), 2, 16, 2, true);
        let body = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &device);
        let row = |i: u32| PreferenceRow {
            p_label: 0.5,
            ..PreferenceRow::new(Split::Train, vec![1, 3 + i, 4], vec![3 + i, 7, 8, 2], vec![9, 10, 3 + i, 2])
        };
        let rows: Vec<PreferenceRow> = (0..6).map(row).collect();
        let batch = PairBatch::new(&rows, &(0..6).collect::<Vec<_>>());
        let mut learner = Learner::new(ScalarModel::from_policy(body, &device), &LearnerSettings::defaults(), 1e-3, 10);
        let mut method = RewardModel::new(Settings::defaults(), ResponseReader::new(&space, &device), &config);
        let before = count_flops();
        let metrics = method.iteration(&batch, &mut learner)?;
        let after = count_flops();
        let blocks = after.blocks - before.blocks + after.blocks_back - before.blocks_back;
        let heads = 3.0 * (after.heads - before.heads); // the backward pass through a head of one output is not counted
        assert!(
            ((blocks + heads) / metrics.cost.flops - 1.0).abs() < 1e-6,
            "{blocks:e} + {heads:e}, {:e}",
            metrics.cost.flops
        );
        Ok(())
    }

    /// Only options that are on have a term, and a margin is its weight times the strength.
    #[test]
    fn the_options_of_the_loss_are_those_of_the_settings() {
        let device = Device::flex();
        let config = TransformerConfig::small(12, 7, 1, 8, 2, true);
        let reader = ResponseReader::new(&trajectory::space(12, [0, 2], 3, 4), &device);
        let row = |p_label, tie| PreferenceRow {
            p_label,
            tie,
            ..PreferenceRow::new(Split::Train, vec![1, 3, 4], vec![5, 2], vec![6, 2])
        };
        let rows = [row(1.0, false), row(0.5, true), row(1.0 / (1.0 + (-1.5f64).exp()), false)];
        let batch = PairBatch::new(&rows, &[0, 1, 2]);
        let terms = |margin, tie_margin| {
            let settings =
                Settings { margin, tie_margin, centring: 0.25, label_smoothing: 0.125, ..Settings::defaults() };
            RewardModel::new(settings, reader.clone(), &config).terms(&batch)
        };
        let off = terms(0.0, 0.0);
        assert!(off.strengths.is_none() && off.ties.is_none());
        assert_eq!((off.centring, off.label_smoothing), (0.25, 0.125));
        let on = terms(0.5, 2.0);
        // strengths 1, 0 and 1.5/3
        let strengths = weights::host(on.strengths.expect("on"));
        assert!(strengths.iter().zip([0.5, 0.0, 0.25]).all(|(a, b)| (a - b).abs() < 1e-6), "{strengths:?}");
        let (tied, tie_margin) = on.ties.expect("on");
        assert_eq!((weights::host(tied), tie_margin), (vec![0.0, 1.0, 0.0], 2.0));
    }

    /// The prompts that no evaluation may hold are those of both sides.
    #[test]
    fn the_prompts_of_a_batch_are_those_of_both_responses() {
        let row = |id: u32| PreferenceRow {
            rejected_prompt: (id == 4).then(|| vec![1, 9]),
            ..PreferenceRow::new(Split::Train, vec![1, id], vec![5, 2], vec![6, 2])
        };
        let batch = PairBatch::new(&[row(3), row(4)], &[1, 0]);
        let expected = [[1, 4], [1, 3], [1, 9], [1, 3]].map(|prompt| duel_spec::ids::prompt_hash(&prompt));
        assert_eq!(RewardModel::prompts(&batch), expected);
    }

    #[test]
    fn a_step_reports_the_mean_margin_and_the_accuracy() -> duel_training::Result<()> {
        let space = trajectory::space(12, [0, 2], 3, 4);
        let device = Device::flex().autodiff();
        let config = TransformerConfig::small(12, space.context(), 1, 8, 2, true);
        let body = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &device);
        let row = |i: u32| {
            let (long, short) = (vec![3 + i, 7, 2], vec![9 - i, 2]);
            let (chosen, rejected) = if i < 2 { (short, long) } else { (long, short) };
            PreferenceRow::new(Split::Train, vec![1, 3 + i, 4], chosen, rejected)
        };
        let rows: Vec<PreferenceRow> = (0..5).map(row).collect();
        let batch = PairBatch::new(&rows, &(0..5).collect::<Vec<_>>());
        let head = vec![0.5, -1.0, 0.3, 0.2, -0.7, 0.4, 0.9, -0.1];
        let model = ScalarModel::with_head(body, head, &device);
        let reader = ResponseReader::new(&space, &device);
        let plain = RewardReader::from(reader.valid());
        let scores = plain.scores(&burn::module::Module::valid(&model), &batch.both);
        let margins: Vec<f64> = (0..5).map(|i| f64::from(scores[i] - scores[5 + i])).collect();
        let right = margins.iter().filter(|margin| **margin > 0.0).count();
        assert!((1..5).contains(&right), "{margins:?}");
        let share = RewardModel::accuracy(&plain, &burn::module::Module::valid(&model), &batch);
        assert_eq!(share, right as f64 / 5.0);
        let mut learner = Learner::new(model, &LearnerSettings::defaults(), 1e-3, 10);
        let metrics = RewardModel::new(Settings::defaults(), reader, &config).iteration(&batch, &mut learner)?;
        let value = |metric: metrics::Metric| metrics.values.iter().find(|(m, _)| *m == metric).expect("recorded").1;
        assert!((value(metrics::RM_MARGIN) - margins.iter().sum::<f64>() / 5.0).abs() < 1e-5);
        assert_eq!(value(metrics::PAIR_ACCURACY_TRAIN), share);
        assert_eq!(metrics.cost.trained_tokens, batch.both.token_count());
        Ok(())
    }

    /// A model without finite scores fails its checks: at the first step, and at that one alone.
    #[test]
    fn invariants_are_checked_at_the_first_step() {
        let space = trajectory::space(12, [0, 2], 3, 4);
        let device = Device::flex().autodiff();
        let config = TransformerConfig::small(12, space.context(), 1, 8, 2, true);
        let model = |weight: f32| {
            let body = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &device);
            ScalarModel::with_head(body, vec![weight; 8], &device)
        };
        let row = |i: u32| PreferenceRow::new(Split::Train, vec![1, 3 + i, 4], vec![3 + i, 7, 2], vec![9 - i, 2]);
        let rows: Vec<PreferenceRow> = (0..5).map(row).collect();
        let batch = PairBatch::new(&rows, &(0..5).collect::<Vec<_>>());
        let mut method = RewardModel::new(Settings::defaults(), ResponseReader::new(&space, &device), &config);
        assert!(method.check(3, &model(0.5), &batch).is_ok());
        let error = method.check(3, &model(f32::NAN), &batch).expect_err("no numbers");
        let mut learner = Learner::new(model(f32::NAN), &LearnerSettings::defaults(), 1e-3, 10);
        let at_start = method.iteration(&batch, &mut learner).expect_err("no numbers");
        let text = |error: duel_training::Error| error.to_string();
        assert_eq!(text(error).replace("step 3", "step 0"), text(at_start));
    }
}
