//! Whether the members of an ensemble say the same.

use std::cmp::Ordering;

/// How far the members of an ensemble agree on the order of pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Agreement {
    /// Share of pairs that all members order alike.
    pub alike: f64,
    /// Share of pairs that two members order alike, mean over pairs of members.
    pub pairwise: f64,
    /// Cohen's kappa of two members, mean over pairs of members; `None` where chance alone makes them agree on everything.
    pub kappa: Option<f64>,
}

impl Agreement {
    /// `margins[m][i]`: member m's score of chosen minus rejected of pair i. `None` for fewer than two members, or without pairs.
    ///
    /// # Source
    /// Kappa: Cohen 1960, of the orders "as labelled", "reversed" and "tied", so that chance is what two members of these accuracies
    /// agree on if they err independently: the error consistency of Geirhos et al. 2020, eq. 1 to 3.
    pub fn of(margins: &[Vec<f64>]) -> Option<Self> {
        let pairs = margins.first()?.len();
        if margins.len() < 2 || pairs == 0 {
            return None;
        }
        let order = |margin: &f64| margin.partial_cmp(&0.0).unwrap_or(Ordering::Equal);
        let orders: Vec<Vec<Ordering>> =
            margins.iter().map(|of_member| of_member.iter().map(order).collect()).collect();
        let alike = (0..pairs).filter(|&pair| orders.iter().all(|order| order[pair] == orders[0][pair])).count();
        let members = || (0..orders.len()).flat_map(|a| (a + 1..orders.len()).map(move |b| (a, b)));
        let observed: Vec<f64> = members().map(|(a, b)| observed_agreement(&orders[a], &orders[b])).collect();
        let kappas: Vec<f64> = members().filter_map(|(a, b)| kappa(&orders[a], &orders[b])).collect();
        Some(Self {
            alike: alike as f64 / pairs as f64,
            pairwise: mean(&observed),
            kappa: (!kappas.is_empty()).then(|| mean(&kappas)),
        })
    }
}

/// Share of pairs that are ordered alike.
fn observed_agreement(a: &[Ordering], b: &[Ordering]) -> f64 {
    a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
}

/// `κ = (p_o − p_e) / (1 − p_e)`, with p_e the agreement of independent orders of the same shares; `None` where p_e is 1.
fn kappa(a: &[Ordering], b: &[Ordering]) -> Option<f64> {
    let share = |of: &[Ordering], order| of.iter().filter(|o| **o == order).count() as f64 / of.len() as f64;
    let by_chance: f64 = [Ordering::Less, Ordering::Equal, Ordering::Greater]
        .map(|order| share(a, order) * share(b, order))
        .iter()
        .sum();
    (by_chance < 1.0).then(|| (observed_agreement(a, b) - by_chance) / (1.0 - by_chance))
}

/// Mean over responses of the standard deviation of the members' scores, with the number of members as the denominator, as in
/// the ensemble's "cautious" score. `scores[m][i]`: member m's score of response i.
pub(crate) fn mean_spread(scores: &[Vec<f64>]) -> f64 {
    let responses = scores.first().map_or(0, Vec::len);
    let spread = |response: usize| {
        let of_response: Vec<f64> = scores.iter().map(|of_member| of_member[response]).collect();
        let centre = mean(&of_response);
        mean(&of_response.iter().map(|x| (x - centre).powi(2)).collect::<Vec<_>>()).sqrt()
    };
    mean(&(0..responses).map(spread).collect::<Vec<_>>())
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten pairs: two members are right of eight and of seven, and both err on the same two.
    #[test]
    fn agreement_by_hand() {
        let first = vec![1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0];
        let second = vec![2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, -2.0, -2.0, -2.0];
        let actual = Agreement::of(&[first.clone(), second.clone()]).expect("two members");
        // they agree on nine; by chance on .8 · .7 + .2 · .3 = .62
        assert!((actual.alike, actual.pairwise) == (0.9, 0.9));
        assert!((actual.kappa.expect("they err") - (0.9 - 0.62) / 0.38).abs() < 1e-12, "{actual:?}");
        // a third one, tied on the last pair: with the first it agrees on nine, with the second on eight
        let third = vec![1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, 0.0];
        let actual = Agreement::of(&[first, second, third]).expect("three members");
        // by chance .8 · .8 + .2 · .1 = .66 and .7 · .8 + .3 · .1 = .59
        let kappas = [(0.9 - 0.62) / 0.38, (0.9 - 0.66) / 0.34, (0.8 - 0.59) / 0.41];
        assert!((actual.alike - 0.8).abs() < 1e-12 && (actual.pairwise - 2.6 / 3.0).abs() < 1e-12);
        assert!((actual.kappa.expect("they err") - mean(&kappas)).abs() < 1e-12, "{actual:?}");
    }

    #[test]
    fn one_member_agrees_with_nobody_and_perfect_ones_have_no_kappa() {
        assert_eq!([Agreement::of(&[]), Agreement::of(&[vec![1.0]]), Agreement::of(&[vec![], vec![]])], [None; 3]);
        let perfect = Agreement { alike: 1.0, pairwise: 1.0, kappa: None };
        assert_eq!(Agreement::of(&[vec![1.0, 3.0], vec![2.0, 1.0]]), Some(perfect));
        // opposite orders of two pairs: never alike, by chance half of the time
        let opposite = Agreement { alike: 0.0, pairwise: 0.0, kappa: Some(-1.0) };
        assert_eq!(Agreement::of(&[vec![1.0, -1.0], vec![-1.0, 1.0]]), Some(opposite));
    }

    #[test]
    fn the_spread_is_over_members() {
        // two responses: 1 and 3, which are 1 from their mean, and 4 twice
        assert_eq!(mean_spread(&[vec![1.0, 4.0], vec![3.0, 4.0]]), 0.5);
        // 3, 0, 0: squares 4, 1 and 1 about their mean 1
        assert!((mean_spread(&[vec![3.0], vec![0.0], vec![0.0]]) - 2f64.sqrt()).abs() < 1e-15);
    }
}
