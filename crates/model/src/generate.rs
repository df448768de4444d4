//! Sampling with a KV cache: the prompt is read in one pass, then one token a row and step.

use crate::weights::host;
use crate::{Cache, Policy, Responses, Tokens};
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_spec::{Space, seeds::Rng};
use rand::RngExt;

/// Samples one response a prompt at temperature 1 over the allowed tokens, and keeps the log-probs.
///
/// Each row takes its own uniform numbers from `rng`, drawn before anything is sampled, so what a row
/// says does not depend on when the others end. `policy` carries no gradient.
pub fn generate(policy: &Policy, space: &Space, prompts: Vec<Vec<u32>>, rng: &mut Rng, device: &Device) -> Responses {
    let columns = space.response_tokens;
    let uniforms: Vec<Vec<f64>> = prompts.iter().map(|_| (0..columns).map(|_| rng.random()).collect()).collect();
    write(policy, space, prompts, device, |row, column, logits, hidden| draw(logits, hidden, uniforms[row][column]))
}

/// The likeliest token at every step, and its log-prob at temperature 1; the first of equals.
pub fn greedy(policy: &Policy, space: &Space, prompts: Vec<Vec<u32>>, device: &Device) -> Responses {
    write(policy, space, prompts, device, |_, _, logits, hidden| {
        let allowed = (0..logits.len()).filter(|&v| hidden.is_none_or(|h| !h[v]));
        let best = allowed.reduce(|best, v| if logits[v] > logits[best] { v } else { best }).unwrap_or(0);
        let (_, max, total) = softmax(logits, hidden);
        (best as u32, logp(logits[best], max, total))
    })
}

/// Writes responses token by token; `choose` takes a row, a column, the row's logits and which tokens are hidden,
/// and gives the token with its log-prob.
fn write(
    policy: &Policy,
    space: &Space,
    prompts: Vec<Vec<u32>>,
    device: &Device,
    choose: impl Fn(usize, usize, &[f32], Option<&[bool]>) -> (u32, f32),
) -> Responses {
    let (rows, columns) = (prompts.len(), space.response_tokens);
    let hidden = space.hidden();
    let mut tokens = Tokens::left_padded(&prompts, space.prompt_tokens, space.pad, device);
    let mut out = Responses { responses: vec![vec![]; rows], logp: vec![vec![]; rows], prompts };

    let mut cache = Cache::default();
    let mut alive: Vec<usize> = (0..rows).collect();
    for column in 0..columns {
        // A column that allows nothing but EOS needs no model.
        if space.ends && column + 1 == columns {
            for &row in &alive {
                out.responses[row].push(space.eos);
                out.logp[row].push(0.0);
            }
            break;
        }
        let logits = host(policy.next_logits(tokens, &mut cache)); // [alive, V]
        let mut still = Vec::with_capacity(alive.len());
        let mut next = Vec::with_capacity(alive.len());
        for (place, &row) in alive.iter().enumerate() {
            let law = &logits[place * space.vocabulary..(place + 1) * space.vocabulary];
            let (token, logp) = choose(row, column, law, hidden.as_ref().map(|h| h[column].as_slice()));
            out.responses[row].push(token);
            out.logp[row].push(logp);
            if token != space.eos {
                still.push(place);
                next.push(token as i32);
            }
        }
        if still.is_empty() {
            break;
        }
        // Rows that ended leave the cache.
        if still.len() < alive.len() {
            cache = cache.select(&still);
            alive = still.iter().map(|&place| alive[place]).collect();
        }
        tokens = Tensor::<2, Int>::from_data(TensorData::new(next, [alive.len(), 1]), device).into();
    }
    out
}

/// The token at quantile `u` of the softmax of the allowed logits, and its log-probability.
fn draw(logits: &[f32], hidden: Option<&[bool]>, u: f64) -> (u32, f32) {
    let (weights, max, total) = softmax(logits, hidden);
    let mut left = u * total;
    let mut token = 0;
    for (v, &w) in weights.iter().enumerate() {
        if w > 0.0 {
            token = v;
            left -= f64::from(w);
            if left < 0.0 {
                break;
            }
        }
    }
    (token as u32, logp(logits[token], max, total))
}

/// Log-probability of a token, given its logit and what [`softmax`] gave.
fn logp(logit: f32, max: f32, total: f64) -> f32 {
    (f64::from(logit - max) - total.ln()) as f32
}

/// `exp(logit − max)` of the allowed tokens (0 of the others), the largest logit, and the weights' sum.
fn softmax(logits: &[f32], hidden: Option<&[bool]>) -> (Vec<f32>, f32, f64) {
    let allowed = |v: usize| hidden.is_none_or(|h| !h[v]);
    let max = logits.iter().enumerate().filter(|(v, _)| allowed(*v)).fold(f32::NEG_INFINITY, |m, (_, x)| m.max(*x));
    let weights: Vec<f32> =
        logits.iter().enumerate().map(|(v, x)| if allowed(v) { (x - max).exp() } else { 0.0 }).collect();
    let total = weights.iter().map(|w| f64::from(*w)).sum();
    (weights, max, total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draw_takes_the_quantile_over_allowed_tokens_only() {
        let logits = [0.0, 5.0, 0.0, 2f32.ln()]; // 1, hidden, 1, 2 of 4
        let hidden = [false, true, false, false];
        let at = |u| draw(&logits, Some(&hidden), u);
        assert_eq!([at(0.0).0, at(0.24).0, at(0.26).0, at(0.49).0, at(0.51).0, at(0.999).0], [0, 0, 2, 2, 3, 3]);
        assert!((at(0.6).1 - 0.5f32.ln()).abs() < 1e-6);
    }
}
