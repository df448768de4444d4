//! Reward models that somebody else has trained, with another tokenizer and template than the policy's: as the reward model,
//! frozen or trained further, as the judge, and written for others.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::{Device, Int, Tensor, TensorData};
use duel_data::TextTokenizer;
use duel_ledger::read_completions;
use duel_model::{Classifier, Policy, ScalarModel, weights};
use duel_testing::command_line::{refusal_of, stdout_of};
use duel_testing_tensors::tiny_model::{self, model_with_template};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

const POLICY_TEMPLATE: &str = "{% for m in messages %}{{ '<pad>' + m.role + '\n' + m.content + '<eos>' }}\n{% endfor %}\
                               {% if add_generation_prompt %}{{ '<pad>assistant\n' }}{% endif %}";
const REWARD_TEMPLATE: &str = "{{ '<bos>' }}{% for m in messages %}{{ '[' + m.role + '] ' + m.content }}{% endfor %}\
                               {% if add_generation_prompt %}{{ '[assistant] ' }}{% else %}{{ ' !<eos>' }}{% endif %}";

/// A classifier of another family, with fewer words and another template.
fn reward_model(to: &Path, context: usize) {
    tiny_model::reward_model(to, REWARD_TEMPLATE, context);
}

/// The score of some ids by hand: that of the last.
fn score(folder: &Path, ids: &[u32]) -> f64 {
    let classifier = Classifier::open(folder).unwrap();
    let model = classifier.scalar_model(classifier.model.config.context, &Device::flex()).unwrap();
    let ids: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), [1, ids.len()]), &Device::flex());
    f64::from(*weights::host(model.forward(ids)).last().unwrap())
}

fn tokenizer(folder: &Path) -> TextTokenizer {
    TextTokenizer::from_bytes(&std::fs::read(folder.join("tokenizer.json")).unwrap()).unwrap()
}

fn duel(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duel"));
    command.args(args).current_dir(folder);
    command
}

fn ok(folder: &Path, args: &[&str]) -> String {
    stdout_of(&mut duel(folder, args))
}

/// The message of a command that fails.
fn refused(folder: &Path, args: &[&str]) -> String {
    refusal_of(&mut duel(folder, args)).1
}

const EXPERIMENT: &str = r#"
seeds = 1
[world]
kind = "rows"
[world.rows]
train = "rows.jsonl"
prompt_tokens = 48
response_tokens = 10
[judge]
kind = "model"
model = "judge"
[model]
from = "model"
[stages.sft]
steps = 0
[stages.pairs]
rows = 16
holdout_rows = 4
[stages.rm]
from = "judge"
steps = 0
batch_size = 4
samples = 8
[evaluation]
prompts = 4
best_of = 2
curve_points = 1
completions = 2
[arms.ppo]
method = "ppo"
iterations = 2
episodes = 8
[arms.dpo]
method = "dpo"
batch_size = 4
"#;

/// Model, rows, experiment and two reward models in an empty folder.
fn prepared(folder: &Path) {
    model_with_template(&folder.join("model"), POLICY_TEMPLATE);
    reward_model(&folder.join("judge"), 128);
    let turns = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    let rows = (0..40).map(|i| {
        let prompt = turns("user", &format!("is it good {i}"));
        json!({"prompt": prompt, "chosen": turns("assistant", "very good"), "rejected": turns("assistant", "no")})
    });
    std::fs::write(folder.join("rows.jsonl"), rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    std::fs::write(folder.join("experiment.toml"), format!("name = \"mine\"\n{EXPERIMENT}")).unwrap();
}

/// Runs the experiment with other settings under another name, and returns its folder.
fn run(folder: &Path, name: &str, settings: &[&str]) -> PathBuf {
    let name_setting = format!("name=\"{name}\"");
    let mut args = vec!["run", "experiment.toml", "--set", &name_setting];
    settings.iter().for_each(|setting| args.extend(["--set", setting]));
    ok(folder, &args);
    folder.join("runs").join(name)
}

/// The file of a run's stage of a kind.
fn stage_file(run: &Path, kind: &str, file: &str) -> PathBuf {
    let mut stages = std::fs::read_dir(run.join("stages")).unwrap().map(|entry| entry.unwrap().path());
    let manifest = std::fs::read_to_string(run.join("manifest.json")).unwrap();
    let is_it = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(&format!("{kind}-")) && manifest.contains(&name)
    };
    stages.find(is_it).unwrap_or_else(|| panic!("no stage {kind}")).join(file)
}

