//! Tokenizers of directories without `tokenizer.json` give the ids that SentencePiece and transformers give. Each folder of
//! `tests/tokenizers` holds a tokenizer's files and `expected.json`: texts, and their ids without special tokens. Folders
//! elsewhere are compared too where `DUEL_TOKENIZERS` names them.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::Device;
use duel_data::TextTokenizer;
use duel_model::{Checkpoint, FileDType, Llama, Policy, Pretrained, TokenizerFiles, TransformerConfig, huggingface};
use duel_spec::seeds;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A directory with a model of so many rows, beside these files of a tokenizer.
fn directory(files: &Path, vocabulary: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let architecture =
        Llama { key_value_heads: 1, head_width: 4, inner: 8, rope_theta: 1e4, epsilon: 1e-5 }.architecture();
    let config = TransformerConfig { vocabulary, context: 16, layers: 1, width: 4, heads: 1, tied: true, architecture };
    let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
    let checkpoint = Checkpoint { config, policy, tokenizer_files: TokenizerFiles::default() };
    huggingface::write(folder.path(), &checkpoint, FileDType::F32).unwrap();
    for entry in std::fs::read_dir(files).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    folder
}

fn folders() -> Vec<PathBuf> {
    let folder = std::env::var_os("DUEL_TOKENIZERS").map(PathBuf::from);
    let roots = [Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers")].into_iter().chain(folder);
    let mut folders: Vec<PathBuf> =
        roots.flat_map(|root| std::fs::read_dir(root).unwrap()).map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn old_directories_give_the_ids_of_those_who_wrote_them() {
    let mut compared = 0;
    for folder in folders() {
        let expected: Value = serde_json::from_slice(&std::fs::read(folder.join("expected.json")).unwrap()).unwrap();
        let directory = directory(&folder, expected["vocabulary"].as_u64().unwrap() as usize);
        let tokenizer_files = Pretrained::open(directory.path()).unwrap().tokenizer_files;
        let tokenizer = TextTokenizer::from_bytes(tokenizer_files.tokenizer.as_ref().unwrap()).unwrap();
        let mut wrong = vec![];
        for (text, row) in expected["texts"].as_array().unwrap().iter().zip(expected["ids"].as_array().unwrap()) {
            let text = text.as_str().unwrap();
            let actual = tokenizer.encode_part(text).unwrap();
            if actual != ids(row) {
                let tokens = |ids: &[u32]| ids.iter().map(|id| tokenizer.token(*id)).collect::<Vec<_>>();
                wrong.push(format!("{text:?}: {:?}, expected {:?}", tokens(&actual), tokens(&ids(row))));
            }
            compared += 1;
        }
        assert!(wrong.is_empty(), "{}: {} texts\n{}", folder.display(), wrong.len(), wrong.join("\n"));
        let special = tokenizer_files.special;
        let actual =
            json!({"bos": special.bos, "eos": special.eos_ids(), "start": tokenizer.encode_start("").unwrap()});
        assert_eq!(actual, expected["special"], "{}", folder.display());
    }
    assert!(compared > 100, "{compared}");
}

/// `duel import` names what begins and ends a text, and the ids that do not fit the embedding.
#[test]
fn import_prints_what_begins_and_ends_a_text() {
    let files = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers").join(name);
    let import = |folder: &Path| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_duel")).arg("import").arg(folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let folder = directory(&files("qwen2"), 430);
    let template = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_start|>{% endfor %}";
    std::fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let output = import(folder.path());
    for line in [
        "before a text: nothing",
        "a response ends with any of: `<|im_end|>` (id 421), `<|im_start|>` (id 420)",
        "the embedding has 8 rows without a token, which are never sampled",
    ] {
        assert!(output.contains(line), "{output}");
    }
    let output = import(directory(&files("neox"), 420).path());
    assert!(
        output.contains("none for 1 added tokens: `<|padding|>` (id 420); rows that spell them are left out"),
        "{output}"
    );
}

/// What is said of a directory that cannot be read.
fn refusal(folder: &Path) -> String {
    Pretrained::open(folder).err().unwrap().to_string()
}

#[test]
fn old_directories_that_lack_something_are_refused_by_its_name() {
    let files = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers").join(name);
    let write = |folder: &tempfile::TempDir, name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    };
    for (lacks, other) in [("vocab.json", "merges.txt"), ("merges.txt", "vocab.json")] {
        let folder = directory(&files("gpt2"), 422);
        std::fs::remove_file(folder.path().join(lacks)).unwrap();
        let message = refusal(folder.path());
        assert!(message.contains(&format!("`{lacks}` is nothing, beside `{other}`")), "{message}");
    }
    let folder = directory(&files("llama_bpe"), 440);
    std::fs::rename(folder.path().join("tokenizer.model"), folder.path().join("tekken.json")).unwrap();
    assert!(refusal(folder.path()).contains("`tokenizer.json` is nothing, beside `tekken.json`"));
    // classes that read such files in another way
    for (name, class) in [("gpt2", "OpenAIGPTTokenizer"), ("llama_bpe", "XLMRobertaTokenizer")] {
        let folder = directory(&files(name), 440);
        write(&folder, "tokenizer_config.json", json!({"tokenizer_class": class}).to_string().as_bytes());
        let message = refusal(folder.path());
        assert!(message.contains(&format!("`tokenizer_class` is \"{class}\"")), "{message}");
    }
    // the ranks of tiktoken, and no model at all
    let folder = directory(&files("llama_bpe"), 440);
    write(&folder, "tokenizer.model", b"IQ== 0\nIg== 1\n");
    assert!(refusal(folder.path()).contains("tiktoken"));
    let model = std::fs::read(files("llama_bpe").join("tokenizer.model")).unwrap();
    write(&folder, "tokenizer.model", &model[..model.len() - 1]);
    assert!(refusal(folder.path()).contains("damaged"));
    // a vocabulary of more words than the model has rows
    let message = refusal(directory(&files("gpt2"), 400).path());
    assert!(
        message.contains("has 20 ids for which the model has no embedding, of which there are 400: 400 "),
        "{message}"
    );
    // an added token beyond them is no word of any text that does not spell it
    let folder = directory(&files("neox"), 420);
    assert_eq!(Pretrained::open(folder.path()).unwrap().tokenizer_files.special.pad, None);
}

/// Whatever becomes of its bytes, a file is read or refused.
#[test]
fn damaged_sentencepiece_models_are_refused() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokenizers/unigram");
    let model = std::fs::read(files.join("tokenizer.model")).unwrap();
    let folder = directory(&files, 430);
    let path = folder.path().join("tokenizer.model");
    let mut rng = 1u64;
    for round in 0..400 {
        let mut bytes = model.clone();
        let mut draw = |below: usize| {
            rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (rng >> 33) as usize % below
        };
        for _ in 0..1 + round % 4 {
            let index = draw(bytes.len());
            bytes[index] = draw(256) as u8;
        }
        bytes.truncate(bytes.len() - (round % 3) * draw(bytes.len()) / 3);
        std::fs::write(&path, bytes).unwrap();
        let Ok(model) = Pretrained::open(folder.path()) else { continue };
        let Ok(tokenizer) = TextTokenizer::from_bytes(model.tokenizer_files.tokenizer.as_ref().unwrap()) else {
            continue;
        };
        let _ = tokenizer.encode_start("the reward model, 12 "); // refused or not, it returns
    }
}
