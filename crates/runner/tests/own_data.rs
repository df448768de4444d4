//! A stranger's three commands: a Hugging Face directory and a file of rows become a page with both arms. Of a model so small
//! that a run takes seconds.
#![expect(clippy::unwrap_used, reason = "tests")]

use duel_testing::command_line::{refusal_of, stdout_of};
use duel_testing_tensors::tiny_model::{SMALL, model};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn duel(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_duel"));
    command.args(args).current_dir(folder);
    command
}

fn ok(folder: &Path, args: &[&str]) -> String {
    stdout_of(&mut duel(folder, args))
}

/// Asserts the exit code and what the message says.
fn refused(folder: &Path, args: &[&str], exit: i32, says: &[&str]) {
    let (code, message) = refusal_of(&mut duel(folder, args));
    assert_eq!(code, Some(exit), "{args:?}: {message}");
    assert!(says.iter().all(|words| message.contains(words)), "{args:?}: {message}");
}

/// Writes rows of JSON, one per line.
fn write(to: &Path, rows: impl Iterator<Item = Value>) {
    std::fs::write(to, rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
}

/// Runs an experiment in small, and returns its page.
fn page(folder: &Path, file: &str, further: &[&str]) -> String {
    let mut args = vec!["run", file];
    SMALL.iter().chain(&["model.from=\"model\""]).chain(further).for_each(|setting| args.extend(["--set", setting]));
    ok(folder, &args);
    let name = further.iter().find_map(|setting| setting.strip_prefix("name=")).unwrap_or("mine").replace('"', "");
    let html = std::fs::read_to_string(folder.join("runs").join(name).join("report/index.html")).unwrap();
    assert!(!html.contains("is None"), "the page prints a value that is not there");
    html
}

#[test]
fn three_commands_make_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let turns = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    let rows = (0..40).map(|i| {
        let prompt = turns("user", &format!("is it good {i}"));
        json!({"prompt": prompt, "chosen": turns("assistant", "very good"), "rejected": turns("assistant", "no")})
    });
    write(&folder.join("rows.jsonl"), rows);
    let output = ok(folder, &["data", "check", "rows.jsonl", "--model", "model"]);
    assert!(output.contains("40 rows: 40 pairs") && output.contains("40 pairs can be used"), "{output}");
    ok(folder, &["init", "mine", "--rows", "rows.jsonl", "--model", "model"]);
    let html = page(folder, "mine/experiment.toml", &[]);
    for text in ["ppo", "dpo", "rows.jsonl", "is it good"] {
        assert!(html.contains(text), "the page lacks {text}");
    }
    // the arms begin from one model and end as two that other programs read
    for arm in ["ppo", "dpo"] {
        ok(folder, &["export", "runs/mine", "--arm", arm, "--to", &format!("out-{arm}")]);
        assert!(folder.join(format!("out-{arm}/model.safetensors")).is_file());
    }
    fn export<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["export", "runs/mine", "--arm", "dpo"], more].concat()
    }
    refused(folder, &export(&["--to", "model", "--force"]), 1, &["`model`", "which the model is read from"]);
    refused(folder, &export(&["--to", "runs/mine/stages/x"]), 1, &["which the model is read from"]);
    refused(folder, &export(&["--to", "out-ppo"]), 1, &["`out-ppo` is not empty", "--force replaces"]);
    refused(
        folder,
        &export(&["--to", "x", "--as", "adapter", "--numbers", "f16"]),
        2,
        &["an adapter is written in f32"],
    );
    refused(folder, &export(&["--to", "x", "--as", "gguf"]), 2, &["ends in .gguf"]);
    let weights = |name: &str| std::fs::read(folder.join(name).join("model.safetensors")).unwrap();
    let of_dpo = weights("out-dpo");
    assert_ne!(weights("out-ppo"), of_dpo);
    ok(folder, &export(&["--to", "out-ppo", "--force"]));
    assert_eq!(weights("out-ppo"), of_dpo);

    // Another judge: rules, and a program of one's own.
    let rules = "judge.rules=[{ rule = \"keyword\", any = [\"good\"] }, { rule = \"length\", words = 3, per = 2 }]";
    page(folder, "mine/experiment.toml", &["name=\"ruled\"", "judge.kind=\"rules\"", rules]);
    let program = "import json, sys\nfor line in sys.stdin:\n    print(json.dumps({'score': len(json.loads(line)['response']) / 9}), flush=True)\n";
    std::fs::write(folder.join("judge.py"), program).unwrap();
    let command = "judge.command=[\"python3\", \"judge.py\"]";
    page(folder, "mine/experiment.toml", &["name=\"asked\"", "judge.kind=\"command\"", command]);
    the_judge_scores_steps_and_tokens(folder);
    // A judge of pairs that always prefers what it reads first: the order decides all.
    let program = "import sys\nfor line in sys.stdin:\n    print('{\"preferred\": \"a\"}', flush=True)\n";
    std::fs::write(folder.join("pairwise.py"), program).unwrap();
    let pairwise = "evaluation.pairwise.command=[\"python3\", \"pairwise.py\"]";
    let html = page(folder, "mine/experiment.toml", &["name=\"paired\"", "evaluation.pairwise.prompts=4", pairwise]);
    assert!(html.contains("<h3>The judge of pairs</h3>") && html.contains("python3 pairwise.py"));
    let table = std::fs::read_to_string(folder.join("runs/paired/report/tables/pairwise-judge.csv")).unwrap();
    let rows: Vec<Vec<&str>> = table.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert!(rows.len() >= 3 && rows.iter().all(|row| row[3] == "0.500" && row[7..] == ["1.000", "1.000"]), "{table}");
    let manifest = std::fs::read_to_string(folder.join("runs/paired/manifest.json")).unwrap();
    assert!(manifest.contains("pairwise judge pairwise.py"), "{manifest}");
    a_language_model_judges_pairs(folder);
    let rules = "judge.rules=[{ rule = \"kyeword\" }]";
    let says = ["judge.rules", "unknown variant `kyeword`"];
    refused(folder, &["plan", "mine/experiment.toml", "--set", rules], 2, &says);
}

