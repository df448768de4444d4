//! GGUF files: a header of settings, a table of tensors, then their numbers, many of them quantised in blocks. Nothing is
//! decoded before it is asked for.

use crate::architecture::Architecture;
use crate::checkpoint::Checkpoint;
use crate::config::TransformerConfig;
use crate::families::{self, by_gguf_architecture, gguf_architectures, gguf_of, gguf_tensor};
use crate::file_dtype::FileDType;
use crate::gguf_header::{ALIGNMENT, GgufHeader, HeaderValue, MAGIC};
use crate::gguf_layout::to_file;
pub(crate) use crate::gguf_parts::files;
use crate::gguf_parts::{self, GgufPart};
use crate::gguf_rope;
use crate::gguf_tokenizer::{OTHER_EOS, TokenKind, read_special, read_tokenizer};
use crate::gguf_vocabulary::to_vocabulary;
use crate::header_reader::HeaderReader;
use crate::mapped_file::MappedFile;
use crate::tokenizer_files::TokenizerFiles;
use crate::weight_store::WeightStore;
use crate::weights::{self, HostTensor, NamedTensor};
use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

/// The tensor whose rows are the vocabulary.
const EMBEDDING: &str = "token_embd.weight";
/// What a file of ours calls itself.
const NAME: &str = "duel";

/// Whether a path is taken for a GGUF file rather than a directory.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"))
}

/// Opens a GGUF file, or all parts of a model of which it is one: its settings, and its tensors to be taken one by one.
///
/// # Errors
/// A file that is missing or damaged, of an architecture that is not read, or whose tokenizer is not read.
pub(crate) fn open(path: &Path) -> Result<(TransformerConfig, TokenizerFiles, WeightStore)> {
    let mut parts = gguf_parts::open(path)?;
    let tensors: Vec<_> = parts.iter_mut().map(|part| std::mem::take(&mut part.header.tensors)).collect();
    let mut parts = parts.into_iter();
    let Some(GgufPart { file, header }) = parts.next() else { return Err(Error::Lacking { name: EMBEDDING.into() }) };
    let (path, others) = (file.path.clone(), parts.map(|part| part.file));
    // 1. The tensors of all files.
    let store = WeightStore::of_files(std::iter::once(file).chain(others).zip(tensors))?;
    // 2. The settings, which are the first file's.
    let bytes = store.bytes_of_first()?;
    let settings = HeaderReader { path: &path, header: &header, bytes, store: &store, architecture: "" };
    check_model(&settings)?;
    let config = read_config(&settings)?;
    // 3. Its words.
    let rows = config.vocabulary;
    let special = read_special(&settings, rows)?;
    let key = "tokenizer.chat_template";
    let template = settings.text(key).map(str::to_owned);
    if template.is_none() && settings.value(key).is_some() {
        return Err(settings.unsupported(key, "a text"));
    }
    let tokenizer_files = TokenizerFiles { tokenizer: read_tokenizer(&settings, rows, &special)?, special, template };
    Ok((config, tokenizer_files, store))
}

/// The repository on Hugging Face (`org/name`) whose model a file was made from, where it says so: the source of the conversion
/// rather than the model from which that one was tuned.
///
/// # Errors
/// A file that is missing or damaged.
pub fn repository(path: &Path) -> Result<Option<String>> {
    const KEYS: [&str; 4] = [
        "general.source.huggingface.repository",
        "general.source.repo_url",
        "general.repo_url",
        "general.base_model.0.repo_url",
    ];
    let parts = gguf_parts::open(path)?;
    let Some(GgufPart { file, header }) = parts.first() else { return Ok(None) };
    let bytes = file.bytes()?;
    let name = |key: &&str| {
        let text = header.text(key, bytes)?;
        let name = text.strip_prefix("https://huggingface.co/").unwrap_or(text).trim_end_matches('/');
        let (owner, own) = name.split_once('/')?;
        let is_plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.chars().all(|c| c.is_ascii_alphanumeric() || ['-', '_', '.'].contains(&c))
        };
        (is_plain(owner) && is_plain(own)).then(|| name.to_owned())
    };
    Ok(KEYS.iter().find_map(name))
}