/// Centre and scale of a run's reward model.
fn scale(run: &Path) -> [f64; 2] {
    let meta: Value = serde_json::from_slice(&std::fs::read(stage_file(run, "rm", "rm.json")).unwrap()).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    [number(&meta["centre"]) + number(&meta["centres"][0]), number(&meta["scale"])]
}

fn near(what: &str, actual: f64, expected: f64) {
    assert!((actual - expected).abs() < 1e-4 * expected.abs().max(1.0), "{what}: {actual}, expected {expected}");
}

#[test]
fn a_reward_model_with_its_own_tokenizer_judges_and_is_maximized() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    let frozen = run(folder, "frozen", &[]);

    // The conversation in the template of the reward model and its tokens, written down by hand.
    let tokenizer = tokenizer(&folder.join("judge"));
    let [centre, scale] = scale(&frozen);
    assert!(!stage_file(&frozen, "rm", "rm.safetensors").exists(), "its weights are those of its directory");
    let completions = read_completions(&frozen.join("completions.parquet")).unwrap();
    assert!(completions.len() >= 4);
    for row in &completions {
        let number: String = row.prompt.chars().filter(char::is_ascii_digit).collect();
        let text = format!("<bos>[user] is it good {number}[assistant] {} !<eos>", row.completion);
        let expected = score(&folder.join("judge"), &tokenizer.encode_part(&text).unwrap());
        near("gold", row.gold_reward, expected);
        near("proxy", row.proxy_reward, (expected - centre) / scale);
    }
    // and so of a prompt that is typed
    let printed =
        ok(folder, &["sample", "runs/frozen", "--prompt", "is it bad", "--arm", "reference", "--format", "json"]);
    let sampled: Value = serde_json::from_str(&printed).unwrap();
    let response: String =
        sampled[0]["pieces"].as_array().unwrap().iter().map(|piece| piece["text"].as_str().unwrap()).collect();
    let response = response.strip_suffix(" ∎").unwrap_or(&response); // which is EOS
    let text = format!("<bos>[user] is it bad[assistant] {response} !<eos>");
    let expected = score(&folder.join("judge"), &tokenizer.encode_part(&text).unwrap());
    near("a typed prompt", sampled[0]["gold_reward"].as_f64().unwrap(), expected);

    // It is written as it came: the same settings, the same tokenizer and template, the same scores.
    ok(folder, &["export", "runs/frozen", "--reward-model", "--to", "again"]);
    let ids = tokenizer.encode_part(&text).unwrap();
    near("exported", score(&folder.join("again"), &ids), expected);
    let settings: Value = serde_json::from_slice(&std::fs::read(folder.join("again/config.json")).unwrap()).unwrap();
    assert_eq!(settings["architectures"], json!(["GPT2ForSequenceClassification"]));
    near("centre", settings["duel_score"]["centre"].as_f64().unwrap(), centre);
    near("scale", settings["duel_score"]["scale"].as_f64().unwrap(), scale);
    let bytes = |name: &str, file: &str| std::fs::read(folder.join(name).join(file)).unwrap();
    assert_eq!(bytes("judge", "tokenizer.json"), bytes("again", "tokenizer.json"));
    let printed = ok(folder, &["import", "again"]);
    for words in
        ["again: a reward model (a sequence classifier with one label)", "family: gpt2", "a response ends with"]
    {
        assert!(printed.contains(words), "{words}: {printed}");
    }

    // Another judge is another experiment, wherever its files stand.
    let plan = |settings: &[&str]| {
        let mut args = vec!["plan", "experiment.toml", "--set", "name=\"frozen\""];
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        ok(folder, &args)
    };
    let before = plan(&[]);
    std::fs::rename(folder.join("judge"), folder.join("moved")).unwrap();
    let moved = ["judge.model=\"moved\"", "stages.rm.from=\"moved\""];
    assert_eq!(plan(&moved).lines().count(), before.lines().count());
    let explained =
        ok(folder, &["run", "experiment.toml", "--set", "name=\"elsewhere\"", "--set", moved[0], "--set", moved[1]]);
    assert!(!explained.is_empty());
    let metrics = |name: &str| std::fs::read(folder.join("runs").join(name).join("metrics.parquet")).unwrap();
    assert_eq!(metrics("elsewhere").len(), metrics("frozen").len());
}

