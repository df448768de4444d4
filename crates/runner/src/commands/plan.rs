//! `duel plan`: what a run will do and cost, before it is run.

use crate::calibration::{TimeSource, known_times, measure};
use crate::commands::args::{ExperimentArgs, OutputFormat, concurrent_stages};
use crate::commands::data::CheckInput;
use crate::commands::row_report::with_commas;
use crate::error::Result;
use crate::estimate::{Estimator, ShapeInfo, StageCost, makespan};
use crate::plan::{Plan, StageKind};
use crate::stages::check_rows;
use crate::sysinfo;
use crate::terminal::{format_bytes, format_seconds, json, print};
use crate::warnings;
use clap::Args;
use duel_ledger::RunDir;
use duel_spec::{Arm, Document, Experiment, RewardSource, WorldKind};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub experiment: ExperimentArgs,
    /// Stages to run at once, one thread each [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Also print every resolved setting and where it comes from
    #[arg(long)]
    pub settings: bool,
    /// Time this model's own steps first and keep the times for later plans; takes seconds, a minute for a large model
    #[arg(long)]
    pub measure: bool,
    /// Output for people or for programs
    #[arg(long, default_value = "text")]
    pub format: OutputFormat,
}

/// Seconds from which on a run is called long.
const LONG: f64 = 3600.0;

/// The output as JSON.
#[derive(Debug, Serialize)]
struct PlanReport<'a> {
    name: &'a str,
    question: &'a str,
    jobs: usize,
    stages: Vec<StageRow>,
    /// Of the unfinished stages.
    flops: f64,
    seconds: f64,
    times: TimeSource,
    /// Of the stages that may run at once; bytes.
    memory: f64,
    /// Of a person's own rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<PlannedRows>,
    warnings: Vec<String>,
    /// Value and origin of each setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<BTreeMap<String, [String; 2]>>,
}

/// Which of a person's rows a run takes.
#[derive(Debug, Serialize)]
struct PlannedRows {
    /// Rows that were read, and pairs kept of them for training, validation and test; unknown of large files.
    counts: Option<(usize, [usize; 3])>,
    /// Whether they are prompts alone, whose pairs the model makes and the judge labels.
    are_prompts: bool,
    /// Pairs for training, and of each other split, at most.
    most: [usize; 2],
}

/// Bytes of files that are read to count their rows: a second or so.
const MAX_COUNTED: u64 = 16 << 20;

impl PlannedRows {
    /// Reads the rows, if that takes no longer than a second; adds what is to be said of them to `warnings`.
    ///
    /// # Errors
    /// Rows that a run would refuse.
    fn of(experiment: &Experiment, file: &Path, warnings: &mut Vec<String>) -> Result<Self> {
        let most = [experiment.stages.pairs.rows, experiment.stages.pairs.holdout_rows];
        let input = CheckInput::of_experiment(experiment.clone(), file)?;
        if input.bytes() > MAX_COUNTED {
            return Ok(Self { counts: None, are_prompts: false, most });
        }
        let report = input.check(0)?;
        warnings.extend(input.judge_warning(&report));
        check_rows(experiment, &report.stats)?;
        let are_prompts = report.stats.has_only_prompts();
        Ok(Self { counts: Some((report.stats.read, report.stats.kept_by_split)), are_prompts, most })
    }

    /// The experiment with the rows that there are, where they are fewer than it takes.
    fn expected(&self, experiment: &Experiment) -> Experiment {
        let mut expected = experiment.clone();
        let Some((_, [train, validation, test])) = self.counts.filter(|(_, kept)| kept[0] > 0) else { return expected };
        let (pairs, evaluation) = (&mut expected.stages.pairs, &mut expected.evaluation);
        pairs.rows = pairs.rows.min(train);
        pairs.holdout_rows = pairs.holdout_rows.min(validation.max(test).max(1));
        evaluation.prompts = evaluation.prompts.min(validation.max(test).max(1));
        expected
    }

    fn summary(&self) -> String {
        let [train, other] = self.most.map(with_commas);
        let limits =
            format!("at most {train} for training and {other} of each other split (stages.pairs.rows, holdout_rows)");
        match self.counts {
            Some((read, _)) if self.are_prompts => format!(
                "rows: {} prompts without completions: the model writes pairs, the judge labels them, {limits}",
                with_commas(read)
            ),
            Some((read, kept)) => {
                let [train, validation, test] = kept.map(with_commas);
                let read = with_commas(read);
                format!(
                    "rows: of your {read}, {train} pairs for training, {validation} validation, {test} test; {limits}"
                )
            }
            None => format!("rows: {limits} of your own; `duel data check` counts them"),
        }
    }
}

