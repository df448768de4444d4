//! The page: one self-contained HTML file that explains a run with its own numbers.

use crate::analysis::costs::{self, ArmCost};
use crate::analysis::merged_parts::can_compare_costs;
use crate::analysis::points::MeasuredPoint;
use crate::analysis::run::Run;
use crate::analysis::stats::{Estimate, mean};
use crate::analysis::verdict::{ClaimResult, ClaimTest};
use crate::analysis::{calibration, finding, frontier, idle};
use crate::charts::{figure, theme};
use crate::error::Result;
use crate::format::{and_list, fixed, nats, percent, seconds, short, si, signed};
use crate::page::rendering::RenderedChart;
use crate::page::tables::ReportTables;
use crate::page::template::{embedded, fill_template};
use duel_spec::metrics::{self, Metric};
use duel_spec::{
    Completion, Experiment, JudgeKind, MethodSettings, REFERENCE, RewardSettings, RewardSource, RewardTerm, WorldKind,
};
use minijinja::value::Serde;
use minijinja::{Value, context};
use serde::Serialize;
use std::collections::{BTreeSet, HashSet};
use std::path::{Component, Path, PathBuf};

/// An arm as the page shows it.
#[derive(Debug, Serialize)]
struct ArmSummary {
    name: String,
    method: String,
    /// Its name among the colors of the page.
    color: &'static str,
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
    /// Whether it reads each response by itself, wanted or not, as KTO does.
    reads_single_responses: bool,
    always_above_reference: bool,
    /// Whether it maximizes a reward over its own responses.
    maximizes_reward: bool,
    /// Whether the shown point is trained on the gold reward, and on the learned one.
    on_gold: bool,
    on_rm: bool,
    /// What it maximizes, where that is the sum of several rewards.
    rewards: Option<String>,
}

/// Fills the page.
pub(crate) fn fill(
    run: &Run,
    charts: &[RenderedChart],
    tables: &ReportTables,
    edges: &[String],
    verdicts: &[ClaimResult],
) -> Result<String> {
    let costs = costs::arm_costs(run);
    let arm_summaries: Vec<ArmSummary> =
        run.arms().into_iter().filter_map(|arm| arm_summary(run, arm, &costs)).collect();
    let page = context! {
        arms => Serde(&arm_summaries),
        finding => finding::finding(run),
        matched => matched_sentences(run),
        ratio => cost_ratio(&costs),
        charts => Serde(charts),
        names => charts.iter().map(|chart| chart.name.clone()).collect::<HashSet<_>>(),
        groups => charts.iter().map(|chart| chart.group).collect::<HashSet<_>>(),
        tables => Serde(tables),
        edges => Serde(edges),
        verdicts => Serde(verdicts.iter().map(RenderedVerdict::new).collect::<Vec<_>>()),
        completions => embedded(&completions(run))?,
        featured => embedded(&featured(run))?,
    };
    let [experiment, measured, of_run] = [experiment_context(run), measured_context(run), run_context(run)];
    fill_template("page.html", context! { ..page, ..experiment, ..measured, ..of_run })
}

/// The settings of the experiment.
fn experiment_context(run: &Run) -> Value {
    let Experiment { stages, world, judge: judge_settings, tuning, budget, .. } = &run.experiment;
    let evaluation = &run.experiment.evaluation;
    let pairwise = &evaluation.pairwise;
    let responses = |prompts: usize, each: usize| match each {
        1 => format!("one response to each of up to {prompts} prompts"),
        _ => format!("{each} responses to each of up to {prompts} prompts"),
    };
    context! {
        name => run.experiment.name.clone(),
        question => run.experiment.question.clone(),
        is_exact => world.kind == WorldKind::Grammar,
        world => format!("{:?}", world.kind).to_lowercase(),
        seeds => run.experiment.seeds,
        only_beta => only_beta(run),
        noisy => stages.pairs.length_bias > 0.0 || stages.pairs.label_flips > 0.0,
        rows => stages.pairs.rows,
        own_rows => if world.kind == WorldKind::Rows { world.rows.train.to_string() } else { String::new() },
        row_use => row_use(run),
        pretrained => run.experiment.model.from.clone(),
        sft => stages.sft.steps > 0,
        judge => judge(&run.experiment),
        judge_model => judge_settings.model.clone(),
        judge_command => judge_settings.command.join(" "),
        pairwise_judge => if pairwise.is_model() { pairwise.model.clone() } else { pairwise.command.join(" ") },
        pairwise_is_model => pairwise.is_model(),
        at_checkpoint => responses(evaluation.curve_prompts.min(evaluation.prompts), evaluation.curve_samples_per_prompt),
        at_end => responses(evaluation.prompts, evaluation.samples_per_prompt),
        judged_words => world.reviews.judged_words,
        preface => world.reviews.preface.trim_end(),
        rm_from => stages.rm.from.clone(),
        rm_steps => stages.rm.steps,
        budget => budget.is_set().then(|| format!("{} {}", si(budget.amount), budget.unit_name())),
        timed => budget.warning(),
        tuned => run.experiment.is_tuned(),
        tuning => Serde(tuning),
        tuning_kl => nats(tuning.kl),
    }
}

