//! Whether a reward model is as sure as it should be: how often its higher score was chosen, against the chance that the
//! scores give to that.

use crate::canvas::{Look, Plot, Series};
use crate::figures::PANEL;
use crate::run::Run;
use crate::tables::Table;
use crate::theme::{GREY, INK, colour_at};
use duel_ledger::Row;
use duel_spec::metrics;

/// Test pairs whose scores give their higher one about the same chance.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bin {
    pairs: f64,
    /// Mean chance given to the higher score.
    said: f64,
    /// Share in which it was chosen.
    was: f64,
}

impl Bin {
    /// Takes a row of the stage `rm-calibration`.
    pub(crate) fn note(&mut self, row: &Row) {
        for (metric, place) in [
            (metrics::CALIBRATION_PAIRS, &mut self.pairs),
            (metrics::CALIBRATION_SAID, &mut self.said),
            (metrics::CALIBRATION_WAS, &mut self.was),
        ] {
            if *row.metric == *metric.name {
                *place = row.value;
            }
        }
    }

    /// Bins of several seeds as one.
    fn pooled<'a>(bins: impl Iterator<Item = &'a Self> + Clone) -> Self {
        let pairs: f64 = bins.clone().map(|bin| bin.pairs).sum();
        let mean = |of: fn(&Self) -> f64| bins.clone().map(|bin| bin.pairs * of(bin)).sum::<f64>() / pairs.max(1.0);
        Self { pairs, said: mean(|bin| bin.said), was: mean(|bin| bin.was) }
    }
}

/// The pooled bins that hold pairs.
fn pooled(run: &Run) -> Vec<Bin> {
    run.calibration.values().map(|seeds| Bin::pooled(seeds.values())).filter(|bin| bin.pairs > 0.0).collect()
}

/// The calibration curve: all seeds together, each seed faint.
pub(crate) fn plot(run: &Run) -> Option<Plot> {
    let pooled = pooled(run);
    if pooled.is_empty() {
        return None;
    }
    let at = |bin: &Bin| (bin.said, bin.was);
    let each =
        run.calibration.values().flat_map(|seeds| seeds.values()).filter(|bin| bin.pairs > 0.0).map(at).collect();
    let ours = colour_at(0);
    let all: Vec<_> = pooled.iter().map(at).collect();
    let line = vec![(0.5, 0.5), (1.0, 1.0)];
    let series = vec![
        Series::new(Look::Dashed { width: 1.5 }, INK, line).faint(0.8).named("as sure as it should be"),
        Series::new(Look::Dots { radius: 2.5 }, GREY, each).faint(0.5).named("one seed"),
        Series::new(Look::Line { width: 2.0 }, ours, all.clone()),
        Series::new(Look::Rings { radius: 5.0 }, ours, all).named("all seeds"),
    ];
    let x_name = "chance that the scores give to the higher one";
    Some(Plot::new(PANEL, x_name, "share in which it was chosen", series))
}

/// The same as numbers.
pub(crate) fn table(run: &Run) -> Table {
    Table {
        name: "calibration",
        head: ["pairs", "chance given to the higher score", "share in which it was chosen"].map(String::from).into(),
        rows: pooled(run)
            .iter()
            .map(|bin| vec![format!("{:.0}", bin.pairs), format!("{:.3}", bin.said), format!("{:.3}", bin.was)])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_pooled_by_their_pairs() {
        let bins = [Bin { pairs: 30.0, said: 0.6, was: 0.5 }, Bin { pairs: 10.0, said: 0.64, was: 0.9 }];
        let Bin { pairs, said, was } = Bin::pooled(bins.iter());
        assert!(pairs == 40.0 && (said - 0.61).abs() < 1e-12 && (was - 0.6).abs() < 1e-12);
        assert_eq!(Bin::pooled([Bin::default()].iter()).pairs, 0.0);
    }
}
