//! Distributions over all responses to a prompt, and the exact optimum of reward minus β·KL.

/// Rewards that differ by no more are tied.
pub(crate) const TIE: f64 = 1e-9;

pub(crate) fn is_tie(a: f64, b: f64) -> bool {
    (a - b).abs() <= TIE
}

/// Log-probability and probability of every response to one prompt, in the world's fixed order.
#[derive(Debug, Clone, PartialEq)]
pub struct ResponseDistribution {
    pub(crate) logp: Vec<f64>,
    pub(crate) p: Vec<f64>,
}

impl ResponseDistribution {
    pub fn new(logp: Vec<f64>) -> Self {
        Self { p: logp.iter().map(|logp| logp.exp()).collect(), logp }
    }

    /// `Σ p(y) f(y)`.
    pub fn expect(&self, f: &[f64]) -> f64 {
        self.p.iter().zip(f).map(|(p, f)| p * f).sum()
    }

    /// `Σ p(y)`: 1.
    pub fn total(&self) -> f64 {
        self.p.iter().sum()
    }

    /// `KL(self || reference)`, nats.
    pub fn kl(&self, reference: &Self) -> f64 {
        let log_ratios = self.logp.iter().zip(&reference.logp).map(|(logp, ref_logp)| logp - ref_logp);
        expectation(self.p.iter().copied().zip(log_ratios))
    }

    /// `½ Σ |p − q|`
    pub fn total_variation(&self, other: &Self) -> f64 {
        self.p.iter().zip(&other.p).map(|(p, q)| (p - q).abs()).sum::<f64>() / 2.0
    }

    /// Entropy, nats.
    pub fn entropy(&self) -> f64 {
        -expectation(self.p.iter().copied().zip(self.logp.iter().copied()))
    }

    /// Probability that a response of `self` has a higher reward than one of `other`, and that of a tie.
    pub fn beats(&self, other: &Self, ranks: &RewardRanks) -> (f64, f64) {
        let (mut wins, mut ties, mut below) = (0.0, 0.0, 0.0);
        for group in &ranks.0 {
            let own_mass: f64 = group.iter().map(|&i| self.p[i]).sum();
            let other_mass: f64 = group.iter().map(|&i| other.p[i]).sum();
            wins += own_mass * below;
            ties += own_mass * other_mass;
            below += other_mass;
        }
        (wins, ties)
    }
}

/// The responses to one prompt in groups of equal reward, the lowest first.
#[derive(Debug, Clone)]
pub struct RewardRanks(Vec<Vec<usize>>);

impl RewardRanks {
    pub fn new(reward: &[f64]) -> Self {
        let mut order: Vec<usize> = (0..reward.len()).collect();
        order.sort_by(|&a, &b| reward[a].total_cmp(&reward[b]));
        Self(order.chunk_by(|&a, &b| is_tie(reward[a], reward[b])).map(<[usize]>::to_vec).collect())
    }
}

/// `Σ p x` over pairs `(p, x)` with p > 0: `0 · ∞` is 0.
fn expectation(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    pairs.filter(|(p, _)| *p > 0.0).map(|(p, x)| p * x).sum()
}

/// `π*(y|x) ∝ π_ref(y|x) exp(r(x, y)/β)`: the unique optimum of `E r − β KL(π || π_ref)`.
/// Rafailov et al. 2023, eq. 4.
pub fn optimum(reference: &ResponseDistribution, reward: &[f64], beta: f64) -> ResponseDistribution {
    let tilted: Vec<f64> = reference.logp.iter().zip(reward).map(|(q, r)| q + r / beta).collect();
    let max = tilted.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_z = max + tilted.iter().map(|t| (t - max).exp()).sum::<f64>().ln();
    ResponseDistribution::new(tilted.into_iter().map(|t| t - log_z).collect())
}

/// The same for each prompt.
pub fn optima(references: &[ResponseDistribution], rewards: &[Vec<f64>], beta: f64) -> Vec<ResponseDistribution> {
    references.iter().zip(rewards).map(|(reference, reward)| optimum(reference, reward, beta)).collect()
}

/// The distribution of the best of `n` draws of a reference by a reward, ties broken at random. Stiennon et al. 2020, §3.4;
/// Beirami et al. 2024.
pub fn best_of_n(q: &ResponseDistribution, ranks: &RewardRanks, n: i32) -> ResponseDistribution {
    let mut logp = vec![0.0; q.p.len()];
    let mut below = 0.0;
    for group in &ranks.0 {
        let mass: f64 = group.iter().map(|&y| q.p[y]).sum();
        let p = (below + mass).powi(n) - f64::powi(below, n);
        for &y in group {
            // the probability of a response may underflow f64 under a sharp reference
            logp[y] = if mass > 0.0 { (p * q.p[y] / mass).ln() } else { f64::NEG_INFINITY };
        }
        below += mass;
    }
    ResponseDistribution::new(logp)
}

