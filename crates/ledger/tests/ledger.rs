//! The run directory keeps its promises: whole files, one owner, damage set aside.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_ledger::*;
use duel_spec::{Clocks, Completion, MetricRow};

fn id() -> StageId {
    StageId { kind: "sft".into(), hash: "0123".into() }
}

fn make(stages: &std::path::Path) -> StageDir {
    StageDir::make(stages, &id(), &serde_json::json!({"rows": 2}), |to| write_atomically(&to.join("weights"), b"abc"))
        .unwrap()
}

#[test]
fn tables_come_back_as_written() {
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

    let completion = Completion {
        arm: "ppo".into(),
        point: "beta=1".into(),
        seed: 0,
        step: 9,
        split: "test".into(),
        prompt: "praise the plot:".into(),
        completion: "very good — wow!".into(),
        gold_reward: 1.0,
        proxy_reward: f64::NAN,
        kl: 0.5,
        tokens: 4,
        ended: true,
    };
    let path = folder.path().join("completions.parquet");
    write_completions(&path, std::slice::from_ref(&completion)).unwrap();
    let back = read_completions(&path).unwrap();
    assert!(back[0].proxy_reward.is_nan());
    assert_eq!(Completion { proxy_reward: 0.0, ..back[0].clone() }, Completion { proxy_reward: 0.0, ..completion });
}

