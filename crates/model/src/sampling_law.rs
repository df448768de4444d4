//! The law that responses are sampled from: a temperature, and nucleus sampling.

/// The law of the next token: the policy's at a temperature, without the unlikely tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingLaw {
    /// Divides the logits.
    pub temperature: f64,
    /// The fewest likeliest tokens whose probabilities sum to at least this have all of it. Holtzman et al. 2020, §3.1.
    pub top_p: f64,
}

impl SamplingLaw {
    /// The policy's own.
    pub const POLICY: Self = Self { temperature: 1.0, top_p: 1.0 };

    /// The probability of each token, from its logits `[V]`; −∞ is no probability.
    pub fn probabilities(self, logits: &[f32]) -> Vec<f64> {
        let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        let weights: Vec<f64> = logits.iter().map(|&x| ((f64::from(x) - max) / self.temperature).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut p: Vec<f64> = weights.into_iter().map(|weight| weight / total).collect();
        if self.top_p < 1.0 {
            self.cut(&mut p);
        }
        p
    }

    /// Leaves the nucleus; of equal tokens the first are in it.
    fn cut(self, p: &mut [f64]) {
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|&a, &b| p[b].total_cmp(&p[a]));
        let (mut mass, mut size) = (0.0, 0);
        while size == 0 || (mass < self.top_p && size < p.len()) {
            mass += p[order[size]];
            size += 1;
        }
        order[size..].iter().for_each(|&token| p[token] = 0.0);
        p.iter_mut().for_each(|p| *p /= mass);
    }

    /// The token at quantile `u`, and its log-probability under this law.
    pub fn draw(self, logits: &[f32], u: f64) -> (u32, f32) {
        let p = self.probabilities(logits);
        let (mut remaining, mut token) = (u, 0);
        for (index, &p) in p.iter().enumerate().filter(|(_, p)| **p > 0.0) {
            token = index;
            remaining -= p;
            if remaining < 0.0 {
                break;
            }
        }
        (token as u32, p[token].ln() as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(actual: &[f64], expected: &[f64]) -> bool {
        actual.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6)
    }

    /// Probabilities 4/7, 2/7, 1/7 and a hidden token.
    #[test]
    fn laws_by_hand() {
        let logits = [2f32.ln(), 4f32.ln(), f32::NEG_INFINITY, 0.0];
        let law = |temperature, top_p| SamplingLaw { temperature, top_p }.probabilities(&logits);
        assert!(near(&law(1.0, 1.0), &[2.0 / 7.0, 4.0 / 7.0, 0.0, 1.0 / 7.0]));
        assert!(near(&law(0.5, 1.0), &[4.0 / 21.0, 16.0 / 21.0, 0.0, 1.0 / 21.0])); // squares
        assert!(near(&law(1.0, 0.8), &[1.0 / 3.0, 2.0 / 3.0, 0.0, 0.0])); // 4/7 are not enough
        assert!(near(&law(1.0, 0.5), &[0.0, 1.0, 0.0, 0.0]));
        assert!(near(&law(1.0, 0.0), &[0.0, 1.0, 0.0, 0.0]), "one token at least");
        assert!(near(&law(0.5, 0.9), &[0.2, 0.8, 0.0, 0.0]), "the nucleus is of the tempered law");
    }

    #[test]
    fn quantiles_by_hand() {
        let logits = [2f32.ln(), 4f32.ln(), f32::NEG_INFINITY, 0.0];
        let draw = |law: SamplingLaw, u| law.draw(&logits, u);
        let nucleus = SamplingLaw { top_p: 0.8, ..SamplingLaw::POLICY };
        for (u, token, p) in
            [(0.0, 0, 1f64 / 3.0), (0.33, 0, 1.0 / 3.0), (0.34, 1, 2.0 / 3.0), (0.999_999, 1, 2.0 / 3.0)]
        {
            let (drawn, logp) = draw(nucleus, u);
            assert!(drawn == token && (f64::from(logp) - p.ln()).abs() < 1e-6, "{u}: {drawn}, {logp}");
        }
        assert_eq!(draw(SamplingLaw::POLICY, 0.999).0, 3);
    }
}