/// The probability that each of M drawn responses is the best of n random ones among them, ties broken at random. Means by these
/// weights are unbiased for the best of n draws of the policy, and have the least variance: they are means over all
/// `C(M, n)` subsets. Of a group of ties that ends at rank b and begins after rank a the probability is `(C(b, n) − C(a, n)) / C(M, n)`.
///
/// # Source
/// Nakano et al. 2021 (WebGPT); Hilton & Gao 2022, "Measuring Goodhart's law"; used by Gao et al. 2022.
pub(crate) fn best_of_subset(ranks: &RewardRanks, n: usize) -> Vec<f64> {
    let drawn = ranks.0.iter().map(Vec::len).sum();
    // all_within[k] = C(k, n) / C(M, n): the probability that all n are among the k lowest
    let mut all_within = vec![0.0; drawn + 1];
    all_within[drawn] = 1.0;
    for k in (n..drawn).rev() {
        all_within[k] = all_within[k + 1] * (k + 1 - n) as f64 / (k + 1) as f64;
    }
    let (mut weights, mut below) = (vec![0.0; drawn], 0);
    for group in &ranks.0 {
        let p = all_within[below + group.len()] - all_within[below];
        group.iter().for_each(|&y| weights[y] = p / group.len() as f64);
        below += group.len();
    }
    weights
}

/// The two terms of the objective `gold − β KL` of a policy, means over prompts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectiveTerms {
    pub beta: f64,
    /// Mean gold reward.
    pub gold: f64,
    /// Mean KL to the reference, nats.
    pub kl: f64,
}

impl ObjectiveTerms {
    /// `gold − β KL`
    pub fn objective(&self) -> f64 {
        self.gold - self.beta * self.kl
    }

    /// Those of policies with a distribution for each prompt.
    pub fn new(
        policies: &[ResponseDistribution],
        references: &[ResponseDistribution],
        gold: &[Vec<f64>],
        beta: f64,
    ) -> Self {
        let n = references.len() as f64;
        let (mut total_gold, mut total_kl) = (0.0, 0.0);
        for ((policy, reference), gold) in policies.iter().zip(references).zip(gold) {
            total_gold += policy.expect(gold);
            total_kl += policy.kl(reference);
        }
        Self { beta, gold: total_gold / n, kl: total_kl / n }
    }

    /// The optimum of `rewards` at one β for all prompts, evaluated by `gold`.
    pub fn at_beta(references: &[ResponseDistribution], rewards: &[Vec<f64>], gold: &[Vec<f64>], beta: f64) -> Self {
        Self::new(&optima(references, rewards, beta), references, gold, beta)
    }
}

/// Rounding errors of a KL summed over some thousand responses, as a share of its largest term.
const KL_ROUNDING: f64 = 1e-12;

/// Mean KL to the references of the optimum of `rewards` at one β, `E[r]/β − log Z`: faster than that of
/// [`ObjectiveTerms::at_beta`], and other than it by rounding only.
fn approximate_kl(references: &[ResponseDistribution], rewards: &[Vec<f64>], beta: f64) -> f64 {
    let kl = |(reference, reward): (&ResponseDistribution, &Vec<f64>)| {
        let largest = reward.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let [z, mean] = duel_kernels::tilted_sums(&reference.logp, reward, largest, beta.recip());
        mean / z - z.ln()
    };
    references.iter().zip(rewards).map(kl).sum::<f64>() / references.len() as f64
}