/// What is done before any arm is trained, and how to leave it out: people who bring their own model expect DPO or PPO alone.
fn preparation(experiment: &Experiment) -> Vec<String> {
    let (sft, rm) = (&experiment.stages.sft, &experiment.stages.rm);
    let mut lines = vec![];
    if sft.steps > 0 {
        lines.push(format!(
            "first SFT, {} steps on the preferred completions: stages.sft.steps = 0 starts from the model as it is",
            sft.steps
        ));
    }
    if rm.steps > 0 {
        let maximizes = |arm: &Arm| arm.representative_points().iter().any(|p| p.method.maximizes(RewardSource::Rm));
        let names: Vec<&str> =
            experiment.arms.iter().filter(|(_, arm)| maximizes(arm)).map(|(name, _)| name.as_str()).collect();
        let who = match &names[..] {
            [] => "no arm maximizes it, and".into(),
            [one] => format!("{one} maximizes it, and"),
            several => format!("{} maximize it, and", several.join(", ")),
        };
        lines.push(format!(
            "then a reward model, {} steps: {who} every arm is measured by it; stages.rm.from = \"DIR\" with stages.rm.steps = 0 takes \
             a trained one",
            rm.steps
        ));
    }
    lines
}

/// A stage.
#[derive(Debug, Serialize)]
struct StageRow {
    label: String,
    folder: String,
    finished: bool,
    /// Labels of the stages that must be done before.
    needs: Vec<String>,
    #[serde(flatten)]
    cost: StageCost,
}

/// Prints the plan; writes only a record of the machine's speed, with `--measure`.
pub fn plan(args: &PlanArgs) -> Result<()> {
    let (experiment, document) = args.experiment.load()?;
    let plan = args.experiment.whole_plan(&experiment)?;
    let run = RunDir::at(&args.experiment.out, &experiment.name);
    let finished: Vec<bool> =
        plan.stages.iter().map(|stage| run.contains_stage(&stage.id)).collect::<duel_ledger::Result<_>>()?;
    let sizes = ShapeInfo::of(&experiment)?;
    let (times, source, problem) = match args.measure {
        true => {
            let (times, problem) = measure(&experiment, &sizes, &args.experiment.out)?;
            (times, TimeSource::Measured, problem)
        }
        false => {
            let (times, source) = known_times(&experiment, &sizes, &args.experiment.out)?;
            (times, source, None)
        }
    };
    let (cores, jobs) = (sysinfo::cores(), concurrent_stages(&experiment, args.jobs));
    let mut row_warnings = vec![];
    let rows = match experiment.world.kind {
        WorldKind::Rows => Some(PlannedRows::of(&experiment, &args.experiment.file, &mut row_warnings)?),
        _ => None,
    };
    let expected = rows.as_ref().map_or_else(|| experiment.clone(), |rows| rows.expected(&experiment));
    let estimator = Estimator::new(&expected, sizes, times, cores)?;
    let machine = Machine { jobs, memory: sysinfo::memory() };
    let mut answer = answer(&experiment, &plan, &finished, &estimator, source, machine);
    answer.rows = rows;
    answer.warnings.extend(row_warnings);
    answer.warnings.extend(problem.map(|problem| format!("the measured times could not be kept: {problem}")));
    if args.settings {
        answer.settings = Some(settings(&document));
    }
    print(&match args.format {
        OutputFormat::Json => json(&answer),
        OutputFormat::Text => text(&answer, &experiment, &plan),
    });
    Ok(())
}

/// The machine.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// Stages at once.
    jobs: usize,
    /// Bytes.
    memory: f64,
}

fn settings(document: &Document) -> BTreeMap<String, [String; 2]> {
    document.resolved().into_iter().map(|(key, value, origin)| (key, [value.to_string(), origin.to_string()])).collect()
}

fn answer<'a>(
    experiment: &'a Experiment,
    plan: &Plan,
    finished: &[bool],
    estimator: &Estimator<'_>,
    times: TimeSource,
    machine: Machine,
) -> PlanReport<'a> {
    let jobs = machine.jobs;
    let costs: Vec<StageCost> = plan.stages.iter().map(|stage| estimator.cost(stage)).collect();
    let to_do = || costs.iter().zip(finished).filter(|(_, finished)| !**finished).map(|(cost, _)| cost);
    let mut memories: Vec<f64> = to_do().map(|cost| cost.memory).collect();
    memories.sort_by(|a, b| b.total_cmp(a));
    let memory = total(memories.iter().take(jobs).copied());
    let seconds = makespan(plan, &costs, finished, jobs);
    let lines = plan.stages.iter().zip(&costs).zip(finished).map(|((stage, cost), finished)| StageRow {
        label: stage.label(),
        folder: stage.id.folder(),
        finished: *finished,
        needs: stage.needs.iter().map(|&need| plan.stages[need].label()).collect(),
        cost: *cost,
    });
    PlanReport {
        name: &experiment.name,
        question: &experiment.question,
        jobs,
        stages: lines.collect(),
        flops: total(to_do().map(|cost| cost.flops)),
        seconds,
        times,
        memory,
        rows: None,
        warnings: warnings(experiment, memory, seconds, machine),
        settings: None,
    }
}

