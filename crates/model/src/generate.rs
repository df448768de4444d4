//! Sampling with a KV cache: the prompt is read in one pass, then one token a row and step.

use crate::{Cache, Policy, Responses};
use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_spec::{Space, seeds::Rng};
use rand::RngExt;

/// Samples one response a prompt at temperature 1 over the allowed tokens, and keeps the log-probs.
///
/// Each row takes its own uniform numbers from `rng`, drawn before anything is sampled, so what a row
/// says does not depend on when the others end. `policy` carries no gradient.
pub fn generate(policy: &Policy, space: &Space, prompts: Vec<Vec<u32>>, rng: &mut Rng, device: &Device) -> Responses {
    let (rows, columns) = (prompts.len(), space.response_tokens);
    let uniforms: Vec<Vec<f64>> = (0..rows).map(|_| (0..columns).map(|_| rng.random()).collect()).collect();
    let hidden = space.hidden();
    let mut out = Responses { responses: vec![vec![]; rows], logp: vec![vec![]; rows], prompts };

    let mut cache = Cache::default();
    let mut alive: Vec<usize> = (0..rows).collect();
    let mut feed: Vec<i32> = out.prompts.iter().flatten().map(|&id| id as i32).collect();
    let mut width = space.prompt_tokens;
    for column in 0..columns {
        // A column that allows nothing but EOS needs no model.
        if space.ends && column + 1 == columns {
            for &row in &alive {
                out.responses[row].push(space.eos);
                out.logp[row].push(0.0);
            }
            break;
        }
        let ids = Tensor::<2, Int>::from_data(TensorData::new(feed, [alive.len(), width]), device);
        let logits = policy.next_logits(ids, &mut cache); // [alive, V]
        let logits = logits.into_data().try_to_vec::<f32>().expect("a policy on f32 gives f32 logits");
        let mut still = Vec::with_capacity(alive.len());
        feed = Vec::with_capacity(alive.len());
        for (place, &row) in alive.iter().enumerate() {
            let law = &logits[place * space.vocabulary..(place + 1) * space.vocabulary];
            let (token, logp) = draw(law, hidden.as_ref().map(|h| h[column].as_slice()), uniforms[row][column]);
            out.responses[row].push(token);
            out.logp[row].push(logp);
            if token != space.eos {
                still.push(place);
                feed.push(token as i32);
            }
        }
        if still.is_empty() {
            break;
        }
        // Rows that ended leave the cache.
        if still.len() < alive.len() {
            let keep: Vec<i32> = still.iter().map(|&place| place as i32).collect();
            cache = cache.select(Tensor::from_data(TensorData::new(keep, [still.len()]), device));
            alive = still.iter().map(|&place| alive[place]).collect();
        }
        width = 1;
    }
    out
}

/// The token at quantile `u` of the softmax of the allowed logits, and its log-probability.
fn draw(logits: &[f32], hidden: Option<&[bool]>, u: f64) -> (u32, f32) {
    let allowed = |v: usize| hidden.is_none_or(|h| !h[v]);
    let max = logits.iter().enumerate().filter(|(v, _)| allowed(*v)).fold(f32::NEG_INFINITY, |m, (_, x)| m.max(*x));
    let weights: Vec<f32> =
        logits.iter().enumerate().map(|(v, x)| if allowed(v) { (x - max).exp() } else { 0.0 }).collect();
    let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
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
    (token as u32, (f64::from(logits[token] - max) - total.ln()) as f32)
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
