//! The charts of a run: what is drawn from which numbers.

use crate::canvas::{Bar, Bars, Look, Plot, Scale, Series, save};
use crate::format::{seconds, si};
use crate::run::{Mark, Point, Run};
use crate::stats::mean;
use crate::tuning::Tuning;
use crate::{Result, sensitivity};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Clocks, RewardSource};
use plotters::style::RGBColor;
use std::collections::BTreeMap;
use std::path::Path;

/// Colours that remain apart for colour-blind eyes (Okabe & Ito 2008).
const ARM_COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(120, 70, 40),
    RGBColor(90, 60, 150),
];
pub(crate) const BLACK: RGBColor = RGBColor(34, 34, 40);
pub(crate) const GREY: RGBColor = RGBColor(120, 122, 132);
const GREEN: RGBColor = RGBColor(0, 158, 115);

/// Sizes in SVG pixels: a wide chart, the same for a narrow screen, a panel of a row.
const WIDE: (u32, u32) = (760, 470);
const NARROW: (u32, u32) = (400, 400);
pub(crate) const PANEL: (u32, u32) = (400, 310);
const BAR_PANEL: (u32, u32) = (400, 120);

/// One of the clocks of a row.
type Clock = fn(Clocks) -> f64;

/// A drawn chart.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) svg: String,
}

/// All charts of a run.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Figures {
    pub(crate) frontier: Figure,
    pub(crate) frontier_narrow: Figure,
    pub(crate) curves: Vec<Figure>,
    pub(crate) costs: Vec<Figure>,
    pub(crate) judge: Option<Figure>,
    pub(crate) calibration: Option<Figure>,
    /// Of each arm, all of its settings, and then each by itself.
    pub(crate) sensitivity: Vec<Figure>,
    pub(crate) slices: Vec<Figure>,
}

/// Draws every chart into `charts/`.
pub(crate) fn draw(run: &Run, tuning: &Tuning, charts: &Path) -> Result<Figures> {
    let sensitivity::Charts { wholes, slices } = sensitivity::charts(run, tuning);
    let plot = |plot: &Plot, name: &str| -> Result<Figure> {
        Ok(Figure { name: name.into(), svg: save(plot, charts, name)? })
    };
    let clocks: [(&str, &str, Clock); 4] = [
        ("steps", "optimizer steps", |c| c.step as f64),
        ("tokens", "tokens trained, sampled and scored", |c| c.tokens as f64),
        ("flops", "FLOPs", |c| c.flops),
        ("seconds", "seconds of training", |c| c.wall_seconds),
    ];
    Ok(Figures {
        frontier: plot(&frontier(run, WIDE), "frontier")?,
        frontier_narrow: plot(&frontier(run, NARROW), "frontier-narrow")?,
        curves: clocks
            .into_iter()
            .map(|(name, label, clock)| plot(&curve(run, label, clock), &format!("curve-{name}")))
            .collect::<Result<_>>()?,
        costs: costs(run)
            .into_iter()
            .map(|(name, bars)| {
                Ok(Figure { name: format!("cost-{name}"), svg: save(&bars, charts, &format!("cost-{name}"))? })
            })
            .collect::<Result<_>>()?,
        judge: judge(run).map(|p| plot(&p, "reward-model")).transpose()?,
        calibration: crate::calibration::plot(run).map(|p| plot(&p, "calibration")).transpose()?,
        sensitivity: wholes
            .iter()
            .map(|(name, chart)| Ok(Figure { name: name.clone(), svg: save(chart, charts, name)? }))
            .collect::<Result<_>>()?,
        slices: slices.iter().map(|(name, chart)| plot(chart, name)).collect::<Result<_>>()?,
    })
}

/// An arm's colour, by its place in the experiment.
pub(crate) fn colour(run: &Run, arm: &str) -> RGBColor {
    let place = run.arms().iter().position(|a| *a == arm).unwrap_or(0);
    colour_at(place)
}

/// The colour of a place in a list.
pub(crate) fn colour_at(place: usize) -> RGBColor {
    ARM_COLOURS[place % ARM_COLOURS.len()]
}

fn gold_axis(run: &Run) -> String {
    match run.experiment.world.kind {
        duel_spec::WorldKind::Grammar => "gold reward, test prompts".into(),
        duel_spec::WorldKind::Reviews => "gold reward (sentiment log-odds), test prompts".into(),
    }
}