#[test]
fn the_plan_counts_models_that_score_beside_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    let rules = ["judge.kind=\"rules\"", "judge.model=\"\"", "judge.rules=[{ rule = \"length\", words = 3, per = 2 }]"];
    let cost = |settings: &[&str], stage: &str| {
        let mut args = vec!["plan", "experiment.toml", "--format", "json"];
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        let plan: Value = serde_json::from_str(&ok(folder, &args)).unwrap();
        let of_stage = |line: &&Value| line["label"].as_str().is_some_and(|label| label.starts_with(stage));
        let line = plan["stages"].as_array().unwrap().iter().find(of_stage).unwrap().clone();
        ["flops", "memory"].map(|key| line[key].as_f64().unwrap())
    };
    // 2N per token, and attention in 128 > 6·12 columns: 2 layers of 4·12² + 2·12·40, and a head of 12
    let forward = 2.0 * (2.0 * (4.0 * 144.0 + 960.0) + 12.0) + 2.0 * 2.0 * 128.0 * 12.0;
    let tokens = 2.0 * (16.0 + 4.0 + 4.0) * (48.0 + 10.0);
    let (with, without) = (cost(&[], "pairs"), cost(&rules, "pairs"));
    assert_eq!(with[0] - without[0], forward * tokens);
    let weights = 4.0 * 2.0 * (4.0 * 144.0 + 960.0);
    assert!(with[1] - without[1] > weights, "{with:?}, {without:?}");
    // a judge of pairs reads 2 · 4 questions of prompt, two responses and 60 tokens: 2 layers of 4·16² + 3·16·24, a state for its head,
    // and attention in 128 > 6·16 columns; in bf16 its weights are half as large
    let question = "evaluation.pairwise.question=\"{{ a }} or {{ b }}\"";
    let asked = ["evaluation.pairwise.model=\"model\"", question];
    let rounded = [&asked[..], &["evaluation.pairwise.numbers=\"bf16\""]].concat();
    let forward_of_pairs = 2.0 * (2.0 * (4.0 * 256.0 + 3.0 * 384.0) + 16.0) + 2.0 * 2.0 * 128.0 * 16.0;
    for stage in ["yardstick", "dpo"] {
        let [none, f32, bf16] = [&[][..], &asked, &rounded].map(|settings| cost(settings, stage));
        assert_eq!(f32[0] - none[0], forward_of_pairs * 8.0 * (48.0 + 10.0 + 10.0 + 60.0), "{stage}");
        assert!(f32[1] - none[1] > 4.0 * 2.0 * (4.0 * 256.0 + 3.0 * 384.0), "{stage}");
        assert_eq!((bf16[0], f32[1] - none[1]), (f32[0], 2.0 * (bf16[1] - none[1])), "{stage}");
    }
    // the reward model's weights are beside the policy's in each stage that scores, and in training five times
    let own = cost(&[&rules[..], &["stages.rm.from=\"\"", "stages.rm.steps=3"]].concat(), "rm");
    let frozen = cost(&rules, "rm");
    let trained = cost(&[&rules[..], &["stages.rm.steps=3", "stages.rm.learning_rate=1e-5"]].concat(), "rm");
    assert!(frozen[1] > own[1] + weights && trained[1] > frozen[1] + 4.0 * weights, "{own:?} {frozen:?} {trained:?}");
    assert_eq!(trained[0] - frozen[0], 3.0 * forward * 3.0 * 8.0 * (48.0 + 10.0));
}

#[test]
fn a_reward_model_is_trained_further_on_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    let rules = ["judge.kind=\"rules\"", "judge.model=\"\"", "judge.rules=[{ rule = \"length\", words = 3, per = 2 }]"];
    let ids = tokenizer(&folder.join("judge")).encode_part("<bos>[user] is it good[assistant] no !<eos>").unwrap();
    let before = score(&folder.join("judge"), &ids);
    for (name, lora) in [("full", "stages.rm.lora=false"), ("adapted", "stages.rm.lora=true")] {
        let further = ["stages.rm.steps=3", "stages.rm.learning_rate=0.01", lora];
        let run = run(folder, name, &[&rules[..], &further].concat());
        ok(folder, &["export", &format!("runs/{name}"), "--reward-model", "--to", name]);
        let after = score(&folder.join(name), &ids);
        assert!((after - before).abs() > 1e-3, "{name}: {before} stays {after}");
        // what the run's own reward model says is what was written
        let [centre, scale] = scale(&run);
        let tokenizer = tokenizer(&folder.join(name));
        for row in read_completions(&run.join("completions.parquet")).unwrap() {
            let number: String = row.prompt.chars().filter(char::is_ascii_digit).collect();
            let text = format!("<bos>[user] is it good {number}[assistant] {} !<eos>", row.completion);
            let logit = score(&folder.join(name), &tokenizer.encode_part(&text).unwrap());
            near(name, row.proxy_reward, (logit - centre) / scale);
        }
    }
}

