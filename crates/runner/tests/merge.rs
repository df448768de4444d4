//! Runs of one experiment that were made apart, merged: the run that is made at once.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use duel_spec::MetricRow;
use duel_spec::ids::hash_bytes;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const TINY: &str = include_str!("../src/tiny.toml");
/// Two arms of two points each.
const CLAIMS: &str = "
[[claims]]
id = \"models\"
arms = [\"dpo\", \"ppo\"]
metric = \"models\"
[[claims]]
id = \"gain\"
arms = [\"dpo\", \"ppo\"]
metric = \"gain\"
kl = [0.001, 0.01]
[[claims]]
id = \"seconds\"
arms = [\"dpo\", \"ppo\"]
metric = \"seconds\"
[[claims]]
id = \"memory\"
arms = [\"dpo\", \"ppo\"]
metric = \"memory\"
";

fn duel(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duel")).current_dir(folder).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a command that succeeds prints.
fn ok(folder: &Path, args: &[&str]) -> String {
    let out = duel(folder, args);
    assert!(out.status.success(), "duel {}: {}{}", args.join(" "), text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// The error of a command that fails so.
fn refused(folder: &Path, exit: i32, args: &[&str]) -> String {
    let out = duel(folder, args);
    let printed = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit), "duel {}: {printed}", args.join(" "));
    printed
}

/// Whether an error says so, wherever its lines break.
fn says(error: &str, expected: &str) -> bool {
    let squeezed = |text: &str| text.replace(['│', ' ', '\n'], "");
    squeezed(error).contains(&squeezed(expected))
}

/// The lines of a digest but those of stages, of which committed results have none.
fn table_digests(folder: &Path, run: &str) -> Vec<String> {
    let digests = ok(folder, &["digest", run, "--detail"]);
    digests.lines().filter(|line| !line.contains("stages/")).map(String::from).collect()
}

/// What `verify` says of each claim, but of those whose numbers are of the machine.
fn verdicts(folder: &Path, run: &str) -> Vec<Value> {
    let out = duel(folder, &["verify", run, "--format", "json"]);
    let verdicts: Vec<Value> = serde_json::from_slice(&out.stdout).unwrap();
    verdicts.into_iter().filter(|verdict| verdict["id"] != "seconds" && verdict["id"] != "memory").collect()
}

/// Copies what `scripts/dev/keep-results` copies.
fn commit(run: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in [
        "experiment.toml",
        "manifest.json",
        "tables.json",
        "metrics.parquet",
        "completions.parquet",
        "outcomes.parquet",
    ] {
        std::fs::copy(run.join(name), to.join(name)).unwrap();
    }
}

/// A folder with the experiment, run at once as `whole/tiny` and apart: `a` has seeds 0 and 1, `b` 2 to 5.
fn runs() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("e.toml"), format!("{TINY}{CLAIMS}")).unwrap();
    for (out, from, seeds) in [("a", "seed=0", "2"), ("b", "seed=2", "4"), ("whole", "seed=0", "6")] {
        ok(folder.path(), &["run", "e.toml", "--out", out, "--seeds", seeds, "--set", from]);
    }
    folder
}

#[test]
fn seeds_made_apart_become_the_run_made_at_once() {
    let folder = runs();
    let at = folder.path();
    let expected = ok(at, &["digest", "whole/tiny"]);

    // 1. of run directories, in any order
    let printed = ok(at, &["merge", "a/tiny", "b/tiny", "--into", "m/tiny"]);
    assert!(printed.contains("merged 2 runs into m/tiny") && printed.contains("4 cells"), "{printed}");
    assert_eq!(ok(at, &["digest", "m/tiny"]), expected);
    assert_eq!(verdicts(at, "m/tiny"), verdicts(at, "whole/tiny"));
    let ids = |run: &str| -> Vec<String> {
        let verdicts: Vec<Value> =
            serde_json::from_slice(&duel(at, &["verify", run, "--format", "json"]).stdout).unwrap();
        verdicts.iter().map(|verdict| verdict["id"].to_string() + &verdict["added_after_run"].to_string()).collect()
    };
    assert_eq!(ids("m/tiny"), ids("whole/tiny"));
    ok(at, &["merge", "b/tiny", "a/tiny", "--into", "reversed/tiny"]);
    let page = |run: &str| std::fs::read_to_string(at.join(run).join("report/index.html")).unwrap();
    assert_eq!(ok(at, &["digest", "reversed/tiny"]), expected);
    assert_eq!(page("reversed/tiny"), page("m/tiny"));
    assert!(page("m/tiny").contains("merged from 2 runs"));
    for name in ["metrics.parquet", "completions.parquet", "outcomes.parquet", "tables.json"] {
        let bytes = |run: &str| std::fs::read(at.join(run).join(name)).unwrap();
        assert!(bytes("m/tiny") == bytes("reversed/tiny"), "{name}");
    }

    // 2. of committed files, and of both kinds
    commit(&at.join("a/tiny"), &at.join("results/a"));
    commit(&at.join("b/tiny"), &at.join("results/b"));
    commit(&at.join("whole/tiny"), &at.join("results/whole"));
    let tables = table_digests(at, "results/whole");
    for (one, other, to) in [("results/a", "results/b", "c/tiny"), ("a/tiny", "results/b", "mixed/tiny")] {
        ok(at, &["merge", one, other, "--into", to]);
        assert_eq!(table_digests(at, to), tables, "{to}");
        assert_eq!(verdicts(at, to), verdicts(at, "whole/tiny"), "{to}");
    }
    ok(at, &["sample", "mixed/tiny", "--seed", "1", "--arm", "dpo"]);
    let error = refused(at, 1, &["sample", "mixed/tiny", "--seed", "4", "--arm", "dpo"]);
    assert!(says(&error, "has the numbers of `sft, seed 4` and no folder of that stage"), "{error}");
    let error = refused(at, 1, &["export", "c/tiny", "--arm", "dpo", "--seed", "0", "--to", "x"]);
    assert!(says(&error, "use the run directory in which it was trained"), "{error}");

    // 3. again with themselves and with what they are of
    for (parts, to) in [
        (vec!["a/tiny", "a/tiny"], "a/tiny"),
        (vec!["m/tiny", "m/tiny"], "whole/tiny"),
        (vec!["m/tiny", "b/tiny"], "whole/tiny"),
        (vec!["results/a", "m/tiny", "reversed/tiny"], "whole/tiny"),
    ] {
        ok(at, &[&["merge"], &parts[..], &["--into", "again", "--force"]].concat());
        assert_eq!(ok(at, &["digest", "again"]), ok(at, &["digest", to]), "{parts:?}");
        assert!(std::fs::read_to_string(at.join("again/manifest.json")).unwrap().matches("\"used\"").count() <= 2);
    }

    // 4. the plan finds its stages, and another run takes them over; the merged run itself cannot be continued
    let run = ["e.toml", "--seeds", "6", "--out", "m"];
    assert!(ok(at, &[&["plan"], &run[..]].concat()).contains("42 finished"));
    let error = refused(at, 2, &[&["run"], &run[..]].concat());
    assert!(says(&error, "was merged from 2 runs, and cannot be continued"), "{error}");
    let more = ok(at, &[&["run"], &run[..], &["--set", "name=more"]].concat());
    assert!(more.starts_with("0 stages made"), "{more}");
}

#[test]
fn merging_is_associative_and_a_gap_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("e.toml"), format!("{TINY}{CLAIMS}")).unwrap();
    for (out, from) in [("a", "seed=0"), ("b", "seed=1"), ("c", "seed=3")] {
        ok(at, &["run", "e.toml", "--out", out, "--seeds", "1", "--set", from]);
    }
    ok(at, &["merge", "a/tiny", "b/tiny", "c/tiny", "--into", "abc/tiny"]);
    for (first, last, to) in [(["a", "b"], "c", "ab-c"), (["c", "a"], "b", "ac-b"), (["b", "c"], "a", "bc-a")] {
        let paths = first.map(|run| format!("{run}/tiny"));
        let (half, last, to) = (format!("{to}-half/tiny"), format!("{last}/tiny"), format!("{to}/tiny"));
        ok(at, &["merge", &paths[0], &paths[1], "--into", &half]);
        ok(at, &["merge", &half, &last, "--into", &to]);
        assert_eq!(ok(at, &["digest", &to]), ok(at, &["digest", "abc/tiny"]), "{to}");
        let page = |run: &str| std::fs::read(at.join(run).join("report/index.html")).unwrap();
        assert!(page(&to) == page("abc/tiny"), "{to}");
        let manifest = |run: &str| -> Value {
            let text = std::fs::read(at.join(run).join("manifest.json")).unwrap();
            let mut manifest: Value = serde_json::from_slice(&text).unwrap();
            for key in ["sum", "command"] {
                manifest.as_object_mut().unwrap().remove(key);
            }
            manifest
        };
        assert_eq!(manifest(&to), manifest("abc/tiny"), "{to}");
    }
    let out = duel(at, &["verify", "abc/tiny"]);
    let printed = text(&out.stderr);
    assert!(printed.contains("6 of 8 cells") && printed.contains("no merged part has it"), "{printed}");
    let page = std::fs::read_to_string(at.join("abc/tiny/report/index.html")).unwrap();
    assert!(page.contains("<b>Unfinished.</b> 6 of 8 cells"));
}

#[test]
fn arms_made_apart_become_one_run_and_their_seconds_are_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let (shared, arms) = TINY.split_once("[arms.ppo]").unwrap();
    let (ppo, dpo) = arms.split_once("[arms.dpo]").unwrap();
    std::fs::write(at.join("ppo.toml"), format!("{shared}[arms.ppo]{ppo}")).unwrap();
    std::fs::write(at.join("dpo.toml"), format!("{shared}[arms.dpo]{dpo}")).unwrap();
    std::fs::write(at.join("both.toml"), TINY).unwrap();
    for arm in ["ppo", "dpo", "both"] {
        ok(at, &["run", &format!("{arm}.toml"), "--out", arm, "--seeds", "5"]);
    }
    ok(at, &["merge", "ppo/tiny", "dpo/tiny", "--into", "m/tiny"]);
    assert_eq!(ok(at, &["digest", "m/tiny"]), ok(at, &["digest", "both/tiny"]));
    commit(&at.join("ppo/tiny"), &at.join("results/ppo"));
    ok(at, &["merge", "results/ppo", "dpo/tiny", "--into", "mixed/tiny"]);
    assert_eq!(table_digests(at, "mixed/tiny"), table_digests(at, "both/tiny"));

    // claims about both can only be added later
    for run in ["m/tiny", "both/tiny"] {
        let file = at.join(run).join("experiment.toml");
        let edited = std::fs::read_to_string(&file).unwrap().replace("claims = []\n", "") + CLAIMS;
        std::fs::write(&file, edited).unwrap();
    }
    assert_eq!(verdicts(at, "m/tiny"), verdicts(at, "both/tiny"));
    let printed = ok(at, &["verify", "m/tiny", "--claim", "seconds", "--claim", "memory"]);
    assert_eq!(printed.matches("(added after the run)").count(), 2, "{printed}");
    let expected = "dpo and ppo were measured in different parts of the merged run at seeds 0, 1, 2, 3, 4";
    assert_eq!(printed.matches(expected).count(), 2, "{printed}");
    assert_eq!(printed.matches("0 seeds").count(), 4, "{printed}");
    let figures = ok(at, &["report", "m/tiny", "--figure", "list"]);
    assert!(figures.contains("cost-flops") && !figures.contains("seconds"), "{figures}");
    assert!(ok(at, &["report", "both/tiny", "--figure", "list"]).contains("curve-seconds"));
    let costs = std::fs::read_to_string(at.join("m/tiny/report/tables/costs.csv")).unwrap();
    assert!(costs.contains('–'), "{costs}");
}