/// Whether Duel has written a file: it says so itself.
pub fn is_ours(path: &Path) -> bool {
    let Ok(file) = MappedFile::open(path) else { return false };
    let Ok(bytes) = file.bytes() else { return false };
    GgufHeader::parse(bytes).is_ok_and(|header| header.text("general.name", bytes) == Some(NAME))
}

/// What the file holds is a model.
fn check_model(settings: &HeaderReader<'_>) -> Result<()> {
    let key = "general.type";
    if settings.value(key).is_some() && settings.text(key) != Some("model") {
        return Err(settings.unsupported(key, "\"model\""));
    }
    Ok(())
}

/// Every setting of the architecture is one whose meaning is known: another would change what the model computes.
fn check_known(settings: &HeaderReader<'_>, known: &[&[&str]]) -> Result<()> {
    let prefix = settings.key("");
    let mut names = settings.header.values.keys().filter_map(|key| key.strip_prefix(&prefix));
    if let Some(name) = names.find(|name| !known.iter().any(|names| names.contains(name))) {
        return Err(settings.unsupported(name, "no value: what it changes is not read"));
    }
    Ok(())
}

/// The sizes that every architecture gives, and what its family reads besides.
fn read_config(header: &HeaderReader<'_>) -> Result<TransformerConfig> {
    const KEY: &str = "general.architecture";
    let Some((architecture, family)) = header.text(KEY).and_then(|name| Some((name, by_gguf_architecture(name)?)))
    else {
        return Err(header.unsupported(KEY, &gguf_architectures()));
    };
    let settings = HeaderReader { architecture, ..*header };
    check_known(&settings, family.known)?;
    let (width, heads) = (settings.size("embedding_length")?, settings.size("attention.head_count")?);
    let store = header.store;
    let vocabulary = match store.shape(EMBEDDING) {
        Some([rows, _]) => *rows,
        _ => return Err(Error::Lacking { name: EMBEDDING.into() }),
    };
    if settings.size_or("vocab_size", vocabulary)? != vocabulary {
        return Err(settings.unsupported("vocab_size", &format!("{vocabulary}, the rows of the embedding")));
    }
    let layers = settings.size("block_count")?;
    if layers > store.len() {
        let accepted = format!("at most {} layers, of which its tensors could be", store.len());
        return Err(settings.unsupported("block_count", &accepted));
    }
    let architecture = (family.read)(&settings, width, heads)?;
    let context = settings.size("context_length")?;
    Ok(TransformerConfig {
        vocabulary,
        context: architecture.rotary().map_or(context, |rotary| rotary.scaling.context(context)),
        layers,
        width,
        heads,
        tied: store.shape("output.weight").is_none(),
        architecture,
    })
}

/// What llama.cpp computes otherwise than the model that a file holds: it has no setting for it, or does not read it.
pub fn llama_cpp_differences(config: &TransformerConfig) -> Vec<String> {
    let Architecture { attention, .. } = &config.architecture;
    let Some(family) = families::of(config).gguf.as_ref() else { return vec![] };
    let window = attention.windows.iter().flatten().min().filter(|window| **window < config.context);
    let has_windows = !["llama", "phi3"].contains(&family.architecture);
    let window = window.filter(|_| !has_windows).map(|window| {
        format!(
            "llama.cpp reads no window of the architecture {}: sequences of more than {window} tokens have other logits there",
            family.architecture
        )
    });
    let scale = family.usual_scale.zip(attention.scale).and_then(|(usual, scale)| {
        let usual = usual(config);
        ((scale / usual - 1.0).abs() > 1e-6).then(|| {
            format!(
                "llama.cpp scales the scores of the architecture {} by {usual:.4}, the model by {scale:.4}: its logits are other \
                 ones there",
                family.architecture
            )
        })
    });
    window.into_iter().chain(scale).collect()
}

/// How matrices are kept in a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    F32,
    F16,
    Q8,
}

/// Settings in the order in which they are written: keys, and values with the number of their type.
#[derive(Default)]
struct SettingsWriter(Vec<(String, Vec<u8>)>);

fn text_bytes(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().to_vec(), text.as_bytes().to_vec()].concat()
}

