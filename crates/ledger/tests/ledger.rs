//! The guarantees of the run directory: complete files, one owner, damaged stages set aside.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{completion, id, make};
use duel_ledger::*;
use duel_spec::{Clocks, Completion, MetricRow};

#[test]
fn tables_are_read_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let row = |metric: &str, value| MetricRow {
        arm: "dpo".into(),
        method: "dpo".into(),
        point: "beta=0.1".into(),
        seed: 3,
        stage: "train".into(),
        clocks: Clocks { step: 7, tokens: 1 << 40, flops: 1.5e12, wall_seconds: 0.25 },
        metric: metric.into(),
        value,
    };
    let path = folder.path().join("metrics.parquet");
    write_metrics(&path, &[row("loss", 0.5), row("kl", 1.25)]).unwrap();
    let table = read_metrics(&path).unwrap();
    let kl: Vec<_> = table.of("train", "kl").collect();
    assert_eq!((kl.len(), kl[0].value, kl[0].seed, &*kl[0].arm), (1, 1.25, 3, "dpo"));
    assert_eq!(kl[0].clocks, Clocks { step: 7, tokens: 1 << 40, flops: 1.5e12, wall_seconds: 0.25 });

    let completion = completion();
    let path = folder.path().join("completions.parquet");
    write_completions(&path, std::slice::from_ref(&completion)).unwrap();
    let back = read_completions(&path).unwrap();
    assert!(back[0].proxy_reward.is_nan());
    assert_eq!(Completion { proxy_reward: 0.0, ..back[0].clone() }, Completion { proxy_reward: 0.0, ..completion });
}

#[test]
fn an_unfinished_stage_does_not_exist() {
    let folder = tempfile::tempdir().unwrap();
    let failed = StageDir::make::<Error>(folder.path(), &id(), &serde_json::Value::Null, |to| {
        write_atomically(&to.join("weights"), b"half")?;
        Err(Error::NotARun { path: to.into(), missing: "anything" })
    });
    assert!(failed.is_err());
    assert!(StageDir::open(folder.path(), &id()).unwrap().is_none());
    let stage = make(folder.path());
    assert_eq!(std::fs::read(stage.file("weights")).unwrap(), b"abc");
    assert!(StageDir::open(folder.path(), &id()).unwrap().is_some());
}

#[test]
fn a_worker_that_outlives_its_run_does_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let stages = folder.path();
    let other_making = stages.join("sft-0123.making-1");
    std::fs::create_dir(&other_making).unwrap();
    std::fs::write(other_making.join("half"), b"a").unwrap();
    for path in [other_making.join("half"), other_making.clone()] {
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 24 * 3600);
        std::fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
    }
    let faster = |to: &std::path::Path| {
        // the other one finishes while this one works
        let other = stages.join("other");
        std::fs::create_dir(&other).unwrap();
        make(&other);
        std::fs::rename(other.join("sft-0123"), stages.join("sft-0123")).unwrap();
        write_atomically(&to.join("weights"), b"abc")
    };
    let stage = StageDir::make(stages, &id(), &serde_json::Value::Null, faster).unwrap();
    assert_eq!(std::fs::read(stage.file("weights")).unwrap(), b"abc");
    assert!(StageDir::open(stages, &id()).unwrap().is_some());
    let stage_count =
        std::fs::read_dir(stages).unwrap().flatten().filter(|e| e.path().join("weights").is_file()).count();
    assert_eq!((stage_count, stages.join("sft-0123.making-1").exists()), (1, false), "only the stage itself is left");
}

#[test]
fn a_damaged_stage_is_set_aside() {
    let files = ["weights.safetensors", "tokenizer.json", "rows.parquet"];
    let make = |stages: &std::path::Path| {
        StageDir::make(stages, &id(), &serde_json::json!({"rate": 5e-4}), |to| {
            files.iter().try_for_each(|file| write_atomically(&to.join(file), b"0123456789"))
        })
    };
    for file in files.into_iter().chain(["done.json"]) {
        let ways: [fn(&mut Vec<u8>); 3] =
            [|bytes| bytes.truncate(5), |bytes| bytes[5] ^= 1, |bytes| *bytes.last_mut().unwrap() ^= 1];
        for damage in ways {
            let folder = tempfile::tempdir().unwrap();
            let path = make(folder.path()).unwrap().file(file);
            let mut bytes = std::fs::read(&path).unwrap();
            damage(&mut bytes);
            std::fs::write(&path, bytes).unwrap();
            let (opened, damage) = StageDir::open_checked(folder.path(), &id()).unwrap();
            let damage = damage.unwrap();
            assert!(opened.is_none() && damage.contains(file) && damage.contains("sft-0123.damaged"), "{damage}");
            assert!(folder.path().join("sft-0123.damaged").join(file).is_file());
            make(folder.path()).unwrap();
            assert!(StageDir::open(folder.path(), &id()).unwrap().is_some());
        }
    }
}

