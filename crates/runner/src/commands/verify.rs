//! `duel verify`: the claims of a run, and those whose answers are known.

use crate::commands::args::OutputFormat;
use crate::error::{Error, Result, StageFailure};
use crate::terminal::json;
use crate::terminal::{print, warn};
use clap::{Args, ValueEnum};
use duel_evaluation::claims::{self, Bound, ExactClaim};
use duel_ledger::read_metrics;
use duel_report::{ClaimResult, JudgedClaims, Verdict, fixed};
use duel_spec::metrics;
use std::fmt::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Claims that belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClaimFamily {
    /// A1 to A11, C1 and C7: the equations, on worlds whose answers are known
    Exact,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["run", "family", "statements"]))]
pub struct VerifyArgs {
    /// The run directory, for example runs/article
    pub run: Option<PathBuf>,
    /// Check claims with known answers
    #[arg(long)]
    pub family: Option<ClaimFamily>,
    /// Judge the claims of a list of statements over several runs, for example results/article-list.toml, as a table in Markdown
    #[arg(long, value_name = "FILE")]
    pub statements: Option<PathBuf>,
    /// Only this claim; repeatable
    #[arg(long, value_name = "ID", requires = "run")]
    pub claim: Vec<String>,
    /// Exit code 3 for inconclusive claims too
    #[arg(long, requires = "run")]
    pub strict: bool,
    /// Output for people or for programs
    #[arg(long, default_value = "text")]
    pub format: OutputFormat,
}

/// Judges a run's claims, or a family of claims; an error where one does not hold.
pub fn verify(args: &VerifyArgs) -> Result<()> {
    match (&args.run, args.family, &args.statements) {
        (Some(run), ..) => of_experiment(args, run),
        (None, Some(ClaimFamily::Exact), _) => exact(args),
        (None, None, Some(list)) => of_statements(args, list),
        (None, None, None) => unreachable!("clap asks for one of the three"),
    }
}

/// Judges what an experiment set out to show.
fn of_experiment(args: &VerifyArgs, run: &Path) -> Result<()> {
    let JudgedClaims { mut verdicts, warnings } = duel_report::judge(run)?;
    warn(&warnings);
    let known: Vec<String> = verdicts.iter().map(|result| result.claim.id.clone()).collect();
    let unknown = args.claim.iter().find(|id| !known.contains(id));
    if let (Some(id), _) | (None, Some(id)) = (unknown, known.is_empty().then_some(&String::new())) {
        return Err(Error::NoClaim { run: run.into(), id: id.clone(), known });
    }
    verdicts.retain(|result| args.claim.is_empty() || args.claim.contains(&result.claim.id));
    print(&match args.format {
        OutputFormat::Json => json(&verdicts),
        OutputFormat::Text => verdicts.iter().map(render).collect(),
    });
    let counts = |judgement| verdicts.iter().filter(|result| result.judgement == judgement).count();
    let contradicted = counts(Verdict::Contradicted) + if args.strict { counts(Verdict::Inconclusive) } else { 0 };
    if contradicted > 0 {
        return Err(Error::Contradicted { contradicted, claims: verdicts.len() });
    }
    Ok(())
}

/// Judges statements by the claims of several runs.
fn of_statements(args: &VerifyArgs, list: &Path) -> Result<()> {
    let judged = duel_report::judge_statements(list)?;
    let folder = list.parent().map(|folder| folder.join("").display().to_string()).unwrap_or_default();
    print(&match args.format {
        OutputFormat::Json => json(&judged),
        OutputFormat::Text => judged.markdown(&folder),
    });
    Ok(())
}

fn p_value(p: f64) -> String {
    if p < 0.0001 { "p < 0.0001".into() } else { format!("p = {p:.4}") }
}