/// Changes a committed manifest; without a checksum it counts as one of an earlier version.
fn edit_manifest(run: &Path, edit: impl FnOnce(&mut Value)) {
    let path = run.join("manifest.json");
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest.as_object_mut().unwrap().remove("sum");
    edit(&mut manifest);
    std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
}

/// Changes the metrics of committed results, and their hash.
fn edit_metrics(run: &Path, mut edit: impl FnMut(&mut MetricRow) -> bool) {
    let path = run.join("metrics.parquet");
    let rows = duel_ledger::read_metrics(&path).unwrap().rows.into_iter().filter_map(|row| {
        let [arm, method, point, stage, metric] =
            [&row.arm, &row.method, &row.point, &row.stage, &row.metric].map(ToString::to_string);
        let mut row =
            MetricRow { arm, method, point, seed: row.seed, stage, clocks: row.clocks, metric, value: row.value };
        edit(&mut row).then_some(row)
    });
    duel_ledger::write_metrics(&path, &rows.collect::<Vec<_>>()).unwrap();
    let tables = run.join("tables.json");
    let mut json: Value = serde_json::from_slice(&std::fs::read(&tables).unwrap()).unwrap();
    json["parts"]["comparison"]["files"]["metrics.parquet"] = hash_bytes(&std::fs::read(&path).unwrap()).into();
    std::fs::write(&tables, serde_json::to_vec(&json).unwrap()).unwrap();
}

