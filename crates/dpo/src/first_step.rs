//! Checks of a training at step 0, where the policy is its reference.

use crate::invariants;
use crate::reference::{ReferenceLogp, pair_logp};
use burn::tensor::Tensor;
use duel_model::{Policy, ResponseReader, weights::host};
use duel_objectives::{ChosenRejected, PreferenceLoss, PreferenceOutcome};
use duel_spec::DpoSettings as Settings;
use duel_training::invariants::{self as training_invariants, largest};
use duel_training::probes;
use duel_training::{Learner, PairBatch, Result, norm, pairs::accuracy, pairs::halves};

/// A training at its first step.
pub struct FirstStep<'a, L> {
    pub settings: &'a Settings,
    pub loss: PreferenceLoss,
    /// On the autodiff device.
    pub reader: &'a ResponseReader,
    /// The outcome of pairs from their log-probs under policy and reference.
    pub outcome: L,
}

impl<L: Fn(&ResponseReader, ChosenRejected, ChosenRejected, &PairBatch) -> PreferenceOutcome> FirstStep<'_, L> {
    /// The first batch before its update: the model reads it soundly, the cache is the reference's, and the loss prefers
    /// the chosen responses, ignores ties and can be read in parts.
    pub fn check_batch(&self, pairs: &PairBatch, cached: &ReferenceLogp, learner: &Learner<Policy>) -> Result<()> {
        training_invariants::eos_counts_and_pad_does_not(0, self.reader, &pairs.both)?;
        probes::reads_are_sound(0, self.reader, learner.module(), &pairs.both)?;
        let (reader, module) = probes::without_graph(self.reader, learner.module());
        let policy = pair_logp(&reader, &module, pairs);
        let both = |x: &ChosenRejected| [host(x.chosen.clone()), host(x.rejected.clone())].concat();
        let live = both(&policy);
        let reference = both(&cached.batch(&pairs.rows, &reader));
        invariants::cached_reference_is_live(&live, &reference, &self.sizes(&live, pairs))?;

        // against no reference, so that there is a margin
        let zero = || policy.clone().map(|x| x.zeros_like());
        let margins = host((self.outcome)(&reader, policy.clone(), zero(), pairs).margins());
        let swapped = pair_logp(&reader, &module, &pairs.swapped());
        let swapped = host((self.outcome)(&reader, swapped, zero(), &pairs.swapped()).margins());
        invariants::a_swap_flips_the_margin(0, &margins, &swapped, self.scale(&live, pairs))?;

        let properties = self.loss.properties(self.settings.beta);
        let (beta, longest) = (self.settings.beta, largest(live.iter().map(|x| x.abs())));
        let step = (1.0 / beta).min(10.0); // a margin of 2, unless that takes too many nats
        let resolved = step * beta > 1e-5 && step > 4.0 * f64::from(f32::EPSILON) * longest;
        if properties.falls_towards_the_chosen && resolved {
            let [towards, away] = [step, -step].map(|step| self.loss_apart(&reader, &policy, step, pairs));
            invariants::the_chosen_is_preferred(0, towards, away)?;
        }
        let count = pairs.len().min(probes::probe_rows(reader.space()));
        if properties.ignores_ties && self.settings.nll_coef == 0.0 {
            self.check_equal_pairs(&pairs.select(&(0..count).collect::<Vec<_>>()).tied(), learner)?;
        }
        if self.loss.couples_pairs() {
            return Ok(());
        }
        probes::parts_make_the_same_gradient(learner, count, |module, rows| {
            let part = pairs.select(rows);
            let reference = cached.for_loss(self.settings, &part.rows, self.reader);
            let policy = pair_logp(self.reader, module, &part);
            ((self.outcome)(self.reader, policy, reference, &part).loss, part.len() as f64)
        })
    }

    /// Pairs of equal responses have no gradient.
    fn check_equal_pairs(&self, equal: &PairBatch, learner: &Learner<Policy>) -> Result<()> {
        // the policy is its own reference to the last bit, so that only the loss itself is tested
        let gradient = |side: fn(ChosenRejected) -> ChosenRejected| {
            let policy = pair_logp(self.reader, learner.module(), equal);
            let reference = policy.clone().map(Tensor::detach);
            norm(&learner.gradient((self.outcome)(self.reader, side(policy), reference, equal).loss))
        };
        let one_side = gradient(|x| ChosenRejected { rejected: x.rejected.detach(), ..x });
        invariants::equal_pairs_have_no_gradient(0, gradient(|x| x), one_side)
    }

    /// The loss, the margins and the accuracy of the first batch, where they are known; `logp` `[2N]`, `margins` `[N]`.
    pub fn check_loss(&self, loss: f64, pairs: &PairBatch, logp: &[f32], margins: &[f32]) -> Result<()> {
        let Some(expected) = self.first_loss(pairs) else { return Ok(()) };
        let scale = self.scale(logp, pairs);
        let rounded = self.rounding(logp, scale, pairs, expected);
        // a square is rounded relative to itself; logarithms and sigmoids as ln 2 is
        let is_square = self.loss.properties(self.settings.beta).is_square;
        let unit = if is_square { expected } else { expected.abs().max(1.0) };
        invariants::starts_at_the_reference(loss, expected, [unit, rounded], margins, scale, accuracy(margins))
    }

    /// The loss of a batch while the policy is its reference, where that is known.
    fn first_loss(&self, pairs: &PairBatch) -> Option<f64> {
        let properties = self.loss.properties(self.settings.beta);
        let twice = |tie: bool| f64::from(tie && properties.doubles_on_ties);
        let ties = pairs.ties.iter().map(|&tie| twice(tie)).sum::<f64>() / pairs.len() as f64;
        let known = properties.at_reference.map(|loss| loss * (1.0 + ties));
        let Settings { reference_free, nll_coef, margin, .. } = *self.settings;
        known.filter(|_| !reference_free && nll_coef == 0.0 && margin == 0.0)
    }

    /// The loss where every chosen response is `step` nats likelier than under the reference, and every rejected one as much
    /// less likely; no model is read. `policy` carries no gradient.
    fn loss_apart(&self, reader: &ResponseReader, policy: &ChosenRejected, step: f64, pairs: &PairBatch) -> f64 {
        let ChosenRejected { chosen, rejected } = policy.clone();
        let shifted = ChosenRejected { chosen: chosen + step, rejected: rejected - step };
        f64::from(host((self.outcome)(reader, shifted, policy.clone(), pairs).loss)[0])
    }

    /// How far the loss at the reference moves when every log-prob `[2N]` is rounded for or against it.
    fn rounding(&self, logp: &[f32], scale: f64, pairs: &PairBatch, expected: f64) -> f64 {
        let reader = self.reader.valid();
        let policy = halves(Tensor::from_data(logp, reader.device()));
        let step = invariants::LOGP_SHARE * scale / self.settings.beta;
        let change = |step| (self.loss_apart(&reader, &policy, step, pairs) - expected).abs();
        change(step).max(change(-step))
    }

    /// The size of each response's log-prob, `[2N]`.
    fn sizes(&self, logp: &[f32], pairs: &PairBatch) -> Vec<f64> {
        let vocabulary = self.reader.space().vocabulary;
        let lengths = pairs.both.lengths();
        logp.iter().zip(lengths).map(|(&logp, length)| invariants::size(logp, length, vocabulary)).collect()
    }

    /// The size of the largest reward: margins are differences of rewards, and a `margin` is added to one.
    fn scale(&self, logp: &[f32], pairs: &PairBatch) -> f64 {
        self.settings.beta * self.sizes(logp, pairs).into_iter().fold(0.0, f64::max) + self.settings.margin
    }
}