/// Means over seeds of two marks.
fn centre(point: &Point, x: Metric, y: Metric) -> Option<(f64, f64)> {
    let (x, y) = (point.final_test(x), point.final_test(y));
    (!x.is_empty() && !y.is_empty()).then(|| (mean(&x), mean(&y)))
}

/// Gold reward over KL: each arm's points and seeds, what is possible, and where all begin.
fn frontier(run: &Run, size: (u32, u32)) -> Plot {
    let mut series = Vec::new();
    let kl_gold = |p: &Point| centre(p, metrics::KL, metrics::GOLD);
    let reach = run
        .arms()
        .iter()
        .flat_map(|arm| run.points_of(arm))
        .flat_map(|p| p.final_test(metrics::KL))
        .fold(0.0, f64::max);
    let theory = [
        ("optimum", "exact optimum", BLACK, Look::Line { width: 2.0 }),
        ("ppo-ideal", "PPO-ideal", GREEN, Look::Dashed { width: 2.0 }),
        ("best-of-n", "best of N", GREY, Look::Dashed { width: 1.5 }),
    ];
    for (arm, name, colour, look) in theory {
        let mut curve: Vec<(f64, f64)> =
            run.reference().into_iter().chain(run.points_of(arm)).filter_map(kl_gold).collect();
        if curve.len() < 2 {
            continue;
        }
        curve.sort_by(|a, b| a.0.total_cmp(&b.0));
        let inside = curve.iter().filter(|p| p.0 <= reach * 1.05).count();
        curve.truncate((inside + 1).max(2));
        if let [.., a, b] = curve[..]
            && b.0 > reach * 1.05
        {
            // the last stretch ends with the chart
            let x = (reach * 1.05).max(a.0);
            let last = curve.len() - 1;
            curve[last] = (x, a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0));
        }
        series.push(Series { name: name.into(), colour, opacity: 0.9, look, data: curve, words: vec![] });
    }
    for arm in run.arms() {
        let colour = colour(run, arm);
        let seeds = run
            .points_of(arm)
            .flat_map(|p| p.finished())
            .filter_map(|(_, m)| Some((m.test(metrics::KL)?, m.test(metrics::GOLD)?)))
            .collect();
        series.push(Series {
            name: String::new(),
            colour,
            opacity: 0.3,
            look: Look::Dots { radius: 3.0 },
            data: seeds,
            words: vec![],
        });
        let mut means: Vec<((f64, f64), String)> =
            run.points_of(arm).filter_map(|p| Some((kl_gold(p)?, p.words()))).collect();
        means.sort_by(|a, b| a.0.0.total_cmp(&b.0.0));
        let (data, words): (Vec<_>, Vec<_>) = means.into_iter().unzip();
        series.push(Series {
            name: String::new(),
            colour,
            opacity: 0.55,
            look: Look::Line { width: 1.5 },
            data: data.clone(),
            words: vec![],
        });
        series.push(Series {
            name: arm.to_uppercase(),
            colour,
            opacity: 1.0,
            look: Look::Rings { radius: 5.5 },
            data,
            words,
        });
    }
    if let Some(at) = run.reference().and_then(kl_gold) {
        series.push(Series {
            name: "reference (SFT)".into(),
            colour: BLACK,
            opacity: 1.0,
            look: Look::Cross { radius: 5.0 },
            data: vec![at],
            words: vec![],
        });
    }
    Plot {
        size,
        x_name: "KL from the reference, nats a response".into(),
        y_name: gold_axis(run),
        x_scale: Scale::Linear,
        x_ticks: None,
        x_words: vec![],
        series,
    }
}

/// Clocks spent before a point's own training: the reward model for what climbs it, the cached reference
/// log-probs for what learns from pairs.
fn before(run: &Run, point: &Point) -> BTreeMap<u64, Clocks> {
    match run.method_of(point) {
        Some(method) if method.climbs() == Some(RewardSource::Rm) => run.shared_clocks("rm"),
        Some(method) if method.reads_reference_logp() => run.shared_clocks("reference"),
        _ => BTreeMap::new(),
    }
}