/// What the shared stages and the reference measured.
fn measured_context(run: &Run) -> Value {
    let of_reference = |metric: Metric| run.reference().map(|p| p.final_test(metric)).unwrap_or_default();
    let shared = |stage: &str, metric: Metric, places: usize| {
        Estimate::of(&run.shared_metric(stage, metric)).map(|e| e.text(metric, places))
    };
    let spreads = of_reference(metrics::GOLD_SD);
    context! {
        reference => context! {
            gold => Estimate::of(&of_reference(metrics::GOLD)).map(|e| format!("{e:.2}")),
            gold_sd => fixed(mean(&spreads), 2),
            without_spread => !spreads.is_empty() && spreads.iter().all(|sd| *sd == 0.0),
        },
        bayes => shared("pairs", metrics::BAYES_ACCURACY, 3),
        tau => shared("pairs", metrics::TAU, 2),
        rm_test => shared("rm", metrics::PAIR_ACCURACY_TEST, 3),
        rm_slope => shared("rm", metrics::RM_TRAP_SLOPE, 2),
        rm_gold => shared("rm", metrics::RM_SPEARMAN_GOLD, 2),
        base_nll => shared("base", metrics::NLL_TOKEN, 2),
        gold_full => shared("corpus", metrics::GOLD_ACCURACY, 3),
        gold_window => shared("corpus", metrics::GOLD_ACCURACY_WINDOW, 3),
        gold_human => shared("corpus", metrics::GOLD_HUMAN_AGREEMENT, 3),
        gold_calibration => shared("corpus", metrics::GOLD_CALIBRATION, 3),
        tidy_kl => nats(frontier::common_kl(run)),
    }
}

/// The outcome of the run: missing or weak parts, cost, and the command to repeat it.
fn run_context(run: &Run) -> Value {
    let manifest = &run.manifest;
    let arguments = manifest.command.iter().skip(1).map(String::as_str);
    context! {
        cells => run.cells.len(),
        unfinished => run.missing_summary(),
        dropped_claims => run.dropped_claims(),
        weak => calibration::at_chance(run),
        weak_judge => calibration::weak_judge_of(run),
        idle => idle::warnings(run),
        threads => costs::threads_label(run),
        manifest => Serde(manifest),
        merged => manifest.merge_note(),
        costs_compared => can_compare_costs(run),
        seconds => manifest.wall_seconds.map(seconds),
        memory => si(manifest.peak_memory as f64),
        folder => place_of(run),
        command => std::iter::once("duel".to_owned()).chain(arguments.map(quoted)).collect::<Vec<_>>().join(" "),
        settings => std::fs::read_to_string(run.folder.join("experiment.toml")).unwrap_or_default(),
    }
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    match !argument.is_empty() && argument.chars().all(is_plain) {
        true => argument.into(),
        false => format!("'{}'", argument.replace('\'', r"'\''")),
    }
}