#[test]
fn a_newer_stage_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let done = make(folder.path()).file("done.json");
    let text = std::fs::read_to_string(&done).unwrap().replacen(
        &format!("\"format\": {}", duel_spec::FORMAT_VERSION),
        "\"format\": 999",
        1,
    );
    std::fs::write(&done, text).unwrap();
    assert!(matches!(StageDir::open(folder.path(), &id()), Err(Error::Newer { found: 999, .. })));
    assert!(done.is_file());
}

#[test]
fn sibling_runs_share_stages() {
    let out = tempfile::tempdir().unwrap();
    let first = RunDir::create(out.path(), "first").unwrap();
    let second = RunDir::create(out.path(), "second").unwrap();
    assert!(second.find_stage(&id()).unwrap().is_none());
    make(&first.stages());
    let adopted = second.find_stage(&id()).unwrap().unwrap();
    assert!(adopted.path().starts_with(second.path()));
    assert_eq!(std::fs::read(adopted.file("weights")).unwrap(), b"abc");
}

#[test]
fn other_programs_files_in_a_stage_do_no_harm() {
    let strangers = |folder: &std::path::Path| {
        for file in [".DS_Store", "weights~", "#weights#", ".weights.swp", "notes.txt", "Thumbs.db"] {
            std::fs::write(folder.join(file), b"x").unwrap();
        }
        for folder in [folder.join(".ipynb_checkpoints"), folder.join("lost+found"), folder.join("backup")] {
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("inside"), b"x").unwrap();
        }
    };
    let out = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| RunDir::create(out.path(), name).unwrap());
    // while it is being made, from a file manager
    let stage = StageDir::make(&first.stages(), &id(), &serde_json::json!({}), |to| {
        strangers(to);
        write_atomically(&to.join("weights"), b"abc")
    })
    .unwrap();
    assert!(stage.files().unwrap().iter().all(|name| ["weights", "notes.txt"].contains(&name.as_str())));
    // afterwards: in the stage, beside it, and beside the runs
    for file in [".DS_Store", "weights~", "late.txt"] {
        std::fs::write(stage.file(file), b"y").unwrap();
    }
    assert!(StageDir::open(&first.stages(), &id()).unwrap().is_some());
    strangers(&first.stages());
    strangers(out.path());
    let adopted = second.find_stage(&id()).unwrap().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(adopted.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["done.json", "notes.txt", "weights"], "only the stage's own files are adopted");
    std::fs::create_dir(second.stages().join("sft-0123.damaged")).unwrap();
    std::fs::write(second.stages().join("sft-0123.damaged/done.json"), b"{}").unwrap();
    assert_eq!(StageDir::all(out.path()).unwrap().len(), 2);
}

#[cfg(unix)]
#[test]
fn a_stage_that_cannot_be_read_is_not_damaged() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let weights = make(folder.path()).file("weights");
    // a circular link cannot be read by anyone
    std::fs::remove_file(&weights).unwrap();
    std::os::unix::fs::symlink("weights", &weights).unwrap();
    let error = StageDir::open_checked(folder.path(), &id()).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("sft-0123/weights")), "{error}");
    assert!(weights.is_symlink() && !folder.path().join("sft-0123.damaged").exists());
    // nor can a file without permissions, except by root
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(&weights, b"abc").unwrap();
    std::fs::set_permissions(&weights, std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::read(&weights).is_err() {
        assert!(matches!(StageDir::open_checked(folder.path(), &id()), Err(Error::Io { .. })));
    }
    // a file that is a folder, or missing, is damage
    std::fs::remove_file(&weights).unwrap();
    std::fs::create_dir(&weights).unwrap();
    assert!(StageDir::open_checked(folder.path(), &id()).unwrap().1.unwrap().contains("weights"));
    let weights = make(folder.path()).file("weights");
    std::fs::remove_file(&weights).unwrap();
    assert!(StageDir::open_checked(folder.path(), &id()).unwrap().1.unwrap().contains("weights"));
}