/// Gold reward along training, mean over seeds, each point of the grid a line; the featured one strong.
fn curve(run: &Run, x_name: &str, clock: Clock) -> Plot {
    let mut series = Vec::new();
    for arm in run.arms() {
        let colour = colour(run, arm);
        let featured = run.featured(arm).map(|p| p.label.clone());
        for point in run.points_of(arm) {
            let before = before(run, point);
            let is_featured = featured.as_deref() == Some(&point.label);
            series.push(Series {
                name: if is_featured { format!("{} ({})", arm.to_uppercase(), point.words()) } else { String::new() },
                colour,
                opacity: if is_featured { 1.0 } else { 0.3 },
                look: Look::Line { width: if is_featured { 2.5 } else { 1.2 } },
                data: mean_curve(point, &before, clock),
                words: vec![],
            });
        }
    }
    let ends: Vec<f64> = series.iter().flat_map(|s| &s.data).map(|p| p.0).collect();
    if let Some((_, gold)) = run.reference().and_then(|p| centre(p, metrics::KL, metrics::GOLD))
        && !ends.is_empty()
    {
        let (lo, hi) = ends.iter().fold((f64::INFINITY, 0.0f64), |(lo, hi), &x| (lo.min(x), hi.max(x)));
        series.push(Series {
            name: "reference".into(),
            colour: GREY,
            opacity: 1.0,
            look: Look::Dashed { width: 1.2 },
            data: vec![(lo, gold), (hi, gold)],
            words: vec![],
        });
    }
    Plot {
        size: PANEL,
        x_name: x_name.into(),
        y_name: "gold reward".into(),
        x_scale: Scale::Log,
        x_ticks: None,
        x_words: vec![],
        series,
    }
}

/// The k-th evaluations of all seeds, averaged; `before` is added to each seed's clock, steps excepted as
/// steps of different stages do not add.
fn mean_curve(point: &Point, before: &BTreeMap<u64, Clocks>, clock: Clock) -> Vec<(f64, f64)> {
    let length = point.seeds.values().map(Vec::len).min().unwrap_or(0);
    (0..length)
        .filter_map(|k| {
            let at = |seed: &u64, marks: &Vec<Mark>| {
                let spent = before.get(seed).map_or(0.0, |c| clock(Clocks { step: 0, ..*c }));
                Some((clock(marks[k].clocks) + spent, marks[k].test(metrics::GOLD)?))
            };
            let found: Vec<(f64, f64)> = point.seeds.iter().filter_map(|(seed, marks)| at(seed, marks)).collect();
            let (xs, ys): (Vec<f64>, Vec<f64>) = found.into_iter().unzip();
            (!xs.is_empty()).then(|| (mean(&xs), mean(&ys)))
        })
        .collect()
}

/// What training one cell of an arm took, mean over points and seeds.
#[derive(Debug, Clone)]
pub(crate) struct Cost {
    pub(crate) arm: String,
    pub(crate) models: f64,
    pub(crate) sampled: f64,
    pub(crate) flops: f64,
    pub(crate) seconds: f64,
    /// Of those, before the method's own training: reward model or reference log-probs.
    pub(crate) flops_before: f64,
    pub(crate) seconds_before: f64,
}

/// What a training of one seed took, with what must come before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeedCost {
    pub(crate) flops: f64,
    pub(crate) seconds: f64,
}

/// By seed, mean over an arm's points.
pub(crate) fn arm_costs_by_seed(run: &Run, arm: &str) -> BTreeMap<u64, SeedCost> {
    let mut all: BTreeMap<u64, Vec<(f64, f64)>> = BTreeMap::new();
    for point in run.points_of(arm) {
        let before = before(run, point);
        for (seed, mark) in point.finished() {
            let first = before.get(&seed).copied().unwrap_or_default();
            let clocks = mark.clocks;
            all.entry(seed).or_default().push((clocks.flops + first.flops, clocks.wall_seconds + first.wall_seconds));
        }
    }
    let mean_of = |costs: Vec<(f64, f64)>| {
        let (flops, seconds): (Vec<f64>, Vec<f64>) = costs.into_iter().unzip();
        SeedCost { flops: mean(&flops), seconds: mean(&seconds) }
    };
    all.into_iter().map(|(seed, costs)| (seed, mean_of(costs))).collect()
}

