//! The charts of a run: what is drawn from which numbers.

use crate::canvas::{AnyChart, Bar, Bars, Chart, Heatmap, MarkStyle, Plot, Scale, Series, Tooltip, save};
use crate::format::{fixed, nats, seconds, si};
use crate::frontier::gain_at;
use crate::run::{EvalPoint, MeasuredPoint, Run};
use crate::stats::{Estimate, mean, median, prompt_bootstrap, range, wilson};
use crate::theme::{GREY, IDEAL, INK, colour_at};
use crate::tuning::TuningResults;
use crate::{Result, frontier, page, reach, sensitivity, theme, wins};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Clocks, JudgeKind, REFERENCE, RewardSource, WorldKind};
use plotters::style::RGBColor;
use std::collections::BTreeMap;
use std::path::Path;

/// Sizes in SVG pixels: a wide chart, the same for a narrow screen, a panel of a row.
pub(crate) const WIDE: (u32, u32) = (760, 470);
const NARROW: (u32, u32) = (400, 400);
pub(crate) const PANEL: (u32, u32) = (400, 310);
const BAR_PANEL: (u32, u32) = (400, 120);

/// One of the clocks of a row.
type Clock = fn(Clocks) -> f64;

/// The clocks by what they are called, with their axis.
const CLOCKS: [(&str, &str, Clock); 4] = [
    ("steps", "optimizer steps", |c| c.step as f64),
    ("tokens", "tokens trained, sampled and scored", |c| c.tokens as f64),
    ("flops", "FLOPs", |c| c.flops),
    ("seconds", "seconds of training", |c| c.wall_seconds),
];

/// A chart with its place on the page.
#[derive(Debug, Clone)]
pub(crate) struct PageChart {
    pub(crate) name: String,
    pub(crate) group: &'static str,
    /// What it shows, for whoever does not see it.
    pub(crate) alt: String,
    pub(crate) drawing: AnyChart,
}

/// A drawn chart.
#[derive(Debug, serde::Serialize)]
pub(crate) struct RenderedChart {
    pub(crate) name: String,
    pub(crate) group: &'static str,
    pub(crate) alt: String,
    pub(crate) svg: String,
    /// As JSON.
    pub(crate) spots: String,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    /// As JSON, for the page.
    pub(crate) csv: String,
}

/// Draws every chart into `charts/`, as SVG and PNG, its numbers as CSV beside.
pub(crate) fn draw(run: &Run, tuning: &TuningResults, charts: &Path) -> Result<Vec<RenderedChart>> {
    all(run, tuning).into_iter().map(|chart| render(chart, charts)).collect()
}

/// Draws one chart into a folder.
pub(crate) fn render(PageChart { name, group, alt, drawing }: PageChart, charts: &Path) -> Result<RenderedChart> {
    let (svg, spots) = save(&drawing, charts, &name)?;
    let (head, rows) = drawing.numbers();
    let csv = crate::tables::csv(&head, &rows)?;
    duel_ledger::write_atomically(&charts.join(format!("{name}.csv")), csv.as_bytes())?;
    let spots = page::embedded::<[Tooltip]>(&spots)?;
    Ok(RenderedChart { name, group, alt, svg: theme::on_page(&svg), spots, head, rows, csv: page::embedded(&csv)? })
}

