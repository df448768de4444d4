//! Figures of best-of-N: learned and gold reward over the distance to the reference, and over N.

use crate::analysis::best_of_n::{BestOfN, best_of_n};
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, mean};
use crate::charts::axes::Scale;
use crate::charts::figure::PANEL;
use crate::charts::marks::{MarkStyle, Series};
use crate::charts::plot::Plot;
use crate::charts::theme::{IDEAL, INK};

/// The rewards of the best of N responses above those of a single one, over √KL and over N.
pub(crate) fn best_of_n_plots(run: &Run) -> [Option<Plot>; 2] {
    let all = best_of_n(run);
    if all.is_empty() {
        return [None, None];
    }
    let y_name = "reward above a single response's";
    let over_kl = series(&all, 0.0, |best| mean(&best.kl).max(0.0).sqrt());
    let over_n = series(&all, 1.0, |best| best.n as f64);
    let over_kl = Plot::new(PANEL, "√KL, √nats", y_name, over_kl);
    let over_n = Plot { x_scale: Scale::Log, ..Plot::new(PANEL, "N, responses", y_name, over_n) };
    [Some(over_kl), Some(over_n)]
}

/// One of the rewards, by seed.
type Reward = fn(&BestOfN) -> &Vec<f64>;

/// Gold and learned reward with their intervals, from 0 at the x of a single response.
fn series(all: &[BestOfN], start: f64, x: impl Fn(&BestOfN) -> f64) -> Vec<Series> {
    let rewards: [(&str, Reward); 2] = [("gold", |best| &best.gold), ("learned", |best| &best.proxy)];
    let styles = [(INK, MarkStyle::Line { width: 2.2 }), (IDEAL, MarkStyle::Dashed { width: 1.8 })];
    let mut series = vec![];
    for ((name, values), (color, style)) in rewards.into_iter().zip(styles) {
        let estimates: Vec<(f64, Estimate)> =
            all.iter().filter_map(|best| Some((x(best), Estimate::of(values(best))?))).collect();
        let ends = |sign: f64| {
            let end = |(x, e): &(f64, Estimate)| Some((*x, e.mean + sign * e.half_width?));
            std::iter::once((start, 0.0)).chain(estimates.iter().filter_map(end)).collect::<Vec<_>>()
        };
        let (low, high) = (ends(-1.0), ends(1.0));
        if low.len() > 1 {
            series.push(Series::band(color, &low, &high).described(format!("{name}, interval")));
        }
        let means = std::iter::once((start, 0.0)).chain(estimates.iter().map(|(x, e)| (*x, e.mean))).collect();
        series.push(Series::new(style, color, means).named(name));
    }
    series
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A single response is the origin, on both axes; two seeds have an interval, one has none.
    #[test]
    fn curves_begin_at_a_single_response() {
        let best = |n, kl, proxy: &[f64], gold: &[f64]| BestOfN {
            n,
            kl: vec![kl; gold.len()],
            proxy: proxy.to_vec(),
            gold: gold.to_vec(),
            win_rate: vec![],
        };
        let all = [best(2, 0.25, &[1.0, 2.0], &[1.0, 1.0]), best(4, 1.0, &[3.0, 3.0], &[0.5, 1.5])];
        let drawn = series(&all, 0.0, |best| mean(&best.kl).sqrt());
        let line = |name: &str| drawn.iter().find(|s| s.name == name).expect("a line").data.clone();
        assert_eq!(line("gold"), [(0.0, 0.0), (0.5, 1.0), (1.0, 1.0)]);
        assert_eq!(line("learned"), [(0.0, 0.0), (0.5, 1.5), (1.0, 3.0)]);
        assert_eq!(drawn.iter().filter(|s| s.is_interval()).count(), 2);
        let drawn = series(&[best(2, 0.25, &[1.0], &[2.0])], 1.0, |best| best.n as f64);
        assert_eq!(drawn.iter().map(|s| s.data.len()).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(drawn[0].data, [(1.0, 0.0), (2.0, 2.0)]);
    }
}