/// The run directory, as the command that made the run named it: `DIR/NAME` by `--out DIR`; `RUN` if it is elsewhere now. The page of
/// a merged run is the same wherever it was merged into.
fn place_of(run: &Run) -> String {
    const ELSEWHERE: &str = "RUN";
    if run.manifest.is_merged() {
        return ELSEWHERE.into();
    }
    let command = &run.manifest.command;
    let option = |name: &str| {
        let value = |(index, word): (usize, &String)| match word.strip_prefix(name)? {
            "" => command.get(index + 1).cloned(),
            rest => rest.strip_prefix('=').map(String::from),
        };
        command.iter().enumerate().filter_map(value).next_back()
    };
    let out = option("--out").unwrap_or_else(|| "runs".into());
    let place = format!("{}/{}", out.trim_end_matches('/'), run.experiment.name);
    let folder = std::fs::canonicalize(&run.folder).unwrap_or_else(|_| run.folder.clone());
    let named: PathBuf = Path::new(&place).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    if folder.ends_with(named) { place } else { ELSEWHERE.into() }
}

/// How many times the cost of the cheaper of two arms the other has.
fn cost_ratio(costs: &[ArmCost]) -> Option<Value> {
    let [cheap, expensive] = costs::by_flops(costs)?;
    (cheap.seconds != 0.0).then(|| {
        context! {
            cheap => cheap.arm.to_uppercase(),
            expensive => expensive.arm.to_uppercase(),
            flops => fixed(expensive.flops / cheap.flops, 1),
            seconds => cheap.seconds.is_finite().then(|| fixed(expensive.seconds / cheap.seconds, 1)),
        }
    })
}

/// The use of the user's rows: how many were read and kept, and why the others were not; `None` for runs without these metrics.
fn row_use(run: &Run) -> Option<String> {
    const LEFT_OUT: [(Metric, &str); 5] = [
        (metrics::ROWS_UNREADABLE, "that could not be read or trained on"),
        (metrics::ROWS_SAME, "whose completions are the same"),
        (metrics::ROWS_DUPLICATE, "that are duplicates"),
        (metrics::ROWS_LONG_PROMPT, "with a prompt of too many tokens"),
        (metrics::ROWS_LONG_RESPONSE, "with a completion of too many tokens"),
    ];
    const CHANGED: [(Metric, &str); 4] = [
        (metrics::ROWS_PROMPT_CUT, "with a prompt of too many tokens, cut at its beginning"),
        (
            metrics::ROWS_RESPONSE_CUT,
            "with a completion of too many tokens, cut at its end and so without an end token",
        ),
        (metrics::ROWS_CUT_AT_EOS, "with a completion cut at its first end token"),
        (metrics::ROWS_MERGED, "whose prompt ends before a token that it shares with a completion"),
    ];
    let count = |metric: Metric| run.shared_metric("corpus", metric).first().copied();
    let list = |counts: &[(Metric, &str)]| {
        let counts = counts.iter().filter_map(|(metric, what)| Some((count(*metric).filter(|&n| n > 0.0)?, what)));
        counts.map(|(n, what)| format!("{n:.0} {what}")).collect::<Vec<_>>().join(", ")
    };
    count(metrics::ROWS_UNREADABLE)?;
    let (read, pairs) = (count(metrics::ROWS_READ)?, count(metrics::ROWS_KEPT)?);
    let mut text = format!("Of {read:.0} rows {pairs:.0} pairs were kept");
    for (counts, what) in [(&LEFT_OUT[..], "left out"), (&CHANGED, "changed")] {
        let listed = list(counts);
        if !listed.is_empty() {
            text += &format!("; {what}: {listed}");
        }
    }
    Some(text + ".")
}

/// The judge of a text world, in words.
fn judge(experiment: &Experiment) -> &'static str {
    match experiment.judge.kind {
        JudgeKind::World if experiment.world.kind == WorldKind::Rows => "rows",
        JudgeKind::World | JudgeKind::Sentiment => "sentiment",
        JudgeKind::Ratings => "ratings",
        JudgeKind::Rules => "rules",
        JudgeKind::Command => "command",
        JudgeKind::Model => "model",
    }
}

/// A verdict with a summary of its tests.
#[derive(Debug, Serialize)]
struct RenderedVerdict<'a> {
    #[serde(flatten)]
    verdict: &'a ClaimResult,
    /// A line for each test.
    measured: Vec<String>,
    /// The fewest and the most seeds of a test.
    seeds: String,
}