/// Every chart that the run has numbers for.
pub(crate) fn all(run: &Run, tuning: &TuningResults) -> Vec<PageChart> {
    let mut all = vec![];
    let mut put = |group, name: &str, alt: &str, drawing: AnyChart| {
        all.push(PageChart { name: name.into(), group, alt: alt.into(), drawing });
    };
    let frontier_alt = "Gold reward over KL from the reference: points, seeds and frontier of every arm";
    put("frontier", "frontier", frontier_alt, AnyChart::Plot(frontier_plot(run, WIDE)));
    put("frontier-narrow", "frontier-narrow", frontier_alt, AnyChart::Plot(frontier_plot(run, NARROW)));
    for (name, label, clock) in CLOCKS {
        let alt = format!("Gold reward while training, over {label}");
        put("curves", &format!("curve-{name}"), &alt, AnyChart::Plot(curve(run, label, clock)));
    }
    for (name, bars) in costs(run) {
        let alt = bars.title.clone();
        put("costs", &format!("cost-{name}"), &alt, AnyChart::Bars(bars));
    }
    for (name, label, clock) in &CLOCKS[2..] {
        let alt = format!("What each arm must spend to reach half of the possible gain, in {label}");
        if let Some(plot) = reached(run, label, *clock) {
            put("reach", &format!("reach-{name}"), &alt, AnyChart::Plot(plot));
        }
    }
    if let Some(matrix) = win_rates(run) {
        put("wins", "win-rates", "Win rate of every arm against every other", AnyChart::Matrix(matrix));
    }
    if let Some(plot) = stability(run) {
        put("stability", "stability", "The gain at equal KL by seed, for every arm", AnyChart::Plot(plot));
    }
    for (group, name, alt, plot) in [
        ("proxy", "proxy", "Gold and learned reward over the square root of KL", gold_and_proxy(run)),
        (
            "trust",
            "trust-kl",
            "KL of the policy before each update to the one after",
            training_plot(run, metrics::KL_STEP, "KL of an update, nats a token"),
        ),
        (
            "trust",
            "trust-clip",
            "Share of tokens on which the clip was binding",
            training_plot(run, metrics::CLIP_SHARE, "clipped, share of tokens"),
        ),
        (
            "displacement",
            "margin",
            "Margin of preferred over rejected responses while DPO trains",
            training_plot(run, metrics::DPO_MARGIN, "margin, reward"),
        ),
        (
            "displacement",
            "displacement",
            "Log-ratio of held-out chosen and rejected responses to the reference while training",
            displacement(run),
        ),
        ("shape", "length", "Length of responses over KL", over_kl(run, metrics::LENGTH, "tokens of a response")),
        (
            "shape",
            "distinct",
            "Share of distinct bigrams over KL",
            over_kl(run, metrics::DISTINCT_2, "distinct bigrams, share"),
        ),
        (
            "shape",
            "entropy",
            "Entropy of the policy over KL",
            over_kl(run, metrics::ENTROPY, "entropy, nats a response"),
        ),
    ] {
        if let Some(plot) = plot {
            put(group, name, alt, AnyChart::Plot(plot));
        }
    }
    if let Some(plot) = judge(run) {
        put("judge", "reward-model", "Pair accuracy of the reward model by seed", AnyChart::Plot(plot));
    }
    if let Some(plot) = crate::calibration::plot(run) {
        put("judge", "calibration", "Calibration of the reward model on test pairs", AnyChart::Plot(plot));
    }
    let sensitivity::Charts { wholes, slices } = sensitivity::charts(run, tuning);
    for (name, chart) in wholes {
        put(
            "sensitivity",
            &name,
            &format!("{name}: every point over its settings and its worth"),
            AnyChart::Parallel(chart),
        );
    }
    for (name, chart) in slices {
        put("slices", &name, &format!("{name}: worth over one setting"), AnyChart::Plot(chart));
    }
    all
}

/// An arm's colour.
pub(crate) fn colour(run: &Run, arm: &str) -> RGBColor {
    colour_at(palette_index(run, arm))
}

/// Arms whose colours are the same in every run.
const KNOWN: [&str; 2] = ["dpo", "ppo"];

/// An arm's place among the colours: its own where it has one in every run, else the next that is free.
pub(crate) fn palette_index(run: &Run, arm: &str) -> usize {
    if let Some(place) = KNOWN.iter().position(|known| *known == arm) {
        return place;
    }
    let arms = run.arms();
    let others = arms.iter().filter(|a| !KNOWN.contains(a)).position(|a| *a == arm).unwrap_or(0);
    let free: Vec<usize> =
        (0..theme::COLOURS).filter(|&place| KNOWN.get(place).is_none_or(|k| !arms.contains(k))).collect();
    free[others % free.len()]
}

/// The KL at which arms are held against each other where one must do: that of the experiment's tuning, or the furthest preset that
/// most seeds of all arms reach.
pub(crate) fn common_kl(run: &Run) -> f64 {
    let reached = |kl: &f64| {
        let arms = run.arms();
        let seeds = run.experiment.seed_list();
        let all = |seed: &u64| arms.iter().all(|arm| gain_at(run, arm, *seed, *kl).is_some());
        2 * seeds.iter().filter(|seed| all(seed)).count() > seeds.len()
    };
    let preset = run.experiment.tuning.kl;
    if reached(&preset) {
        return preset;
    }
    frontier::matched_kls(run).iter().copied().rfind(reached).unwrap_or(preset)
}