/// A verdict in lines.
fn render(result: &ClaimResult) -> String {
    let claim = &result.claim;
    let source = if claim.source.is_empty() { String::new() } else { format!(" ({})", claim.source) };
    let added = if result.added_after_run { " (added after the run)" } else { "" };
    let mut text = format!("{} {}{added}: {}{source}\n", claim.id, result.judgement, result.description);
    let number = |x: Option<f64>, places: usize| x.map_or("–".into(), |x| fixed(x, places));
    for test in &result.tests {
        let interval = test
            .interval
            .map_or("no interval".into(), |[low, high]| format!("{} to {}", fixed(low, 3), fixed(high, 3)));
        let prefix = test.kl.map_or(String::new(), |kl| format!("at KL {kl}: "));
        let _ = writeln!(
            text,
            "      {prefix}effect {}{}, {}, {}",
            number(test.effect, 3),
            test.times.map_or(String::new(), |times| format!(" ({} times)", fixed(times, 2))),
            match (claim.metric.is_counted(), test.interval) {
                (_, None) => interval,
                (true, _) => format!("counted, from {interval}"),
                (false, _) => format!("{:.1}% interval {interval}", 100.0 * test.level),
            },
            test.p.map_or("no p-value".into(), p_value),
        );
        if let Some(p) = test.p_sign_flip {
            let _ = writeln!(text, "      {} by the sign-flip test", p_value(p));
        }
    }
    let _ = writeln!(text, "      {}", result.requirement);
    for (arm, budget) in &result.budgets {
        let (points, trainings, flops) = (budget.points, budget.trainings, budget.flops / 1e9);
        let _ = writeln!(text, "      {arm}: {points} points, {trainings} trainings, {} GFLOP", fixed(flops, 1));
    }
    for reason in &result.reasons {
        let _ = writeln!(text, "      {reason}");
    }
    text
}

/// Judges the claims whose answers are known.
fn exact(args: &VerifyArgs) -> Result<()> {
    let mut claims = claims::exact()?;
    let last = claims.len() - 1;
    claims.insert(last, no_reward_model_and_no_sampling()?); // C1 before C7
    print(&match args.format {
        OutputFormat::Json => json(&claims),
        OutputFormat::Text => table(&claims),
    });
    let contradicted = claims.iter().filter(|claim| !claim.holds()).count();
    if contradicted > 0 {
        return Err(Error::Contradicted { contradicted, claims: claims.len() });
    }
    Ok(())
}

/// One line a number, under its claim.
fn table(claims: &[ExactClaim]) -> String {
    let mut text = String::new();
    for claim in claims {
        let verdict = if claim.holds() { "holds" } else { "DOES NOT HOLD" };
        let _ = writeln!(text, "{:<4}{verdict}: {}", claim.id, claim.statement);
        for finding in &claim.findings {
            let expected = match finding.bound {
                Bound::Near => format!("{:.6} ± {:.0e}", finding.expected, finding.tolerance),
                Bound::AtMost => format!("at most {:.6}", finding.expected),
                Bound::AtLeast => format!("at least {:.6}", finding.expected),
            };
            let mark = if finding.holds { " " } else { "✗" };
            let _ = writeln!(text, "  {mark} {:<70} {:>14.6}   {expected}", finding.quantity, finding.found);
        }
    }
    let (holding, all) = (claims.iter().filter(|c| c.holds()).count(), claims.len());
    let numbers: usize = claims.iter().map(|c| c.findings.len()).sum();
    let _ = writeln!(text, "{holding} of {all} claims hold, {numbers} numbers");
    text
}

/// A training of both arms in seconds: enough to count models and tokens.
const TINY: &str = include_str!("../tiny.toml");

/// C1: DPO needs no reward model and no sampling in the loop; counted in a real run of both arms.
fn no_reward_model_and_no_sampling() -> Result<ExactClaim> {
    let folder =
        tempfile::tempdir().map_err(|source| Error::Io { action: "make", path: std::env::temp_dir(), source })?;
    let file = folder.path().join("tiny.toml");
    let io = |source| Error::Io { action: "write", path: file.clone(), source };
    std::fs::write(&file, TINY).map_err(io)?;
    let binary = std::env::current_exe().map_err(|source| Error::Worker { source })?;
    let output = Command::new(binary)
        .arg("run")
        .arg(&file)
        .arg("--out")
        .arg(folder.path())
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::Worker { source })?;
    if !output.status.success() {
        let tail = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Stages {
            failures: vec![StageFailure { stage: "C1's run".into(), tail, exit: 1, ended: None }],
            left_out: 0,
        });
    }
    let table = read_metrics(&folder.path().join("tiny/metrics.parquet"))?;
    let last = |arm: &str, metric: metrics::Metric| {
        table.of("train", metric.name).filter(|row| &*row.arm == arm).last().map_or(f64::NAN, |row| row.value)
    };
    let resident = |arm| last(arm, metrics::MODELS_RESIDENT);
    let sampled = |arm| last(arm, metrics::SAMPLED_TOKENS);
    Ok(ExactClaim::new("C1", "DPO needs no reward model and no sampling in the loop")
        .near("models resident while DPO trains, the reference's log-probs cached", 1.0, resident("dpo"), 0.0)
        .near("models resident while PPO trains: policy, reference, reward, value", 4.0, resident("ppo"), 0.0)
        .near("tokens that DPO samples in training", 0.0, sampled("dpo"), 0.0)
        .at_least("tokens that PPO samples in training", 32.0, sampled("ppo"), 0.0))
}
