//! `duel optimum`: the exact optimum of a world at one KL coefficient.

use crate::commands::args::OutputFormat;
use crate::error::{Error, Result};
use crate::plan::{Plan, StageKind};
use crate::stages::StageContext;
use crate::terminal::{json, print};
use clap::{Args, ValueEnum};
use duel_data::grammar::GrammarWorld;
use duel_evaluation::{Optimum, WorldTables, distributions};
use duel_ledger::RunDir;
use duel_model::ResponseReader;
use duel_spec::{GrammarSettings, Split, WorldKind};
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// A world that can be enumerated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExactWorld {
    /// Tiny film reviews: 24 prompts, responses of up to five tokens
    Grammar,
    /// Four prompts, 64 responses, a table
    Bandit,
}

/// A reward that is maximized in place of gold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProxyKind {
    /// What a reward model learns from pairs that never show the trap: "more is better"
    Excitement,
}

#[derive(Debug, Args)]
pub struct OptimumArgs {
    /// The world whose optimum is computed
    #[arg(long)]
    pub world: ExactWorld,
    /// KL coefficient, reward per nat, from 1e-6 to 1e6
    #[arg(long, value_parser = positive)]
    pub beta: f64,
    /// The grammar's prompts to average over; the bandit has only one set
    #[arg(long, default_value = "test", value_parser = split)]
    pub split: Split,
    /// Maximize this reward instead of gold; gold is still what is reported
    #[arg(long)]
    pub proxy: Option<ProxyKind>,
    /// `grammar` itself, or a run directory whose SFT policy is the reference
    #[arg(long, value_name = "grammar|RUN", default_value = "grammar")]
    pub reference: String,
    /// The seed of the SFT policy, if the reference is a run's
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Output for people or for programs
    #[arg(long, default_value = "text")]
    pub format: OutputFormat,
}

/// Prints the exact optimum of a world.
pub fn optimum(args: &OptimumArgs) -> Result<()> {
    let tables = match args.world {
        ExactWorld::Bandit => WorldTables::bandit(),
        ExactWorld::Grammar if args.reference == "grammar" => {
            WorldTables::grammar(&GrammarWorld::new(GrammarSettings::defaults().rho, 1), args.split)
        }
        ExactWorld::Grammar => of_run(args, Path::new(&args.reference))?,
    };
    let reward = match args.proxy {
        None => &tables.gold,
        Some(ProxyKind::Excitement) => &tables.proxy,
    };
    let best = tables.optimum(reward, args.beta);
    print(&match args.format {
        OutputFormat::Json => json(&best),
        OutputFormat::Text => as_text(&best),
    });
    Ok(())
}

fn as_text(best: &Optimum) -> String {
    let rows = [
        ("beta", best.beta),
        ("reference_gold", best.reference_gold),
        ("gold", best.gold),
        ("kl", best.kl),
        ("objective", best.objective),
        ("p_trap", best.p_trap),
    ];
    rows.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "{name:<15} {value:>10.6}");
        text
    })
}

/// Tables whose reference is the SFT policy of a run's seed.
fn of_run(args: &OptimumArgs, path: &Path) -> Result<WorldTables> {
    let (_, experiment, plan) = Plan::of_run(path)?;
    if experiment.world.kind != WorldKind::Grammar {
        return Err(Error::NotExact { path: path.into(), world: "reviews" });
    }
    let stage = plan.stages.iter().find(|s| s.kind == StageKind::Pairs && s.seed == args.seed);
    let stage = stage.ok_or_else(|| Error::NoSeed { path: path.into(), seed: args.seed })?;
    let run = RunDir::open(path)?;
    let (device, stop) = (duel_model::device::open("flex")?, AtomicBool::new(false));
    let world = GrammarWorld::new(experiment.world.grammar.rho, experiment.world.grammar.sft_rows);
    let context = StageContext::new(&experiment, &plan, stage, &run, device.clone(), &stop);
    let policy = context.sft_policy(&world)?;
    let reader = ResponseReader::new(duel_data::World::space(&world), &device);
    Ok(WorldTables::grammar_with(&world, args.split, |prompts| distributions(&policy, &reader, prompts)))
}

fn positive(text: &str) -> std::result::Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if (1e-6..=1e6).contains(&x) => Ok(x),
        _ => Err("expected a number from 1e-6 to 1e6".into()),
    }
}

fn split(text: &str) -> std::result::Result<Split, String> {
    Split::ALL.into_iter().find(|split| split.name() == text).ok_or_else(|| "expected train, validation or test".into())
}
