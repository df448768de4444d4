//! Checks of a training at step 0, where the policy is its reference.

use crate::invariants;
use crate::read::pair_logp;
use crate::reference::ReferenceLogp;
use burn::tensor::Tensor;
use duel_model::{Policy, ResponseReader, weights::host};
use duel_objectives::{ChosenRejected, LossProperties, PreferenceLoss, PreferenceOutcome};
use duel_spec::DpoSettings as Settings;
use duel_training::invariants::{self as training_invariants, largest};
use duel_training::probes;
use duel_training::{Learner, PairBatch, Result, norm, pairs::accuracy, pairs::halves};

/// A training at its first step.
pub struct FirstStep<'a, L> {
    pub settings: &'a Settings,
    /// The losses and their weights.
    pub losses: &'a [(PreferenceLoss, f64)],
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
        let ld_alpha = self.settings.ld_alpha;
        let policy = pair_logp(&reader, &module, pairs, ld_alpha);
        let both = |x: &ChosenRejected| [host(x.chosen.clone()), host(x.rejected.clone())].concat();
        let live = both(&policy);
        let reference = both(&cached.batch(&pairs.rows, &reader));
        invariants::cached_reference_is_live(&live, &reference, &self.sizes(&live, pairs))?;

        // against no reference, so that there is a margin
        let zero = || policy.clone().map(|x| x.zeros_like());
        let margins = host((self.outcome)(&reader, policy.clone(), zero(), pairs).margins());
        let swapped = pair_logp(&reader, &module, &pairs.swapped(), ld_alpha);
        let swapped = host((self.outcome)(&reader, swapped, zero(), &pairs.swapped()).margins());
        invariants::a_swap_flips_the_margin(0, &margins, &swapped, self.scale(&live, pairs))?;

        let all = |holds: fn(LossProperties) -> bool| self.properties().all(|(properties, _)| holds(properties));
        let step = probe_step(self.settings.beta, largest(live.iter().map(|x| x.abs())));
        if let Some(step) = step.filter(|_| all(|properties| properties.falls_towards_the_chosen)) {
            let [towards, away] = [step, -step].map(|step| self.loss_apart(&reader, &policy, step, pairs));
            invariants::the_chosen_is_preferred(0, towards, away)?;
        }
        let count = pairs.len().min(probes::probe_rows(reader.space()));
        if all(|properties| properties.ignores_ties) && self.settings.nll_coef == 0.0 {
            self.check_equal_pairs(&pairs.select(&(0..count).collect::<Vec<_>>()).tied(), learner)?;
        }
        if self.settings.couples_pairs() {
            return Ok(());
        }
        probes::parts_make_the_same_gradient(learner, count, |module, rows| {
            let part = pairs.select(rows);
            let reference = cached.for_loss(self.settings, &part.rows, self.reader);
            let policy = pair_logp(self.reader, module, &part, ld_alpha);
            ((self.outcome)(self.reader, policy, reference, &part).loss, part.len() as f64)
        })
    }

    /// Pairs of equal responses have no gradient.
    fn check_equal_pairs(&self, equal: &PairBatch, learner: &Learner<Policy>) -> Result<()> {
        // the policy is its own reference to the last bit, so that only the loss itself is tested
        let gradient = |side: fn(ChosenRejected) -> ChosenRejected| {
            let policy = pair_logp(self.reader, learner.module(), equal, self.settings.ld_alpha);
            let reference = policy.clone().map(Tensor::detach);
            norm(&learner.gradient((self.outcome)(self.reader, side(policy), reference, equal).loss))
        };
        let one_side = gradient(|x| ChosenRejected { rejected: x.rejected.detach(), ..x });
        invariants::equal_pairs_have_no_gradient(0, gradient(|x| x), one_side)
    }

    /// The loss, the margins and the accuracy of the first batch, where they are known; `logp` `[2N]` of whole responses,
    /// `margins` `[N]`, `weights` `[N]` or empty.
    pub fn check_loss(
        &self,
        loss: f64,
        pairs: &PairBatch,
        logp: &[f32],
        margins: &[f32],
        weights: &[f32],
    ) -> Result<()> {
        let Some(unweighted) = self.first_loss(pairs, &[]) else { return Ok(()) };
        let Some(expected) = self.first_loss(pairs, weights) else { return Ok(()) };
        let scale = self.scale(logp, pairs);
        let rounded = self.rounding(logp, scale, pairs, unweighted) * largest(weights.iter().copied()).max(1.0);
        // a square is rounded relative to itself; logarithms and sigmoids as ln 2 is
        let unit = |(properties, weight): (LossProperties, f64)| match properties.at_reference {
            Some(loss) if properties.is_square => weight * loss,
            loss => weight * loss.unwrap_or_default().abs().max(1.0),
        };
        let unit = self.properties().map(unit).sum::<f64>() * largest(weights.iter().copied()).max(1.0);
        invariants::starts_at_the_reference(loss, expected, [unit, rounded], margins, scale, accuracy(margins))
    }

    /// Each loss's properties, and its weight.
    fn properties(&self) -> impl Iterator<Item = (LossProperties, f64)> {
        self.losses.iter().map(|(loss, weight)| (loss.properties(self.settings.beta), *weight))
    }

    /// The loss of a batch while the policy is its reference, where that is known; `weights` `[N]` of the pairs, or none.
    fn first_loss(&self, pairs: &PairBatch, weights: &[f32]) -> Option<f64> {
        let weight = |pair: usize| weights.get(pair).map_or(1.0, |&weight| f64::from(weight));
        let mean_weight = |properties: LossProperties| {
            let times = |pair: usize| if properties.doubles_on_ties && pairs.ties[pair] { 2.0 } else { 1.0 };
            (0..pairs.len()).map(|pair| weight(pair) * times(pair)).sum::<f64>() / pairs.len() as f64
        };
        let loss_of = |(properties, weight): (LossProperties, f64)| {
            Some(weight * properties.at_reference? * mean_weight(properties))
        };
        let known: Option<f64> = self.properties().map(loss_of).sum();
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

/// The nats by which responses are moved to see which way the loss falls: for a margin of 2, but at most 10. `None` where f32
/// does not resolve the margin or, next to the `longest` log-prob, the step.
fn probe_step(beta: f64, longest: f64) -> Option<f64> {
    let step = (1.0 / beta).min(10.0);
    (step * beta > 1e-5 && step > 4.0 * f64::from(f32::EPSILON) * longest).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::preference_losses_of;
    use burn::tensor::Device;
    use duel_data::pairs::PreferenceRow;
    use duel_model::TransformerConfig;
    use duel_objectives::{PairLogp, mixed_preference_loss};
    use duel_spec::{LearnerSettings, PairLoss, Split, seeds};
    use duel_testing_tensors::trajectory;
    use duel_training::{Error, logprobs};
    use std::f64::consts::LN_2;

    const VOCABULARY: usize = 12;
    /// Tokens of a prompt, of a chosen response, which is the longer one, and of a rejected one.
    const P: usize = 2;
    const T: usize = 4;
    const T_REJECTED: usize = 3;
    const PAIRS: usize = 4;

    fn reader() -> ResponseReader {
        ResponseReader::new(&trajectory::space(VOCABULARY, [0, 2], P, T), &Device::flex().autodiff())
    }

    /// Four pairs, the first `ties` of them tied.
    fn pairs(ties: usize) -> PairBatch {
        let row = |i: usize| {
            let id = i as u32;
            let row = PreferenceRow::new(Split::Train, vec![1, 3 + id], vec![3 + id, 7, 8, 2], vec![9, 3 + id, 2]);
            PreferenceRow { tie: i < ties, ..row }
        };
        PairBatch::new(&(0..PAIRS).map(row).collect::<Vec<_>>(), &(0..PAIRS).collect::<Vec<_>>())
    }

    fn settings(loss: PairLoss, beta: f64) -> Settings {
        Settings { loss, beta, label_smoothing: 0.0, ..Settings::defaults() }
    }

    /// Calls `check` with the first step of these settings; `spoil` changes the outcome of each batch, with its log-probs.
    fn at_first_step<R>(
        settings: &Settings,
        spoil: impl Fn(PreferenceOutcome, &PairLogp) -> PreferenceOutcome,
        check: impl FnOnce(
            &FirstStep<'_, &dyn Fn(&ResponseReader, ChosenRejected, ChosenRejected, &PairBatch) -> PreferenceOutcome>,
        ) -> R,
    ) -> R {
        let losses = preference_losses_of(settings);
        let outcome = |reader: &ResponseReader, policy, reference, pairs: &PairBatch| {
            let lengths = halves(logprobs::mask(reader, &pairs.both).lengths());
            let logp = PairLogp::new(policy, reference, lengths);
            spoil(mixed_preference_loss(&losses, &logp, settings.beta), &logp)
        };
        check(&FirstStep { settings, losses: &losses, reader: &reader(), outcome: &outcome })
    }

    fn as_it_is(outcome: PreferenceOutcome, _: &PairLogp) -> PreferenceOutcome {
        outcome
    }

    fn breaks(name: &str, result: Result<()>) {
        assert!(matches!(result, Err(Error::Invariant { name: actual, .. }) if actual == name), "{name}: {result:?}");
    }

    #[test]
    fn the_first_loss_is_known_from_the_loss_and_the_ties() {
        let first =
            |settings: &Settings, ties| at_first_step(settings, as_it_is, |start| start.first_loss(&pairs(ties), &[]));
        let sigmoid = || settings(PairLoss::Sigmoid, 0.1);
        assert_eq!(first(&sigmoid(), 0), Some(LN_2));
        assert_eq!(first(&sigmoid(), 3), Some(LN_2), "a tie is as any other pair");
        // −log σ(−α) = log(1 + e^α), of a tie twice
        let rao_kupper = Settings { tie_margin: 0.4, ..settings(PairLoss::RaoKupper, 0.1) };
        let once = (1.0 + 0.4f64.exp()).ln();
        for (ties, expected) in [(0, once), (1, 1.25 * once), (3, 1.75 * once)] {
            let actual = first(&rao_kupper, ties).expect("known");
            assert!((actual - expected).abs() < 1e-12, "{ties} ties of 4: {actual}, expected {expected}");
        }
        for unknown in [
            Settings { reference_free: true, ..sigmoid() },
            Settings { nll_coef: 0.1, ..sigmoid() },
            Settings { margin: 0.1, ..sigmoid() },
            settings(PairLoss::SimPo, 0.1),
        ] {
            assert_eq!(first(&unknown, 0), None, "{unknown:?}");
        }
    }

    /// IPO's loss (Δ − 1/2β)² at Δ = ±2s differs from that at 0 by 4s² ∓ 2s/β.
    #[test]
    fn rounded_log_probs_move_the_loss_as_its_equation_says() {
        let settings = Settings { margin: 0.5, ..settings(PairLoss::Ipo, 0.2) };
        let logp = [-5.0, -6.0, -7.0, -6.0, -1.0, -2.0, -3.0, -8.0];
        at_first_step(&settings, as_it_is, |start| {
            // a response's log-prob is a difference of numbers as large as itself and a uniform policy's
            let uniform = |tokens: usize| tokens as f64 * (VOCABULARY as f64).ln();
            let sizes: Vec<f64> = logp
                .iter()
                .zip([[T; PAIRS], [T_REJECTED; PAIRS]].concat())
                .map(|(x, t)| uniform(t) - f64::from(*x))
                .collect();
            assert_eq!(start.sizes(&logp, &pairs(0)), sizes);
            assert_eq!(start.scale(&logp, &pairs(0)), 0.2 * sizes[2] + 0.5);

            // 1e-6 of a scale of 1e6 is a reward of 1: 5 nats
            let rounded = start.rounding(&logp, 1e6, &pairs(0), 2.5 * 2.5);
            assert!((rounded - (4.0 * 25.0 + 10.0 / 0.2)).abs() < 1e-3, "{rounded}");
        });
    }

    /// The loss may be off by 1e-5 and by what 1e-6 of the largest reward makes of it: half of that, on either side of the margin.
    #[test]
    fn the_first_loss_is_checked_to_the_precision_of_f32() {
        let (beta, logp) = (0.5, [-5.0; 2 * PAIRS]);
        let scale = beta * (5.0 + T as f64 * (VOCABULARY as f64).ln());
        let tolerance = 1e-5 + 1e-6 * scale;
        at_first_step(&settings(PairLoss::Sigmoid, beta), as_it_is, |start| {
            let check =
                |loss, margin: f64| start.check_loss(loss, &pairs(0), &logp, &[0.0, 0.0, margin as f32, 0.0], &[]);
            for side in [-1.0, 1.0] {
                assert!(check(LN_2 + side * 0.97 * tolerance, 0.0).is_ok());
                breaks("starts_at_the_reference", check(LN_2 + side * 1.03 * tolerance, 0.0));
                assert!(check(LN_2, side * 0.99e-6 * scale).is_ok());
                breaks("starts_at_the_reference", check(LN_2, side * 1.01e-6 * scale));
            }
        });
        let unknown = Settings { nll_coef: 1.0, ..settings(PairLoss::Sigmoid, beta) };
        let result =
            at_first_step(&unknown, as_it_is, |start| start.check_loss(99.0, &pairs(0), &logp, &[0.0; PAIRS], &[]));
        assert!(result.is_ok(), "a loss whose first value is not known");
    }

    #[test]
    fn a_step_is_a_margin_of_two_that_f32_resolves() {
        assert_eq!(probe_step(4.0, 100.0), Some(0.25));
        assert_eq!(probe_step(0.1, 100.0), Some(10.0));
        assert_eq!(probe_step(1e-3, 100.0), Some(10.0), "10 nats at most");
        assert_eq!([0.9e-6, 1.1e-6].map(|beta| probe_step(beta, 100.0)), [None, Some(10.0)]);
        // 1 nat more or less than 2^21: four units in the last place of an f32
        let longest = 2f64.powi(21);
        assert_eq!([longest - 1.0, longest].map(|longest| probe_step(1.0, longest)), [Some(1.0), None]);
    }

    fn check_batch(
        settings: &Settings,
        spoil: impl Fn(PreferenceOutcome, &PairLogp) -> PreferenceOutcome,
    ) -> Result<()> {
        let config = TransformerConfig::small(VOCABULARY, P + T, 1, 16, 2, true);
        let device = Device::flex().autodiff();
        let policy = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &device);
        let rows: Vec<usize> = (0..PAIRS).collect();
        let (plain, without_gradient) = probes::without_graph(&reader(), &policy);
        let logp = logprobs::sequence_logp(&plain, &without_gradient, &pairs(0).both);
        let cached = ReferenceLogp {
            reference: String::new(),
            rows: String::new(),
            chosen: logp[..PAIRS].to_vec(),
            rejected: logp[PAIRS..].to_vec(),
            tokens: 0,
        };
        assert_eq!(pairs(0).rows, rows);
        let learner = Learner::new(policy, &LearnerSettings::defaults(), 1e-3, 10);
        at_first_step(settings, spoil, |start| start.check_batch(&pairs(0), &cached, &learner))
    }

    #[test]
    fn a_loss_that_falls_the_wrong_way_is_named() {
        let reversed =
            |outcome: PreferenceOutcome, _: &PairLogp| PreferenceOutcome { loss: outcome.loss.neg(), ..outcome };
        for beta in [1e-3, 0.1, 50.0] {
            assert!(check_batch(&settings(PairLoss::Sigmoid, beta), as_it_is).is_ok());
            breaks("the_chosen_is_preferred", check_batch(&settings(PairLoss::Sigmoid, beta), reversed));
        }
        for beta in [1e-7, 1e9] {
            let result = check_batch(&settings(PairLoss::Sigmoid, beta), reversed);
            assert!(result.is_ok(), "f32 does not resolve the step: {result:?}");
        }
    }

    #[test]
    fn a_loss_that_moves_equal_pairs_is_named() {
        let one_sided = |outcome: PreferenceOutcome, logp: &PairLogp| PreferenceOutcome {
            loss: outcome.loss - logp.policy.chosen.clone().mean() * 0.01,
            ..outcome
        };
        breaks("equal_pairs_have_no_gradient", check_batch(&settings(PairLoss::Sigmoid, 0.1), one_sided));
        let with_nll = Settings { nll_coef: 0.01, ..settings(PairLoss::Sigmoid, 0.1) };
        assert!(check_batch(&with_nll, one_sided).is_ok(), "the likelihood of the chosen response is what it adds");
    }
}