/// On what a training's seconds were measured.
pub(crate) fn threads_label(run: &Run) -> &'static str {
    if run.experiment.is_pretrained() { "all cores" } else { "one thread" }
}

pub(crate) fn gold_axis(run: &Run) -> String {
    match run.experiment.world.kind {
        WorldKind::Grammar => "gold reward, test prompts".into(),
        WorldKind::Reviews if run.experiment.judge.kind == JudgeKind::World => {
            "gold reward (sentiment log-odds), test prompts".into()
        }
        WorldKind::Reviews | WorldKind::Rows => "gold reward, test prompts".into(),
    }
}

pub(crate) const KL_AXIS: &str = "KL from the reference, nats a response";

/// Means over seeds of two marks.
fn centre(point: &MeasuredPoint, x: Metric, y: Metric) -> Option<(f64, f64)> {
    let (x, y) = (point.final_test(x), point.final_test(y));
    (!x.is_empty() && !y.is_empty()).then(|| (mean(&x), mean(&y)))
}

/// Two marks of each seed's finished policies.
fn scatter(run: &Run, arm: &str, x: Metric, y: Metric) -> Vec<(f64, f64)> {
    run.points_of(arm).flat_map(|p| p.finished()).filter_map(|(_, m)| Some((m.test(x)?, m.test(y)?))).collect()
}

/// An arm's points by rising x: means over seeds, and their words.
fn means(run: &Run, arm: &str, x: Metric, y: Metric) -> (Vec<(f64, f64)>, Vec<String>) {
    let mut means: Vec<((f64, f64), String)> =
        run.points_of(arm).filter_map(|p| Some((centre(p, x, y)?, p.display_label()))).collect();
    means.sort_by(|a, b| a.0.0.total_cmp(&b.0.0));
    means.into_iter().unzip()
}

/// Points of all arms beyond which their settings are not written beside them.
const WORDY: usize = 12;

/// Gold reward over KL: each arm's points, seeds and frontier with its interval, what is possible, and where all begin.
fn frontier_plot(run: &Run, size: (u32, u32)) -> Plot {
    let mut series = Vec::new();
    let kl_gold = |p: &MeasuredPoint| centre(p, metrics::KL, metrics::GOLD);
    let reach = run
        .arms()
        .iter()
        .flat_map(|arm| run.points_of(arm))
        .flat_map(|p| p.final_test(metrics::KL))
        .fold(0.0, f64::max);
    let theory = [
        ("optimum", "optimum", INK, MarkStyle::Line { width: 2.0 }),
        ("ppo-ideal", "PPO-ideal", IDEAL, MarkStyle::Dashed { width: 2.0 }),
        ("best-of-n", "best of N", GREY, MarkStyle::Dashed { width: 1.5 }),
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
        series.push(Series::new(look, colour, curve).faint(0.9).named(name));
    }
    let few = run.arms().iter().map(|arm| run.points_of(arm).count()).sum::<usize>() <= WORDY && size == WIDE;
    for arm in run.arms() {
        series.extend(frontier_of(run, arm, colour(run, arm), arm.to_uppercase(), few));
    }
    if let Some(at) = run.reference().and_then(kl_gold) {
        series.push(Series::new(MarkStyle::Cross { radius: 5.0 }, INK, vec![at]).named("reference (SFT)"));
    }
    Plot::new(size, KL_AXIS, gold_axis(run), series)
}

/// One arm on a chart of gold over KL.
pub(crate) fn frontier_of(run: &Run, arm: &str, colour: RGBColor, name: String, worded: bool) -> [Series; 4] {
    let (low, high) = frontier::band(run, arm, BAND_STEPS);
    let seeds = scatter(run, arm, metrics::KL, metrics::GOLD);
    let (data, words) = means(run, arm, metrics::KL, metrics::GOLD);
    let rings = Series::new(MarkStyle::Rings { radius: 5.0 }, colour, data.clone()).named(name.clone());
    [
        Series::band(colour, &low, &high).about(format!("{name}, interval of its frontier")),
        Series::new(MarkStyle::Dots { radius: 2.5 }, colour, seeds).faint(0.35).about(format!("{name}, a seed")),
        Series::new(MarkStyle::Line { width: 1.5 }, colour, data).faint(0.55),
        if worded { rings.with_labels(words) } else { rings },
    ]
}

