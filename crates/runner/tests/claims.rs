//! A run that is judged, drawn, compared and sampled, as a person does it.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const TINY: &str = include_str!("../src/tiny.toml");
const METRICS: [&str; 18] = [
    "gain",
    "win_rate",
    "win_rate_at_length",
    "length",
    "flops",
    "seconds",
    "memory",
    "models",
    "training_bytes",
    "sampled",
    "spread",
    "spread_of_points",
    "step",
    "diverged",
    "peak",
    "drop",
    "displacement",
    "ordered",
];

fn duel(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duel")).current_dir(folder).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn printed(out: &Output) -> String {
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn json(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stderr)))
}

#[test]
fn a_run_is_judged_drawn_compared_and_sampled() {
    let folder = tempfile::tempdir().unwrap();
    let claims: String = METRICS
        .iter()
        .map(|m| format!("[[claims]]\nid = \"{m}\"\narms = [\"dpo\", \"ppo\"]\nmetric = \"{m}\"\nkl = [0.01]\n"))
        .chain([
            "[[claims]]\nid = \"alone\"\narms = [\"dpo\"]\nmetric = \"displacement\"\n".into(),
            "[[claims]]\nid = \"itself\"\narms = [\"dpo\", \"dpo@other\"]\nmetric = \"length\"\nkl = [0.01]\n".into(),
            "[[claims]]\nid = \"nobody\"\narms = [\"dpo\", \"dpo@none\"]\n".into(),
        ])
        .collect();
    let path = folder.path().join("e.toml");
    std::fs::write(&path, format!("{TINY}\n{claims}")).unwrap();
    for name in ["name=other", "name=tiny"] {
        let out = duel(folder.path(), &["run", "e.toml", "--seeds", "5", "--set", name]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    }
    every_metric_is_judged_by_its_own_numbers(folder.path());
    the_report_is_drawn_again_byte_for_byte_and_one_chart_at_a_time(folder.path());
    two_runs_are_compared(folder.path());
    statements_have_the_verdicts_of_their_claims(folder.path());
    all_arms_respond_to_the_same_prompts(folder.path());
}

fn every_metric_is_judged_by_its_own_numbers(folder: &Path) {
    let verdicts = json(&duel(folder, &["verify", "runs/tiny", "--format", "json"]));
    let of = |id: &str| verdicts.as_array().unwrap().iter().find(|v| v["id"] == id).unwrap().clone();
    for metric in METRICS.iter().filter(|m| !["flops", "seconds", "drop", "spread_of_points", "step"].contains(m)) {
        assert_eq!(of(metric)["tests"][0]["seeds"], 5, "{metric}: {}", of(metric));
    }
    for counted in ["models", "training_bytes", "sampled"] {
        assert_eq!(of(counted)["judgement"], "REPRODUCED", "{counted}");
    }
    assert_eq!(of("alone")["budgets"].as_object().unwrap().len(), 1);
    // the run beside it is of the same stages
    assert_eq!(
        (&of("itself")["judgement"], of("itself")["tests"][0]["effect"].as_f64()),
        (&"CONTRADICTED".into(), Some(0.0))
    );
    assert_eq!(of("nobody")["judgement"], "INCONCLUSIVE");
    assert!(of("nobody")["reasons"][0].as_str().unwrap().contains("`none`"));
    let strict = duel(folder, &["verify", "runs/tiny", "--claim", "nobody", "--strict"]);
    assert_eq!(strict.status.code(), Some(3));
    assert_eq!(duel(folder, &["verify", "runs/tiny", "--claim", "nobody"]).status.code(), Some(0));
}

fn the_report_is_drawn_again_byte_for_byte_and_one_chart_at_a_time(folder: &Path) {
    let page = folder.join("runs/tiny/report/index.html");
    let before = std::fs::read(&page).unwrap();
    assert!(duel(folder, &["report", "runs/tiny"]).status.success());
    assert!(std::fs::read(&page).unwrap() == before && before.len() < 5_000_000);
    let names = printed(&duel(folder, &["report", "runs/tiny", "--figure", "list"]));
    assert!(
        ["frontier", "win-rates", "trust-kl", "displacement", "reward-model"].iter().all(|n| names.contains(n)),
        "{names}"
    );
    for (format, begin) in [("svg", &b"<svg width=\"3.9370in\""[..]), ("png", b"\x89PNG"), ("pdf", b"%PDF")] {
        let draw =
            ["report", "runs/tiny", "--figure", "frontier", "--width", "100mm", "--format", format, "--theme", "dark"];
        assert!(duel(folder, &draw).status.success(), "{format}");
        assert!(std::fs::read(folder.join(format!("frontier.{format}"))).unwrap().starts_with(begin), "{format}");
    }
    for wrong in [&["--figure", "nothing"][..], &["--figure", "frontier", "--width", "wide"], &["--width", "84mm"]] {
        let args: Vec<&str> = ["report", "runs/tiny"].iter().chain(wrong).copied().collect();
        assert_eq!(duel(folder, &args).status.code(), Some(2), "{wrong:?}");
    }
}

fn statements_have_the_verdicts_of_their_claims(folder: &Path) {
    let list = folder.join("runs/list.toml");
    let write = |claim: &str| {
        let claims = format!("[{{ run = \"tiny\", claim = \"sampled\" }}, {{ run = \"other\", claim = \"{claim}\" }}]");
        let text = format!(
            "columns = [\"one\", \"two\"]\n[[statements]]\nstatement = \"a | b\"\nclaims.two = {claims}\n\
             [[statements]]\nstatement = \"c\"\nnote = \"by design\"\n"
        );
        std::fs::write(&list, text).unwrap();
    };
    write("models");
    let out = duel(folder, &["verify", "--statements", "runs/list.toml"]);
    let table = String::from_utf8_lossy(&out.stdout).into_owned();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[..2], ["| statement | one | two |", "| --- | --- | --- |"], "{table}");
    let sampled = "[yes](runs/tiny/report/index.html): ";
    assert!(lines[2].starts_with(&format!("| a \\| b | not tested | {sampled}")), "{table}");
    assert!(
        lines[2].contains(" tokens fewer, 5 seeds<br>[yes](runs/other/report/index.html): 3 models fewer, 5 seeds |"),
        "{table}"
    );
    assert_eq!(lines[3..], ["| c | by design |  |"], "{table}");

    let judged = json(&duel(folder, &["verify", "--statements", "runs/list.toml", "--format", "json"]));
    let claims = judged["statements"][0]["claims"].as_array().unwrap();
    assert_eq!([&claims[0]["id"], &claims[1]["id"]], ["sampled", "models"]);
    assert_eq!([&claims[0]["column"], &claims[1]["run"]], ["two", "other"]);

    write("modles");
    let out = duel(folder, &["verify", "--statements", "runs/list.toml"]);
    let error = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{error}");
    assert!(error.contains("has no claim `modles`") && error.contains("models"), "{error}");
}