impl SettingsWriter {
    fn put(&mut self, key: &str, of: u32, bytes: Vec<u8>) {
        self.0.push((key.to_owned(), [of.to_le_bytes().to_vec(), bytes].concat()));
    }

    fn size(&mut self, key: &str, n: usize) {
        self.put(key, 4, (n as u32).to_le_bytes().to_vec());
    }

    fn real(&mut self, key: &str, x: f64) {
        self.put(key, 6, (x as f32).to_le_bytes().to_vec());
    }

    fn flag(&mut self, key: &str, flag: bool) {
        self.put(key, 7, vec![u8::from(flag)]);
    }

    fn text(&mut self, key: &str, text: &str) {
        self.put(key, 8, text_bytes(text));
    }

    fn list(&mut self, key: &str, of: u32, items: Vec<Vec<u8>>) {
        let count = (items.len() as u64).to_le_bytes().to_vec();
        self.put(key, 9, [of.to_le_bytes().to_vec(), count, items.concat()].concat());
    }

    /// Sizes, and what the model's family says besides.
    fn model(&mut self, config: &TransformerConfig, precision: Precision, path: &Path) -> Result<()> {
        let family = gguf_of(config, path)?;
        let key = |name: &str| format!("{}.{name}", family.architecture);
        self.text("general.architecture", family.architecture);
        self.text("general.name", NAME);
        let file_type = match precision {
            Precision::F32 => 0,
            Precision::F16 => 1,
            Precision::Q8 => 7,
        };
        self.size("general.file_type", file_type);
        self.size(&key("block_count"), config.layers);
        let rotary = config.architecture.rotary();
        let context = rotary.map_or(config.context, |rotary| rotary.scaling.longest(config.context));
        self.size(&key("context_length"), context);
        self.size(&key("embedding_length"), config.width);
        self.size(&key("attention.head_count"), config.heads);
        self.size(&key("vocab_size"), config.vocabulary);
        for (name, value) in (family.write)(config, path)? {
            match value {
                HeaderValue::Size(n) => self.size(&key(name), n),
                HeaderValue::Real(x) => self.real(&key(name), x),
                HeaderValue::Flag(flag) => self.flag(&key(name), flag),
                HeaderValue::Text(text) => self.text(&key(name), text),
                HeaderValue::Flags(flags) => {
                    self.list(&key(name), 7, flags.into_iter().map(|flag| vec![u8::from(flag)]).collect());
                }
            }
        }
        Ok(())
    }

    fn tokenizer(&mut self, tokenizer_files: &TokenizerFiles, rows: usize, path: &Path) -> Result<()> {
        let Some(bytes) = &tokenizer_files.tokenizer else { return Ok(()) };
        let vocabulary = to_vocabulary(path, bytes)?;
        self.text("tokenizer.ggml.model", vocabulary.model);
        self.text("tokenizer.ggml.pre", vocabulary.pre);
        let mut tokens = vocabulary.tokens;
        // a model may have more rows than its tokenizer has tokens
        for id in tokens.len()..rows {
            tokens.push((format!("[PAD{id}]"), TokenKind::Unused));
        }
        self.list("tokenizer.ggml.tokens", 8, tokens.iter().map(|(token, _)| text_bytes(token)).collect());
        if let Some(mut scores) = vocabulary.scores {
            scores.resize(tokens.len(), 0.0);
            self.list("tokenizer.ggml.scores", 6, scores.iter().map(|score| score.to_le_bytes().to_vec()).collect());
        }
        let kinds = tokens.iter().map(|(_, kind)| (*kind as i32).to_le_bytes().to_vec()).collect();
        self.list("tokenizer.ggml.token_type", 5, kinds);
        self.list("tokenizer.ggml.merges", 8, vocabulary.merges.iter().map(|merge| text_bytes(merge)).collect());
        if let Some(prefix) = vocabulary.prefix {
            self.flag("tokenizer.ggml.add_space_prefix", prefix);
        }
        let (special, [begins, ends]) = (&tokenizer_files.special, vocabulary.adds);
        self.flag("tokenizer.ggml.add_bos_token", begins && special.bos.is_some());
        self.flag("tokenizer.ggml.add_eos_token", ends && special.eos.is_some());
        for (key, id) in [("bos", special.bos), ("eos", special.eos), ("padding", special.pad)] {
            if let Some(id) = id {
                self.size(&format!("tokenizer.ggml.{key}_token_id"), id as usize);
            }
        }
        for (key, id) in OTHER_EOS.into_iter().zip(&special.other_eos) {
            self.size(key, *id as usize);
        }
        if let Some(template) = &tokenizer_files.template {
            self.text("tokenizer.chat_template", template);
        }
        Ok(())
    }
}

