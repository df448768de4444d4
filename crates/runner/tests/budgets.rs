//! `[budget]` by the binary: every arm is trained until it is used up, whatever runs at once, and in a search too.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TINY: &str = include_str!("../src/tiny.toml");

fn duel(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duel")).current_dir(folder).args(args).env("NO_COLOR", "1").output().unwrap()
}

/// The standard output of a command that succeeds.
fn printed(folder: &Path, args: &[&str]) -> String {
    let output = duel(folder, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder with the tiny experiment without its own lengths, and with this budget.
fn folder(unit: &str, amount: &str) -> tempfile::TempDir {
    let lengths = ["iterations = 2\nepisodes", "epochs = 2\nbatch_size"];
    let experiment = lengths.iter().fold(TINY.to_owned(), |text, length| {
        assert!(text.contains(length), "{length}");
        text.replace(length, length.split('\n').next_back().unwrap())
    });
    written(&format!("{experiment}\n[budget]\nunit = \"{unit}\"\namount = {amount}\n"))
}

fn written(experiment: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("e.toml"), experiment).unwrap();
    folder
}

/// The rows of the trainings of a run that are the same in every run of it.
fn training_rows(folder: &Path) -> Vec<String> {
    let table = duel_ledger::read_metrics(&folder.join("runs/tiny/metrics.parquet")).unwrap();
    let of_clock = |metric: &str| metric.ends_with("_seconds") || metric == "peak_rss";
    let rows = table.rows.iter().filter(|row| &*row.stage == "train" && !of_clock(&row.metric));
    rows.map(|row| {
        let clocks = (row.clocks.step, row.clocks.tokens, row.clocks.flops.to_bits());
        format!("{} {} {clocks:?} {}", row.arm, row.metric, row.value)
    })
    .collect()
}

/// What each arm has used of its budget.
fn used(folder: &Path) -> Vec<(String, f64)> {
    let table = duel_ledger::read_metrics(&folder.join("runs/tiny/metrics.parquet")).unwrap();
    table.of("train", "budget_used").map(|row| (row.arm.to_string(), row.value)).collect()
}

/// Eight updates are two iterations of PPO and two epochs of DPO, as the arms' own lengths have them.
#[test]
fn a_budget_of_steps_is_the_length_that_it_implies() {
    let (own, budget) = (written(TINY), folder("steps", "8"));
    printed(own.path(), &["run", "e.toml"]);
    printed(budget.path(), &["run", "e.toml"]);
    assert!(used(own.path()).is_empty());
    assert_eq!(used(budget.path()), [("dpo".to_string(), 1.0), ("ppo".to_string(), 1.0)]);
    let mut rows = training_rows(budget.path());
    rows.retain(|row| !row.contains("budget_used"));
    assert_eq!(rows, training_rows(own.path()));
}

#[test]
fn equal_budgets_of_tokens_and_flops_whatever_runs_at_once() {
    for (unit, amount) in [("tokens", "6000"), ("flops", "2e9")] {
        let folders = ["1", "2"].map(|jobs| {
            let folder = folder(unit, amount);
            printed(folder.path(), &["run", "e.toml", "--jobs", jobs]);
            folder
        });
        let shares = used(folders[0].path());
        assert_eq!(shares.len(), 2, "{shares:?}");
        assert!(shares.iter().all(|(_, share)| (1.0..2.0).contains(share)), "{unit}: {shares:?}");
        let [first, second] = folders.each_ref().map(|folder| printed(folder.path(), &["digest", "runs/tiny"]));
        assert_eq!(first, second, "{unit}");
    }
}

/// A run that is killed in a training, and goes on from its checkpoint, ends like one that was not.
#[cfg(unix)]
#[test]
fn a_killed_training_keeps_to_its_budget() {
    let [straight, killed] = [0, 1].map(|_| folder("tokens", "200000"));
    printed(straight.path(), &["run", "e.toml"]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_duel"))
        .current_dir(killed.path())
        .args(["run", "e.toml", "--jobs", "1", "--checkpoint-seconds", "0"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stages = killed.path().join("runs/tiny/stages");
    let is_training = || {
        let entries = std::fs::read_dir(&stages).into_iter().flatten().flatten();
        entries.into_iter().any(|entry| {
            let name = entry.file_name().into_string().unwrap();
            name.starts_with("cell-") && name.ends_with(".kept")
        })
    };
    let started = Instant::now();
    while !is_training() {
        assert!(started.elapsed() < Duration::from_secs(120), "no cell was ever saved");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    printed(killed.path(), &["run", "e.toml"]);
    assert_eq!(training_rows(killed.path()), training_rows(straight.path()));
    let [first, second] = [&straight, &killed].map(|folder| printed(folder.path(), &["digest", "runs/tiny"]));
    assert_eq!(first, second);
}

/// By the clock each arm makes an iteration at least, and the page says that it is by the clock; trials of a search have the budget.
#[test]
fn seconds_are_warned_of_and_trials_have_the_same_budget() {
    let folder = folder("seconds", "0.001");
    let text = std::fs::read_to_string(folder.path().join("e.toml")).unwrap();
    let grid = "[arms.ppo.grid]\nbeta = [0.5]";
    assert!(text.contains(grid), "{text}");
    let text = text.replace(grid, "search = \"random\"\n[arms.ppo.space]\nbeta = { low = 0.1, high = 1.0 }");
    std::fs::write(folder.path().join("e.toml"), format!("{text}[tuning]\nconfigurations = 1\nseeds = 1\n")).unwrap();
    let plan = printed(folder.path(), &["plan", "e.toml"]);
    assert!(plan.contains("budget.unit = \"seconds\""), "{plan}");
    printed(folder.path(), &["run", "e.toml"]);
    assert!(used(folder.path()).iter().all(|(_, share)| *share > 1.0), "{:?}", used(folder.path()));
    let page = std::fs::read_to_string(folder.path().join("runs/tiny/report/index.html")).unwrap();
    assert!(page.contains("Trained by the clock.") && page.contains("each until it has used"), "the page");
    let tuning = duel_ledger::read_metrics(&folder.path().join("runs/tiny/tuning.parquet")).unwrap();
    assert!(tuning.of("train", "budget_used").count() >= 2);
}

#[test]
fn a_plan_knows_what_a_budget_is() {
    let flops = |unit, amount| -> f64 {
        let folder = folder(unit, amount);
        let plan: serde_json::Value =
            serde_json::from_str(&printed(folder.path(), &["plan", "e.toml", "--format", "json"])).unwrap();
        let stages = plan["stages"].as_array().unwrap();
        let cell = stages.iter().find(|stage| stage["label"] == "dpo beta=0.5, seed 0").unwrap();
        cell["flops"].as_f64().unwrap()
    };
    let (less, more) = (flops("flops", "1e9"), flops("flops", "3e9"));
    assert!((more - less - 2e9).abs() < 2e8, "{less} {more}");
    assert!(flops("tokens", "200000") > flops("tokens", "20000"));
    assert!(flops("seconds", "10") > flops("seconds", "1"));
}