/// The model that is trained, as it was, is asked which response is better: in f32, and rounded.
fn a_language_model_judges_pairs(folder: &Path) {
    let of_numbers = |name: &str, numbers: &str| {
        let name_setting = format!("name=\"{name}\"");
        let question = "evaluation.pairwise.question=\"{{ prompt }} A: {{ a }} B: {{ b }}\"";
        let model = "evaluation.pairwise.model=\"model\"";
        let settings = [name_setting.as_str(), "evaluation.pairwise.prompts=4", model, question, numbers];
        let html = page(folder, "mine/experiment.toml", &settings);
        assert!(html.contains("<code>model</code>, read a finished") && html.contains("a language model, by the"));
        let table = folder.join("runs").join(name).join("report/tables/pairwise-judge.csv");
        let table = std::fs::read_to_string(table).unwrap();
        let numbers = |line: &str| line.split(',').skip(3).map(|x| x.parse::<f64>().unwrap_or(0.5)).collect::<Vec<_>>();
        (table.lines().skip(1).map(numbers).collect::<Vec<_>>(), table)
    };
    let (exact, table) = of_numbers("modelled", "evaluation.pairwise.numbers=\"f32\"");
    // win rate, by gold, agreement, ties, order decides, first is preferred
    let is_unsure = |row: &Vec<f64>| [row[0], row[5]].iter().all(|x| (0.001..0.999).contains(x)) && row[3] == 0.0;
    assert!(exact.len() >= 3 && exact.iter().all(is_unsure), "{table}");
    assert!(exact.iter().any(|row| (row[5] - 0.5).abs() > 0.002), "{table}");
    let (rounded, _) = of_numbers("rounded", "evaluation.pairwise.numbers=\"bf16\"");
    let near = |(a, b): (&Vec<f64>, &Vec<f64>)| [0, 5].iter().all(|&i: &usize| (a[i] - b[i]).abs() < 0.03);
    assert!(exact.iter().zip(&rounded).all(near), "{exact:?}, {rounded:?}");
    let manifest = std::fs::read_to_string(folder.join("runs/modelled/manifest.json")).unwrap();
    assert!(manifest.contains("pairwise judge model"), "{manifest}");
}

/// A program that scores the words of every second response, and the tokens of the others; beside it rules of PPO's own.
fn the_judge_scores_steps_and_tokens(folder: &Path) {
    let program = "import json, sys
for number, line in enumerate(sys.stdin):
    request = json.loads(line)
    response, tokens = request['response'], request['token_ends']
    assert tokens == sorted(tokens) and tokens[-1] == len(response), line
    ends = [i + 1 for i, c in enumerate(response) if c == ' ' or i + 1 == len(response)]
    steps = {'scores': [.25] * len(ends), 'ends': ends}
    print(json.dumps(steps if number % 2 else {'scores': [.125] * len(tokens)}), flush=True)
";
    std::fs::write(folder.join("steps.py"), program).unwrap();
    let command = "judge.command=[\"python3\", \"steps.py\"]";
    let reward =
        "arms.ppo.reward=[{ from = \"gold\" }, { from = \"rules\", weight = 0.5, rules = [{ rule = \"json\" }] }]";
    let settings = ["name=\"parts\"", "judge.kind=\"command\"", command, "judge.token_ends=true", reward];
    let html = page(folder, "mine/experiment.toml", &settings);
    assert!(html.contains("1 · the gold reward + 0.5 · the score by rules"), "what PPO maximizes");
    let wrong = "import sys\nfor line in sys.stdin: print('{\"scores\": [1], \"ends\": [10000]}', flush=True)\n";
    std::fs::write(folder.join("steps.py"), wrong).unwrap();
    let mut args = vec!["run", "mine/experiment.toml"];
    let settings = SMALL.iter().chain(&["model.from=\"model\""]).chain(&settings).copied().chain(["name=\"wrong\""]);
    settings.for_each(|setting| args.extend(["--set", setting]));
    refused(folder, &args, 1, &["steps.py", "should increase from at least 1", "line 1 of its output"]);
}