/// Places along an arm's frontier at which its interval is drawn.
const BAND_STEPS: usize = 24;

/// Clocks spent before a point's own training: the reward model for what climbs it, the cached reference
/// log-probs for what learns from pairs.
pub(crate) fn upstream_cost(run: &Run, point: &MeasuredPoint) -> BTreeMap<u64, Clocks> {
    match run.method_of(point) {
        Some(method) if method.reward_source() == Some(RewardSource::Rm) => run.shared_clocks("rm"),
        Some(method) if method.reads_reference_logp() => run.shared_clocks("reference"),
        _ => BTreeMap::new(),
    }
}

/// Gold reward along training, mean over seeds with its interval, each point of the grid a line; the featured one strong.
fn curve(run: &Run, x_name: &str, clock: Clock) -> Plot {
    let mut series = Vec::new();
    for arm in run.arms() {
        let (colour, name) = (colour(run, arm), arm.to_uppercase());
        let featured = run.featured(arm).map(|p| p.label.clone());
        for point in run.points_of(arm) {
            let before = upstream_cost(run, point);
            let looks = eval_curve(point, &before, clock, |m| m.test(metrics::GOLD));
            let line: Vec<(f64, f64)> = looks.iter().map(|(x, y)| (*x, y.mean)).collect();
            let about = format!("{name} {}", point.display_label());
            if featured.as_deref() == Some(&point.label) {
                let end = |sign: f64| -> Vec<(f64, f64)> {
                    looks.iter().map(|(x, y)| (*x, y.mean + sign * y.half_width.unwrap_or(0.0))).collect()
                };
                series.push(Series::band(colour, &end(-1.0), &end(1.0)).about(format!("{about}, interval")));
                series.push(Series::new(MarkStyle::Line { width: 2.5 }, colour, line).named(name.clone()).about(about));
            } else {
                series.push(Series::new(MarkStyle::Line { width: 1.2 }, colour, line).faint(0.3).about(about));
            }
        }
    }
    let ends: Vec<f64> = series.iter().flat_map(|s| &s.data).map(|p| p.0).collect();
    if let Some((_, gold)) = run.reference().and_then(|p| centre(p, metrics::KL, metrics::GOLD))
        && let Some([low, high]) = range(&ends)
    {
        let level = vec![(low, gold), (high, gold)];
        series.push(Series::new(MarkStyle::Dashed { width: 1.2 }, GREY, level).named("reference"));
    }
    Plot { x_scale: Scale::Log, ..Plot::new(PANEL, x_name, "gold reward", series) }
}

/// The k-th evaluations of all seeds: mean clock, and a mark's mean with its interval; `before` is added to each seed's clock,
/// steps excepted as steps of different stages do not add.
pub(crate) fn eval_curve(
    point: &MeasuredPoint,
    before: &BTreeMap<u64, Clocks>,
    clock: Clock,
    of: impl Fn(&EvalPoint) -> Option<f64>,
) -> Vec<(f64, Estimate)> {
    let length = point.seeds.values().map(Vec::len).min().unwrap_or(0);
    (0..length)
        .filter_map(|k| {
            let at = |seed: &u64, marks: &Vec<EvalPoint>| {
                let spent = before.get(seed).map_or(0.0, |c| clock(Clocks { step: 0, ..*c }));
                Some((clock(marks[k].clocks) + spent, of(&marks[k])?))
            };
            let found: Vec<(f64, f64)> = point.seeds.iter().filter_map(|(seed, marks)| at(seed, marks)).collect();
            let (xs, ys): (Vec<f64>, Vec<f64>) = found.into_iter().unzip();
            Some((mean(&xs), Estimate::of(&ys)?))
        })
        .collect()
}