#[test]
fn what_runs_have_in_common_has_to_be_equal() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("e.toml"), format!("{TINY}{CLAIMS}")).unwrap();
    ok(at, &["run", "e.toml", "--out", "a", "--seeds", "2"]);
    ok(at, &["run", "e.toml", "--out", "b", "--seeds", "2", "--set", "seed=1"]);
    ok(at, &["run", "e.toml", "--out", "whole", "--seeds", "3"]);
    let expected = ok(at, &["digest", "whole/tiny"]);

    // 1. seed 1 is in both, with times of its own
    ok(at, &["merge", "a/tiny", "b/tiny", "--into", "m"]);
    assert_eq!(ok(at, &["digest", "m"]), expected);

    // 2. numbers that differ, and rows that only one has; times may, and single steps of thinned tables
    let copy = |name: &str| {
        commit(&at.join("b/tiny"), &at.join(name));
        at.join(name)
    };
    let error_of = |name: &str| refused(at, 1, &["merge", "a/tiny", name, "--into", "x"]);
    let is_kl =
        |row: &MetricRow| row.seed == 1 && row.arm == "ppo" && row.metric == "kl" && row.stage == "evaluation-test";
    edit_metrics(&copy("other-kl"), |row| {
        row.value += if is_kl(row) { 0.5 } else { 0.0 };
        true
    });
    let error = error_of("other-kl");
    assert!(
        says(
            &error,
            "the results of `ppo beta=0.5, seed 1` are not the same in `a/tiny` and in `other-kl`: kl of ppo beta=0.5, evaluation-test, step"
        ),
        "{error}"
    );
    assert!(!at.join("x").exists());
    edit_metrics(&copy("no-kl"), |row| !is_kl(row));
    assert!(says(&error_of("no-kl"), "only the first has it"));
    edit_metrics(&copy("slower"), |row| {
        row.clocks.wall_seconds *= 3.0;
        row.value *= if row.metric == "peak_rss" { 2.0 } else { 1.0 };
        row.seed != 1 || row.stage != "train" || row.metric != "loss" || row.clocks.step.is_multiple_of(2)
    });
    ok(at, &["merge", "a/tiny", "slower", "--into", "slower-a"]);
    assert_eq!(table_digests(at, "slower-a"), table_digests(at, "m"));

    // 3. a training that diverged in one and ended in the other
    edit_manifest(&copy("diverged"), |manifest| manifest["diverged"] = vec!["ppo beta=0.5, seed 1"].into());
    assert!(says(&error_of("diverged"), "its training diverged in the first and ended in the second"));

    // 4. claims: the one that was not added after a run is taken
    let file = |run: &str| at.join(run).join("experiment.toml");
    let edit = |run: &str, from: &str, to: &str| {
        let text = std::fs::read_to_string(file(run)).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(file(run), text.replacen(from, to, 1)).unwrap();
    };
    edit_manifest(&copy("unclaimed"), |manifest| manifest["claims"] = Vec::<Value>::new().into());
    ok(at, &["merge", "a/tiny", "unclaimed", "--into", "late"]);
    assert!(verdicts(at, "late").iter().all(|verdict| verdict["added_after_run"] == true));
    assert!(verdicts(at, "m").iter().all(|verdict| verdict["added_after_run"] == false));
    copy("reworded");
    edit("reworded", "id = \"models\"", "id = \"models\"\nunused = 1");
    let error = refused(at, 2, &["merge", "a/tiny", "reworded", "--into", "x"]);
    assert!(says(&error, "unused"), "{error}");
    std::fs::copy(file("b/tiny"), file("reworded")).unwrap();
    edit("reworded", "statement = \"\"", "statement = \"other\"");
    ok(at, &["merge", "a/tiny", "reworded", "--into", "claims"]);
    assert_eq!(table_digests(at, "claims"), table_digests(at, "m"));
    assert_eq!(verdicts(at, "claims"), verdicts(at, "whole/tiny"));
    edit_manifest(&at.join("reworded"), |manifest| {
        manifest["claims"][0]["statement"] = "other".into();
    });
    let error = refused(at, 2, &["merge", "a/tiny", "reworded", "--into", "x"]);
    assert!(
        says(&error, "the claim models is not the same in `a/tiny` and in `reworded`: statement is \"\" and \"other\""),
        "{error}"
    );
}

