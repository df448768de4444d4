//! Invariants that read a model again on a few rows (ARCHITECTURE.md, What is checked while it runs). What rounding alone
//! explains is no violation ([`unless_rounding`]).

use crate::invariants::{Tolerance, check_close, diverged, finite, largest};
use crate::learner::norm;
use crate::logprobs::{response_logp, tokens_logp};
use crate::rounding::{nudged, unless_rounding};
use crate::{Learner, Result};
use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use duel_model::{Policy, ResponseReader, Responses, Tokens, weights};
use duel_spec::TokenSpec;

/// Rows that a probe reads: enough to see a fault, too few to cost a training anything.
pub const PROBE_ROWS: usize = 16;

/// The same where every logit of every column is read, which a large vocabulary makes many: at most 2²⁴ logits, but at least
/// two rows.
pub fn probe_rows(space: &TokenSpec) -> usize {
    ((1 << 24) / (space.context() * space.vocabulary)).clamp(2, PROBE_ROWS)
}

/// A batch in eight parts, weighted by what each mean is over, has the gradient of the whole. `loss` gives the loss `[1]` of
/// some rows under a module and what it is a mean over (counted tokens, pairs). The first [`PROBE_ROWS`] rows are enough.
pub fn parts_make_the_same_gradient<M: Module>(
    learner: &Learner<M>,
    rows: usize,
    loss: impl Fn(&M, &[usize]) -> (Tensor<1>, f64),
) -> Result<()> {
    let all: Vec<usize> = (0..rows.min(PROBE_ROWS)).collect();
    let (batch_loss, weight) = loss(learner.module(), &all);
    if weight == 0.0 {
        return Ok(()); // a mean over nothing
    }
    let batch_gradient = learner.gradient(batch_loss);
    let (mut difference, mut norms) = (batch_gradient.clone(), norm(&batch_gradient));
    for part in all.chunks(all.len().div_ceil(8)) {
        let (loss, part_weight) = loss(learner.module(), part);
        let part = learner.gradient(loss * (part_weight / weight));
        norms += norm(&part);
        difference.iter_mut().zip(part).for_each(|(difference, g)| *difference -= g);
    }
    let what = "the norm of the whole batch's gradient less that of its parts";
    let within = Tolerance { share: 1e-5, of: "the sum of the norms of both", scale: norms };
    let error = norm(&difference);
    let result = check_close("parts_make_the_same_gradient", learner.step(), what, error, 0.0, within);
    // a gradient that cancels (equal scores, equal responses) consists of the rounding errors of the log-probs
    unless_rounding(result, error, || {
        let module = nudged(learner.module());
        let mut change = learner.gradient_of(&module, loss(&module, &all).0);
        change.iter_mut().zip(&batch_gradient).for_each(|(change, g)| *change -= g);
        norm(&change)
    })
}

/// Neither the ids on PAD nor the amount of padding before a prompt changes a counted number. `read` gives what a model
/// computes from tokens, one or more numbers per row, of which those of counted tokens are compared; `size` is the magnitude
/// of the terms that these numbers are differences of.
pub fn padding_is_inert<M: Module>(
    step: u64,
    reader: &ResponseReader,
    model: &M,
    batch: &Responses,
    size: f64,
    read: impl Fn(&ResponseReader, &M, &Tokens) -> Tensor<2>,
) -> Result<()> {
    let space = reader.space();
    let tokens = reader.tokens(batch);
    let counted = |model: &M, tokens: &Tokens| -> Vec<f32> {
        let all = weights::host(read(reader, model, tokens).inner_if_autodiff());
        let columns = space.response_tokens;
        let cells = (0..batch.len()).flat_map(|row| (0..columns).map(move |column| (row, column)));
        let cells = cells.filter(|(row, column)| batch.is_counted(*row, *column));
        cells.map(|(row, column)| all[row * columns + column]).collect()
    };
    let plain = counted(model, &tokens);
    let scale = size.max(1.0) as f32;
    let change = |other: Vec<f32>| largest(plain.iter().zip(other).map(|(a, b)| (a - b).abs() / a.abs().max(scale)));
    let check = |what: &str, other: &Tokens| {
        let error = change(counted(model, other));
        let result = check_close("padding_is_inert", step, what, error, 0.0, Tolerance::absolute(1e-5));
        unless_rounding(result, error, || change(counted(&nudged(model), &tokens)))
    };

    let mut ids = tokens.ids.clone().into_data().iter::<i32>().collect::<Vec<_>>();
    let width = tokens.ids.dims()[1];
    let prompt = width - space.response_tokens;
    for (row, response) in batch.responses.iter().enumerate() {
        for id in &mut ids[row * width + prompt + response.len()..(row + 1) * width] {
            *id = space.bos as i32;
        }
    }
    let ids = Tensor::from_data(TensorData::new(ids, [batch.len(), width]), reader.device());
    let what = "the largest relative change of what is read when PAD holds another token";
    check(what, &Tokens { ids, left_padding: tokens.left_padding.clone() })?;

    let what = "the largest relative change of what is read when three PADs stand before each prompt";
    check(what, &padded_before(reader, batch, 3))
}