/// What each arm must spend at each seed until its gold first reaches the target, arm by arm from above; the median is a ring.
fn reached(run: &Run, label: &str, clock: Clock) -> Option<Plot> {
    let (arms, kl) = (run.arms(), run.experiment.tuning.kl);
    let (mut series, mut words) = (vec![], vec![]);
    for (row, arm) in arms.iter().enumerate() {
        let seeds = run.experiment.seed_list();
        let all: Vec<f64> = seeds.iter().filter_map(|&seed| reach::cost_to_target(run, arm, seed, kl, clock)).collect();
        let there: Vec<(f64, f64)> = all.iter().filter(|x| x.is_finite()).map(|&x| (x, row as f64)).collect();
        let never = all.len() - there.len();
        words.push(if never > 0 { format!("{} ({never} never)", arm.to_uppercase()) } else { arm.to_uppercase() });
        let (colour, name) = (colour(run, arm), arm.to_uppercase());
        series.push(
            Series::new(MarkStyle::Dots { radius: 4.0 }, colour, there).faint(0.45).about(format!("{name}, a seed")),
        );
        let middle = vec![(median(&all), row as f64)];
        series.push(Series::new(MarkStyle::Rings { radius: 6.0 }, colour, middle).about(format!("{name}, median")));
    }
    let height = 90 + 34 * arms.len() as u32;
    let is_any = series.iter().any(|s| !s.data.is_empty());
    let plot = Plot::new((PANEL.0, height), format!("{label} to the target"), "", series);
    is_any.then_some(Plot { x_scale: Scale::Log, y_words: words, ..plot })
}

/// The gain at one KL by seed, arm by arm from above: seeds, mean and interval.
fn stability(run: &Run) -> Option<Plot> {
    let (arms, kl) = (run.arms(), common_kl(run));
    let (mut series, mut words, mut is_share) = (vec![], vec![], false);
    for (row, arm) in arms.iter().enumerate() {
        let (colour, name, y) = (colour(run, arm), arm.to_uppercase(), row as f64);
        words.push(name.clone());
        let found = run.experiment.seed_list().into_iter().filter_map(|seed| gain_at(run, arm, seed, kl));
        let values: Vec<f64> = found
            .map(|(gain, share)| {
                is_share |= share.is_some();
                share.unwrap_or(gain)
            })
            .collect();
        let Some(estimate) = Estimate::of(&values) else { continue };
        let seeds = values.iter().map(|&x| (x, y)).collect();
        series.push(
            Series::new(MarkStyle::Dots { radius: 4.0 }, colour, seeds).faint(0.4).about(format!("{name}, a seed")),
        );
        if let Some(half) = estimate.half_width {
            let ends = vec![(estimate.mean - half, y), (estimate.mean + half, y)];
            series
                .push(Series::new(MarkStyle::Whiskers { width: 2.5 }, colour, ends).about(format!("{name}, interval")));
        }
        series.push(
            Series::new(MarkStyle::Rings { radius: 6.0 }, colour, vec![(estimate.mean, y)])
                .about(format!("{name}, mean")),
        );
    }
    let what = if is_share { "share of the possible gain, η," } else { "gain in gold" };
    let is_any = !series.is_empty();
    let plot = Plot::new((PANEL.0, 90 + 34 * arms.len() as u32), format!("{what} at {}", nats(kl)), "", series);
    is_any.then_some(Plot { y_words: words, ..plot })
}