#[test]
fn an_unfinished_stage_is_not_there() {
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
fn a_worker_that_outlives_its_run_is_not_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let stages = folder.path();
    let left = stages.join("sft-0123.making-1");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("half"), b"a").unwrap();
    for path in [left.join("half"), left.clone()] {
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
    let left = std::fs::read_dir(stages).unwrap().flatten().filter(|e| e.path().join("weights").is_file()).count();
    assert_eq!((left, stages.join("sft-0123.making-1").exists()), (1, false), "only the stage itself is left");
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
            let (found, words) = StageDir::sift(folder.path(), &id()).unwrap();
            let words = words.unwrap();
            assert!(found.is_none() && words.contains(file) && words.contains("sft-0123.damaged"), "{words}");
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
fn runs_beside_each_other_share_stages() {
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
fn strangers_files_in_a_stage_harm_nobody() {
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
    // while it is made, by whoever looks into the folder
    let stage = StageDir::make(&first.stages(), &id(), &serde_json::json!({}), |to| {
        strangers(to);
        write_atomically(&to.join("weights"), b"abc")
    })
    .unwrap();
    assert!(stage.files().unwrap().iter().all(|name| ["weights", "notes.txt"].contains(&name.as_str())));
    // afterwards, in the stage, beside it, and beside the runs
    for file in [".DS_Store", "weights~", "late.txt"] {
        std::fs::write(stage.file(file), b"y").unwrap();
    }
    assert!(StageDir::open(&first.stages(), &id()).unwrap().is_some());
    strangers(&first.stages());
    strangers(out.path());
    let adopted = second.find_stage(&id()).unwrap().unwrap();
    let mut names: Vec<_> = std::fs::read_dir(adopted.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["done.json", "notes.txt", "weights"], "only what the stage is made of is taken over");
    std::fs::create_dir(second.stages().join("sft-0123.damaged")).unwrap();
    std::fs::write(second.stages().join("sft-0123.damaged/done.json"), b"{}").unwrap();
    assert_eq!(StageDir::all(out.path()).unwrap().len(), 2);
}

#[cfg(unix)]
#[test]
fn what_cannot_be_read_is_not_damaged() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let weights = make(folder.path()).file("weights");
    // a link that leads in a circle cannot be read, whoever asks
    std::fs::remove_file(&weights).unwrap();
    std::os::unix::fs::symlink("weights", &weights).unwrap();
    let error = StageDir::sift(folder.path(), &id()).unwrap_err();
    assert!(matches!(&error, Error::Io { path, .. } if path.ends_with("sft-0123/weights")), "{error}");
    assert!(weights.is_symlink() && !folder.path().join("sft-0123.damaged").exists());
    // nor can what permissions forbid, unless one is root
    std::fs::remove_file(&weights).unwrap();
    std::fs::write(&weights, b"abc").unwrap();
    std::fs::set_permissions(&weights, std::fs::Permissions::from_mode(0)).unwrap();
    if std::fs::read(&weights).is_err() {
        assert!(matches!(StageDir::sift(folder.path(), &id()), Err(Error::Io { .. })));
    }
    // a file that is a folder, or gone, is
    std::fs::remove_file(&weights).unwrap();
    std::fs::create_dir(&weights).unwrap();
    assert!(StageDir::sift(folder.path(), &id()).unwrap().1.unwrap().contains("weights"));
    let weights = make(folder.path()).file("weights");
    std::fs::remove_file(&weights).unwrap();
    assert!(StageDir::sift(folder.path(), &id()).unwrap().1.unwrap().contains("weights"));
}

#[test]
fn another_runs_stage_is_never_set_aside() {
    let out = tempfile::tempdir().unwrap();
    let [first, second, third] = ["first", "second", "third"].map(|name| RunDir::create(out.path(), name).unwrap());
    let theirs = make(&first.stages());
    make(&third.stages());
    std::fs::write(theirs.file("weights"), b"abd").unwrap();
    let (found, damage) = second.sift_stage(&id()).unwrap();
    assert!(damage.is_none() && found.unwrap().path().starts_with(second.path()), "the whole one is taken over");
    assert!(theirs.path().is_dir() && !first.stages().join("sft-0123.damaged").exists());
}

#[test]
fn names_that_lead_elsewhere_are_no_files_of_a_stage() {
    let folder = tempfile::tempdir().unwrap();
    let stage = make(folder.path());
    std::fs::write(folder.path().join("outside"), b"abc").unwrap();
    let done = stage.file("done.json");
    let text = std::fs::read_to_string(&done).unwrap().replace("\"weights\"", "\"../outside\"");
    // with a hash of itself, as somebody would give it who wants it to be read
    let sum = text.lines().find(|line| line.contains("\"sum\"")).unwrap().to_string();
    let unsummed = text.replace(sum.trim(), "\"sum\": \"\"");
    let summed = format!("\"sum\": \"{}\"", duel_spec::ids::hash_bytes(unsummed.as_bytes()));
    std::fs::write(&done, text.replace(sum.trim(), &summed)).unwrap();
    let (found, words) = StageDir::sift(folder.path(), &id()).unwrap();
    assert!(found.is_none() && words.unwrap().contains("outside"));
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
fn a_kept_state_brings_its_rows_back_and_a_damaged_one_is_set_aside() {
    use duel_spec::{Recorder, metrics};
    use std::time::Duration;
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("cell-0123.kept");
    let recorder = |tag: &str| {
        let quiet = Box::new(|_: u64, _: u64, _: &str| {});
        StageRecorder::new("dpo", "dpo", "-", 0, quiet).keeping(kept.clone(), tag, Duration::ZERO)
    };
    let mut first = recorder("a");
    assert!(first.is_due() && first.resume("train").unwrap().is_none());
    first.record("train", Clocks::default(), metrics::LOSS, f64::NAN);
    first.keep("train", b"state").unwrap();
    first.record("train", Clocks::default(), metrics::LOSS, 0.25); // after the state: is forgotten

    let mut second = recorder("a");
    second.record("train", Clocks::default(), metrics::LOSS, 7.0); // of this life: is forgotten
    assert_eq!(second.resume("train").unwrap().unwrap(), b"state");
    let to = folder.path().join("out");
    std::fs::create_dir(&to).unwrap();
    second.write(&to).unwrap();
    let rows = read_metrics(&to.join("metrics.parquet")).unwrap().rows;
    assert!(rows.len() == 1 && rows[0].value.is_nan());

    assert!(recorder("b").resume("train").unwrap().is_none(), "another binary's");
    let file = kept.join("train");
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    assert!(recorder("a").resume("train").unwrap().is_none());
    assert!(!file.exists() && kept.join("train.damaged").exists());
    std::fs::write(&file, b"short").unwrap();
    assert!(recorder("a").resume("train").unwrap().is_none());
}
