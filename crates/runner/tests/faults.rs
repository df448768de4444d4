//! What machines do to a run: disks that are full or read-only, files whose bits have flipped, clocks that go back, versions
//! that have gone ahead. One clear message each; nothing finished is lost; the end is that of a run that was left alone.
#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TINY: &str = include_str!("../src/tiny.toml");
const DUEL: &str = env!("CARGO_BIN_EXE_duel");

fn duel(folder: &Path, args: &[&str]) -> Output {
    Command::new(DUEL).current_dir(folder).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("e.toml"), TINY).unwrap();
    folder
}

fn digest(folder: &Path) -> String {
    let out = duel(folder, &["digest", "runs/tiny"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    text(&out.stdout)
}

/// A run that was left alone, in a folder of its own.
fn whole() -> (tempfile::TempDir, String) {
    let folder = folder();
    let out = duel(folder.path(), &["run", "e.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let digest = digest(folder.path());
    (folder, digest)
}

/// Runs a script of the shell where it may mount, and returns what it says.
fn where_mounts_are_allowed(script: &str) -> String {
    let root = text(&Command::new("id").arg("-u").output().unwrap().stdout).trim() == "0";
    let flags: &[&str] = if root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let out = Command::new("unshare").args(flags).args(["bash", "-c", script]).env("NO_COLOR", "1").output().unwrap();
    let printed = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "needs `unshare {}` and a tmpfs mounted there:\n{printed}", flags.join(" "));
    printed
}

#[test]
fn a_full_disk_loses_nothing_and_a_read_only_one_is_named() {
    let (_folder, expected) = whole();
    let there = folder();
    let printed = where_mounts_are_allowed(&format!(
        "set -eu
         cd {}
         mkdir disk && mount -t tmpfs -o size=24m tmpfs disk
         # room for some stages, not for all
         head -c 23900k /dev/zero > disk/ballast
         code=0; {DUEL} run e.toml --out disk/runs || code=$?; echo \"full: $code\"
         [ $code != 0 ]
         rm disk/ballast
         {DUEL} run e.toml --out disk/runs; echo \"emptied: $?\"
         echo \"digest: $({DUEL} digest disk/runs/tiny)\"
         mount -o remount,ro disk
         code=0; {DUEL} run e.toml --out disk/runs || code=$?; echo \"read-only: $code\"",
        there.path().display()
    ));
    for words in [
        "full: 1",
        "No space left on device",
        "free some space and run the same command again",
        "emptied: 0",
        &format!("digest: {expected}"),
        "read-only: 1",
        "Read-only file system",
        "choose another folder with `--out DIR`",
    ] {
        assert!(printed.contains(words.trim()), "`{words}` is not in:\n{printed}");
    }
    assert!(!printed.contains("panicked"), "{printed}");
}

/// A file of a finished stage by the stage's kind and the file's ending.
fn file_of(run: &Path, kind: &str, ending: &str) -> PathBuf {
    let stages = std::fs::read_dir(run.join("stages")).unwrap().flatten().map(|e| e.path());
    let of_kind = stages.filter(|s| s.file_name().unwrap().to_string_lossy().starts_with(&format!("{kind}-")));
    let mut files: Vec<PathBuf> =
        of_kind.flat_map(|s| std::fs::read_dir(s).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>()).collect();
    files.sort();
    files.into_iter().find(|f| f.to_string_lossy().ends_with(ending)).unwrap()
}

fn flip_a_bit(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_flipped_bit_is_named_and_its_stage_made_anew() {
    let (folder, expected) = whole();
    let run = folder.path().join("runs/tiny");
    for (kind, ending) in
        [("sft", ".safetensors"), ("pairs", ".parquet"), ("rm", "done.json"), ("cell", "metrics.parquet")]
    {
        let file = file_of(&run, kind, ending);
        flip_a_bit(&file);
        let out = duel(folder.path(), &["run", "e.toml"]);
        let printed = text(&out.stderr);
        assert!(out.status.success(), "{printed}");
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        for words in ["is damaged", &name, "renamed to", "will be run again"] {
            assert!(printed.contains(words), "`{words}` is not in:\n{printed}");
        }
        assert!(text(&out.stdout).contains("1 stages made"), "{}", text(&out.stdout));
        assert_eq!(digest(folder.path()), expected, "{kind} {ending}");
    }
    // cut short, and gone
    let file = file_of(&run, "sft", ".safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 3]).unwrap();
    std::fs::remove_file(file_of(&run, "pairs", ".parquet")).unwrap();
    assert!(duel(folder.path(), &["run", "e.toml"]).status.success());
    assert_eq!(digest(folder.path()), expected);
    // the manifest, which says what the run is
    flip_a_bit(&run.join("manifest.json"));
    let out = duel(folder.path(), &["report", "runs/tiny"]);
    let printed = text(&out.stderr);
    assert!(out.status.code() == Some(1) && printed.contains("manifest.json` is damaged"), "{printed}");
    let out = duel(folder.path(), &["run", "e.toml"]);
    let printed = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success() && printed.contains("0 stages made"), "{printed}");
    assert!(printed.contains("its claims count as added after the run"), "{printed}");
    assert_eq!(digest(folder.path()), expected);
    // the merged tables, from which the report is drawn
    for table in ["metrics.parquet", "completions.parquet"] {
        let path = run.join(table);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let out = duel(folder.path(), &["report", "runs/tiny"]);
        let printed = text(&out.stderr);
        assert!(
            out.status.code() == Some(1) && printed.contains(table) && printed.contains("run the experiment again"),
            "{printed}"
        );
        assert!(!printed.contains("panicked"), "{printed}");
        assert!(duel(folder.path(), &["run", "e.toml"]).status.success());
        assert_eq!(digest(folder.path()), expected);
    }
}

#[test]
fn a_clock_that_goes_back_changes_nothing() {
    let (folder, expected) = whole();
    let run = folder.path().join("runs/tiny");
    // all of it was made tomorrow
    let touched = Command::new("find").arg(&run).args(["-exec", "touch", "-d", "+1 day", "{}", "+"]).status().unwrap();
    assert!(touched.success());
    let manifest = duel_ledger::Manifest::read(&run).unwrap();
    duel_ledger::Manifest { started: manifest.started + 86_400, ..manifest }.write(&run).unwrap();
    std::fs::remove_dir_all(file_of(&run, "cell", "done.json").parent().unwrap()).unwrap();
    let out = duel(folder.path(), &["run", "e.toml"]);
    assert!(text(&out.stdout).contains("1 stages made"), "{}{}", text(&out.stdout), text(&out.stderr));
    assert_eq!(digest(folder.path()), expected);
    assert!(duel(folder.path(), &["watch", "runs/tiny", "--once"]).status.success());
}

#[test]
fn a_newer_format_is_left_alone_and_names_lead_nowhere_else() {
    let (folder, _) = whole();
    let done = file_of(&folder.path().join("runs/tiny"), "sft", "done.json");
    let text_of = std::fs::read_to_string(&done).unwrap();
    let newer = text_of.replacen(&format!("\"format\": {}", duel_spec::FORMAT_VERSION), "\"format\": 999", 1);
    assert_ne!(newer, text_of);
    std::fs::write(&done, &newer).unwrap();
    let out = duel(folder.path(), &["run", "e.toml"]);
    let printed = text(&out.stderr);
    assert!(
        out.status.code() == Some(1) && printed.contains("newer Duel") && printed.contains("update Duel"),
        "{printed}"
    );
    assert_eq!(std::fs::read_to_string(&done).unwrap(), newer);
    for name in ["../up", "a/b", "a\\\\b", ".hidden", ""] {
        let out = duel(folder.path(), &["run", "e.toml", "--set", &format!("name=\"{name}\"")]);
        let printed = text(&out.stderr);
        assert!(out.status.code() == Some(2) && printed.contains("name"), "{name}: {printed}");
    }
    assert!(!folder.path().join("up").exists());
}

#[test]
fn a_search_ends_alike_however_often_it_is_cut_off() {
    let search = "[tuning]\nconfigurations = 3\nseeds = 2\nat_once = 1\n[arms.dpo]\nmethod = \"dpo\"\nepochs = 1\nsearch = \"tpe\"\n\
                  [arms.dpo.space]\nbeta = { low = 0.05, high = 1.0, log = true }\nloss = { choices = [\"sigmoid\", \"ipo\"] }\n";
    let shared = &TINY[..TINY.find("[arms.").unwrap()];
    let make = || {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("e.toml"), format!("{shared}{search}")).unwrap();
        folder
    };
    let alone = make();
    let out = duel(alone.path(), &["run", "e.toml"]);
    let printed = text(&out.stderr);
    assert!(out.status.success() && printed.contains("chosen on validation prompts"), "{printed}");
    let run = alone.path().join("runs/tiny");
    let table = std::fs::read_to_string(run.join("report/tables/tuning.csv")).unwrap();
    assert!(table.lines().count() == 4 && table.contains("chosen"), "{table}");
    let compared = duel_ledger::read_metrics(&run.join("metrics.parquet")).unwrap();
    assert!(compared.rows.iter().all(|row| row.seed < 100), "no tuning seed is compared on");

    let cut = make();
    let mut times = 0;
    loop {
        let limit = format!("{}", 1.0 + 0.7 * f64::from(times));
        let out = Command::new("timeout")
            .args(["-s", "KILL", &limit, DUEL, "run", "e.toml", "--checkpoint-seconds", "0"])
            .current_dir(cut.path())
            .output()
            .unwrap();
        if out.status.success() {
            break;
        }
        times += 1;
        assert!(times < 40, "{}", text(&out.stderr));
    }
    assert!(times > 0, "it was never cut off");
    assert_eq!(digest(cut.path()), digest(alone.path()));
}