fn two_runs_are_compared(folder: &Path) {
    assert!(duel(folder, &["report", "runs/tiny", "runs/other", "--to", "both"]).status.success());
    let both = std::fs::read_to_string(folder.join("both/index.html")).unwrap();
    assert!(both.contains("DPO@tiny") && both.contains("PPO@other") && both.contains("None but the names"));
}

fn all_arms_respond_to_the_same_prompts(folder: &Path) {
    let sample = [
        "sample",
        "runs/tiny",
        "--prompt",
        "Praise the plot",
        "--responses",
        "2",
        "--seed",
        "3",
        "--html",
        "samples.html",
    ];
    let samples = json(&duel(folder, &[&sample[..], &["--format", "json"]].concat()));
    let samples = samples.as_array().unwrap();
    let arms: Vec<&str> = samples.iter().map(|s| s["arm"].as_str().unwrap()).collect();
    assert_eq!(arms, ["reference", "reference", "dpo", "dpo", "ppo", "ppo"]);
    assert!(samples.iter().all(|s| s["prompt"] == "praise the plot:" && s["seed"] == 3));
    let sum = |s: &Value| s["pieces"].as_array().unwrap().iter().map(|p| p["log_ratio"].as_f64().unwrap()).sum::<f64>();
    assert!(samples.iter().all(|s| (sum(s) - s["log_ratio"].as_f64().unwrap()).abs() < 1e-9));
    assert!(samples[..2].iter().all(|s| s["log_ratio"] == 0.0 && s["kl"] == 0.0));
    assert!(std::fs::read_to_string(folder.join("samples.html")).unwrap().contains("praise the plot:"));
    let text = printed(&duel(folder, &["sample", "runs/tiny", "--arm", "dpo"]));
    assert!(text.contains("gold") && !text.contains("reference  ") && !text.contains('\x1b'), "{text}");
    for wrong in [["--prompt", "sing"], ["--arm", "sac"], ["--point", "beta=9"], ["--seed", "99"]] {
        let out = duel(folder, &["sample", "runs/tiny", wrong[0], wrong[1]]);
        assert_eq!(out.status.code(), Some(2), "{wrong:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}
