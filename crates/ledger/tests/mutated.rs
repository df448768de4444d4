//! Mutated files of a run are read or refused, without a panic or a hang.
#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{completion, id, make};
use duel_ledger::*;
use duel_spec::ids::hash_bytes;
use duel_spec::{Clocks, Document, Experiment, MetricRow, OutcomeRow, Recorder, metrics};
use duel_testing::mutated;
use std::time::Duration;

const JSON: [&str; 16] = [
    "\"files\": {",
    "\"../../outside\": \"",
    "\"/etc/passwd\": \"",
    "\"format\": 11",
    "\"format\": 4294967295",
    "\"key\": ",
    "\"sum\": \"\"",
    "\"settings\": {\"beta\": {\"a\": 1}}",
    "[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":",
    "null",
    "true",
    "\"\\ud800\"",
    "\u{0}",
    "\"seeds\": [18446744073709551615]",
    "1e999",
];

#[test]
fn damaged_done_files_are_read_or_set_aside() {
    let out = tempfile::tempdir().unwrap();
    let [run, other] = ["a", "b"].map(|name| RunDir::create(out.path(), name).unwrap());
    let original = std::fs::read(make(&run.stages()).file("done.json")).unwrap();
    mutated::every("done", 150, &[&original], &JSON, |case, bytes| {
        let _ = std::fs::remove_dir_all(run.stages());
        let _ = std::fs::remove_dir_all(other.stages().join(id().folder()));
        std::fs::create_dir_all(run.stages()).unwrap();
        let stage = make(&run.stages());
        let mut text = String::from_utf8_lossy(bytes).into_owned();
        if case % 2 == 0 {
            // with a correct checksum, so that the contents are read
            if let Some((before, rest)) = text.split_once("\"sum\": \"")
                && let Some((_, after)) = rest.split_once('"')
            {
                let sum = hash_bytes(format!("{before}\"sum\": \"\"{after}").as_bytes());
                text = format!("{before}\"sum\": \"{sum}\"{after}");
            }
        }
        std::fs::write(stage.file("done.json"), &text).unwrap();
        let _ = (stage.key(), stage.files(), StageDir::is_whole(&run.stages(), &id()));
        let _ = other.find_stage(&id());
        assert!(!run.stages().join("sft-0123.damaged").exists(), "a sibling run sets nothing aside");
        let _ = run.find_or_quarantine(&id());
        assert!(!out.path().join("outside").exists());
    });
}

#[test]
fn damaged_manifests_and_rounds_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let stages = [("sft, seed 0", "sft-0123")].map(|(label, folder)| (label.into(), folder.into())).into();
    Manifest { format: 11, exit: "complete".into(), stages, ..Manifest::default() }.write(run).unwrap();
    let manifest = std::fs::read_to_string(run.join("manifest.json")).unwrap();
    let (before, sum) = manifest.split_once("\"sum\": ").unwrap();
    let without_sum = format!("{before}{}", sum.split_once(',').unwrap().1); // so that the contents are read
    mutated::every("manifest", 1000, &[manifest.as_bytes(), without_sum.as_bytes()], &JSON, |_, bytes| {
        std::fs::write(run.join("manifest.json"), bytes).unwrap();
        let _ = (Manifest::read(run), RunDir::open(run), file_digests(run));
    });

    let text = "[tuning]\nconfigurations = 4\n[arms.d]\nmethod = \"dpo\"\nsearch = \"random\"\n[arms.d.space]\n\
                beta = { low = 0.1, high = 1.0 }\nloss = { choices = [\"ipo\", \"robust\"] }\n";
    let experiment = Experiment::from_document(&Document::parse("t", text, &[]).unwrap()).unwrap();
    let rounds = serde_json::json!([
        [{"arm": "d", "settings": {"beta": 0.5, "loss": "ipo"}, "seeds": [100, 101], "tuning": true}],
        [{"arm": "d", "settings": {"beta": 0.25, "loss": "robust"}, "seeds": [0, 1, 2], "tuning": false}],
    ]);
    mutated::every("rounds", 1000, &[rounds.to_string().as_bytes()], &JSON, |_, bytes| {
        std::fs::write(run.join("search.json"), bytes).unwrap();
        let _ = cells_of(run, &experiment);
    });
}