#[test]
fn an_import_is_whole_and_follows_every_option() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let before = std::fs::read(folder.join("model/model.safetensors")).unwrap();
    for to in ["model", "model/inside", "./model/../model", "model/m.gguf"] {
        refused(folder, &["import", "model", "--to", to, "--force"], 1, &["which the model is read from"]);
    }
    refused(folder, &["import", "model", "--numbers", "f16"], 2, &["--numbers", "without --to"]);
    refused(folder, &["import", "model", "--force"], 2, &["--force", "without --to"]);
    refused(folder, &["import", "model", "--to", "out", "--numbers", "q8"], 2, &["--numbers q8", "f32, f16, bf16"]);
    refused(
        folder,
        &["import", "model", "--to", "m.gguf", "--numbers", "bf16"],
        2,
        &["--numbers bf16", "f32, f16, q8"],
    );
    assert!(!folder.join("out").exists() && !folder.join("m.gguf").exists());
    ok(folder, &["import", "model", "--to", "m.gguf"]);
    refused(folder, &["import", "model", "--to", "m.gguf"], 1, &["is there already"]);
    refused(folder, &["import", "m.gguf", "--to", "m.gguf", "--force"], 1, &["which the model is read from"]);
    ok(folder, &["import", "model", "--to", "m.gguf", "--force", "--numbers", "f16"]);
    ok(folder, &["import", "m.gguf", "--to", "out/back"]);
    assert_eq!(std::fs::read(folder.join("model/model.safetensors")).unwrap(), before);
    // what is not used is said
    let settings = json!({"temperature": 0.6, "top_p": 1.0, "do_sample": true, "eos_token_id": 2});
    std::fs::write(folder.join("model/generation_config.json"), settings.to_string()).unwrap();
    let template = |name: &str, text: &str| json!({"name": name, "template": text});
    let templates = [template("default", "{% block x %}{% endblock %}"), template("rag", "")];
    let settings = json!({"split_special_tokens": true, "chat_template": templates});
    std::fs::write(folder.join("model/tokenizer_config.json"), settings.to_string()).unwrap();
    let printed = ok(folder, &["import", "model"]);
    for words in [
        "not used: temperature = 0.6 (generation_config.json)",
        "not used: split_special_tokens = true (tokenizer_config.json)",
        "not used: the chat template \"rag\" (tokenizer_config.json)",
        "the chat template cannot be used: the statement `block` is not supported",
    ] {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    assert_eq!(printed.matches("not used").count(), 3, "{printed}");
    // a tokenizer that its library cannot use, or cannot read
    let path = folder.join("model/tokenizer.json");
    let json = std::fs::read_to_string(&path).unwrap();
    let mut unknown: Value = serde_json::from_str(&json).unwrap();
    let single = json!([{"SpecialToken": {"id": "<no>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]);
    unknown["post_processor"] =
        json!({"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": {}});
    std::fs::write(&path, unknown.to_string()).unwrap();
    refused(folder, &["import", "model"], 1, &["model/tokenizer.json` is damaged", "its parts contradict each other"]);
    std::fs::write(&path, json.replace("\"BPE\"", "\"none of them\"")).unwrap();
    refused(folder, &["import", "model"], 1, &["`model.type` is \"none of them\"", "BPE, Unigram"]);
    std::fs::write(&path, json.replace("\"merges\":[", "\"merges\":[[\"a\",\"none of them\"],")).unwrap();
    refused(folder, &["import", "model"], 1, &["model/tokenizer.json` is damaged", "tokenizer failed"]);
}

/// Conversations and a base model without a template: what to do is said, and a template that is named is used, exported and part of
/// what a run is.
#[test]
fn a_model_without_a_template_is_given_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let settings = |model: &str| -> Value {
        let path = folder.join(model).join("tokenizer_config.json");
        serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
    };
    let mut without = settings("model");
    without.as_object_mut().unwrap().remove("chat_template").unwrap();
    std::fs::write(folder.join("model/tokenizer_config.json"), without.to_string()).unwrap();
    let turns = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    let row = |i: usize| json!({"prompt": turns("user", &format!("is it {i}")), "chosen": turns("assistant", "yes"), "rejected": turns("assistant", "no")});
    write(&folder.join("rows.jsonl"), (0..40).map(row));
    let check = ["data", "check", "rows.jsonl", "--model", "model"];
    let out = duel(folder, &check).output().unwrap();
    let report = String::from_utf8(out.stdout).unwrap();
    assert!(report.contains("no chat template: name a file with one, as world.rows.chat_template"), "{report}");

    let template = |end: &str| {
        format!(
            "{{% for m in messages %}}{{{{ m['role'] + ': ' + m['content'] + '{end}' }}}}{{% endfor %}}{{% if add_generation_prompt %}}{{{{ 'assistant: ' }}}}{{% endif %}}"
        )
    };
    std::fs::write(folder.join("chat.jinja"), template("<eos>")).unwrap();
    let named = ["--set", "chat_template=chat.jinja"];
    let shown = ok(folder, &[&check[..], &named, &["--show", "1"]].concat());
    assert!(shown.contains("40 pairs can be used"), "{shown}");
    assert!(shown.replace('│', "").contains("user:·is·it·0⟦<eos>⟧assistant:·"), "{shown}");
    let init = ["init", "mine", "--rows", "rows.jsonl", "--model", "model"];
    ok(folder, &[&init[..], &named].concat());
    page(folder, "mine/experiment.toml", &[]);
    ok(folder, &["export", "runs/mine", "--arm", "dpo", "--to", "out"]);
    assert_eq!(settings("out")["chat_template"], template("<eos>"));

    // another template makes other rows; one that is missing is named
    let finished = || {
        let mut args = vec!["plan", "mine/experiment.toml", "--format", "json", "--set", "model.from=\"model\""];
        SMALL.iter().for_each(|setting| args.extend(["--set", setting]));
        let plan: Value = serde_json::from_str(&ok(folder, &args)).unwrap();
        plan["stages"].as_array().unwrap().iter().filter(|stage| stage["finished"] == true).count()
    };
    assert!(finished() > 0);
    std::fs::write(folder.join("chat.jinja"), template("<eos>\n")).unwrap();
    assert_eq!(finished(), 0);
    std::fs::remove_file(folder.join("chat.jinja")).unwrap();
    refused(folder, &["plan", "mine/experiment.toml"], 1, &["chat.jinja"]);
}

#[test]
fn completions_with_a_label_are_learned_from_and_not_compared() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let completion = |i: usize| if i.is_multiple_of(3) { " no" } else { " very good" };
    let rows = (0..60)
        .map(|i| json!({"prompt": format!("it was {i}"), "completion": completion(i), "label": !i.is_multiple_of(3)}));
    write(&folder.join("labels.jsonl"), rows);
    let output = ok(folder, &["data", "check", "labels.jsonl"]);
    assert!(output.contains("40 wanted and 20 unwanted completions can be used"), "{output}");
    ok(folder, &["init", "mine", "--rows", "labels.jsonl", "--model", "model"]);
    let written = std::fs::read_to_string(folder.join("mine/experiment.toml")).unwrap();
    assert!(written.contains("\nloss = \"kto\"") && written.contains("\nrecompute = true"), "{written}");
    page(folder, "mine/experiment.toml", &[]);
    let rows = std::fs::read_dir(folder.join("runs/mine/stages"))
        .unwrap()
        .find_map(|stage| std::fs::read_to_string(stage.unwrap().path().join("rows.jsonl")).ok());
    assert!(rows.unwrap().contains("\"rejected_prompt\":["));

    // Prompts alone: the model writes what the judge labels.
    write(&folder.join("prompts.jsonl"), (0..60).map(|i| json!({"prompt": format!("it was {i}")})));
    let prompts = "world.rows.train=\"prompts.jsonl\"";
    let rules = "judge.rules=[{ rule = \"length\", words = 3, per = 2 }]";
    page(
        folder,
        "mine/experiment.toml",
        &["name=\"alone\"", prompts, "arms.dpo.loss=\"sigmoid\"", "judge.kind=\"rules\"", rules],
    );
    let args = ["run", "mine/experiment.toml", "--set", prompts, "--set", "name=\"untold\""];
    let no_completions = "prompts alone, and a judge that learns from them needs completions";
    refused(folder, &args, 1, &[no_completions]);
    refused(folder, &[&["plan"], &args[1..]].concat(), 1, &[no_completions]);

    // What compares two responses to one prompt is refused, whatever stages are there already.
    let mut args = vec!["run", "mine/experiment.toml", "--set", "arms.dpo.loss=\"sigmoid\"", "--set", "name=\"wrong\""];
    SMALL.iter().for_each(|setting| args.extend(["--set", setting]));
    refused(folder, &args, 1, &["arm `dpo` compares two responses to one prompt"]);
    args[0] = "plan";
    refused(folder, &args, 1, &["arm `dpo` compares two responses to one prompt"]);
}

/// What check says of files and of experiments: its exit code, its settings, rows token by token, and numbers for programs.
#[test]
fn data_check_says_what_a_run_would_use() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let pair = |i: usize, chosen: &str| json!({"prompt": format!("it was {i}"), "chosen": chosen, "rejected": " no"});
    write(&folder.join("good.jsonl"), (0..60).map(|i| pair(i, " good")));
    ok(folder, &["data", "check", "good.jsonl", "--model", "model", "--strict"]);

    // what is worth knowing is a reason to fail only where asked; what is wrong always is
    write(&folder.join("odd.jsonl"), (0..60).map(|i| pair(i, if i == 7 { " 10\u{a0}km" } else { " good" })));
    let report = ok(folder, &["data", "check", "odd.jsonl"]);
    assert!(report.contains("odd.jsonl:8: `chosen` has U+00A0 as character 4"), "{report}");
    refused(folder, &["data", "check", "odd.jsonl", "--strict"], 1, &["`odd.jsonl` have findings"]);
    write(&folder.join("bad.jsonl"), (0..60).map(|i| pair(i, if i == 7 { " no" } else { " good" })));
    refused(folder, &["data", "check", "bad.jsonl"], 1, &["`bad.jsonl` should be fixed"]);
    refused(folder, &["data", "check", "good.jsonl", "--show", "1"], 2, &["--show", "give --model"]);

    // settings of [world.rows]
    let check = |more: &[&str]| {
        let args = [&["data", "check", "good.jsonl", "--model", "model", "--format", "json"], more].concat();
        serde_json::from_str::<Value>(&ok(folder, &args)).unwrap()
    };
    assert_eq!(check(&[])["kept"], 60);
    assert_eq!(check(&["--set", "holdout=0"])["kept_by_split"], json!([60, 0, 0]));
    let cut = check(&["--set", "prompt_tokens=2", "--set", "world.rows.long_prompts=cut", "--show", "2"]);
    assert_eq!(
        (&cut["findings"]["prompts_cut"]["rows"], &cut["findings"]["prompts_cut"]["severity"]),
        (&json!(60), &json!("note"))
    );
    assert_eq!(cut["examples"].as_array().unwrap().len(), 2);
    let last = &cut["examples"][0]["parts"][1]["tokens"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(
        (&last["text"], &last["is_control"], &last["is_trained"]),
        (&json!("<eos>"), &json!(true), &json!(true))
    );
    refused(
        folder,
        &["data", "check", "good.jsonl", "--set", "long_prompts=no"],
        2,
        &["world.rows.long_prompts", "drop"],
    );
    refused(folder, &["data", "check", "good.jsonl", "--set", "lnog_prompts=cut"], 2, &["world.rows.lnog_prompts"]);

    // tokens on a terminal without colours
    let shown = ok(folder, &["data", "check", "good.jsonl", "--model", "model", "--show", "1"]);
    assert!(
        shown.contains("  prompt     | ") && shown.contains("  chosen     > ") && shown.contains("⟦<eos>⟧│"),
        "{shown}"
    );
    assert!(!shown.contains('\u{1b}'), "{shown}");

    // several files, patterns and folders are one set, in the order given, and all of them are named
    std::fs::create_dir(folder.join("shards")).unwrap();
    for shard in 0..3 {
        write(&folder.join(format!("shards/{shard}.jsonl")), (0..30).map(|i| pair(100 * shard + i, " good")));
    }
    let files = ["good.jsonl", "odd.jsonl"];
    let report = ok(folder, &["data", "check", files[0], "shards"]);
    assert!(report.starts_with("good.jsonl, shards (4 files): 150 rows: 150 pairs\n"), "{report}");
    let report = ok(folder, &["init", "several", "--rows", files[0], files[1], "shards/*.jsonl", "--model", "model"]);
    assert!(report.starts_with("good.jsonl, odd.jsonl, shards/*.jsonl (5 files): 210 rows"), "{report}");
    let fitted = std::fs::read_to_string(folder.join("several/experiment.toml")).unwrap();
    let train = fitted.lines().find(|line| line.starts_with("train = [")).unwrap();
    assert!(train.contains("good.jsonl\", \"") && train.contains("shards/*.jsonl\"]"), "{train}");
    let report = ok(folder, &["data", "check", "several/experiment.toml"]);
    assert!(report.starts_with("several/experiment.toml (5 files): 210 rows"), "{report}");

    // an experiment: its own limits, and what a run refuses is refused
    ok(folder, &["init", "mine", "--rows", "good.jsonl", "--model", "model"]);
    let report = ok(folder, &["data", "check", "mine/experiment.toml", "--set", "stages.pairs.rows=5"]);
    assert!(report.contains(" 5 train, ") && report.contains("at most 5 for training"), "{report}");
    let none = "world.rows.holdout=0";
    refused(folder, &["data", "check", "mine/experiment.toml", "--set", none], 1, &["should be fixed"]);
    for command in ["plan", "run"] {
        refused(
            folder,
            &[command, "mine/experiment.toml", "--set", none],
            1,
            &["too few usable rows", "0 of validation"],
        );
    }
    std::fs::write(folder.join("other.toml"), "[arms.dpo]\nmethod = \"dpo\"\n").unwrap();
    refused(folder, &["data", "check", "other.toml"], 2, &["other.toml", "only world.kind = \"rows\""]);
}

/// Rows that are too long are cut by setting: SFT, PPO and DPO train on responses without an end, and the page counts them.
#[test]
fn long_rows_are_cut_and_the_page_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let rows = (0..60).map(|i| {
        let prompt = format!("it was a very good{} film {i}", if i % 2 == 0 { " film it was a very bad" } else { "" });
        let chosen = if i % 3 == 0 { " very good it was a very good film it was a very good film" } else { " good" };
        json!({"prompt": prompt, "chosen": chosen, "rejected": " no"})
    });
    write(&folder.join("rows.jsonl"), rows);
    ok(folder, &["init", "mine", "--rows", "rows.jsonl", "--model", "model"]);
    let settings = [
        "world.rows.prompt_tokens=10",
        "world.rows.response_tokens=12",
        "world.rows.long_prompts=cut",
        "world.rows.long_responses=cut",
        "stages.sft.steps=2",
    ];
    let mut check = vec!["data", "check", "mine/experiment.toml", "--format", "json"];
    SMALL.iter().chain(&settings).for_each(|setting| check.extend(["--set", setting]));
    let report: Value = serde_json::from_str(&ok(folder, &check)).unwrap();
    let count = |kind: &str| report["findings"][kind]["rows"].as_u64().unwrap();
    assert!(count("prompts_cut") >= 30 && count("responses_cut") == 20, "{report}");
    let html = page(folder, "mine/experiment.toml", &settings);
    let sentence = format!("Of 60 rows {} pairs were kept; changed: {} with", report["kept"], count("prompts_cut"));
    assert!(
        html.contains(&sentence) && html.contains("20 with a completion of too many tokens, cut at its end"),
        "{sentence}"
    );
}

/// A model whose frozen matrices are rounded trains both arms, and what is exported is that model with what was learned.
#[test]
fn rounded_models_are_trained_as_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let rows = (0..40).map(|i| json!({"prompt": format!("is it good {i}"), "chosen": "very good", "rejected": "no"}));
    write(&folder.join("rows.jsonl"), rows);
    ok(folder, &["init", "mine", "--rows", "rows.jsonl", "--model", "model"]);
    let longer = ["arms.ppo.iterations=6", "arms.dpo.epochs=2", "stages.rm.steps=6"];
    for (name, more) in [
        ("bf16", vec!["model.numbers=\"bf16\""]),
        ("q8", vec!["model.numbers=\"q8\""]),
        ("mapped", vec!["model.numbers=\"bf16\"", "model.mapped=true", "learner.warmup=0.1"]), // no stage is there already
        ("sft", vec!["model.numbers=\"bf16\"", "stages.sft.steps=4"]),
        ("adapted", vec!["model.numbers=\"bf16\"", "stages.sft.steps=4", "stages.sft.lora=true"]),
    ] {
        let name = format!("name=\"{name}\"");
        let html = page(folder, "mine/experiment.toml", &[&[name.as_str()], &longer[..], &more].concat());
        assert!(html.contains("ppo") && html.contains("dpo"), "{name}");
    }
    assert_ne!(ok(folder, &["digest", "runs/q8"]), ok(folder, &["digest", "runs/bf16"]));
    ok(folder, &["export", "runs/bf16", "--arm", "dpo", "--to", "out"]);
    assert!(folder.join("out/model.safetensors").is_file());
    let refuse = |setting: &str, says: &str| {
        let args = ["plan", "mine/experiment.toml", "--set", "model.numbers=\"bf16\"", "--set", setting];
        refused(folder, &args, 2, &["model.numbers", says]);
    };
    refuse("arms.dpo.lora=false", "arms.dpo.lora");
    refuse("stages.rm.lora=false", "stages.rm.lora");
    refused(folder, &["plan", "mine/experiment.toml", "--set", "model.numbers=\"f16\""], 2, &["model.numbers", "bf16"]);
}

