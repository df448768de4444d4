//! The world `bandit` (docs/worlds.md, bandit): four prompts, 64 responses of six bits, everything a table.
//!
//! Response `y` in 0..64 has bits `b_i = (y >> i) & 1`. Bit 5 is the trap: rare under the reference, and bad.

/// Prompts, uniform.
pub const PROMPTS: usize = 4;
/// Responses to each prompt.
pub const RESPONSES: usize = 64;

/// The reference's probability of each bit: a response is a product of Bernoulli draws, the same for every prompt.
const BITS: [f64; 6] = [0.5, 0.5, 0.4, 0.3, 0.2, 0.01];

/// Each prompt's weights of bits 0 to 3.
const WEIGHTS: [[f64; 4]; PROMPTS] =
    [[1.0, -1.0, 0.5, 0.5], [-1.0, 1.0, 0.5, -0.5], [1.0, 1.0, -0.5, 0.5], [-1.0, -1.0, -0.5, -0.5]];

fn bit(response: usize, i: usize) -> f64 {
    ((response >> i) & 1) as f64
}

/// `r*(x, y) = Σ_{i<4} W[x][i] b_i + b0 b2 + b4 − 3 b5`.
pub fn gold(prompt: usize, response: usize) -> f64 {
    let b = |i| bit(response, i);
    let weighted: f64 = WEIGHTS[prompt].iter().enumerate().map(|(i, w)| w * b(i)).sum();
    weighted + b(0) * b(2) + b(4) - 3.0 * b(5)
}

/// The score of a linear reward model with one feature `b4 + b5`, learned from pairs that never show the trap:
/// `r* + 4 b5`.
pub fn shared_feature_proxy(prompt: usize, response: usize) -> f64 {
    gold(prompt, response) + 4.0 * bit(response, 5)
}

/// Whether a response is in the trap: bit 5.
pub fn is_trap(response: usize) -> bool {
    bit(response, 5) > 0.0
}

/// Log-probability of every response under the reference, the same for every prompt.
pub fn reference_logp() -> Vec<f64> {
    (0..RESPONSES)
        .map(|y| BITS.iter().enumerate().map(|(i, p)| if bit(y, i) > 0.0 { p.ln() } else { (1.0 - p).ln() }).sum())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_has_the_figures_of_the_catalogue() {
        let logp = reference_logp();
        let total: f64 = logp.iter().map(|l| l.exp()).sum();
        let mean: f64 = (0..PROMPTS)
            .map(|x| (0..RESPONSES).map(|y| logp[y].exp() * gold(x, y)).sum::<f64>() / PROMPTS as f64)
            .sum();
        let trap: f64 = (0..RESPONSES).filter(|&y| is_trap(y)).map(|y| logp[y].exp()).sum();
        assert!((total - 1.0).abs() < 1e-12 && (mean - 0.37).abs() < 1e-12 && (trap - 0.01).abs() < 1e-12);
    }
}
