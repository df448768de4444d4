//! Online DPO: fresh pairs of the policy's own responses, labelled by a scorer, under DPO's loss. Guo et al. 2024. With `xpo_alpha`
//! it is XPO: the second response is the reference's, and log π of it is penalized. Xie et al. 2024, alg. 1.
//!
//! Deviations from the paper: a label is drawn from Bradley–Terry at `label_temperature` (0: the higher score, as there);
//! several updates per rollout, with PPO's stop at `target_kl`.

use crate::iteration_start::{IterationStart, start_iteration};
use crate::policy::PolicyOutput;
use crate::rollout::{CollectorState, Rollout, RolloutCollector, RolloutContext};
use crate::rows::rows_of;
use crate::sampling::RolloutPrompts;
use crate::updates::MinibatchLosses;
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use duel_model::{Policy, weights::host};
use duel_objectives::{ChosenRejected, PairLogp, PolicyLoss, PreferenceLoss, PreferenceOutcome, preference_loss};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::{self, Stream};
use duel_spec::{LossReduction, OnlineDpoSettings as Settings, OnlineLoss, ReferenceMode, RolloutSettings, metrics};
use duel_training::{Learner, Method, Metrics, Result, pairs::accuracy};
use rand::RngExt;

/// The method.
#[derive(Debug)]
pub struct OnlineDpo {
    settings: Settings,
    collector: RolloutCollector,
}

impl OnlineDpo {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(settings: Settings, context: RolloutContext) -> Self {
        // the loss is a mean over pairs, and so over responses
        let collector = RolloutCollector::new(
            context,
            RolloutSettings { loss_mean: LossReduction::Responses, ..settings.shared.clone() },
        );
        Self { settings, collector }
    }

    /// Step 2: whether the first response of each pair is preferred, `[B/2]`.
    pub(crate) fn labels(&self, rollout: &Rollout) -> Vec<bool> {
        let mut rng = seeds::stream(self.collector.context.seed, Stream::OnlineDpoLabels, self.collector.iteration);
        let temperature = self.settings.label_temperature;
        let pairs = rollout.scores.chunks_exact(2).map(|pair| pair[0] - pair[1]);
        pairs
            .map(|difference| {
                let u: f64 = rng.random();
                if temperature == 0.0 { difference > 0.0 } else { u < 1.0 / (1.0 + (-difference / temperature).exp()) }
            })
            .collect()
    }

    /// The loss of some pairs, two rows each, from their log-probs `logp` `[b, T]`.
    fn outcome(&self, rollout: &Rollout, labels: &[bool], rows: &[usize], logp: Tensor<2>) -> PreferenceOutcome {
        let (s, reader) = (&self.settings, &self.collector.context.train_reader);
        let mask = rollout.mask_of(rows); // [b, T]
        let ref_logp = rollout.ref_logp.as_ref().expect("the beta of DPO's loss is above 0");
        let wins: Vec<f32> = rows.chunks_exact(2).map(|pair| f32::from(labels[pair[0] / 2])).collect();
        let pairs = wins.len();
        let wins = Tensor::<1>::from_data(TensorData::new(wins, [pairs]), reader.device()); // [b/2]
        let ordered = |x: Tensor<1>| {
            let both = x.reshape([pairs, 2]);
            let [first, second] = [0, 1].map(|i| both.clone().narrow(1, i, 1).squeeze_dim::<1>(1));
            let difference = (first.clone() - second.clone()) * wins.clone();
            ChosenRejected { chosen: second.clone() + difference.clone(), rejected: first - difference }
        };
        let logp = PairLogp::new(
            ordered(mask.row_sums(logp)),
            ordered(mask.row_sums(rows_of(ref_logp, rows))),
            ordered(mask.lengths()),
        );
        let loss = match s.pair_loss {
            OnlineLoss::Sigmoid => PreferenceLoss::Sigmoid { label_smoothing: 0.0 },
            OnlineLoss::Hinge => PreferenceLoss::Hinge,
            OnlineLoss::Ipo => PreferenceLoss::Ipo,
        };
        preference_loss(&loss, &logp, rollout.beta)
    }

    /// XPO's bonus: α times the mean log π of the reference's responses, the second ones, `[1]`.
    fn exploration(&self, rollout: &Rollout, rows: &[usize], logp: Tensor<2>) -> Tensor<1> {
        let both = rollout.mask_of(rows).row_sums(logp).reshape([rows.len() / 2, 2]); // [b/2, 2]
        both.narrow(1, 1, 1).mean() * self.settings.xpo_alpha
    }

    /// Step 3's loss of some pairs, two rows each.
    fn loss(&self, rollout: &Rollout, labels: &[bool], actor: &Policy, rows: &[usize]) -> PolicyLoss {
        let (s, reader) = (&self.settings.shared, &self.collector.context.train_reader);
        let logp = PolicyOutput::of(s, reader, actor, &reader.tokens(&rollout.responses.select(rows))).logp; // [b, T]
        let outcome = self.outcome(rollout, labels, rows, logp.clone());
        let loss = match self.settings.xpo_alpha {
            0.0 => outcome.loss,
            _ => outcome.loss + self.exploration(rollout, rows, logp.clone()),
        };
        PolicyLoss::unclipped(loss, logp, rows_of(&rollout.logp, rows), &rollout.mask_of(rows))
    }
}

