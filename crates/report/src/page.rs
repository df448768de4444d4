//! The page: one self-contained HTML file that tells a run with its own numbers.

use crate::figures::{self, Cost, Figures};
use crate::format::{percent, seconds, si};
use crate::run::{Point, Run};
use crate::stats::{Estimate, mean};
use crate::tables::Tables;
use crate::verdict::Verdict;
use crate::{Error, Result, frontier};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Completion, WorldKind};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde::Serialize;
use std::collections::HashSet;

/// An arm as the page tells of it.
#[derive(Debug, Serialize)]
struct ArmStory {
    name: String,
    method: String,
    colour: String,
    label: String,
    gold: String,
    gain: String,
    /// The gain in standard deviations of gold over the reference's responses.
    gain_sd: String,
    kl: String,
    eta: Option<String>,
    ideal_eta: Option<String>,
    best_eta: Option<String>,
    best_eta_label: Option<String>,
    win_rate: String,
    proxy: String,
    models: String,
    sampled: String,
    sampled_nothing: bool,
    flops: String,
    seconds: String,
    /// The method's own settings at the featured point.
    settings: Option<serde_json::Value>,
    always_above_reference: bool,
    /// Whether it climbs a score with responses of its own.
    climbs: bool,
    /// Whether the shown point climbs the world's own judge in place of a reward model.
    on_gold: bool,
}

/// One prompt with every policy's answer.
#[derive(Debug, Serialize)]
struct Answers {
    prompt: String,
    answers: Vec<Answer>,
}

#[derive(Debug, Serialize)]
struct Answer {
    text: String,
    gold: String,
    kl: String,
    ended: bool,
}

/// Fills the page.
pub(crate) fn fill(
    run: &Run,
    charts: &Figures,
    tables: &Tables,
    edges: &[String],
    verdicts: &[Verdict],
) -> Result<String> {
    let broken = |e: minijinja::Error| Error::Page { problem: format!("{e:#}") };
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(broken)?);
    environment.add_template("page.html", include_str!("page.html")).map_err(broken)?;
    let template = environment.get_template("page.html").map_err(broken)?;

    let costs = figures::arm_costs(run);
    let stories: Vec<ArmStory> = run.arms().into_iter().filter_map(|arm| story(run, arm, &costs)).collect();
    let reference = run.reference();
    let of_reference = |metric: Metric| reference.map(|p| p.final_test(metric)).unwrap_or_default();
    let shared = |stage: &str, metric: Metric, places: usize| {
        Estimate::of(&run.shared(stage, metric)).map(|e| format!("{e:.places$}"))
    };
    let ratio = match &costs[..] {
        [a, b] => {
            let (cheap, dear) = if a.flops <= b.flops { (a, b) } else { (b, a) };
            Some(context! {
                cheap => cheap.arm.to_uppercase(),
                dear => dear.arm.to_uppercase(),
                flops => format!("{:.1}", dear.flops / cheap.flops),
                seconds => format!("{:.1}", dear.seconds / cheap.seconds),
            })
        }
        _ => None,
    };
    let manifest = &run.manifest;
    let is_exact = run.experiment.world.kind == WorldKind::Grammar;
    template
        .render(context! {
            name => run.experiment.name.clone(),
            question => run.experiment.question.clone(),
            is_exact,
            seeds => run.experiment.seeds,
            only_beta => only_beta(run),
            noisy => run.experiment.stages.pairs.length_bias > 0.0 || run.experiment.stages.pairs.label_flips > 0.0,
            cells => run.cells.len(),
            arms => Serde(&stories),
            matched => matched_sentences(run),
            ratio,
            reference => context! {
                gold => Estimate::of(&of_reference(metrics::GOLD)).map(|e| format!("{e:.2}")),
                gold_sd => format!("{:.2}", mean(&of_reference(metrics::GOLD_SD))),
            },
            rows => run.experiment.stages.pairs.rows,
            bayes => shared("pairs", metrics::BAYES_ACCURACY, 3),
            tau => shared("pairs", metrics::TAU, 2),
            rm_test => shared("rm", metrics::PAIR_ACCURACY_TEST, 3),
            rm_slope => shared("rm", metrics::RM_TRAP_SLOPE, 2),
            rm_gold => shared("rm", metrics::RM_SPEARMAN_GOLD, 2),
            sft_gate => shared("sft", metrics::KL_GRAMMAR, 4),
            base_nll => shared("base", metrics::NLL_TOKEN, 2),
            gold_full => shared("corpus", metrics::GOLD_ACCURACY, 3),
            gold_window => shared("corpus", metrics::GOLD_ACCURACY_WINDOW, 3),
            gold_human => shared("corpus", metrics::GOLD_HUMAN_AGREEMENT, 3),
            gold_calibration => shared("corpus", metrics::GOLD_CALIBRATION, 3),
            judged_words => run.experiment.world.reviews.judged_words,
            charts => Serde(charts),
            tables => Serde(tables),
            tuned => run.experiment.is_tuned(),
            tuning => Serde(&run.experiment.tuning),
            tuning_kl => format!("{} nat{}", run.experiment.tuning.kl, if run.experiment.tuning.kl == 1.0 { "" } else { "s" }),
            edges => Serde(edges),
            verdicts => Serde(verdicts),
            completions => Serde(completions(run)),
            completion_heads => heads(run),
            manifest => Serde(manifest),
            seconds => manifest.wall_seconds.map(seconds),
            memory => si(manifest.peak_memory as f64),
            command => manifest.command.join(" "),
            world => format!("{:?}", run.experiment.world.kind).to_lowercase(),
        })
        .map_err(broken)
}