/// Who wins against whom at one KL, mixtures of finished policies; the reference too.
fn win_rates(run: &Run) -> Option<Heatmap> {
    if run.outcomes.is_empty() {
        return None;
    }
    let kl = common_kl(run);
    let names: Vec<&str> = run.arms().into_iter().chain([REFERENCE]).collect();
    let seeds = run.experiment.seed_list();
    let all: Vec<Vec<Option<Vec<wins::PromptOutcomes>>>> =
        names.iter().map(|arm| seeds.iter().map(|&seed| wins::outcomes_at(run, arm, seed, kl)).collect()).collect();
    let rates = |a: usize, b: usize| -> Vec<Vec<f64>> {
        let pairs = all[a].iter().zip(&all[b]);
        pairs
            .filter_map(|(a, b)| Some(wins::by_prompt(a.as_ref()?, b.as_ref()?, false)))
            .filter(|r| !r.is_empty())
            .collect()
    };
    let cell = |a: usize, b: usize| -> (Option<f64>, String) {
        if a == b {
            return (None, "–".into());
        }
        let rates = rates(a, b);
        let means: Vec<f64> = rates.iter().map(|of_prompts| mean(of_prompts)).collect();
        match Estimate::of(&means) {
            // one seed: its prompts alone tell how sure that is, where they are a sample
            Some(Estimate { mean, half_width: None, .. }) => {
                let is_sample = run.experiment.world.kind != WorldKind::Grammar;
                let around = prompt_interval(&rates).filter(|_| is_sample);
                let around =
                    around.map_or(String::new(), |[low, high]| format!(" [{}, {}]", fixed(low, 2), fixed(high, 2)));
                (Some(mean), format!("{}{around}", fixed(mean, 2)))
            }
            Some(estimate) => (Some(estimate.mean), format!("{estimate:.2}")),
            None => (None, "–".into()),
        }
    };
    let table: Vec<Vec<(Option<f64>, String)>> =
        (0..names.len()).map(|a| (0..names.len()).map(|b| cell(a, b)).collect()).collect();
    let (shares, words) = table.into_iter().map(|row| row.into_iter().unzip()).unzip();
    let width = 100 + 95 * names.len() as u32;
    let size = (width.clamp(PANEL.0, WIDE.0), 50 + 40 * names.len() as u32);
    let names =
        names.iter().map(|name| if *name == REFERENCE { "reference".into() } else { name.to_uppercase() }).collect();
    Some(Heatmap { size, names, shares, words })
}

/// The interval of win rates over prompts: Wilson's where every prompt has one pair and hardly any ties, else by resampling prompts
/// (docs/verdicts.md, Win rates).
fn prompt_interval(rates: &[Vec<f64>]) -> Option<[f64; 2]> {
    let one = rates.first()?;
    let decided = one.iter().filter(|rate| **rate == 0.0 || **rate == 1.0).count();
    match rates {
        [_] if decided as f64 >= FEW_TIES * one.len() as f64 => Some(wilson(one.iter().sum(), one.len() as f64, 0.95)),
        _ => prompt_bootstrap(rates, 0.95, RESAMPLES),
    }
}

/// Share of prompts without a tie from which on ties are few.
const FEW_TIES: f64 = 0.98;
/// Draws of the bootstrap (docs/verdicts.md, Win rates).
const RESAMPLES: usize = 2000;

/// Gold and the learned reward above the reference over √KL, for what climbs the learned reward.
fn gold_and_proxy(run: &Run) -> Option<Plot> {
    let base = |metric| run.reference().map(|p| mean(&p.final_test(metric)));
    let (gold, proxy) = (base(metrics::GOLD)?, base(metrics::PROXY)?);
    let mut series = vec![];
    let theory = [("ppo-ideal", IDEAL), ("best-of-n", GREY)];
    let arms = run.arms().into_iter().map(|arm| (arm, colour(run, arm)));
    let far = run
        .arms()
        .iter()
        .flat_map(|arm| run.points_of(arm))
        .flat_map(|p| p.final_test(metrics::KL))
        .fold(0.0, f64::max);
    for (arm, colour) in arms.chain(theory) {
        for (metric, base, look, what) in [
            (metrics::GOLD, gold, MarkStyle::Line { width: 2.2 }, "gold"),
            (metrics::PROXY, proxy, MarkStyle::Dashed { width: 1.8 }, "proxy"),
        ] {
            let (data, _) = means(run, arm, metrics::KL, metric);
            let inside = data.into_iter().filter(|p| p.0 <= far * 1.05);
            let rises: Vec<(f64, f64)> = inside.map(|(kl, reward)| (kl.max(0.0).sqrt(), reward - base)).collect();
            if rises.is_empty() {
                continue;
            }
            let line = std::iter::once((0.0, 0.0)).chain(rises).collect();
            series.push(Series::new(look, colour, line).named(format!("{} {what}", arm.to_uppercase())));
        }
    }
    (!series.is_empty()).then(|| Plot::new(WIDE, "√KL, √nats", "reward above the reference's", series))
}