/// Costs of each arm; the reward model counts as PPO's, once a cell, as a single training would pay it.
pub(crate) fn arm_costs(run: &Run) -> Vec<Cost> {
    run.arms()
        .into_iter()
        .filter_map(|arm| {
            let points: Vec<&Point> = run.points_of(arm).collect();
            let over = |f: &dyn Fn(&Point) -> Vec<f64>| mean(&points.iter().flat_map(|p| f(p)).collect::<Vec<_>>());
            let ends = |f: Clock| over(&|p| p.finished().map(|(_, m)| f(m.clocks)).collect());
            let before: Vec<Clocks> = before(run, points.first()?).into_values().collect();
            let spent = |f: fn(&Clocks) -> f64| {
                if before.is_empty() { 0.0 } else { mean(&before.iter().map(f).collect::<Vec<_>>()) }
            };
            let (flops_before, seconds_before) = (spent(|c| c.flops), spent(|c| c.wall_seconds));
            Some(Cost {
                arm: arm.into(),
                models: over(&|p| run.trained(p, metrics::MODELS_RESIDENT)),
                sampled: over(&|p| run.trained(p, metrics::SAMPLED_TOKENS)),
                flops: ends(|c| c.flops) + flops_before,
                seconds: ends(|c| c.wall_seconds) + seconds_before,
                flops_before,
                seconds_before,
            })
        })
        .collect()
}

fn costs(run: &Run) -> Vec<(&'static str, Bars)> {
    let costs = arm_costs(run);
    let panel = |title: &str, parts: &dyn Fn(&Cost) -> [f64; 2], words: &dyn Fn(f64) -> String| Bars {
        size: BAR_PANEL,
        title: title.into(),
        bars: costs
            .iter()
            .map(|cost| {
                let parts = parts(cost);
                let words = words(parts[0] + parts[1]);
                Bar { name: cost.arm.to_uppercase(), colour: colour(run, &cost.arm), parts, words }
            })
            .collect(),
    };
    vec![
        ("models", panel("models in memory while training", &|c| [0.0, c.models], &|x| format!("{x:.0}"))),
        ("sampled", panel("tokens sampled in the loop", &|c| [0.0, c.sampled], &si)),
        ("flops", panel("FLOPs (pale: before the loop)", &|c| [c.flops_before, c.flops - c.flops_before], &si)),
        (
            "seconds",
            panel(
                "seconds, one thread (pale: before the loop)",
                &|c| [c.seconds_before, c.seconds - c.seconds_before],
                &seconds,
            ),
        ),
    ]
}

/// The reward model's pair accuracy of each seed, beside what no judge could beat.
fn judge(run: &Run) -> Option<Plot> {
    let rows: [(&str, Metric, RGBColor, Look); 3] = [
        ("train prompts", metrics::PAIR_ACCURACY_TRAIN, GREY, Look::Dots { radius: 4.0 }),
        ("validation", metrics::PAIR_ACCURACY_VALIDATION, ARM_COLOURS[4], Look::Dots { radius: 4.0 }),
        ("test", metrics::PAIR_ACCURACY_TEST, ARM_COLOURS[0], Look::Rings { radius: 6.0 }),
    ];
    let numbered = |values: Vec<f64>| values.into_iter().enumerate().map(|(i, v)| (i as f64, v)).collect::<Vec<_>>();
    let ceiling = numbered(run.shared("pairs", metrics::BAYES_ACCURACY));
    if ceiling.is_empty() {
        return None;
    }
    let ticks: Vec<f64> = ceiling.iter().map(|p| p.0).collect();
    let reach = |ys: &[(f64, f64)]| match ys {
        [only] => vec![(only.0 - 0.4, only.1), (only.0 + 0.4, only.1)],
        many => many.to_vec(),
    };
    let mut series = vec![Series {
        name: "Bayes ceiling (test)".into(),
        colour: BLACK,
        opacity: 0.8,
        look: Look::Dashed { width: 1.5 },
        data: reach(&ceiling),
        words: vec![],
    }];
    for (name, metric, colour, look) in rows {
        let data = numbered(run.shared("rm", metric));
        series.push(Series { name: name.into(), colour, opacity: 1.0, look, data, words: vec![] });
    }
    let first = run.experiment.seed;
    Some(Plot {
        size: PANEL,
        x_name: format!("seed (first: {first})"),
        y_name: "pair accuracy of the reward model".into(),
        x_scale: Scale::Linear,
        x_ticks: Some(ticks),
        x_words: vec![],
        series,
    })
}