fn story(run: &Run, arm: &str, costs: &[Cost]) -> Option<ArmStory> {
    let featured = run.featured(arm)?;
    let cost = costs.iter().find(|c| c.arm == arm)?;
    let say =
        |metric: Metric, places: usize| Estimate::of(&featured.final_test(metric)).map(|e| format!("{e:.places$}"));
    let golds = featured.final_test(metrics::GOLD);
    let reference = run.reference()?;
    let gain = Estimate::of_differences(&golds, &reference.final_test(metrics::GOLD))?;
    let sd = mean(&reference.final_test(metrics::GOLD_SD));
    // chosen on validation prompts, told from test prompts
    let merit = |p: &Point| mean(&p.final_validation(metrics::ETA));
    let best = run
        .points_of(arm)
        .filter(|p| !p.final_validation(metrics::ETA).is_empty())
        .max_by(|a, b| merit(a).total_cmp(&merit(b)));
    let colour = figures::colour(run, arm);
    Some(ArmStory {
        name: arm.to_uppercase(),
        method: featured.method.clone(),
        colour: format!("rgb({}, {}, {})", colour.0, colour.1, colour.2),
        label: featured.words(),
        gold: say(metrics::GOLD, 2)?,
        gain: format!("{gain:.2}"),
        gain_sd: format!("{:.1}", gain.mean / sd),
        kl: say(metrics::KL, 2)?,
        eta: say(metrics::ETA, 2),
        ideal_eta: say(metrics::IDEAL_ETA, 2),
        best_eta: best.and_then(|p| Estimate::of(&p.final_test(metrics::ETA))).map(|e| format!("{e:.2}")),
        best_eta_label: best.map(|p| p.words()),
        win_rate: percent(mean(&featured.final_test(metrics::WIN_RATE))),
        proxy: say(metrics::PROXY, 2).unwrap_or_default(),
        models: format!("{:.0}", cost.models),
        sampled: si(cost.sampled),
        sampled_nothing: cost.sampled == 0.0,
        flops: si(cost.flops),
        seconds: seconds(cost.seconds),
        settings: run.method_of(featured).map(|method| serde_json::json!(method)),
        always_above_reference: run.points_of(arm).all(|p| above(p, reference)),
        climbs: run.method_of(featured).is_some_and(|method| method.climbs().is_some()),
        on_gold: run.climbs_gold(featured),
    })
}