#[test]
fn a_sibling_runs_stage_is_never_set_aside() {
    let out = tempfile::tempdir().unwrap();
    let [first, second, third] = ["first", "second", "third"].map(|name| RunDir::create(out.path(), name).unwrap());
    let siblings_stage = make(&first.stages());
    make(&third.stages());
    std::fs::write(siblings_stage.file("weights"), b"abd").unwrap();
    let (stage, damage) = second.find_or_quarantine(&id()).unwrap();
    assert!(damage.is_none() && stage.unwrap().path().starts_with(second.path()), "the undamaged one is adopted");
    assert!(siblings_stage.path().is_dir() && !first.stages().join("sft-0123.damaged").exists());
}

#[test]
fn paths_outside_the_folder_are_no_files_of_a_stage() {
    let folder = tempfile::tempdir().unwrap();
    let stage = make(folder.path());
    std::fs::write(folder.path().join("outside"), b"abc").unwrap();
    let done = stage.file("done.json");
    let text = std::fs::read_to_string(&done).unwrap().replace("\"weights\"", "\"../outside\"");
    // with a valid checksum, as a malicious author would add it
    let sum = text.lines().find(|line| line.contains("\"sum\"")).unwrap().to_string();
    let unsummed = text.replace(sum.trim(), "\"sum\": \"\"");
    let summed = format!("\"sum\": \"{}\"", duel_spec::ids::hash_bytes(unsummed.as_bytes()));
    std::fs::write(&done, text.replace(sum.trim(), &summed)).unwrap();
    let (opened, damage) = StageDir::open_checked(folder.path(), &id()).unwrap();
    assert!(opened.is_none() && damage.unwrap().contains("outside"));
}

#[test]
fn a_table_whose_columns_differ_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("metrics.parquet");
    let row = MetricRow {
        arm: "a".into(),
        method: "m".into(),
        point: "-".into(),
        seed: 0,
        stage: "train".into(),
        clocks: Clocks::default(),
        metric: "loss".into(),
        value: 1.0,
    };
    write_metrics(&path, &[row]).unwrap();
    // columns of other types and other names
    assert!(matches!(read_completions(&path), Err(Error::Table { .. })));
    assert!(matches!(read_outcomes(&path), Err(Error::Table { .. })));
    for (cut, what) in [(0, "nothing"), (4, "a beginning")] {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(folder.path().join("cut.parquet"), &bytes[..cut]).unwrap();
        assert!(matches!(read_metrics(&folder.path().join("cut.parquet")), Err(Error::Table { .. })), "{what}");
    }
    assert!(matches!(read_metrics(folder.path()), Err(Error::Io { .. })), "a folder");
}