/// A batch's tokens with `more` additional PADs before each prompt.
fn padded_before(reader: &ResponseReader, batch: &Responses, more: usize) -> Tokens {
    let Tokens { ids, left_padding } = reader.tokens(batch);
    let rows = ids.dims()[0];
    let pads = Tensor::full([rows, more], reader.space().pad as i32, reader.device());
    let left_padding = left_padding.unwrap_or(vec![0; rows]).into_iter().map(|padding| padding + more).collect();
    Tokens::with_left_padding(Tensor::cat(vec![pads, ids], 1), left_padding)
}

/// [`padding_is_inert`] and `labels_are_shifted` for a policy, on the first rows of a batch.
pub fn reads_are_sound(step: u64, reader: &ResponseReader, policy: &Policy, batch: &Responses) -> Result<()> {
    let rows = batch.first(probe_rows(reader.space()));
    let (reader, policy) = without_graph(reader, policy);
    let reference = ReferenceForward::new(step, &reader, &policy, &rows)?;
    padding_is_inert(step, &reader, &policy, &rows, reference.logit, tokens_logp)?;
    labels_are_shifted(step, &reader, &policy, &rows, &reference)
}

/// A reader and a model without autodiff: a forward pass without a backward pass would keep all that it saved until the next
/// backward pass.
pub fn without_graph<M: Module>(reader: &ResponseReader, model: &M) -> (ResponseReader, M) {
    if reader.device().is_autodiff() { (reader.valid(), model.valid()) } else { (reader.clone(), model.clone()) }
}

/// Labels are shifted by one: the log-prob of each response token is what the column before it predicts, computed in f64
/// from unaligned logits. EOS is included, prompts and PAD are not.
fn labels_are_shifted(
    step: u64,
    reader: &ResponseReader,
    policy: &Policy,
    batch: &Responses,
    reference: &ReferenceForward,
) -> Result<()> {
    let columns = reader.space().response_tokens;
    let read = |policy: &Policy| weights::host(response_logp(reader, policy, batch).inner_if_autodiff());
    let logp = read(policy);
    let scale = reference.logit.max(1.0);
    let error = |row: usize, t: usize, other: f64| {
        ((other - f64::from(logp[row * columns + t])).abs() / other.abs().max(scale)) as f32
    };
    let worst = largest(reference.counted().map(|(row, t, other)| error(row, t, other)));
    let what = "the largest relative difference of a log-prob from the one shifted by hand";
    let result = check_close("labels_are_shifted", step, what, worst, 0.0, Tolerance::absolute(1e-4));
    unless_rounding(result, worst, || {
        let nudged = read(&nudged(policy));
        largest(reference.counted().map(|(row, t, _)| error(row, t, f64::from(nudged[row * columns + t]))))
    })
}

/// A loss over tokens counts response tokens including EOS, and neither prompts, nor PAD, nor other turns than the assistant's:
/// compared with log-probs that are computed independently.
pub fn only_responses_carry_loss(
    step: u64,
    loss: f64,
    reader: &ResponseReader,
    policy: &Policy,
    batch: &Responses,
) -> Result<()> {
    let (reader, policy) = without_graph(reader, policy);
    let logp: Vec<f64> =
        ReferenceForward::new(step, &reader, &policy, batch)?.counted().map(|(_, _, logp)| logp).collect();
    let mean = -logp.iter().sum::<f64>() / logp.len() as f64;
    let within = Tolerance { share: 1e-4, of: "the loss worked out by hand, at least 1", scale: mean.max(1.0) };
    check_close("only_responses_carry_loss", step, "the loss", loss, mean, within)
}