#[test]
fn a_flipped_bit_in_a_manifest_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path();
    let path = run.join("manifest.json");
    let stages = [("sft, seed 0", "sft-0123")].map(|(label, folder)| (label.into(), folder.into())).into();
    let diverged = ["dpo beta=0.1, seed 0".to_string()].into();
    Manifest { format: 12, exit: "complete".into(), stages, diverged, ..Manifest::default() }.write(run).unwrap();
    let original = std::fs::read(&path).unwrap();
    let contents = |bytes: &[u8]| -> serde_json::Value {
        let mut contents: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        contents.as_object_mut().unwrap().retain(|name, _| name.len() != 3); // a flip of the name hides the checksum alone
        contents
    };
    for bit in 0..8 * original.len() {
        let mut bytes = original.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &bytes).unwrap();
        match Manifest::read(run) {
            Err(error) => assert!(matches!(error, Error::Damaged { .. }), "bit {bit}: {error}"),
            Ok(_) => assert_eq!(contents(&bytes), contents(&original), "bit {bit} changed what is read"),
        }
    }
    // a later version may write more, an earlier one wrote no checksum
    std::fs::write(&path, serde_json::to_vec(&Manifest::default()).unwrap()).unwrap();
    assert_eq!(Manifest::read(run).unwrap().exit, "");
}

#[test]
fn damaged_checkpoints_are_resumed_or_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let id = StageId { kind: "cell".into(), hash: "0123".into() };
    let checkpoint = folder.path().join(id.checkpoint_dir()).join("train");
    let recorder = || {
        let quiet = Box::new(|_: u64, _: u64, _: &str| {});
        StageRecorder::new("dpo", "dpo", "-", 0, quiet).with_checkpoints(folder.path(), &id, "a", Duration::ZERO)
    };
    let mut first = recorder();
    for step in 0..20 {
        first.record("train", Clocks { step, ..Clocks::default() }, metrics::LOSS, 0.5);
    }
    first.completion(completion());
    first.save("train", &[7; 200]).unwrap();
    let original = std::fs::read(&checkpoint).unwrap();
    const HASH: usize = 64;
    mutated::every("kept", 1500, &[&original], &["\u{ff}\u{ff}\u{ff}\u{ff}\u{7f}"], |case, bytes| {
        let mut bytes = bytes.to_vec();
        if case % 4 > 0 && bytes.len() > HASH {
            // with a correct hash, so that the contents are read
            let hash = hash_bytes(&bytes[HASH..]);
            bytes[..HASH].copy_from_slice(hash.as_bytes());
        }
        std::fs::write(&checkpoint, bytes).unwrap();
        let _ = recorder().resume("train");
    });
}

#[test]
fn damaged_tables_are_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let row = |step: u64, metric: &str| MetricRow {
        arm: "dpo".into(),
        method: "dpo".into(),
        point: "beta=0.1".into(),
        seed: step % 3,
        stage: "train".into(),
        clocks: Clocks { step, tokens: step * 64, flops: 1e9 * step as f64, wall_seconds: 0.25 },
        metric: metric.into(),
        value: 1.0 / (1.0 + step as f64),
    };
    let rows: Vec<MetricRow> = (0..300).flat_map(|step| [row(step, "loss"), row(step, "kl")]).collect();
    write_metrics(&path("metrics"), &rows).unwrap();
    write_completions(&path("completions"), &vec![completion(); 40]).unwrap();
    let outcome = |prompt| OutcomeRow { prompt, gold_reward: 0.5, tokens: 3, share: 0.25 };
    let all = (0..50).map(outcome).collect();
    write_outcomes(&path("outcomes"), &[Outcomes { arm: "dpo".into(), point: "-".into(), seed: 1, all }]).unwrap();
    let original = ["metrics", "completions", "outcomes"].map(|name| std::fs::read(path(name)).unwrap());
    let original: Vec<&[u8]> = original.iter().map(Vec::as_slice).collect();
    mutated::every(
        "tables",
        250,
        &original,
        &["PAR1", "\u{15}\u{2}", "\u{ff}\u{ff}\u{ff}\u{7f}", "value", "seed"],
        |_, bytes| {
            std::fs::write(path("mutated"), bytes).unwrap();
            let _ = read_metrics(&path("mutated"));
            let _ = read_completions(&path("mutated"));
            let _ = read_outcomes(&path("mutated"));
            let _ = merge_tables(&[path("metrics"), path("mutated")], &path("merged"));
        },
    );
}