/// Warnings to read before a long run.
fn warnings(experiment: &Experiment, memory: f64, seconds: f64, machine: Machine) -> Vec<String> {
    let mut warnings = vec![];
    if experiment.seeds < duel_report::FEWEST_SEEDS as u64 {
        let seeds = experiment.seeds;
        warnings.push(format!("{seeds} seeds: no claim is judged on fewer than {}", duel_report::FEWEST_SEEDS));
    }
    warnings.extend(warnings::warnings(experiment));
    if memory > machine.memory {
        let [needed, available] = [memory, machine.memory].map(format_bytes);
        warnings.push(format!(
            "about {needed} of memory for stages at once, and the machine has {available}: lower --jobs"
        ));
    }
    if seconds > LONG {
        warnings.push(format!(
            "about {}: it can be interrupted at any time and resumes where it stopped",
            format_seconds(seconds)
        ));
    }
    let mut budgets = BTreeMap::new();
    for (name, arm) in &experiment.arms {
        if !experiment.is_tuned() {
            budgets.insert(name, arm.grid_settings().len());
        }
        for (axis, values) in arm.axes() {
            if values == 2 {
                warnings
                    .push(format!("arms.{name}.grid.{axis} has two values: its best is at an edge whichever it is"));
            }
        }
    }
    if let (Some(least), Some(most)) = (budgets.values().min(), budgets.values().max())
        && least != most
    {
        let words: Vec<String> = budgets.iter().map(|(arm, points)| format!("{arm} {points}")).collect();
        warnings.push(format!("the arms have unequal budgets, points each: {}", words.join(", ")));
    }
    warnings
}

fn text(answer: &PlanReport<'_>, experiment: &Experiment, plan: &Plan) -> String {
    let mut text = format!("{}\n", experiment.title());
    if let Some(settings) = &answer.settings {
        text += "\n";
        for (key, [value, origin]) in settings {
            text += &format!("{:<44} # {origin}\n", format!("{key} = {value}"));
        }
    }
    // 1. The graph: each kind of stage once, what it needs, and what all of its kind cost.
    text +=
        "\n   to do  finished  stage                       after                            GFLOP     time   memory\n";
    let mut groups: Vec<(String, Vec<usize>)> = vec![];
    for (place, stage) in plan.stages.iter().enumerate() {
        let name = match &stage.cell {
            Some(cell) if cell.tuning => format!("{}: search", cell.arm),
            Some(cell) if experiment.is_tuned() => format!("{}: chosen point", cell.arm),
            Some(cell) => format!("{} {}", cell.arm, cell.point.label),
            None => stage.kind.name().to_string(),
        };
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, places)) => places.push(place),
            None => groups.push((name, vec![place])),
        }
    }
    for (name, places) in &groups {
        let done = places.iter().filter(|&&place| answer.stages[place].finished).count();
        let mut kinds: Vec<StageKind> = plan.stages[places[0]].needs.iter().map(|&n| plan.stages[n].kind).collect();
        kinds.dedup();
        let after: Vec<&str> = kinds.into_iter().map(StageKind::name).collect();
        let cost = answer.stages[places[0]].cost;
        text += &format!(
            "{:>8}  {:>8}  {:<27} {:<28} {:>9.1} {:>8} {:>8}\n",
            places.len() - done,
            done,
            name,
            after.join(", "),
            cost.flops / 1e9 + 0.0,
            format_seconds(cost.seconds),
            format_bytes(cost.memory),
        );
    }
    // 2. All together.
    let finished = answer.stages.iter().filter(|line| line.finished).count();
    text += &format!(
        "\n{} stages for {} seed{}, {} of them cells, {finished} finished; the table has GFLOP, time and memory of one stage\n\
         to do: {:.1} GFLOP, about {} with {} at once, about {} of memory\n",
        answer.stages.len(),
        experiment.seeds,
        if experiment.seeds == 1 { "" } else { "s" },
        plan.stages.iter().filter(|stage| stage.kind == StageKind::Cell).count(),
        answer.flops / 1e9,
        format_seconds(answer.seconds),
        answer.jobs,
        format_bytes(answer.memory),
    );
    text += &notes(answer, experiment);
    for warning in &answer.warnings {
        text += &format!("warning: {warning}\n");
    }
    text
}