#[test]
fn a_run_has_one_owner() {
    let folder = tempfile::tempdir().unwrap();
    let lock = RunLock::take(folder.path()).unwrap();
    let error = RunLock::take(folder.path()).unwrap_err();
    assert!(matches!(&error, Error::Locked { holder, .. } if *holder == std::process::id().to_string()), "{error}");
    drop(lock);
    RunLock::take(folder.path()).unwrap();
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a").join("b");
    assert!(write_atomically(&path, b"x").is_err());
    let path = folder.path().join("c");
    write_atomically(&path, b"old").unwrap();
    write_atomically(&path, b"new").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_checkpoint_restores_its_rows_and_a_damaged_one_is_set_aside() {
    use duel_spec::{Recorder, metrics};
    use std::time::Duration;
    let folder = tempfile::tempdir().unwrap();
    let of_stage = |hash: &str, tag: &str| {
        let id = StageId { kind: "cell".into(), hash: hash.into() };
        let quiet = Box::new(|_: u64, _: u64, _: &str| {});
        StageRecorder::new("dpo", "dpo", "-", 0, quiet).with_checkpoints(folder.path(), &id, tag, Duration::ZERO)
    };
    let (checkpoints, recorder) = (folder.path().join("cell-0123.kept"), |tag: &str| of_stage("0123", tag));
    let mut first = recorder("a");
    assert!(first.is_due() && first.resume("train").unwrap().is_none());
    first.record("train", Clocks::default(), metrics::LOSS, f64::NAN);
    first.save("train", b"state").unwrap();
    first.record("train", Clocks::default(), metrics::LOSS, 0.25); // after the checkpoint: is discarded

    let mut second = recorder("a");
    second.record("train", Clocks::default(), metrics::LOSS, 7.0); // before the restore: is discarded
    assert_eq!(second.resume("train").unwrap().unwrap(), b"state");
    let to = folder.path().join("out");
    std::fs::create_dir(&to).unwrap();
    second.write(&to).unwrap();
    let rows = read_metrics(&to.join("metrics.parquet")).unwrap().rows;
    assert!(rows.len() == 1 && rows[0].value.is_nan());

    assert!(recorder("b").resume("train").unwrap().is_none(), "of another binary");
    // copied to another stage's folder, by the same binary
    let other_stage = folder.path().join("cell-4567.kept");
    std::fs::create_dir(&other_stage).unwrap();
    std::fs::copy(checkpoints.join("train"), other_stage.join("train")).unwrap();
    assert!(of_stage("4567", "a").resume("train").unwrap().is_none());
    assert!(!other_stage.join("train").exists() && other_stage.join("train.foreign").exists());
    let file = checkpoints.join("train");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(recorder("a").resume("train").unwrap().is_none());
    assert!(!file.exists() && checkpoints.join("train.damaged").exists());
    std::fs::write(&file, b"short").unwrap();
    assert!(recorder("a").resume("train").unwrap().is_none());
}

#[test]
fn a_stage_under_the_name_of_another_is_neither_reused_nor_read() {
    let out = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| RunDir::create(out.path(), name).unwrap());
    let other = StageId { kind: "sft".into(), hash: "4567".into() };
    let stage = make(&first.stages());
    let copy = first.stages().join(other.folder());
    std::fs::create_dir(&copy).unwrap();
    for file in ["weights", "done.json"] {
        std::fs::copy(stage.file(file), copy.join(file)).unwrap();
    }
    // by a sibling run, by a reader, by the run itself
    assert!(!second.contains_stage(&other).unwrap() && second.find_stage(&other).unwrap().is_none());
    let read = StageDir::find(&first.stages(), &other).unwrap_err().to_string();
    assert!(read.contains("sft-0123"), "{read}");
    let (opened, damage) = first.find_or_quarantine(&other).unwrap();
    assert!(opened.is_none() && damage.unwrap().contains("contains the stage sft-0123"));
    assert!(StageDir::open(&first.stages(), &id()).unwrap().is_some(), "the one that it was copied from stays");
}

/// A run of two cells at two seeds, its stages made by hand: `finished` of them, by label.
fn planned(run: &std::path::Path, experiment: &str, cells: &[(&str, u64)], finished: &[&str]) -> Manifest {
    let folder =
        |label: &str| format!("cell-{}", &duel_spec::ids::hash_bytes(format!("{experiment} {label}").as_bytes())[..16]);
    let plan: Vec<PlannedStage> = cells
        .iter()
        .map(|(label, seed)| PlannedStage {
            label: label.to_string(),
            folder: folder(label),
            seed: Some(*seed),
            tuning: Some(false),
        })
        .collect();
    std::fs::create_dir_all(run.join("stages")).unwrap();
    for (n, cell) in plan.iter().enumerate().filter(|(_, cell)| finished.contains(&cell.label.as_str())) {
        let clocks = Clocks { step: 7, tokens: 1, flops: 1.0, wall_seconds: 0.5 };
        let [arm, method, point, stage, metric] = [&cell.label, "dpo", "-", "train", "loss"].map(String::from);
        let row = MetricRow { arm, method, point, seed: 0, stage, clocks, metric, value: n as f64 };
        StageDir::make(
            &run.join("stages"),
            &StageId::of_folder(&cell.folder).unwrap(),
            &serde_json::Value::Null,
            |to| write_metrics(&to.join("metrics.parquet"), &[row]),
        )
        .unwrap();
    }
    Manifest {
        format: duel_spec::FORMAT_VERSION,
        experiment: experiment.into(),
        stages: plan.iter().map(|cell| (cell.label.clone(), cell.folder.clone())).collect(),
        plan,
        exit: "complete".into(),
        ..Manifest::default()
    }
}