/// A user who asks again: completions of three turns train both arms, with the loss on what the assistant says.
#[test]
fn several_turns_in_completions_are_trained_on() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    let turn = |role: &str, text: &str| json!({"role": role, "content": text});
    let completion = |last: &str| json!([turn("assistant", "no"), turn("user", "is it"), turn("assistant", last)]);
    let rows = (0..40).map(|i| {
        let prompt = json!([turn("user", &format!("is it good {i}"))]);
        // a third of the pairs differ in length and turns
        let rejected = if i % 3 == 0 { json!([turn("assistant", "bad")]) } else { completion("no") };
        json!({"prompt": prompt, "chosen": completion("very good"), "rejected": rejected})
    });
    write(&folder.join("rows.jsonl"), rows);
    let output = ok(folder, &["data", "check", "rows.jsonl", "--model", "model"]);
    assert!(output.contains("40 pairs can be used"), "{output}");
    ok(folder, &["init", "mine", "--rows", "rows.jsonl", "--model", "model"]);
    let long = "world.rows.response_tokens=40";
    let html = page(folder, "mine/experiment.toml", &["stages.sft.steps=2", long, "judge.kind=\"rules\"", ASKED]);
    assert!(["ppo", "dpo"].iter().all(|arm| html.contains(arm)));
    let masks = |name: &str| -> Vec<Value> {
        let stages = std::fs::read_dir(folder.join("runs").join(name).join("stages")).unwrap();
        let rows = stages.map(|stage| stage.unwrap().path().join("rows.jsonl")).filter(|rows| rows.is_file());
        let text = rows.map(|rows| std::fs::read_to_string(rows).unwrap()).collect::<String>();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let spans = |row: &Value, key: &str| row[key].as_array().map_or(1, Vec::len);
    let all = masks("mine");
    assert!(!all.is_empty() && all.iter().all(|row| spans(row, "chosen_mask") == 2));
    assert!(all.iter().any(|row| row.get("rejected_mask").is_none()), "one turn needs no mask");
    // the judge reads what the assistant says: `no` and the last answer, not the question between them
    assert!(all.iter().any(|row| row["gold_chosen"] == json!(1.0)), "three words");
    page(
        folder,
        "mine/experiment.toml",
        &["name=\"last\"", "world.rows.turns=\"last\"", long, "judge.kind=\"rules\"", ASKED],
    );
    let last = masks("last");
    assert!(!last.is_empty() && last.iter().all(|row| spans(row, "chosen_mask") == 1));
    let loss = |name: &str| std::fs::read_to_string(folder.join("runs").join(name).join("report/index.html")).unwrap();
    assert_ne!(loss("mine"), loss("last"));
    refused(
        folder,
        &["plan", "mine/experiment.toml", "--set", "world.rows.turns=\"first\""],
        2,
        &["world.rows.turns", "all"],
    );
}