impl<'a> RenderedVerdict<'a> {
    fn new(verdict: &'a ClaimResult) -> Self {
        let measured = verdict.tests.iter().map(|test| test_summary(test, verdict.claim.metric.is_counted())).collect();
        let seeds: BTreeSet<usize> = verdict.tests.iter().map(|test| test.seeds).collect();
        let seeds = match (seeds.first(), seeds.last()) {
            (Some(fewest), Some(most)) if fewest < most => format!("{fewest} to {most}"),
            (_, most) => most.map_or("–".into(), ToString::to_string),
        };
        Self { verdict, measured, seeds }
    }
}

/// `at KL 1: 0.123 (1.1×) [0.100, 0.146]`.
fn test_summary(test: &ClaimTest, is_counted: bool) -> String {
    let prefix = test.kl.map_or(String::new(), |kl| format!("at KL {kl}: "));
    let Some(effect) = test.effect else { return prefix + "–" };
    let places = if effect.abs() > 1000.0 { 0 } else { 3 };
    let times = test.times.filter(|times| (1e-6..1e6).contains(times));
    let times = times.map_or(String::new(), |times| format!(" ({}×)", short(times)));
    let ends = |[low, high]: [f64; 2]| format!(" [{}, {}]", fixed(low, places), fixed(high, places));
    let level = test
        .interval
        .filter(|_| !is_counted)
        .map_or(String::new(), |_| format!(" ({}%)", fixed(100.0 * test.level, 1)));
    let interval = match (test.interval, is_counted) {
        (Some([low, high]), true) if low == high => String::new(),
        (Some([low, high]), true) => format!(" (from {} to {})", fixed(low, places), fixed(high, places)),
        (interval, _) => interval.map_or(String::new(), ends),
    };
    format!("{prefix}{}{times}{interval}{level}", fixed(effect, places))
}

fn arm_summary(run: &Run, arm: &str, costs: &[ArmCost]) -> Option<ArmSummary> {
    let featured = run.featured(arm)?;
    let cost = costs.iter().find(|c| c.arm == arm)?;
    let estimate_of =
        |metric: Metric, places: usize| Estimate::of(&featured.final_test(metric)).map(|e| e.text(metric, places));
    let golds = featured.final_test(metrics::GOLD);
    let reference = run.reference()?;
    let gain = Estimate::of_differences(&golds, &reference.final_test(metrics::GOLD))?;
    let sd = mean(&reference.final_test(metrics::GOLD_SD));
    // chosen on validation prompts, shown on test prompts
    let merit = |p: &MeasuredPoint| mean(&p.final_validation(metrics::ETA)); // of finite values only
    let best = run
        .points_of(arm)
        .filter(|p| !p.final_validation(metrics::ETA).is_empty())
        .max_by(|a, b| merit(a).total_cmp(&merit(b)));
    Some(ArmSummary {
        name: arm.to_uppercase(),
        method: featured.method.clone(),
        color: theme::palette_name(figure::palette_index(run, arm)),
        label: featured.display_label(),
        gold: estimate_of(metrics::GOLD, 2)?,
        gain: format!("{gain:.2}"),
        gain_sd: if sd > 0.0 { fixed(gain.mean / sd, 1) } else { "–".into() },
        kl: estimate_of(metrics::KL, 2)?,
        eta: estimate_of(metrics::ETA, 2),
        ideal_eta: estimate_of(metrics::IDEAL_ETA, 2),
        best_eta: best.and_then(|p| Estimate::of(&p.final_test(metrics::ETA))).map(|e| e.text(metrics::ETA, 2)),
        best_eta_label: best.map(|p| p.display_label()),
        win_rate: percent(mean(&featured.final_test(metrics::WIN_RATE))),
        proxy: estimate_of(metrics::PROXY, 2).unwrap_or_default(),
        models: fixed(cost.models, 0),
        sampled: si(cost.sampled),
        sampled_nothing: cost.sampled == 0.0,
        flops: si(cost.flops),
        seconds: seconds(cost.seconds),
        settings: run.method_of(featured).map(|method| serde_json::json!(method)),
        reads_single_responses: run
            .method_of(featured)
            .is_some_and(|method| matches!(method, MethodSettings::Dpo(dpo) if dpo.allows_unpaired())),
        always_above_reference: run.points_of(arm).all(|p| is_above_reference(p, reference)),
        maximizes_reward: run.method_of(featured).is_some_and(|method| method.on_policy().is_some()),
        on_gold: run.optimizes_gold(featured),
        on_rm: run.method_of(featured).is_some_and(|method| method.maximizes(RewardSource::Rm)),
        rewards: run
            .method_of(featured)
            .as_ref()
            .and_then(MethodSettings::on_policy)
            .and_then(|s| reward_sum(&s.reward)),
    })
}