/// A run's own reward model, which reads the policy's ids up to EOS: written so that the last token that is not padding is EOS.
#[test]
fn a_runs_own_reward_model_is_written_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    let run = run(folder, "own", &["stages.rm.from=\"\"", "stages.rm.steps=3"]);
    ok(folder, &["export", "runs/own", "--reward-model", "--to", "out"]);
    let classifier = Classifier::open(&folder.join("out")).unwrap();
    assert_eq!(classifier.pad, Some(0));
    let settings: Value = serde_json::from_slice(&std::fs::read(folder.join("out/config.json")).unwrap()).unwrap();
    assert_eq!(settings["architectures"], json!(["LlamaForSequenceClassification"]));
    let [centre, scale] = ["centre", "scale"].map(|key| settings["duel_score"][key].as_f64().unwrap());
    let device = Device::flex();
    let shape = ScalarModel::from_policy(Policy::zeros(&classifier.model.config, &device), &device);
    let own = weights::load(shape, &stage_file(&run, "rm", "rm.safetensors")).unwrap();
    let [own_centre, own_scale] = self::scale(&run);
    let tokenizer = tokenizer(&folder.join("out"));
    for response in ["very good", "no", "it was bad"] {
        let text = format!("<pad>user\nis it good<eos>\n<pad>assistant\n{response}<eos>");
        let ids = tokenizer.encode_part(&text).unwrap();
        let logit = score(&folder.join("out"), &ids);
        let row: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let row = Tensor::<2, Int>::from_data(TensorData::new(row.clone(), [1, row.len()]), &device);
        let raw = f64::from(*weights::host(own.forward(row)).last().unwrap());
        near("a response", (logit - centre) / scale, (raw - own_centre) / own_scale);
    }
    // what was written may be the next run's reward model
    let again = ["stages.rm.from=\"out\"", "judge.kind=\"model\"", "judge.model=\"out\""];
    self::run(folder, "next", &again);
    let printed = refused(folder, &["export", "runs/own", "--reward-model", "--arm", "ppo", "--to", "x"]);
    assert!(printed.contains("--reward-model"), "{printed}");
    let printed = refused(folder, &["export", "runs/own", "--to", "x"]);
    assert!(printed.contains("--arm"), "{printed}");
}

#[test]
fn what_makes_no_sense_is_refused_by_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    prepared(folder);
    let plan = |settings: &[&str]| {
        let mut args = vec!["plan", "experiment.toml"];
        settings.iter().for_each(|setting| args.extend(["--set", setting]));
        refused(folder, &args)
    };
    for (settings, says) in [
        (&["judge.model=\"\""][..], "judge.model"),
        (&["judge.kind=\"rules\"", "judge.rules=[{ rule = \"json\" }]"], "judge.model"),
        (&["judge.reads=\"all\""], "judge.reads"),
        (&["stages.rm.from=\"\""], "stages.rm.steps"),
        (&["stages.rm.lora=true"], "stages.rm.lora"),
        (&["stages.rm.ensemble=2"], "stages.rm.ensemble"),
        (&["stages.rm.score=\"mean\""], "stages.rm.score"),
        (&["stages.rm.start=\"base\""], "stages.rm.start"),
        (&["stages.rm.keep=\"best\""], "stages.rm.keep"),
        (&["stages.rm.margin=0.5"], "stages.rm.margin"),
    ] {
        let printed = plan(settings);
        assert!(printed.contains(says), "{settings:?}: {printed}");
    }
    // whether a trained reward model is trained further is no default
    let text = std::fs::read_to_string(folder.join("experiment.toml")).unwrap();
    std::fs::write(folder.join("silent.toml"), text.replace("steps = 0\nbatch_size", "batch_size")).unwrap();
    let printed = refused(folder, &["plan", "silent.toml"]);
    assert!(printed.contains("stages.rm.steps") && printed.contains("0, it scores as it is"), "{printed}");
    // a language model is no reward model, and a reward model no language model
    let printed = refused(folder, &["run", "experiment.toml", "--set", "stages.rm.from=\"model\""]);
    assert!(printed.contains("architectures") && printed.contains("LlamaForCausalLM"), "{printed}");
    let printed = refused(folder, &["run", "experiment.toml", "--set", "model.from=\"judge\""]);
    assert!(printed.contains("architectures") && printed.contains("stages.rm.from"), "{printed}");
    // conversations need a template
    let path = folder.join("judge/tokenizer_config.json");
    let mut settings: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    settings["chat_template"] = Value::Null;
    std::fs::write(&path, settings.to_string()).unwrap();
    let printed = refused(folder, &["run", "experiment.toml"]);
    assert!(printed.contains("the reward model has no chat template"), "{printed}");
}