/// Three words are worth 1 more than four.
const ASKED: &str = "judge.rules=[{ rule = \"length\", words = 3, per = 1 }, { rule = \"keyword\", any = [\"no\"] }]";

/// Sets in the shapes of public ones, by file: one row, or several, of each of a number of prompts.
fn published_sets(rows: usize) -> Vec<(&'static str, String)> {
    const TOPICS: [&str; 8] = ["bread", "rivers", "chess", "clouds", "maps", "bees", "salt", "lamps"];
    let question = |i: usize| format!("How do I keep {} in {i} steps?", TOPICS[i % TOPICS.len()]);
    let good = |i: usize| format!("Keep {} dry and look at it every {} days.", TOPICS[i % TOPICS.len()], 1 + i % 7);
    let bad = |i: usize| ["I do not know.", "Just wait."][i % 2].to_owned();
    let turn = |role: &str, content: String| json!({"role": role, "content": content});
    let chat = |i: usize, answer: String| json!([turn("user", question(i)), turn("assistant", answer)]);
    let lines = |row: &dyn Fn(usize) -> Vec<Value>| -> String {
        (0..rows).flat_map(row).map(|row| format!("{row}\n")).collect()
    };
    let spoken = |i: usize, answer: String| {
        format!("\n\nHuman: {}\n\nAssistant: Why?\n\nHuman: I like it.\n\nAssistant: {answer}", question(i))
    };
    let scored = |text: String, score: f64| json!({"model": "m", "response": text, "overall_score": score});
    let four: Vec<Value> = (0..rows)
        .map(|i| {
            let completions =
                [scored(bad(i), 2.0), scored(good(i), 8.5), scored(good(i + 1), 5.0), scored(bad(i + 1), 2.0)];
            json!({"source": "s", "instruction": question(i), "completions": completions})
        })
        .collect();
    let python = |i: usize, answer: String| {
        format!(
            "\"[{{'role': 'user', 'content': '{}'}}, {{'role': 'assistant', 'content': '{answer}'}}]\"",
            question(i)
        )
    };
    let orca: String =
        (0..rows).map(|i| format!("Be brief.,{},\"{}\",\"{}\"\r\n", question(i), good(i), bad(i))).collect();
    let pythonic: String = (0..rows).map(|i| format!("{},{}\n", python(i, good(i)), python(i, bad(i)))).collect();
    let scores = |i: usize| {
        vec![
            json!({"prompt": question(i), "response": good(i), "helpfulness": 4, "verbosity": 1}),
            json!({"prompt": question(i), "response": bad(i), "helpfulness": i % 3, "verbosity": 0}),
        ]
    };
    let sharegpt = |i: usize| {
        vec![json!({
            "conversations": [{"from": "system", "value": "Be kind."}, {"from": "human", "value": question(i)}],
            "chosen": {"from": "gpt", "value": good(i)}, "rejected": {"from": "gpt", "value": bad(i)},
        })]
    };
    let binarized = |i: usize| {
        vec![json!({
            "prompt": question(i), "prompt_id": i, "chosen": chat(i, good(i)), "rejected": chat(i, bad(i)),
            "messages": chat(i, good(i)), "score_chosen": 8.0, "score_rejected": 3.5,
        })]
    };
    let kto = |i: usize| {
        vec![json!({
            "prompt": [turn("user", question(i))], "label": i.is_multiple_of(2),
            "completion": [turn("assistant", if i.is_multiple_of(2) { good(i) } else { bad(i) })],
        })]
    };
    let ranked = |i: usize| vec![json!({"prompt": question(i), "completions": [good(i), good(i + 1), bad(i)]})];
    vec![
        ("ultrafeedback_binarized.jsonl", lines(&binarized)),
        ("ultrafeedback.json", serde_json::to_string(&four).unwrap()),
        ("hh.jsonl", lines(&|i| vec![json!({"chosen": spoken(i, good(i)), "rejected": spoken(i, bad(i))})])),
        ("orca.csv", format!("system,question,chosen,rejected\r\n{orca}")),
        ("pythonic.csv", format!("chosen,rejected\n{pythonic}")),
        ("helpsteer.jsonl", lines(&scores)),
        ("sharegpt.jsonl", lines(&sharegpt)),
        ("kto.jsonl", lines(&kto)),
        ("ranked.jsonl", lines(&ranked)),
    ]
}