/// `the reward model's + 0.2 · gold`; `None` of a single reward.
fn reward_sum(reward: &RewardSettings) -> Option<String> {
    let RewardSettings::Sum(terms) = reward else { return None };
    let text = |term: &RewardTerm| {
        let name = match term.from {
            RewardSource::Rm => "the reward model's score",
            RewardSource::Gold => "the gold reward",
            RewardSource::Length => "the number of tokens",
            RewardSource::Rules => "the score by rules",
        };
        format!("{} · {name}", term.weight)
    };
    Some(terms.iter().map(text).collect::<Vec<_>>().join(" + "))
}

/// Whether every arm's grid spans `beta` and nothing else.
fn only_beta(run: &Run) -> bool {
    let is_beta_only = |p: &MeasuredPoint| p.label.starts_with("beta=") && !p.label.contains(',');
    run.arms().into_iter().all(|arm| run.points_of(arm).all(is_beta_only))
}

/// Whether every seed's finished policy earns more gold than its reference.
fn is_above_reference(point: &MeasuredPoint, reference: &MeasuredPoint) -> bool {
    point.finished().all(|(seed, evaluation)| {
        let base = reference.seeds.get(&seed).and_then(|m| m.last()).and_then(|m| m.test(metrics::GOLD));
        evaluation.test(metrics::GOLD) > base
    })
}

/// The comparison at equal KL in sentences; an interval that contains zero decides nothing.
fn matched_sentences(run: &Run) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut undecided = Vec::new();
    for m in frontier::at_equal_kl(run) {
        let ([Some(a), Some(b)], Some(difference)) = (&m.arms[..], m.difference) else { continue };
        let (a, b) = (a.arm.to_uppercase(), b.arm.to_uppercase());
        let (ahead, behind) = if difference.mean >= 0.0 { (b, a) } else { (a, b) };
        let size = Estimate { mean: difference.mean.abs(), ..difference };
        let lead = format!("At KL {}, {ahead} is ahead of {behind} by {size:.3} {}", m.kl, m.unit());
        match difference.excludes_zero() {
            Some(true) => sentences.push(format!("{lead}.")),
            Some(false) => undecided.push(m.kl.to_string()),
            None => sentences.push(format!("{lead}; with one seed there is no interval.")),
        }
    }
    if !undecided.is_empty() {
        let kls = and_list(&undecided);
        sentences.push(format!("At KL {kls} the interval of the difference contains zero: no detectable difference."));
    }
    sentences
}

/// One saved response, short for the page: arm, settings, seed, prompt, text, gold, proxy, log-ratio, tokens, whether it ended.
type SampleRow = (String, String, u64, String, String, String, String, String, u32, bool);

/// Seeds whose responses are on the page, and responses, unless one seed has more.
const SEEDS_SHOWN: usize = 3;
const RESPONSES_SHOWN: usize = 6000;