/// A metric along the trainings, mean over seeds; every point that has it, the featured one strong.
fn training_plot(run: &Run, metric: Metric, y_name: &str) -> Option<Plot> {
    let mut series = vec![];
    for arm in run.arms() {
        let featured = run.featured(arm).map(|p| p.label.clone());
        for point in run.points_of(arm) {
            let Some(along) = run.along(point, metric) else { continue };
            let line = thin_points(along.steps().collect());
            let is_featured = featured.as_deref() == Some(&point.label);
            let (width, opacity) = if is_featured { (2.2, 1.0) } else { (1.1, 0.35) };
            let about = format!("{} {}", arm.to_uppercase(), point.display_label());
            let line = Series::new(MarkStyle::Line { width }, colour(run, arm), line).faint(opacity).about(about);
            series.push(if is_featured { Series { name: arm.to_uppercase(), ..line } } else { line });
        }
    }
    (!series.is_empty()).then(|| Plot::new(PANEL, "optimizer steps", y_name, series))
}

/// A line of no more than so many points, each the mean of its neighbours.
fn thin_points(line: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    const POINTS: usize = 120;
    let group = line.len().div_ceil(POINTS).max(1);
    let middle = |part: &[(f64, f64)]| {
        let (x, y): (Vec<f64>, Vec<f64>) = part.iter().copied().unzip();
        (mean(&x), mean(&y))
    };
    line.chunks(group).map(middle).collect()
}

/// What becomes of held-out chosen and rejected responses while each arm's featured point trains.
fn displacement(run: &Run) -> Option<Plot> {
    let mut series = vec![];
    for arm in run.arms() {
        let Some(point) = run.featured(arm) else { continue };
        for (metric, look, what) in [
            (metrics::LOG_RATIO_CHOSEN, MarkStyle::Line { width: 2.2 }, "chosen"),
            (metrics::LOG_RATIO_REJECTED, MarkStyle::Dashed { width: 1.8 }, "rejected"),
        ] {
            let looks = eval_curve(point, &BTreeMap::new(), |c| c.step as f64, |mark| mark.test(metric));
            if looks.is_empty() {
                continue;
            }
            let line = std::iter::once((0.0, 0.0)).chain(looks.into_iter().map(|(x, y)| (x, y.mean))).collect();
            series.push(Series::new(look, colour(run, arm), line).named(format!("{} {what}", arm.to_uppercase())));
        }
    }
    let y_name = "log π − log π_ref, nats a response";
    (!series.is_empty()).then(|| Plot::new(WIDE, "optimizer steps", y_name, series))
}

/// A mark of finished policies over their KL, seeds faint, means joined.
fn over_kl(run: &Run, metric: Metric, y_name: &str) -> Option<Plot> {
    let mut series = vec![];
    for arm in run.arms() {
        let (colour, name) = (colour(run, arm), arm.to_uppercase());
        let (line, _) = means(run, arm, metrics::KL, metric);
        if line.is_empty() {
            continue;
        }
        let seeds = scatter(run, arm, metrics::KL, metric);
        series.push(
            Series::new(MarkStyle::Dots { radius: 2.5 }, colour, seeds).faint(0.35).about(format!("{name}, a seed")),
        );
        series.push(Series::new(MarkStyle::Line { width: 1.5 }, colour, line.clone()).faint(0.55));
        series.push(Series::new(MarkStyle::Rings { radius: 4.5 }, colour, line).named(name));
    }
    if let Some(at) = run.reference().and_then(|p| centre(p, metrics::KL, metric)) {
        series.push(Series::new(MarkStyle::Cross { radius: 5.0 }, INK, vec![at]).named("reference (SFT)"));
    }
    (series.len() > 1).then(|| Plot::new(PANEL, KL_AXIS, y_name, series))
}

/// What training one cell of an arm took, mean over points and seeds.
#[derive(Debug, Clone)]
pub(crate) struct ArmCost {
    pub(crate) arm: String,
    pub(crate) models: f64,
    pub(crate) sampled: f64,
    pub(crate) flops: f64,
    pub(crate) seconds: f64,
    /// Of those, before the method's own training: reward model or reference log-probs.
    pub(crate) flops_before: f64,
    pub(crate) seconds_before: f64,
}