#[test]
fn sets_as_they_are_published_become_pages() {
    const ROWS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(&folder.join("model"));
    for (file, rows) in published_sets(ROWS) {
        let name = file.split('.').next().unwrap();
        std::fs::write(folder.join(file), rows).unwrap();
        let report =
            ok(folder, &["data", "check", file, "--model", "model", "--response-tokens", "512", "--format", "json"]);
        let report: Value = serde_json::from_str(&report).unwrap();
        let expected = if name == "kto" { 0 } else { ROWS };
        assert_eq!(
            (&report["pairs"], &report["findings"]["unreadable"]["rows"]),
            (&json!(expected), &json!(0)),
            "{name}: {report}"
        );
        assert!(report["kept"].as_u64().unwrap() as usize >= ROWS / 2, "{name}: {report}");
        ok(folder, &["init", name, "--rows", file, "--model", "model"]);
        let fitted = std::fs::read_to_string(folder.join(name).join("experiment.toml")).unwrap();
        let response_tokens = fitted.lines().find(|line| line.starts_with("response_tokens")).unwrap();
        let response_tokens = response_tokens.split('#').next().unwrap().replace(' ', "");
        let settings = [&format!("name=\"{name}\""), &format!("world.rows.{response_tokens}") as &str];
        let html = page(folder, &format!("{name}/experiment.toml"), &settings);
        for text in ["ppo", "dpo", file, "How do I keep"] {
            assert!(html.contains(text), "{name}: the page lacks {text}");
        }
    }
    // what the model cannot hold is refused before anything is made
    let long = ["--set", "world.rows.response_tokens=4096", "--set", "name=\"long\""];
    let args = [&["run", "ranked/experiment.toml"], &long[..]].concat();
    refused(folder, &args, 1, &["do not fit the model's context of 128"]);
    assert!(!folder.join("runs/long").exists());
}