/// The saved responses of the first seeds' policies, prompt by prompt.
fn completions(run: &Run) -> Vec<SampleRow> {
    let of_each = (run.completions.len() / run.experiment.seed_list().len().max(1)).max(1);
    let shown = (RESPONSES_SHOWN / of_each).clamp(1, SEEDS_SHOWN);
    let seeds: Vec<u64> = run.experiment.seed_list().into_iter().take(shown).collect();
    let number = |x: f64, places: usize| if x.is_finite() { signed(x, places) } else { "–".into() };
    let row_of = |c: &Completion| {
        let point =
            run.points_of(&c.arm).find(|p| p.label == c.point).map_or(c.point.clone(), MeasuredPoint::display_label);
        let arm = if c.arm == REFERENCE { c.arm.clone() } else { c.arm.to_uppercase() };
        let (gold, proxy, ratio) = (number(c.gold_reward, 2), number(c.proxy_reward, 2), number(c.kl, 1));
        (arm, point, c.seed, c.prompt.clone(), c.completion.clone(), gold, proxy, ratio, c.tokens, c.ended)
    };
    let mut all: Vec<SampleRow> = run.completions.iter().filter(|c| seeds.contains(&c.seed)).map(row_of).collect();
    let order: Vec<String> =
        std::iter::once(REFERENCE.to_string()).chain(run.arms().iter().map(|a| a.to_uppercase())).collect();
    let arm_index = |arm: &String| order.iter().position(|a| a == arm);
    all.sort_by(|a, b| (a.2, &a.3, arm_index(&a.0)).cmp(&(b.2, &b.3, arm_index(&b.0))));
    all
}

/// Settings and labels that the browser of responses begins with: the reference, and each arm's featured point.
fn featured(run: &Run) -> Vec<(String, String)> {
    let arms =
        run.arms().into_iter().filter_map(|a| run.featured(a)).map(|p| (p.arm.to_uppercase(), p.display_label()));
    std::iter::once((REFERENCE.to_string(), "sft".to_string())).chain(arms).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::hand_made_run::HandMadeRun;
    use crate::analysis::verdict::Verdict;

    #[test]
    fn a_run_is_where_its_command_put_it() {
        let place = |command: &str, folder: &str| {
            let mut run = HandMadeRun::new("name = 'x'\n[arms.a]\nmethod = 'dpo'");
            run.run().manifest.command = command.split_whitespace().map(String::from).collect();
            run.run().folder = folder.into();
            place_of(&run.finish())
        };
        assert_eq!(place("duel run x.toml", "/home/b/runs/x"), "runs/x");
        assert_eq!(place("duel run x.toml --out /tmp/a/", "/tmp/a/x"), "/tmp/a/x");
        assert_eq!(place("duel run --out=a x.toml --seeds 2", "a/x"), "a/x");
        assert_eq!(place("duel run --out=../a x.toml", "/home/a/x"), "../a/x");
        assert_eq!(place("", "/home/b/runs/x"), "runs/x", "a run of an older format");
        assert_eq!(place("duel run x.toml", "/home/b/results/x"), "RUN", "it was moved");
    }

    #[test]
    fn arguments_are_written_as_a_shell_takes_them() {
        let written = ["run", "a.toml", "--set", "arms.p.grid.beta=[0.02, 0.2]", "x=it's", ""].map(quoted);
        assert_eq!(written, ["run", "a.toml", "--set", "'arms.p.grid.beta=[0.02, 0.2]'", r"'x=it'\''s'", "''"]);
    }

    #[test]
    fn a_test_in_words() {
        let test = ClaimTest {
            kl: Some(0.5),
            judgement: Verdict::Inconclusive,
            effect: Some(0.1234),
            times: Some(1.1313),
            interval: Some([-0.0001, 0.2]),
            level: 0.95,
            p: None,
            p_sign_flip: None,
            seeds: 5,
            reason: None,
        };
        assert_eq!(test_summary(&test, false), "at KL 0.5: 0.123 (1.1×) [0.000, 0.200] (95.0%)");
        let large = ClaimTest {
            kl: None,
            effect: Some(-12_345.6),
            times: None,
            interval: Some([f64::NEG_INFINITY, 3.0]),
            ..test
        };
        assert_eq!(test_summary(&large, false), "-12346 [−∞, 3] (95.0%)");
        // a count has no level: its ends are those of the seeds
        let count = |ends| ClaimTest { effect: Some(3.0), interval: Some(ends), ..large.clone() };
        assert_eq!(test_summary(&count([3.0, 3.0]), true), "3.000");
        assert_eq!(test_summary(&count([2.0, 4.0]), true), "3.000 (from 2.000 to 4.000)");
        assert_eq!(test_summary(&ClaimTest { effect: None, ..large }, false), "–");
    }
}