/// Whether every arm's grid spans `beta` and nothing else.
fn only_beta(run: &Run) -> bool {
    let plain = |p: &Point| p.label.starts_with("beta=") && !p.label.contains(',');
    run.arms().into_iter().all(|arm| run.points_of(arm).all(plain))
}

/// Whether every seed's finished policy earns more gold than its reference.
fn above(point: &Point, reference: &Point) -> bool {
    point.finished().all(|(seed, mark)| {
        let base = reference.seeds.get(&seed).and_then(|m| m.last()).and_then(|m| m.test(metrics::GOLD));
        mark.test(metrics::GOLD) > base
    })
}

/// What the comparison at equal KL says, in words; an interval that holds zero decides nothing.
fn matched_sentences(run: &Run) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut undecided = Vec::new();
    for m in frontier::at_equal_kl(run) {
        let ([Some(a), Some(b)], Some(difference)) = (&m.arms[..], m.difference) else { continue };
        let unit = if a.eta.is_some() { "of the optimum's gain" } else { "gold reward" };
        let (a, b) = (a.arm.to_uppercase(), b.arm.to_uppercase());
        let (ahead, behind) = if difference.mean >= 0.0 { (b, a) } else { (a, b) };
        let size = Estimate { mean: difference.mean.abs(), ..difference };
        let lead = format!("At KL {}, {ahead} is ahead of {behind} by {size:.3} {unit}", m.kl);
        match difference.excludes_zero() {
            Some(true) => sentences.push(format!("{lead}.")),
            Some(false) => undecided.push(m.kl.to_string()),
            None => sentences.push(format!("{lead}; one seed gives no interval, so this says little.")),
        }
    }
    if let Some((last, first)) = undecided.split_last() {
        let kls = if first.is_empty() { last.clone() } else { format!("{} and {last}", first.join(", ")) };
        sentences.push(format!("At KL {kls} the interval of the difference holds zero: the arms are not told apart."));
    }
    sentences
}

/// Whose answers stand side by side: the reference and each arm's featured point.
fn heads(run: &Run) -> Vec<String> {
    let arms = run
        .arms()
        .into_iter()
        .filter_map(|a| run.featured(a))
        .map(|p| format!("{} {}", p.arm.to_uppercase(), p.words()));
    std::iter::once("reference (SFT)".to_string()).chain(arms).collect()
}

/// Rows of the table of completions.
const SHOWN: usize = 8;

/// Answers of the first seed's policies to the same prompts.
fn completions(run: &Run) -> Vec<Answers> {
    let seed = run.experiment.seed;
    let of = |arm: &str, point: &str| -> Vec<&Completion> {
        run.completions.iter().filter(|c| c.arm == arm && c.point == point && c.seed == seed).collect()
    };
    let mut columns = vec![of("reference", "sft")];
    columns.extend(run.arms().into_iter().filter_map(|a| run.featured(a)).map(|p| of(&p.arm, &p.label)));
    let rows = columns.iter().map(Vec::len).min().unwrap_or(0);
    // different prompts first, then others of their answers
    let mut seen = HashSet::new();
    let (fresh, again): (Vec<usize>, Vec<usize>) = (0..rows).partition(|&row| seen.insert(&columns[0][row].prompt));
    fresh
        .into_iter()
        .chain(again)
        .take(SHOWN)
        .map(|row| {
            let answers = columns
                .iter()
                .map(|column| {
                    let c = column[row];
                    Answer {
                        text: c.completion.clone(),
                        gold: format!("{:+.2}", c.gold_reward),
                        kl: format!("{:+.1}", c.kl),
                        ended: c.ended,
                    }
                })
                .collect();
            Answers { prompt: columns[0][row].prompt.clone(), answers }
        })
        .collect()
}