#[test]
fn what_cannot_be_merged_is_said_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("e.toml"), TINY).unwrap();
    ok(at, &["run", "e.toml", "--out", "a"]);
    ok(at, &["run", "e.toml", "--out", "b", "--set", "seed=1"]);
    ok(
        at,
        &[
            "run",
            "e.toml",
            "--out",
            "other",
            "--set",
            "seed=1",
            "--set",
            "stages.sft.steps=13",
            "--set",
            "arms.dpo.epochs=1",
        ],
    );
    let b = |name: &str, edit: &dyn Fn(&Path)| {
        commit(&at.join("b/tiny"), &at.join(name));
        edit(&at.join(name));
    };
    b("older", &|run| edit_manifest(run, |manifest| manifest["format"] = 11.into()));
    b("newer", &|run| edit_manifest(run, |manifest| manifest["format"] = 99.into()));
    b("device", &|run| edit_manifest(run, |manifest| manifest["device"] = "wgpu".into()));
    b("untold", &|run| std::fs::remove_file(run.join("tables.json")).unwrap());
    b("bare", &|run| std::fs::remove_file(run.join("manifest.json")).unwrap());
    b("flipped", &|run| {
        let mut bytes = std::fs::read(run.join("outcomes.parquet")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(run.join("outcomes.parquet"), bytes).unwrap();
    });
    b("edited", &|run| {
        let text = std::fs::read_to_string(run.join("experiment.toml")).unwrap();
        std::fs::write(run.join("experiment.toml"), text.replace("rows = 64", "rows = 65")).unwrap();
    });
    b("short", &|run| edit_metrics(run, |row| row.arm != "dpo"));
    for (exit, name, expected) in [
        (1, "nowhere", "`nowhere` is not a run directory: there is no such folder"),
        (1, "bare", "`bare` is not a run directory: it has no manifest.json"),
        (1, "older", "`older` cannot be merged: it has format 11, and runs of format 12 are merged"),
        (1, "newer", "was written by a newer Duel: format 99"),
        (2, "device", "not runs of one experiment: the device is `flex` and `wgpu`"),
        (1, "untold", "the tables of `untold` do not belong to its experiment"),
        (1, "flipped", "`flipped/outcomes.parquet` is damaged: it does not match its hash in tables.json"),
        (1, "edited", "stages.pairs.rows is 65, was 64"),
        (1, "short", "`short/metrics.parquet` is damaged: it has no rows of cell-"),
        (
            2,
            "other/tiny",
            "`a/tiny` and `other/tiny` are not runs of one experiment: arms.dpo.epochs is 2 and 1; stages.sft.steps is 12 and 13",
        ),
    ] {
        let error = refused(at, exit, &["merge", "a/tiny", name, "--into", "x"]);
        assert!(says(&error, expected), "{name}: {error}");
        assert!(says(&error, "help:"), "{name}: {error}");
        assert!(!at.join("x").exists());
    }
    ok(at, &["run", "e.toml", "--out", "far", "--set", "seed=100000"]);
    let error = refused(at, 1, &["merge", "far/tiny", "a/tiny", "--into", "x"]);
    let expected =
        "`far/tiny` cannot be merged: its seeds begin at 100000, and those of the other runs before it end at 0";
    assert!(says(&error, expected), "{error}");
    let error = refused(at, 1, &["merge", "a/tiny", "--into", "x"]);
    assert!(says(&error, "`a/tiny` cannot be merged: there is no other run"), "{error}");

    // where it goes
    std::fs::create_dir(at.join("mine")).unwrap();
    std::fs::write(at.join("mine/notes"), "").unwrap();
    ok(at, &["merge", "a/tiny", "b/tiny", "--into", "m"]);
    let before = ok(at, &["digest", "m"]);
    for (to, force, expected) in [
        ("mine", true, "it is not empty"),
        ("mine/notes", true, "it is not a folder"),
        ("a/tiny", true, "it is, contains or is in `a/tiny`"),
        ("a", true, "it is, contains or is in `a/tiny`"),
        (".", true, "it is, contains or is in `a/tiny`"),
        ("a/tiny/stages/x", false, "it is, contains or is in `a/tiny`"),
        ("m", false, "it contains an earlier merge"),
        ("other/tiny", true, "it is not empty"),
    ] {
        let error = refused(
            at,
            1,
            &[&["merge", "a/tiny", "b/tiny", "--into", to][..], if force { &["--force"] } else { &[] }].concat(),
        );
        assert!(says(&error, &format!("nothing can be merged into `{to}`: {expected}")), "{to}: {error}");
    }
    std::fs::write(at.join("m/notes"), "").unwrap();
    let error = refused(at, 1, &["merge", "a/tiny", "b/tiny", "--into", "m", "--force"]);
    assert!(says(&error, "it contains `notes`, which Duel did not write"), "{error}");
    std::fs::remove_file(at.join("m/notes")).unwrap();
    ok(at, &["merge", "a/tiny", "b/tiny", "--into", "m", "--force"]);
    assert_eq!(ok(at, &["digest", "m"]), before);
    // a merge that fails leaves the earlier one
    refused(at, 1, &["merge", "a/tiny", "short", "--into", "m", "--force"]);
    assert_eq!(ok(at, &["digest", "m"]), before);
    let left: Vec<_> = std::fs::read_dir(at)
        .unwrap()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().contains("making"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_part_that_was_interrupted_gives_its_finished_cells() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    std::fs::write(at.join("e.toml"), TINY).unwrap();
    ok(at, &["run", "e.toml", "--out", "a", "--seeds", "2"]);
    ok(at, &["run", "e.toml", "--out", "b", "--set", "seed=1", "--set", "name=second"]);
    // as an interrupted run is left: no tables, and a cell is missing
    let half = at.join("a/tiny");
    for name in ["metrics.parquet", "completions.parquet", "outcomes.parquet", "tables.json"] {
        std::fs::remove_file(half.join(name)).unwrap();
    }
    edit_manifest(&half, |manifest| {
        manifest["exit"] = "interrupted".into();
        let cell = manifest["stages"]["ppo beta=0.5, seed 1"].as_str().unwrap();
        std::fs::remove_dir_all(half.join("stages").join(cell)).unwrap();
        let cell = manifest["stages"]["dpo beta=0.5, seed 0"].as_str().unwrap();
        std::fs::remove_dir_all(half.join("stages").join(cell)).unwrap();
    });
    // seed 1 is of the second run, which has both arms
    let printed = ok(at, &["merge", "a/tiny", "b/second", "--into", "both"]);
    assert!(
        printed.contains("3 of 4 cells") && printed.contains("dpo beta=0.5, seed 0 (the run was interrupted before)"),
        "{printed}"
    );
    assert!(
        printed.contains("1 cell, 6 stages, seeds 0;") && printed.contains("2 cells, 7 stages, seeds 1;"),
        "{printed}"
    );
    // runs of different names take that of the folder
    assert!(std::fs::read_to_string(at.join("both/experiment.toml")).unwrap().contains("name = \"both\""));
}