/// Costs of each arm; the reward model counts as PPO's, once a cell, as a single training would pay it.
pub(crate) fn arm_costs(run: &Run) -> Vec<ArmCost> {
    run.arms()
        .into_iter()
        .filter_map(|arm| {
            let points: Vec<&MeasuredPoint> = run.points_of(arm).collect();
            let over =
                |f: &dyn Fn(&MeasuredPoint) -> Vec<f64>| mean(&points.iter().flat_map(|p| f(p)).collect::<Vec<_>>());
            let ends = |f: Clock| over(&|p| p.finished().map(|(_, m)| f(m.clocks)).collect());
            let before: Vec<Clocks> = upstream_cost(run, points.first()?).into_values().collect();
            let spent = |f: fn(&Clocks) -> f64| {
                if before.is_empty() { 0.0 } else { mean(&before.iter().map(f).collect::<Vec<_>>()) }
            };
            let (flops_before, seconds_before) = (spent(|c| c.flops), spent(|c| c.wall_seconds));
            Some(ArmCost {
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
    let panel = |title: &str, parts: &dyn Fn(&ArmCost) -> [f64; 2], words: &dyn Fn(f64) -> String| Bars {
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
        ("models", panel("models in memory while training", &|c| [0.0, c.models], &|x| fixed(x, 0))),
        ("sampled", panel("tokens sampled in the loop", &|c| [0.0, c.sampled], &si)),
        ("flops", panel("FLOPs (pale: before the loop)", &|c| [c.flops_before, c.flops - c.flops_before], &si)),
        (
            "seconds",
            panel(
                &format!("seconds, {} (pale: before the loop)", threads_label(run)),
                &|c| [c.seconds_before, c.seconds - c.seconds_before],
                &seconds,
            ),
        ),
    ]
}

/// The reward model's pair accuracy of each seed, beside what no judge could beat.
fn judge(run: &Run) -> Option<Plot> {
    let rows: [(&str, Metric, RGBColor, MarkStyle); 3] = [
        ("train prompts", metrics::PAIR_ACCURACY_TRAIN, GREY, MarkStyle::Dots { radius: 4.0 }),
        ("validation", metrics::PAIR_ACCURACY_VALIDATION, colour_at(4), MarkStyle::Dots { radius: 4.0 }),
        ("test", metrics::PAIR_ACCURACY_TEST, colour_at(0), MarkStyle::Dots { radius: 5.0 }),
    ];
    let numbered = |values: Vec<f64>| values.into_iter().enumerate().map(|(i, v)| (i as f64, v)).collect::<Vec<_>>();
    let ceiling = numbered(run.shared("pairs", metrics::BAYES_ACCURACY));
    if ceiling.is_empty() {
        return None;
    }
    let ticks: Vec<f64> = ceiling.iter().map(|p| p.0).collect();
    let reach = match &ceiling[..] {
        [only] => vec![(only.0 - 0.4, only.1), (only.0 + 0.4, only.1)],
        many => many.to_vec(),
    };
    let mut series = vec![Series::new(MarkStyle::Dashed { width: 1.5 }, INK, reach).faint(0.8).named("ceiling (test)")];
    for (name, metric, colour, look) in rows {
        series.push(Series::new(look, colour, numbered(run.shared("rm", metric))).named(name));
    }
    let first = run.experiment.seed;
    let x_name = format!("seed (first: {first})");
    Some(Plot { x_ticks: Some(ticks), ..Plot::new(PANEL, x_name, "pair accuracy of the reward model", series) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_pairs_have_wilsons_interval_and_others_are_resampled() {
        let wins: Vec<f64> = (0..50).map(|i| f64::from(u8::from(i < 37))).collect();
        assert_eq!(prompt_interval(std::slice::from_ref(&wins)), Some(wilson(37.0, 50.0, 0.95)));
        let graded: Vec<f64> = wins.iter().map(|w| 0.25 + w / 2.0).collect();
        let [low, high] = prompt_interval(std::slice::from_ref(&graded)).expect("fifty prompts");
        assert!(low < 0.62 && 0.62 < high && high - low < 0.2, "{low} to {high}");
        assert_eq!(prompt_interval(&[]), None);
    }

    #[test]
    fn a_long_line_is_thinned_to_means() {
        let line: Vec<(f64, f64)> = (0..300).map(|i| (f64::from(i), 2.0)).collect();
        let thin = thin_points(line);
        assert!(thin.len() == 100 && thin[0] == (1.0, 2.0) && thin[99] == (298.0, 2.0));
        assert_eq!(thin_points(vec![(1.0, 2.0)]), [(1.0, 2.0)]);
    }
}
