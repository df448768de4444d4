//! Length-controlled win rates and strengths against their definitions.

use super::definitions::{NaiveReport, assert_same, average};
use super::simulation::simulated;
use crate::analysis::head_to_head::HeadToHead;

/// The terms of a log-odds with their weights' indices, the probability of such pairs of responses, and that of a win among them.
type NaiveRow = (Vec<(usize, f64)>, f64, f64);

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + f64::exp(-x))
}

/// The weights that maximise the penalised likelihood, by climbing along its gradient.
fn ascend(rows: &[NaiveRow], ridge: &[f64]) -> Vec<f64> {
    let mut weights = vec![0.0; ridge.len()];
    for _ in 0..20_000 {
        let mut gradient: Vec<f64> = ridge.iter().zip(&weights).map(|(ridge, w)| -ridge * w).collect();
        for (terms, mass, won) in rows {
            let p = sigmoid(terms.iter().map(|(index, x)| weights[*index] * x).sum());
            terms.iter().for_each(|(index, x)| gradient[*index] += (won - mass * p) * x);
        }
        weights.iter_mut().zip(&gradient).for_each(|(w, g)| *w += 0.2 * g);
    }
    weights
}

/// Pairs of responses of two policies to the same prompt: prompt, difference of lengths, probability, worth to the first.
fn pairs(naive: &NaiveReport, names: [&str; 2], seed: u64, kl: f64) -> Option<Vec<(usize, f64, f64, f64)>> {
    let [a, b] = names.map(|name| naive.responses(name, seed, kl));
    let (a, b) = (a?, b?);
    let mut pairs = vec![];
    for x in &a {
        for y in b.iter().filter(|y| y.0 == x.0) {
            let worth = f64::from(u8::from(x.1 > y.1)) + 0.5 * f64::from(u8::from(x.1 == y.1));
            pairs.push((x.0 as usize, f64::from(x.2) - f64::from(y.2), x.3 * y.3, worth));
        }
    }
    Some(pairs)
}

/// The hyperbolic tangent of each pair's difference of lengths over the standard deviation of all.
fn length_terms(pairs: &[(usize, f64, f64, f64)]) -> Vec<f64> {
    let mass: f64 = pairs.iter().map(|pair| pair.2).sum();
    let middle = pairs.iter().map(|pair| pair.2 * pair.1).sum::<f64>() / mass;
    let sd = (pairs.iter().map(|pair| pair.2 * (pair.1 - middle) * (pair.1 - middle)).sum::<f64>() / mass).sqrt();
    pairs.iter().map(|pair| (pair.1 / sd).tanh()).collect()
}

/// The length-controlled win rate of `p` against `d`.
fn length_controlled(naive: &NaiveReport, seed: u64, kl: f64) -> Option<f64> {
    let mut rows: Vec<NaiveRow> = vec![];
    for (arm, name) in ["d", "p"].into_iter().enumerate() {
        let Some(pairs) = pairs(naive, [name, "reference"], seed, kl) else { continue };
        for (pair, term) in pairs.iter().zip(length_terms(&pairs)) {
            rows.push((vec![(2 * arm, 1.0), (2 * arm + 1, term), (4 + pair.0, 1.0)], pair.2, pair.2 * pair.3));
        }
    }
    let difficulty = ascend(&rows, &[0.01, 0.01, 0.01, 0.01, 1.0, 1.0, 1.0])[4..].to_vec();
    let pairs = pairs(naive, ["p", "d"], seed, kl)?;
    let terms = length_terms(&pairs);
    let row = |(pair, term): (&(usize, f64, f64, f64), &f64)| {
        (vec![(0, 1.0), (1, *term), (2, difficulty[pair.0])], pair.2, pair.2 * pair.3)
    };
    let weights = ascend(&pairs.iter().zip(&terms).map(row).collect::<Vec<_>>(), &[0.01; 3]);
    Some(average(difficulty.iter().map(|difficulty| sigmoid(weights[0] + weights[2] * difficulty)).collect()))
}

/// Strengths of `d` and `p` over the reference: Hunter 2004, eq. 3.
fn strengths(naive: &NaiveReport, seed: u64, kl: f64) -> Option<[f64; 2]> {
    let names = ["d", "p", "reference"];
    let mut wins = [[0.0; 3]; 3];
    for (a, b) in [(0, 1), (0, 2), (1, 2)] {
        for (_, _, mass, worth) in pairs(naive, [names[a], names[b]], seed, kl)? {
            wins[a][b] += mass * worth;
            wins[b][a] += mass * (1.0 - worth);
        }
    }
    let mut p = [1.0; 3];
    for _ in 0..5_000 {
        for a in 0..3 {
            let others = (0..3).filter(|&b| b != a);
            p[a] = wins[a].iter().sum::<f64>() / others.map(|b| (wins[a][b] + wins[b][a]) / (p[a] + p[b])).sum::<f64>();
        }
    }
    Some([(p[0] / p[2]).ln(), (p[1] / p[2]).ln()])
}

#[test]
fn length_controlled_rates_and_strengths_are_those_of_their_definitions() {
    let simulated = simulated();
    let (run, naive) = (&simulated.run, NaiveReport::new(&simulated));
    let (seeds, kl) = (run.experiment.seed_list(), 1.0); // the largest preset that most seeds of both arms reach
    let policies = HeadToHead::at_common_kl(run).expect("outcomes");
    assert_eq!((&policies.names[..], policies.kl), (&["d", "p", "reference"][..], kl));
    let rates: Vec<f64> = seeds.iter().filter_map(|&seed| length_controlled(&naive, seed, kl)).collect();
    let rate = policies.length_controlled(1, 0, &policies.difficulties()).expect("a fit").estimate;
    assert!(rates.len() > 2 && rates.len() == rate.n);
    assert_same("length-controlled", &[rate.mean], &[average(rates)]);
    let by_seed: Vec<[f64; 2]> = seeds.iter().filter_map(|&seed| strengths(&naive, seed, kl)).collect();
    for (arm, strength) in policies.strengths() {
        let expected: Vec<f64> = by_seed.iter().map(|strengths| strengths[arm]).collect();
        assert!(expected.len() > 2 && expected.len() == strength.estimate.n);
        assert_same(policies.names[arm], &[strength.estimate.mean], &[average(expected)]);
    }
    assert_eq!(policies.strengths().len(), 2);
}