/// Log-odds of one token against another from which on a model has diverged: exp overflows f64.
const LARGEST_ODDS: f64 = 709.0;

/// Reference log-probs of counted response tokens, computed independently of [`ResponseReader`] from the model's logits.
struct ReferenceForward {
    /// Row, column and log-prob of each counted token.
    counted: Vec<(usize, usize, f64)>,
    /// The largest magnitude of a logit: f32 log-probs are precise relative to it.
    logit: f64,
}

impl ReferenceForward {
    fn new(step: u64, reader: &ResponseReader, policy: &Policy, batch: &Responses) -> Result<Self> {
        let space = reader.space();
        let (v, forbidden) = (space.vocabulary, space.forbidden_mask());
        let tokens = batch.tokens(space, reader.device());
        let width = tokens.ids.dims()[1];
        let ids: Vec<i32> = tokens.ids.clone().into_data().iter::<i32>().collect();
        let logits = policy.logits(tokens, 0).inner_if_autodiff(); // [B, P + T, V]
        let logits = weights::host(logits);
        let (mut largest_logit, mut largest_odds) = (0f64, 0f64);
        let mut logp = |row: usize, j: usize| {
            let column = width - space.response_tokens + j;
            let predicted = &logits[(row * width + column - 1) * v..][..v];
            let is_allowed = |id: &usize| forbidden.as_ref().is_none_or(|forbidden| !forbidden[j][*id]);
            let allowed = || (0..v).filter(is_allowed).map(|id| f64::from(predicted[id]));
            let max = allowed().fold(f64::NEG_INFINITY, f64::max);
            let sum: f64 = allowed().map(|logit| (logit - max).exp()).sum();
            let larger = |x: f64, so_far: f64| if x.is_nan() || x > so_far { x } else { so_far };
            largest_logit = allowed().map(f64::abs).fold(largest_logit, |size, x| larger(x, size));
            largest_odds = larger(max - allowed().fold(f64::INFINITY, f64::min), largest_odds);
            f64::from(predicted[ids[row * width + column] as usize]) - max - sum.ln()
        };
        let cells = (0..batch.len()).flat_map(|row| (0..space.response_tokens).map(move |j| (row, j)));
        let cells = cells.filter(|(row, j)| batch.is_counted(*row, *j));
        let counted = cells.map(|(row, j)| (row, j, logp(row, j))).collect();
        finite(step, "the largest logit", largest_logit)?;
        if largest_odds > LARGEST_ODDS {
            let what =
                format!("the log-odds of one token against another (beyond {LARGEST_ODDS:.0} no number holds them)");
            return Err(diverged(step, &what, largest_odds));
        }
        Ok(Self { counted, logit: largest_logit })
    }

    fn counted(&self) -> impl Iterator<Item = (usize, usize, f64)> {
        self.counted.iter().copied()
    }
}

/// `inner` of tensors with and without autodiff.
trait InnerIfAutodiff {
    fn inner_if_autodiff(self) -> Self;
}