fn arms(tables: &TableSource) -> Vec<String> {
    let rows = tables.metrics.iter().flat_map(|path| read_metrics(path).unwrap().rows);
    rows.map(|row| row.arm.to_string()).collect()
}

#[test]
fn merged_tables_are_read_if_they_match_the_plan_and_else_the_stages() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let old = planned(run, "old", &[("a", 0), ("b", 0), ("c", 1)], &["a", "b"]);
    merge(run, &old, RunSubset::Comparison).unwrap();
    let of = |manifest| TableSource::of(run, manifest, RunSubset::Comparison);
    let source = of(&old).unwrap();
    assert!(source.are_merged && source.cells == 3 && source.missing.len() == 1, "{source:?}");
    assert_eq!(arms(&source), ["a", "b"]);

    // the experiment was edited and interrupted: the table is of other stages, and is not read
    let mut new = planned(run, "new", &[("a", 0), ("b", 0)], &["b"]);
    new.exit = "interrupted".into();
    let source = of(&new).unwrap();
    assert!(!source.are_merged, "{source:?}");
    assert_eq!(
        (arms(&source), source.missing),
        (vec!["b".to_string()], vec![("a".into(), "the run was interrupted before".into())])
    );
    assert!(file_digests(run).is_err(), "there is no manifest");
    new.write(run).unwrap();
    std::fs::write(run.join("experiment.toml"), "").unwrap();
    let Digests { all, missing } = file_digests(run).unwrap();
    assert!(missing == ["a"] && all.iter().all(|digest| digest.file != "metrics.parquet"), "{all:?}");

    // fewer seeds than the table has: it does not match the plan, and all stages exist
    let fewer = Manifest { plan: old.plan[..1].to_vec(), ..old.clone() };
    assert!(of(&fewer).unwrap().missing.is_empty() && !of(&fewer).unwrap().are_merged);

    // one stage more than the table has, as during a run
    let late = StageId::of_folder(&old.plan[2].folder).unwrap();
    let table =
        StageDir::find(&run.join("stages"), &StageId::of_folder(&old.plan[0].folder).unwrap()).unwrap().unwrap();
    StageDir::make::<Error>(&run.join("stages"), &late, &serde_json::Value::Null, |to| {
        std::fs::copy(table.file("metrics.parquet"), to.join("metrics.parquet")).unwrap();
        Ok(())
    })
    .unwrap();
    let source = of(&old).unwrap();
    assert!(!source.are_merged && source.missing.is_empty() && arms(&source).len() == 3, "{source:?}");
}

#[test]
fn a_table_with_another_hash_is_an_error_and_a_missing_one_is_replaced_by_the_stages() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let manifest = planned(run, "e", &[("a", 0), ("b", 0)], &["a", "b"]);
    merge(run, &manifest, RunSubset::Comparison).unwrap();
    let table = run.join("metrics.parquet");
    let bytes = std::fs::read(&table).unwrap();
    for position in (0..bytes.len()).step_by(23) {
        let mut flipped = bytes.clone();
        flipped[position] ^= 1 << (position % 8);
        std::fs::write(&table, &flipped).unwrap();
        let error = TableSource::of(run, &manifest, RunSubset::Comparison).unwrap_err();
        assert!(matches!(&error, Error::Damaged { path, .. } if *path == table), "{position}: {error}");
    }
    std::fs::remove_file(&table).unwrap();
    assert_eq!(arms(&TableSource::of(run, &manifest, RunSubset::Comparison).unwrap()), ["a", "b"]);
    // without the stages it must exist, and match them
    std::fs::rename(run.join("stages"), run.join("elsewhere")).unwrap();
    let error = TableSource::of(run, &manifest, RunSubset::Comparison).unwrap_err();
    assert!(error.to_string().contains("metrics.parquet"), "{error}");
    std::fs::write(&table, &bytes).unwrap();
    assert!(TableSource::of(run, &manifest, RunSubset::Comparison).unwrap().are_merged);
    let other = tempfile::tempdir().unwrap();
    let theirs = planned(other.path(), "theirs", &[("a", 0)], &["a"]);
    merge(other.path(), &theirs, RunSubset::Comparison).unwrap();
    for file in ["metrics.parquet", "tables.json"] {
        std::fs::copy(other.path().join(file), run.join(file)).unwrap();
    }
    assert!(matches!(TableSource::of(run, &manifest, RunSubset::Comparison), Err(Error::Foreign { .. })));
    std::fs::remove_file(run.join("tables.json")).unwrap();
    assert!(matches!(TableSource::of(run, &manifest, RunSubset::Comparison), Err(Error::Foreign { .. })));
}

