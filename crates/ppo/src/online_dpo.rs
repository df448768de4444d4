//! Online DPO: fresh pairs of the policy's own responses, labelled by a scorer, under DPO's loss. Guo et al. 2024.
//!
//! Deviations from the paper: a label is drawn from Bradley–Terry at `label_temperature` (0: the higher score, as there);
//! several updates of a rollout, with PPO's stop at `target_kl`.

use crate::policy::PolicyOutput;
use crate::rollout::{BehaviorAndCurrent, CollectorState, Rollout, RolloutCollector, RolloutContext, index};
use crate::updates::{MinibatchLosses, MinibatchUpdater};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use duel_model::{Flops, Policy, weights::host};
use duel_objectives::{ChosenRejected, PairLogp, PolicyLoss, PreferenceLoss, PreferenceOutcome, preference_loss};
use duel_spec::ids::prompt_hash;
use duel_spec::seeds::{self, Stream};
use duel_spec::{LossReduction, OnlineDpoSettings as Settings, OnlineLoss, RolloutSettings, metrics};
use duel_training::{Learner, Method, Metrics, Result, pairs::accuracy};
use rand::RngExt;

/// The method.
#[derive(Debug)]
pub struct OnlineDpo {
    settings: Settings,
    sampler: RolloutCollector,
}

impl OnlineDpo {
    /// `settings` in full; see `defaults.toml` for units and sources.
    pub fn new(settings: Settings, given: RolloutContext) -> Self {
        // the loss is a mean over pairs, and so over responses
        let sampler = RolloutCollector::new(
            given,
            RolloutSettings { loss_mean: LossReduction::Responses, ..settings.shared.clone() },
        );
        Self { settings, sampler }
    }

    /// Step 2: whether the first response of each pair is preferred, `[B/2]`.
    pub(crate) fn labels(&self, rollout: &Rollout) -> Vec<bool> {
        let mut rng = seeds::stream(self.sampler.context.seed, Stream::OnlineDpoLabels, self.sampler.iteration);
        let temperature = self.settings.label_temperature;
        let pairs = rollout.scores.chunks_exact(2).map(|pair| pair[0] - pair[1]);
        pairs
            .map(|difference| {
                let u: f64 = rng.random();
                if temperature == 0.0 { difference > 0.0 } else { u < 1.0 / (1.0 + (-difference / temperature).exp()) }
            })
            .collect()
    }

    /// What some pairs, two rows each, come to where their log-probs are `logp` `[b, T]`.
    fn outcome(&self, rollout: &Rollout, labels: &[bool], rows: &[usize], logp: Tensor<2>) -> PreferenceOutcome {
        let (s, reader) = (&self.settings, &self.sampler.context.train_reader);
        let mask = rollout.mask_of(rows); // [b, T]
        let of = |x: &Tensor<2>| Tensor::from_inner(x.clone().select(0, index(rows, x))); // [b, T]
        let wins: Vec<f32> = rows.chunks_exact(2).map(|pair| f32::from(labels[pair[0] / 2])).collect();
        let pairs = wins.len();
        let wins = Tensor::<1>::from_data(TensorData::new(wins, [pairs]), reader.device()); // [b/2]
        let ordered = |x: Tensor<1>| {
            let both = x.reshape([pairs, 2]);
            let [first, second] = [0, 1].map(|i| both.clone().narrow(1, i, 1).squeeze_dim::<1>(1));
            let apart = (first.clone() - second.clone()) * wins.clone();
            ChosenRejected { chosen: second.clone() + apart.clone(), rejected: first - apart }
        };
        let read = PairLogp {
            policy: ordered(mask.row_sums(logp)),
            reference: ordered(mask.row_sums(of(&rollout.ref_logp))),
            lengths: ordered(mask.lengths()),
            mismatched: None,
            tied: None,
            margin: None,
        };
        let loss = match s.pair_loss {
            OnlineLoss::Sigmoid => PreferenceLoss::Sigmoid { label_smoothing: 0.0 },
            OnlineLoss::Hinge => PreferenceLoss::Hinge,
            OnlineLoss::Ipo => PreferenceLoss::Ipo,
        };
        preference_loss(&loss, &read, rollout.beta)
    }

    /// Step 3's loss of some pairs, two rows each.
    fn loss(&self, rollout: &Rollout, labels: &[bool], actor: &Policy, rows: &[usize]) -> PolicyLoss {
        let (s, reader) = (&self.settings.shared, &self.sampler.context.train_reader);
        let logp = PolicyOutput::of(s, reader, actor, &reader.tokens(&rollout.responses.select(rows))).logp; // [b, T]
        let old = Tensor::from_inner(rollout.logp.clone().select(0, index(rows, &rollout.logp))); // [b, T]
        let outcome = self.outcome(rollout, labels, rows, logp.clone());
        PolicyLoss::unclipped(outcome.loss, logp, old, &rollout.mask_of(rows))
    }
}

impl Method for OnlineDpo {
    type Module = Policy;
    /// Prompts, one a response, each twice in a row.
    type Batch = Vec<Vec<u32>>;
    type State = CollectorState;

    fn prompts(prompts: &Vec<Vec<u32>>) -> Vec<u64> {
        prompts.iter().map(|prompt| prompt_hash(prompt)).collect()
    }

    fn iteration(&mut self, prompts: &Vec<Vec<u32>>, learner: &mut Learner<Policy>) -> Result<Metrics> {
        let mut said = Metrics::default();
        let (given, step) = (&self.sampler.context, learner.step());
        let mut rng = seeds::stream(given.seed, Stream::OnlineDpoMinibatches, self.sampler.iteration);
        let updates = MinibatchUpdater::new(&self.settings.shared, 2, Flops::policy(&given.config), 0.0);
        let first_epoch = updates.shuffled(prompts.len(), &mut rng);

        // 1. Two responses to each prompt from a snapshot of the policy.
        let old = learner.module().valid();
        let actors = BehaviorAndCurrent { behavior: &old, current: learner.module() };
        let rollout = self.sampler.roll_out(actors, prompts, &first_epoch, step, &mut said)?;

        // 2. Which of the two is preferred?
        let labels = self.labels(&rollout);
        said.put(metrics::ROLLOUT_RETURN, rollout.mean_return());

        // 3. How far has each moved from the reference? The policy that wrote them is still the policy. Improve.
        let rows: Vec<usize> = (0..prompts.len()).collect();
        let outcome = self.outcome(&rollout, &labels, &rows, Tensor::from_inner(rollout.logp.clone()));
        said.put(metrics::DPO_ACCURACY, accuracy(&host(outcome.margins().inner())));
        let losses = |actor: &Policy, rows: &[usize]| MinibatchLosses {
            policy: self.loss(&rollout, &labels, actor, rows),
            value: None,
        };
        updates.run(learner, &rollout, &first_epoch, &mut rng, losses, &mut said)?;
        self.sampler.next(&rollout, &old);
        Ok(said)
    }

    fn state(&self) -> CollectorState {
        self.sampler.state()
    }

    fn resume(&mut self, state: CollectorState) {
        self.sampler.resume(state);
    }
}