/// A tensor as it is written: name, shape, kind and bytes.
type TensorBytes = (String, Vec<usize>, FileDType, Vec<u8>);

/// All tensors of a model.
fn tensor_bytes(path: &Path, checkpoint: &Checkpoint, precision: Precision) -> Result<Vec<TensorBytes>> {
    let mut tensors = vec![];
    for NamedTensor { name, mut shape, mut values } in weights::named_params(&checkpoint.policy) {
        let file_tensor = gguf_tensor(&checkpoint.config, &name);
        (shape, values) = weights::to_file(&file_tensor, shape, values);
        let HostTensor { shape, values } = to_file(&checkpoint.config, &name, HostTensor { shape, values });
        let blocks = shape.last().is_some_and(|n| n % 32 == 0);
        let kind = match precision {
            _ if shape.len() < 2 => FileDType::F32,
            Precision::F16 => FileDType::F16,
            Precision::Q8 if blocks => FileDType::Q8_0,
            _ => FileDType::F32,
        };
        let bytes = kind.encode_all(path, &file_tensor.name, &values)?;
        tensors.push((file_tensor.name, shape, kind, bytes));
    }
    if let Some(rotary) = checkpoint.config.architecture.rotary() {
        for (name, factors) in gguf_rope::write(rotary, checkpoint.config.head_width(), path)?.1 {
            let factors: Vec<f32> = factors.into_iter().map(|factor| factor as f32).collect();
            tensors.push((name.to_owned(), vec![factors.len()], FileDType::F32, FileDType::F32.encode(&factors)));
        }
    }
    Ok(tensors)
}

/// Writes a GGUF file that llama.cpp and transformers read. Vectors stay f32; so does a matrix whose rows do not fill blocks.
///
/// # Errors
/// A tokenizer that is not byte-level BPE, or a file that cannot be written.
pub fn write(path: &Path, checkpoint: &Checkpoint, precision: Precision) -> Result<()> {
    let mut settings = SettingsWriter::default();
    settings.model(&checkpoint.config, precision, path)?;
    settings.tokenizer(&checkpoint.tokenizer_files, checkpoint.config.vocabulary, path)?;
    let tensors = tensor_bytes(path, checkpoint, precision)?;

    let mut head = [MAGIC.to_vec(), 3u32.to_le_bytes().to_vec()].concat();
    head.extend((tensors.len() as u64).to_le_bytes());
    head.extend((settings.0.len() as u64).to_le_bytes());
    for (key, value) in &settings.0 {
        head.extend(text_bytes(key));
        head.extend(value);
    }
    let mut offset = 0u64;
    for (name, shape, kind, bytes) in &tensors {
        head.extend(text_bytes(name));
        head.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| head.extend((*n as u64).to_le_bytes()));
        head.extend(kind.ggml().to_le_bytes());
        head.extend(offset.to_le_bytes());
        offset = (offset + bytes.len() as u64).next_multiple_of(ALIGNMENT);
    }
    let refuse = |source| Error::Write { path: path.into(), source };
    let file = std::fs::File::create(path).map_err(refuse)?;
    let mut file = std::io::BufWriter::new(file);
    let mut write_padded = |bytes: &[u8]| -> Result<()> {
        file.write_all(bytes).map_err(refuse)?;
        let rest = bytes.len().next_multiple_of(ALIGNMENT as usize) - bytes.len();
        file.write_all(&vec![0; rest]).map_err(refuse)
    };
    write_padded(&head)?;
    tensors.iter().try_for_each(|(.., bytes)| write_padded(bytes))?;
    file.flush().map_err(refuse)?;
    file.get_ref().sync_all().map_err(refuse)
}