/// The point of the frontier of `rewards` whose mean KL is `kl`, with one β for all prompts. A policy with no less KL
/// than the optimum at β = 1e-3 is compared with that one: more KL gains nothing.
pub fn at_kl(references: &[ResponseDistribution], rewards: &[Vec<f64>], gold: &[Vec<f64>], kl: f64) -> ObjectiveTerms {
    let at_beta = |beta| ObjectiveTerms::at_beta(references, rewards, gold, beta);
    let largest = rewards.iter().flatten().fold(0f64, |largest, r| largest.max(r.abs()));
    let is_above = |beta: f64| {
        let approximate = approximate_kl(references, rewards, beta);
        let is_clear = (approximate - kl).abs() > KL_ROUNDING * (largest / beta).max(1.0);
        if is_clear { approximate > kl } else { at_beta(beta).kl > kl }
    };
    let (mut low, mut high) = (1e-3f64, 1e4f64);
    if !is_above(low) {
        return at_beta(low);
    }
    // 32 halvings of 7 decades: β to 1e-8 of itself
    for _ in 0..32 {
        let middle = (low * high).sqrt();
        if is_above(middle) { low = middle } else { high = middle }
    }
    at_beta((low * high).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorldTables;
    use duel_data::World;
    use duel_data::grammar::{GrammarWorld, PromptCoordinates, all_responses, gold};
    use duel_spec::Split;

    /// Reference grammar and gold on the test prompts, as in docs/worlds.md, 'Known values'.
    fn fixture() -> (Vec<ResponseDistribution>, Vec<Vec<f64>>) {
        let tables = WorldTables::grammar(&GrammarWorld::new(0.02, 1), Split::Test);
        (tables.reference, tables.gold)
    }

    fn distribution(p: &[f64]) -> ResponseDistribution {
        ResponseDistribution::new(p.iter().map(|p| p.ln()).collect())
    }

    #[test]
    fn a_response_of_probability_0_counts_nothing() {
        let [p, q] = [&[0.5, 0.5, 0.0], &[0.25, 0.25, 0.5]].map(|p| distribution(p));
        // every log-ratio is ln 2
        assert!((p.kl(&q) - 2f64.ln()).abs() < 1e-15);
        assert!((p.entropy() - 2f64.ln()).abs() < 1e-15);
        // where both are 0
        assert!((p.kl(&distribution(&[0.25, 0.75, 0.0])) - 0.5 * (4.0f64 / 3.0).ln()).abs() < 1e-15);
    }

    #[test]
    fn totals_and_distances_are_plain_sums() {
        let [p, q] = [&[0.5, 0.3, 0.2], &[0.1, 0.4, 0.5]].map(|p| distribution(p));
        // half of .4 + .1 + .3
        assert!((p.total_variation(&q) - 0.4).abs() < 1e-15);
        assert_eq!(distribution(&[1.0, 0.0]).total_variation(&distribution(&[0.0, 1.0])), 1.0);
        assert_eq!(distribution(&[1.0, 0.5]).total(), 1.5);
    }

    #[test]
    fn rewards_within_a_billionth_are_tied() {
        let [low, high] = [&[1.0, 0.0], &[0.0, 1.0]].map(|p| distribution(p));
        for (gap, (win, tie)) in [(0.0, (0.0, 1.0)), (1e-9, (0.0, 1.0)), (1.001e-9, (1.0, 0.0))] {
            let ranks = RewardRanks::new(&[0.0, gap]);
            assert_eq!(high.beats(&low, &ranks), (win, tie), "{gap}");
            assert_eq!(low.beats(&high, &ranks), (0.0, tie), "{gap}");
        }
    }

    #[test]
    fn the_best_of_two_wins_where_either_draw_has_it() {
        // the best two are tied, so that all is theirs but both draws of the worst: 1 − 1/4, split as 1 to 2; one is impossible
        let reference = distribution(&[1.0 / 6.0, 1.0 / 2.0, 1.0 / 3.0, 0.0]);
        let best = best_of_n(&reference, &RewardRanks::new(&[1.0, 0.0, 1.0, 2.0]), 2);
        for (logp, expected) in best.logp.iter().zip([0.25, 0.25, 0.5, 0.0]) {
            assert!((logp.exp() - expected).abs() < 1e-15, "{best:?}");
        }
    }

    /// Against all subsets, one by one: of scores without ties, with ties, and all tied.
    #[test]
    fn the_best_of_a_subset_is_that_of_all_subsets() {
        for scores in [&[0.3, -1.0, 2.0, 0.7, 5.0, -0.2][..], &[1.0, 2.0, 2.0, 0.0, 2.0, 1.0], &[4.0; 6], &[7.0]] {
            for n in 1..=scores.len() {
                let mut expected = vec![0.0; scores.len()];
                let subsets: Vec<u32> =
                    (0..1u32 << scores.len()).filter(|set| set.count_ones() as usize == n).collect();
                for set in &subsets {
                    let members: Vec<usize> = (0..scores.len()).filter(|y| set >> y & 1 == 1).collect();
                    let highest = members.iter().map(|&y| scores[y]).fold(f64::NEG_INFINITY, f64::max);
                    let best: Vec<usize> = members.into_iter().filter(|&y| scores[y] == highest).collect();
                    best.iter().for_each(|&y| expected[y] += 1.0 / best.len() as f64 / subsets.len() as f64);
                }
                let actual = best_of_subset(&RewardRanks::new(scores), n);
                assert!(actual.iter().zip(&expected).all(|(a, e)| (a - e).abs() < 1e-12), "{n}: {actual:?}");
            }
        }
        // by hand: the second of four, of two: C(1, 1)/C(4, 2), and the best C(3, 1)/6
        let actual = best_of_subset(&RewardRanks::new(&[1.0, 2.0, 3.0, 4.0]), 2);
        assert!(actual.iter().zip([0.0, 1.0 / 6.0, 2.0 / 6.0, 0.5]).all(|(a, e)| (a - e).abs() < 1e-15), "{actual:?}");
        // 256 of 256, where binomial coefficients overflow
        let all = best_of_subset(&RewardRanks::new(&(0..256).map(f64::from).collect::<Vec<_>>()), 256);
        assert!(all[255] == 1.0 && all[..255].iter().all(|p| *p == 0.0));
        assert!(best_of_subset(&RewardRanks::new(&[]), 2).is_empty());
    }

    #[test]
    fn more_kl_than_the_frontier_has_is_compared_with_its_end() {
        // rewards 1 apart: at β = 1e-3 all is on the better response, with KL ln 2
        let (references, rewards) = ([distribution(&[0.5, 0.5])], [vec![0.0, 1.0]]);
        let furthest = ObjectiveTerms::at_beta(&references, &rewards, &rewards, 1e-3);
        assert!((furthest.kl - 2f64.ln()).abs() < 1e-12 && (furthest.gold - 1.0).abs() < 1e-12);
        for kl in [furthest.kl, 1.0] {
            assert_eq!(at_kl(&references, &rewards, &rewards, kl), furthest);
        }
        let inside = at_kl(&references, &rewards, &rewards, furthest.kl - 1e-3);
        assert!(inside.beta > 1e-2 && (inside.kl - (furthest.kl - 1e-3)).abs() < 1e-7, "{inside:?}");
    }

    /// From nearly the reference to the end of the frontier, of a reward with many ties and of one with hardly any.
    #[test]
    fn an_approximate_kl_is_other_by_rounding_only() {
        let tables = WorldTables::grammar(&GrammarWorld::new(0.02, 1), Split::Test);
        let spread = |(y, r): (usize, &f64)| r + (y as f64).sin();
        let spread: Vec<Vec<f64>> =
            tables.gold.iter().map(|gold| gold.iter().enumerate().map(spread).collect()).collect();
        for rewards in [&tables.gold, &spread] {
            for beta in (0..=70).map(|i| 1e4 * 10f64.powf(-f64::from(i) / 10.0)) {
                let exact = ObjectiveTerms::at_beta(&tables.reference, rewards, &tables.gold, beta).kl;
                let error = (approximate_kl(&tables.reference, rewards, beta) - exact).abs();
                assert!(error < 0.1 * KL_ROUNDING * (5.0 / beta).max(1.0), "{beta}: {error:e}");
            }
        }
    }

    /// As bisected by the KL of [`ObjectiveTerms`] alone, to the bit; also where the KL of a middle is the one that is searched, so
    /// that rounding decides.
    #[test]
    fn the_point_at_a_kl_is_that_of_plain_bisection() {
        let tables = WorldTables::grammar(&GrammarWorld::new(0.02, 1), Split::Test);
        let mut betas = vec![1e-3f64, 1e4];
        for _ in 0..6 {
            let middles: Vec<f64> = betas.windows(2).map(|ends| (ends[0] * ends[1]).sqrt()).collect();
            betas = betas.iter().zip(&middles).flat_map(|(&low, &middle)| [low, middle]).chain([1e4]).collect();
        }
        // where rewards are far from zero, and close to each other, the approximate KL has lost most of its digits
        let far: Vec<Vec<f64>> =
            tables.proxy.iter().map(|rewards| rewards.iter().map(|r| 1000.0 + r / 100.0).collect()).collect();
        for (rewards, smallest) in [(&tables.proxy, 0.02), (&far, 0.002)] {
            let at_beta = |beta| ObjectiveTerms::at_beta(&tables.reference, rewards, &tables.gold, beta);
            let middles = betas.iter().filter(|beta| (smallest..1e4).contains(*beta)).map(|&beta| at_beta(beta).kl);
            for kl in [1e-4, 0.03, 0.5, 2.0, at_beta(0.3).kl, 9.0].into_iter().chain(middles) {
                let (mut low, mut high) = (1e-3f64, 1e4f64);
                for _ in 0..32 {
                    let middle = (low * high).sqrt();
                    if at_beta(middle).kl > kl { low = middle } else { high = middle }
                }
                let point = at_kl(&tables.reference, rewards, &tables.gold, kl);
                assert_eq!(point, at_beta((low * high).sqrt()), "{kl}");
            }
        }
    }

    #[test]
    fn the_optimum_has_the_documented_values() {
        let (references, golds) = fixture();
        let reference: f64 = references.iter().zip(&golds).map(|(l, g)| l.expect(g)).sum::<f64>() / 6.0;
        assert!((reference - 0.31857).abs() < 1e-5, "{reference}");
        let expected = [
            (1.0, 1.68603, 0.64856),
            (0.5, 2.48064, 1.78930),
            (0.3, 2.84363, 2.70282),
            (0.2, 2.96208, 3.17736),
            (0.1, 3.06026, 3.85978),
            (0.05, 3.11065, 4.55274),
        ];
        for (beta, gold, kl) in expected {
            let actual = ObjectiveTerms::at_beta(&references, &golds, &golds, beta);
            assert!((actual.gold - gold).abs() < 1e-5 && (actual.kl - kl).abs() < 1e-5, "{actual:?}");
            let inverse = at_kl(&references, &golds, &golds, kl);
            assert!((inverse.beta - beta).abs() < 1e-3 * beta, "{inverse:?}");
        }
    }

    #[test]
    fn the_documented_proxy_falls_into_the_trap() {
        let tables = WorldTables::grammar(&GrammarWorld::new(0.02, 1), Split::Test);
        let (references, golds, proxy, trap) = (&tables.reference, &tables.gold, &tables.proxy, &tables.trap);
        let mass: f64 = references.iter().map(|l| l.expect(trap)).sum::<f64>() / 6.0;
        assert!((mass - 0.00123).abs() < 5e-6, "{mass}");
        for (beta, gold, kl, p_trap) in [
            (1.0, 1.64277, 0.66281, 0.01274),
            (0.5, 2.17549, 1.98985, 0.08045),
            (0.3, 0.99193, 4.86886, 0.46092),
            (0.2, -1.09979, 12.1428, 0.96543),
        ] {
            let actual = ObjectiveTerms::at_beta(references, proxy, golds, beta);
            assert!((actual.gold - gold).abs() < 1e-5 && (actual.kl - kl).abs() < 1e-4, "{actual:?}");
            let mass: f64 =
                references.iter().zip(proxy).map(|(l, p)| optimum(l, p, beta).expect(trap)).sum::<f64>() / 6.0;
            assert!((mass - p_trap).abs() < 1e-5, "{mass}");
        }
    }

    #[test]
    fn documented_win_rates() {
        let (references, golds) = fixture();
        for (beta, expected) in [(1.0, 0.7957), (0.5, 0.9271)] {
            let rate: f64 = references
                .iter()
                .zip(&golds)
                .map(|(l, g)| {
                    let (win, tie) = optimum(l, g, beta).beats(l, &RewardRanks::new(g));
                    win + tie / 2.0
                })
                .sum::<f64>()
                / 6.0;
            assert!((rate - expected).abs() < 5e-5, "{rate}");
        }
    }

    #[test]
    fn a_distribution_against_itself_wins_half() {
        let (references, golds) = fixture();
        let (win, tie) = references[0].beats(&references[0], &RewardRanks::new(&golds[0]));
        assert!((win + tie / 2.0 - 0.5).abs() < 1e-12);
        assert!(references[0].kl(&references[0]).abs() < 1e-12);
    }

    #[test]
    fn labels_have_the_documented_bayes_accuracy() {
        // docs/worlds.md, 'Preference rows': .760/.855/.919 ± .005 at tau 1/.5/.25, over train prompts, rows with two x rejected
        let world = GrammarWorld::new(0.02, 1);
        let all = all_responses();
        for (tau, expected) in [(1.0, 0.760), (0.5, 0.855), (0.25, 0.919)] {
            let mut rng = duel_spec::seeds::derive(0, "test", 0, "bayes");
            let (mut total, mut n) = (0.0, 0.0);
            while n < 40_000.0 {
                let prompt = &world.prompts(Split::Train)[(n as usize) % 12];
                let task = PromptCoordinates::from_prompt(&prompt.ids);
                let [a, b] = [0, 1].map(|_| duel_data::grammar::sample_reference(task.stance, 0.02, &mut rng));
                if a == b || !world.allowed_in_pairs(&a) || !world.allowed_in_pairs(&b) {
                    continue;
                }
                let p = 1.0 / (1.0 + (-(gold(task, &a) - gold(task, &b)) / tau).exp());
                total += p.max(1.0 - p);
                n += 1.0;
            }
            assert!((total / n - expected).abs() < 0.01, "{}", total / n);
        }
        assert_eq!(all.len(), 3906);
    }
}