#[test]
fn merging_leaves_no_table_of_an_earlier_experiment() {
    let folder = tempfile::tempdir().unwrap();
    let manifest = planned(folder.path(), "e", &[("a", 0)], &["a"]);
    for name in ["outcomes.parquet", "completions.parquet"] {
        std::fs::write(folder.path().join(name), "of another").unwrap();
    }
    merge(folder.path(), &manifest, RunSubset::Comparison).unwrap();
    let tables = TableSource::of(folder.path(), &manifest, RunSubset::Comparison).unwrap();
    assert!(tables.outcomes.is_empty() && tables.completions.is_empty() && tables.metrics.len() == 1);
    assert!(!folder.path().join("outcomes.parquet").exists());
}

#[test]
fn tables_of_an_older_format_are_read_unless_the_run_was_interrupted() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    write_metrics(&run.join("metrics.parquet"), &[]).unwrap();
    let of = |exit: &str| {
        let manifest = Manifest { format: 11, exit: exit.into(), ..Manifest::default() };
        TableSource::of(run, &manifest, RunSubset::Comparison)
    };
    assert_eq!(of("complete").unwrap().metrics.len(), 1);
    assert_eq!(of("failed").unwrap().metrics.len(), 1);
    assert!(matches!(of("interrupted"), Err(Error::Foreign { .. })));
    std::fs::remove_file(run.join("metrics.parquet")).unwrap();
    assert!(matches!(of("complete"), Err(Error::Foreign { .. })));
}

#[test]
fn an_experiment_that_was_edited_after_its_run_is_detected_by_its_settings() {
    use duel_spec::{Document, Experiment};
    let text = "seeds = 5\n[arms.a]\nmethod = \"dpo\"\ngrid.beta = [0.1]\n";
    let claim = "[[claims]]\nid = \"C\"\narms = [\"a\", \"reference\"]\n";
    let document = |text: &str| Document::parse("e.toml", text, &[]).unwrap();
    let claims = |text: &str| Experiment::from_document(&document(text)).unwrap().claims;
    let recorded = format!("{text}{claim}");
    let manifest = Manifest {
        format: duel_spec::FORMAT_VERSION,
        experiment: document(&recorded).to_toml(),
        claims: Some(claims(&recorded).iter().map(|claim| serde_json::json!(claim)).collect()),
        ..Manifest::default()
    };
    let check = |text: &str| manifest.check_experiment(std::path::Path::new("run"), &document(text));
    check(&recorded).unwrap();
    check(&format!("question = \"another?\"\n{text}[slurm]\nretries = 3\n")).unwrap(); // changes no number
    let error = check(&recorded.replace("0.1", "0.2").replace("seeds = 5", "seeds = 3")).unwrap_err().to_string();
    for message in ["arms.a.grid.beta is [0.2], was [0.1]", "seeds is 3, was 5", "experiment.toml"] {
        assert!(error.contains(message), "`{message}` is not in {error}");
    }

    let stood = |text: &str| claims(text).iter().map(|claim| manifest.had_claim(claim)).collect::<Vec<_>>();
    assert_eq!(stood(&recorded), [true]);
    assert_eq!(stood(&format!("{text}{claim}smallest = 0.01\n")), [false]);
    assert_eq!(stood(&format!("{recorded}{}", claim.replace("\"C\"", "\"D\""))), [true, false]);
    assert_eq!(manifest.dropped_claims(&claims(text)), ["C"]);
    assert!(Manifest::default().had_claim(&claims(&recorded)[0]), "an older format does not know");
}