/// Where the times come from, which rows are taken, and what comes before the arms.
fn notes(answer: &PlanReport<'_>, experiment: &Experiment) -> String {
    let mut text = String::from(match answer.times {
        TimeSource::Table => {
            "times are estimated from a table of measured steps, scaled to this machine; --measure times this model's own steps\n"
        }
        TimeSource::Measured => "times are of this model's steps, measured on this machine\n",
    });
    if let Some(rows) = &answer.rows {
        text += &format!("{}\n", rows.summary());
    }
    if experiment.is_pretrained() {
        preparation(experiment).iter().for_each(|line| text += &format!("{line}\n"));
    }
    if experiment.is_tuned() {
        text += "a search chooses its points as it runs; this is the most that it may try\n";
    }
    text
}

/// The sum of some numbers; an empty sum is 0, not the -0 of `f64::sum`.
fn total(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, |sum, x| sum + x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibration::{Throughput, shape};

    /// The answer on a machine of two cores on which steps of 64 rows take such times.
    fn answer_of<'a>(experiment: &'a Experiment, plan: &Plan, finished: &[bool]) -> PlanReport<'a> {
        let throughput = Throughput { train: 4e-6, train_scalar: 4e-6, sample: 3e-6, read: 1e-6, evaluation: 0.02 };
        let sizes = ShapeInfo::of(experiment).expect("grammar needs no files");
        let times = throughput.times(shape(experiment, &sizes));
        let estimator = Estimator::new(experiment, sizes, times, 2).expect("no models");
        answer(experiment, plan, finished, &estimator, TimeSource::Measured, Machine { jobs: 2, memory: 8e9 })
    }

    #[test]
    fn the_plan_as_people_see_it() {
        let text_of = include_str!("../tiny.toml");
        let document = Document::parse("tiny.toml", text_of, &["seeds=2".into()]).expect("valid");
        let experiment = Experiment::from_document(&document).expect("valid");
        let plan = Plan::new(&experiment, "flex", experiment.cells_for(&experiment.trials())).expect("plans");
        let mut finished = vec![false; plan.stages.len()];
        finished[0] = true;
        let answer = answer_of(&experiment, &plan, &finished);
        let actual = text(&answer, &experiment, &plan);
        let expected = include_str!("plan.snapshot.txt");
        assert_eq!(actual, expected, "\n{actual}");
    }

    #[test]
    fn what_comes_before_the_arms_is_said_with_how_to_leave_it_out() {
        let rows = "[world]\nkind = \"rows\"\n[world.rows]\ntrain = \"r\"\n[model]\nfrom = \"m\"\n[arms.dpo]\nmethod = \"dpo\"\n";
        let lines = |settings: &[&str]| {
            let settings: Vec<String> = settings.iter().map(|setting| (*setting).into()).collect();
            let document = Document::parse("t", rows, &settings).expect("valid");
            preparation(&Experiment::from_document(&document).expect("valid"))
        };
        let both = lines(&["stages.sft.steps=30", "stages.rm.steps=20"]);
        assert!(both[0].starts_with("first SFT, 30 steps") && both[1].starts_with("then a reward model, 20 steps"));
        assert!(lines(&["stages.sft.steps=0", "stages.rm.from=\"r\"", "stages.rm.steps=0"]).is_empty());
        let summary = |counts| PlannedRows { counts, are_prompts: false, most: [4096, 256] }.summary();
        let limits = "at most 4,096 for training and 256 of each other split (stages.pairs.rows, holdout_rows)";
        assert_eq!(
            summary(Some((1200, [960, 120, 119]))),
            format!("rows: of your 1,200, 960 pairs for training, 120 validation, 119 test; {limits}")
        );
        assert_eq!(summary(None), format!("rows: {limits} of your own; `duel data check` counts them"));
    }

    #[test]
    fn a_plan_of_which_nothing_is_left_costs_nothing() {
        let document = Document::parse("tiny.toml", include_str!("../tiny.toml"), &[]).expect("valid");
        let experiment = Experiment::from_document(&document).expect("valid");
        let plan = Plan::new(&experiment, "flex", experiment.cells_for(&experiment.trials())).expect("plans");
        let finished = vec![true; plan.stages.len()];
        let answer = answer_of(&experiment, &plan, &finished);
        let output = text(&answer, &experiment, &plan);
        assert!(output.contains("to do: 0.0 GFLOP, about 0.0 s with 2 at once, about 0 kB of memory"), "{output}");
        assert!(!serde_json::to_string(&answer).expect("plain data").contains("-0.0"));
    }
}