impl<const D: usize> InnerIfAutodiff for Tensor<D> {
    fn inner_if_autodiff(self) -> Self {
        if self.is_autodiff() { self.inner() } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use burn::module::Param;
    use burn::tensor::Device;
    use duel_model::TransformerConfig;
    use duel_spec::{LearnerSettings, seeds};
    use duel_testing_tensors::{trajectory, unigram::unigram};
    use std::cell::RefCell;

    fn space() -> TokenSpec {
        trajectory::space(6, [0, 2], 3, 4)
    }

    fn batch() -> Responses {
        Responses {
            prompts: vec![vec![1, 3, 4], vec![1, 5]],
            responses: vec![vec![3, 4, 2], vec![5, 2]],
            ..Responses::default()
        }
    }

    /// Whether an invariant of this name is violated; any other error fails the test.
    fn is_violated(result: Result<()>, expected: &str) -> bool {
        match result {
            Ok(()) => false,
            Err(Error::Invariant { name, .. }) if name == expected => true,
            Err(error) => panic!("{error:?}"),
        }
    }

    #[test]
    fn as_many_rows_are_read_as_have_2_to_the_24_logits() {
        let rows = |vocabulary, prompt_tokens, response_tokens| {
            probe_rows(&trajectory::space(vocabulary, [0, 2], prompt_tokens, response_tokens))
        };
        assert_eq!(rows(1 << 10, 8, 8), 16);
        assert_eq!(rows(1 << 17, 8, 8), 8);
        assert_eq!(rows(1 << 21, 8, 8), 2);
    }

    #[derive(Module, Debug)]
    struct Scalar {
        w: Param<Tensor<1>>,
    }

    /// A learner of w = 1.
    fn scalar() -> Learner<Scalar> {
        let w = Tensor::from_data([1.0f32], &Device::flex().autodiff()).require_grad();
        Learner::new(Scalar { w: Param::from_tensor(w) }, &LearnerSettings::defaults(), 0.1, 4)
    }

    #[test]
    fn gradients_of_parts_may_differ_by_1e_5_of_both_norms() {
        let learner = scalar();
        // the whole has gradient 1, the parts together 1 + `error`; a nudge of w changes both by `curvature` times 2⁻²³
        let check = |error: f32, curvature: f32| {
            parts_make_the_same_gradient(&learner, 40, |module: &Scalar, rows| {
                let w = module.w.val();
                let slope = if rows.len() == PROBE_ROWS { 1.0 } else { 1.0 + error };
                (w.clone() * slope + (w - 1.0).square() * (0.5 * curvature), rows.len() as f64)
            })
        };
        let name = "parts_make_the_same_gradient";
        for sign in [1.0, -1.0] {
            assert!(!is_violated(check(sign * 1.9e-5, 0.0), name));
            assert!(is_violated(check(sign * 2.1e-5, 0.0), name));
        }
        assert!(!is_violated(check(1e-4, 1e3), name), "rounding explains it");
        assert!(matches!(check(1e-4, 1e6), Err(Error::Diverged { step: 0, .. })), "w has no digits left");
    }

    #[test]
    fn the_first_16_rows_are_read_whole_and_in_eight_parts() {
        let learner = scalar();
        let reads = RefCell::new(vec![]);
        // means weighted by 1, 2, 3, … of slopes 0, 1, 4, …
        let loss = |module: &Scalar, rows: &[usize]| {
            reads.borrow_mut().push(rows.to_vec());
            let weight: f64 = rows.iter().map(|&row| row as f64 + 1.0).sum();
            let slope: f64 = rows.iter().map(|&row| (row as f64 + 1.0) * (row * row) as f64).sum();
            (module.w.val() * (slope / weight), weight)
        };
        for (rows, sizes) in [(40, vec![16, 2, 2, 2, 2, 2, 2, 2, 2]), (5, vec![5, 1, 1, 1, 1, 1])] {
            assert!(!is_violated(parts_make_the_same_gradient(&learner, rows, loss), "parts_make_the_same_gradient"));
            assert_eq!(reads.take().iter().map(Vec::len).collect::<Vec<_>>(), sizes);
        }
        let nothing = |module: &Scalar, rows: &[usize]| (module.w.val() * rows.len() as f64, 0.0);
        assert!(parts_make_the_same_gradient(&learner, 16, nothing).is_ok(), "a mean over nothing");
    }

    /// A policy that nothing is read from.
    fn unread() -> Policy {
        unigram(&[0.0; 6], 10, &Device::flex())
    }

    #[test]
    fn padding_may_change_a_counted_number_by_1e_5() {
        let reader = ResponseReader::new(&space(), &Device::flex());
        // reads `value` of each counted token, of one with a change; of the others the tokens' width
        let check = |size: f64, value: f32, [of_ids, of_width]: [f32; 2]| {
            padding_is_inert(7, &reader, &unread(), &batch(), size, |reader, _, tokens| {
                let width = tokens.ids.dims()[1];
                let last = tokens.ids.clone().into_data().iter::<i32>().nth(width - 1);
                let change = if width == 10 {
                    of_width
                } else if last == Some(1) {
                    of_ids
                } else {
                    0.0
                };
                let (other, changed) = (width as f32 + 100.0 * change, value + change);
                let numbers = [[value, value, value, other], [value, changed, other, other]];
                Tensor::from_data(numbers, reader.device())
            })
        };
        let name = "padding_is_inert";
        for (size, value, bound) in [(5.0, 3.0, 5e-5), (5.0, -10.0, 1e-4), (0.1, 0.5, 1e-5)] {
            for sign in [1.0, -1.0] {
                for side in [[sign * bound, 0.0], [0.0, sign * bound]] {
                    assert!(!is_violated(check(size, value, side.map(|change| 0.9 * change)), name), "{value}");
                    assert!(is_violated(check(size, value, side.map(|change| 1.1 * change)), name), "{value}");
                }
            }
        }
    }

    #[test]
    fn other_ids_stand_on_pad_and_more_pad_before_prompts() {
        let reader = ResponseReader::new(&space(), &Device::flex());
        let tokens_read = |batch: &Responses| {
            let reads = RefCell::new(vec![]);
            let zeros = |_: &ResponseReader, _: &Policy, tokens: &Tokens| {
                let ids: Vec<i32> = tokens.ids.clone().into_data().iter::<i32>().collect();
                let rows: Vec<Vec<i32>> = ids.chunks(tokens.ids.dims()[1]).map(<[i32]>::to_vec).collect();
                reads.borrow_mut().push((rows, tokens.left_padding.clone()));
                Tensor::zeros([2, 4], &Device::flex())
            };
            assert!(padding_is_inert(7, &reader, &unread(), batch, 1.0, zeros).is_ok());
            reads.take()
        };
        let expected = [
            (vec![vec![1, 3, 4, 3, 4, 2, 0], vec![0, 1, 5, 5, 2, 0, 0]], Some(vec![0, 1])),
            (vec![vec![1, 3, 4, 3, 4, 2, 1], vec![0, 1, 5, 5, 2, 1, 1]], Some(vec![0, 1])),
            (vec![vec![0, 0, 0, 1, 3, 4, 3, 4, 2, 0], vec![0, 0, 0, 0, 1, 5, 5, 2, 0, 0]], Some(vec![3, 4])),
        ];
        assert_eq!(tokens_read(&batch()), expected);
        let level = Responses { prompts: vec![vec![1, 3]; 2], ..batch() };
        let paddings: Vec<Option<Vec<usize>>> = tokens_read(&level).into_iter().map(|(_, left)| left).collect();
        assert_eq!(paddings, [None, None, Some(vec![3, 3])]);
    }

    const LOGITS: [f32; 6] = [0.0, -4.0, 1.0, 2.0, 3.0, 0.5];

    /// The log-prob of a token among those allowed.
    fn logp(id: u32, allowed: &[u32]) -> f64 {
        let logit = |id: u32| f64::from(LOGITS[id as usize]);
        logit(id) - allowed.iter().map(|&id| logit(id).exp()).sum::<f64>().ln()
    }

    #[test]
    fn reference_log_probs_are_a_softmax_over_allowed_tokens() {
        let device = Device::flex();
        let policy = unigram(&LOGITS, 10, &device);
        let forward = |space: &TokenSpec, responses: &[&[u32]]| {
            let responses = responses.iter().map(|ids| ids.to_vec()).collect();
            let batch = Responses { responses, ..batch() };
            ReferenceForward::new(0, &ResponseReader::new(space, &device), &policy, &batch).expect("finite")
        };
        let close = |forward: &ReferenceForward, expected: &[(usize, usize, f64)]| {
            assert_eq!(forward.counted.len(), expected.len());
            for ((row, t, logp), expected) in forward.counted().zip(expected) {
                assert!(
                    (row, t) == (expected.0, expected.1) && (logp - expected.2).abs() < 1e-6,
                    "{logp}, {expected:?}"
                );
            }
        };
        let all = |id| logp(id, &[0, 1, 2, 3, 4, 5]);
        let free = forward(&space(), &[&[3, 4, 2], &[5, 2]]);
        close(&free, &[(0, 0, all(3)), (0, 1, all(4)), (0, 2, all(2)), (1, 0, all(5)), (1, 1, all(2))]);
        assert_eq!(free.logit, 4.0);

        // 4 has the largest logit of all, and is not allowed; the last token can only be EOS
        let allowed = [2, 3, 5];
        let restricted = TokenSpec { allowed_tokens: Some(allowed.to_vec()), force_eos: true, ..space() };
        let forced = forward(&restricted, &[&[3, 5, 3, 2], &[2]]);
        let of = |id| logp(id, &allowed);
        close(&forced, &[(0, 0, of(3)), (0, 1, of(5)), (0, 2, of(3)), (0, 3, 0.0), (1, 0, of(2))]);
        assert_eq!(forced.logit, 2.0);
    }

    #[test]
    fn odds_beyond_f64_and_logits_that_are_not_finite_are_a_divergence() {
        let read = |logit: f32| {
            let device = Device::flex().autodiff();
            let mut logits = [0.0; 6];
            logits[2] = logit;
            let policy = unigram(&logits, 10, &device);
            reads_are_sound(3, &ResponseReader::new(&space(), &device), &policy, &batch())
        };
        assert!(read(709.0).is_ok());
        for (logit, expected) in
            [(709.5, "the log-odds"), (f32::NAN, "the largest logit"), (f32::INFINITY, "the largest logit")]
        {
            match read(logit) {
                Err(Error::Diverged { step: 3, what, value, .. }) => {
                    assert!(
                        what.starts_with(expected) && (value.is_nan() || value == f64::from(logit)),
                        "{what}: {value}"
                    );
                }
                other => panic!("{logit}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_log_prob_may_differ_from_its_reference_by_1e_4() {
        let device = Device::flex();
        let reader = ResponseReader::new(&space(), &device);
        let config = TransformerConfig::small(6, 10, 1, 8, 2, true);
        let policy = Policy::new(&config, &mut seeds::derive(3, "test", 0, "init"), &device);
        let check = |index: usize, error: f64, logit: f64| {
            let mut reference = ReferenceForward::new(2, &reader, &policy, &batch()).expect("finite");
            reference.logit = logit;
            let logp = &mut reference.counted[index].2;
            *logp += error * logp.abs().max(logit).max(1.0);
            is_violated(labels_are_shifted(2, &reader, &policy, &batch(), &reference), "labels_are_shifted")
        };
        for index in 0..5 {
            for (sign, logit) in [(1.0, 0.5), (-1.0, 0.5), (1.0, 10.0), (-1.0, 10.0)] {
                assert!(!check(index, sign * 0.95e-4, logit), "{index}");
                assert!(check(index, sign * 1.05e-4, logit), "{index}");
            }
        }
    }

    #[test]
    fn a_loss_may_differ_from_the_mean_of_log_probs_by_1e_4() {
        let device = Device::flex();
        let reader = ResponseReader::new(&space(), &device);
        let check = |logits: &[f32; 6], batch: &Responses, loss: f64| {
            let result = only_responses_carry_loss(2, loss, &reader, &unigram(logits, 10, &device), batch);
            is_violated(result, "only_responses_carry_loss")
        };
        let large = -[3, 4, 2, 5, 2].map(|id| logp(id, &[0, 1, 2, 3, 4, 5])).iter().sum::<f64>() / 5.0;
        // EOS has probability 2/3, and 3 the rest
        let (sure, few) = ([-50.0, -50.0, 2f32.ln(), 0.0, -50.0, -50.0], vec![vec![3, 2], vec![2]]);
        let small = (3f64.ln() + 2.0 * 1.5f64.ln()) / 3.0;
        assert!(large > 1.0 && small < 1.0);
        let few = Responses { responses: few, ..batch() };
        for (logits, batch, mean) in [(LOGITS, batch(), large), (sure, few, small)] {
            let bound = 1e-4 * mean.max(1.0);
            for sign in [1.0, -1.0] {
                assert!(!check(&logits, &batch, mean + sign * 0.95 * bound));
                assert!(check(&logits, &batch, mean + sign * 1.05 * bound));
            }
        }
    }
}