impl Method for OnlineDpo {
    type Module = Policy;
    /// Prompts, one per response, each twice in a row.
    type Batch = Vec<Vec<u32>>;
    type State = CollectorState;

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut metrics = Metrics::default();
        let (s, stream) = (&self.settings.shared, Stream::OnlineDpoMinibatches);
        // 1. Two responses per prompt from a snapshot of the policy, which of iterative DPO is the reference too; of XPO the second
        //    is from the reference.
        if s.reference == ReferenceMode::Last {
            self.collector.set_reference(learner.module().valid());
        }
        let sampled = if self.settings.xpo_alpha > 0.0 {
            RolloutPrompts::of_both(prompts)
        } else {
            RolloutPrompts::new(prompts, 2)
        };
        let IterationStart { rollout, behavior, updater } =
            start_iteration(&mut self.collector, s, 2, stream, sampled, learner, &mut metrics)?;

        // 2. Labels: which of the two is preferred. The accuracy is that of the behavior policy.
        let labels = self.labels(&rollout);
        metrics.put(metrics::ROLLOUT_RETURN, rollout.mean_return());
        let rows: Vec<usize> = (0..prompts.len()).collect();
        let outcome = self.outcome(&rollout, &labels, &rows, Tensor::from_inner(rollout.logp.clone()));
        metrics.put(metrics::DPO_ACCURACY, accuracy(&host(outcome.margins().inner())));

        // 3. K epochs of minibatches with DPO's loss.
        let losses = |actor: &Policy, rows: &[usize]| MinibatchLosses {
            policy: self.loss(&rollout, &labels, actor, rows),
            value: None,
        };
        updater.run(learner, &rollout, losses, &mut metrics)?;

        // 4. Remembered for the next rollout.
        self.collector.next(&rollout, &behavior);
        Ok(metrics)
    }

    fn state(&self) -> CollectorState {
        self.collector.state()
    }

    fn resume(&mut self, state: CollectorState) {
        self.collector.resume(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::{ROWS, T, context, online_dpo, rollout, settings};

    /// The first response is preferred with probability σ(difference / temperature); at temperature 0 where its score is higher.
    #[test]
    fn labels_are_drawn_from_bradley_terry() {
        let labels = |label_temperature, pair: [f64; 2], pairs: usize| {
            let pair_loss = OnlineLoss::Sigmoid;
            let settings = Settings { shared: settings(), pair_loss, label_temperature, xpo_alpha: 0.0 };
            let scores = pair.repeat(pairs);
            OnlineDpo::new(settings, context()).labels(&Rollout { scores, ..rollout([0.0; ROWS], [0.0; ROWS], 0.1) })
        };
        let share = |labels: Vec<bool>| labels.iter().filter(|&&first| first).count() as f64 / labels.len() as f64;
        // σ(½) and σ(−2), to three standard errors
        for (temperature, pair, expected) in [(2.0, [3.0, 2.0], 0.622_5), (0.5, [2.0, 3.0], 0.119_2)] {
            let actual = share(labels(temperature, pair, 10_000));
            assert!((actual - expected).abs() < 0.015, "{pair:?} at {temperature}: {actual}, expected {expected}");
        }
        assert_eq!([[3.0, 2.0], [2.0, 3.0], [2.0, 2.0]].map(|pair| share(labels(0.0, pair, 10))), [1.0, 0.0, 0.0]);
    }

    /// α times the mean log π of the second responses is added: −.5 · 4 and −1 · 4 of rows 5 and 3.
    #[test]
    fn the_bonus_of_exploration_by_hand() {
        let (rollout, rows) = (rollout([0.0; ROWS], [0.0; ROWS], 0.5), [4, 5, 2, 3]);
        let tokens = [-1.5f32, -0.5, -1.5, -1.0].map(|logp| [logp; T]);
        let logp = Tensor::<2>::from_data(tokens, context().train_reader.device());
        let method = online_dpo();
        let method = OnlineDpo { settings: Settings { xpo_alpha: 0.1, ..method.settings.clone() }, ..method };
        let bonus = f64::from(host(method.exploration(&rollout, &rows, logp).inner())[0]);
        assert!((bonus + 0.1 * (2.0 + 4.0) / 2.0).abs() < 1e-6, "{bonus}");
    }

    /// Pairs of a minibatch find their own labels, which say which response is chosen.
    #[test]
    fn losses_of_some_pairs_by_hand() {
        // β = ½; log π_ref of rows 2 to 5 is −6, −8, −5 and −4
        let rollout = rollout([0.0; ROWS], [0.0, 0.0, 0.5, 1.0, 0.25, 0.0, 0.0, 0.0], 0.5);
        let (rows, labels) = ([4, 5, 2, 3], [false, false, true, true]);
        let device = context().train_reader.device().clone();
        let logp = || {
            let tokens = [-1.5f32, -0.5, -1.5, -1.0].map(|logp| [logp; T]); // Δ = −1, 2, 0 and 4
            Tensor::<2>::from_data(tokens, &device)
        };
        // row 4 is chosen over 5, and 3 over 2: u = ½(−1 − 2) and ½(4 − 0)
        let [low, high] = [-1.5f64, 2.0];
        let logistic = |u: f64| (1.0 + (-u).exp()).ln();
        for (pair_loss, expected) in [
            (OnlineLoss::Sigmoid, (logistic(low) + logistic(high)) / 2.0),
            (OnlineLoss::Hinge, 2.5 / 2.0),
            (OnlineLoss::Ipo, (16.0 + 9.0) / 2.0), // (−3 − 1)² and (4 − 1)²
        ] {
            let method = online_dpo();
            let method = OnlineDpo { settings: Settings { pair_loss, ..method.settings.clone() }, ..method };
            let outcome = method.outcome(&rollout, &labels, &rows, logp());
            let margins = host(outcome.margins().inner());
            assert!((margins[0] + 1.5).abs() < 1e-6 && (margins[1] - 2.0).abs() < 1e-6, "{margins:?}");
            let actual = f64::from(host(outcome.loss.inner())[0]);
            assert!((actual - expected).abs() < 1e-5, "{pair_loss:?}: {actual}, by hand {expected}");
        }
    }
}
