//! `duel plan`: what a run will do and cost, before it is run.

use crate::calibration::{TimeSource, known_times, measure};
use crate::commands::args::{ExperimentArgs, OutputFormat, concurrent_stages};
use crate::error::Result;
use crate::estimate::{Estimator, ShapeInfo, StageCost, makespan};
use crate::plan::{Plan, StageKind};
use crate::sysinfo;
use crate::terminal::{format_bytes, format_seconds, json, print};
use crate::warnings;
use clap::Args;
use duel_ledger::RunDir;
use duel_spec::{Document, Experiment};
use serde::Serialize;
use std::collections::BTreeMap;

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

/// Seeds below which no claim is judged (docs/verdicts.md, Refusals).
const FEWEST_SEEDS: u64 = 5;
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
    warnings: Vec<String>,
    /// Value and origin of each setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    settings: Option<BTreeMap<String, [String; 2]>>,
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
    let estimator = Estimator::new(&experiment, sizes, times, cores)?;
    let machine = Machine { jobs, memory: sysinfo::memory() };
    let mut answer = answer(&experiment, &plan, &finished, &estimator, source, machine);
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
        warnings: warnings(experiment, memory, seconds, machine),
        settings: None,
    }
}

/// Warnings to read before a long run.
fn warnings(experiment: &Experiment, memory: f64, seconds: f64, machine: Machine) -> Vec<String> {
    let mut warnings = vec![];
    if experiment.seeds < FEWEST_SEEDS {
        let seeds = experiment.seeds;
        warnings.push(format!("{seeds} seeds: no claim is judged on fewer than {FEWEST_SEEDS}"));
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
    let mut text = format!("{}: {}\n", answer.name, answer.question);
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
        "\n{} stages for {} seed{}, {} of them cells, {finished} finished; GFLOP, time and memory of one each\n\
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
    text += match answer.times {
        TimeSource::Table => {
            "times are a table's, scaled by a matrix product on this machine; --measure times this model's own steps\n"
        }
        TimeSource::Measured => "times are of this model's steps, measured on this machine\n",
    };
    if experiment.is_tuned() {
        text += "the search proposes as it goes; this is all that it may try\n";
    }
    for warning in &answer.warnings {
        text += &format!("warning: {warning}\n");
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
