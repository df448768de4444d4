//! GGUF files: a header of settings, a table of tensors, then their numbers, many of them quantised in blocks. Nothing is
//! decoded before it is asked for.

use crate::checkpoint::Checkpoint;
use crate::config::TransformerConfig;
use crate::families::{by_gguf_architecture, gguf_architectures, gguf_name, gguf_of, interleaved_heads};
use crate::file_dtype::{FileDType, ggml_name};
use crate::gguf_header::{ALIGNMENT, GgufHeader, HeaderValue, MAGIC};
use crate::gguf_tokenizer::{read_tokenizer, to_vocabulary};
use crate::header_reader::HeaderReader;
use crate::mapped_file::MappedFile;
use crate::rope_layout::to_interleaved;
use crate::tokenizer_files::{SpecialTokens, TokenizerFiles};
use crate::weight_store::WeightStore;
use crate::weights::{self, NamedTensor};
use crate::{Error, Result};
use std::io::Write;
use std::path::Path;

/// The tensor of factors that change the frequencies of rotary positions.
pub(crate) const FACTORS: &str = "rope_freqs.weight";
/// What a file of ours calls itself.
const NAME: &str = "duel";

/// Whether a path is taken for a GGUF file rather than a directory.
pub fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

/// Opens a GGUF file: its settings, and its tensors to be taken one by one.
///
/// # Errors
/// A file that is damaged, of an architecture that is not read, or whose tokenizer is not byte-level BPE.
pub(crate) fn open(path: &Path) -> Result<(TransformerConfig, TokenizerFiles, WeightStore)> {
    let file = MappedFile::open(path)?;
    let bytes = file.bytes()?;
    let header = GgufHeader::parse(bytes).map_err(|problem| Error::Damaged { path: path.into(), problem })?;
    let settings = HeaderReader { path, header: &header, bytes, architecture: "" };
    check_whole(&settings)?;
    let config = read_config(&settings)?;
    check_factors(&settings, &config)?;
    let rows = config.vocabulary;
    let mut special = SpecialTokens {
        bos: settings.id("tokenizer.ggml.bos_token_id", rows)?,
        eos: settings.id("tokenizer.ggml.eos_token_id", rows)?,
        pad: settings.id("tokenizer.ggml.padding_token_id", rows)?,
        ..SpecialTokens::default()
    };
    for key in OTHER_EOS {
        settings.id(key, rows)?.into_iter().for_each(|id| special.add_eos(id));
    }
    let key = "tokenizer.chat_template";
    let template = settings.text(key).map(str::to_owned);
    if template.is_none() && settings.value(key).is_some() {
        return Err(settings.unsupported(key, "a text"));
    }
    let words =
        TokenizerFiles { special: special.clone(), tokenizer: read_tokenizer(&settings, rows, &special)?, template };
    let tensors = header.tensors;
    Ok((config, words, WeightStore::single_file(file, tensors)))
}

/// At which generation stops besides EOS: the ends of a turn and of a message.
const OTHER_EOS: [&str; 2] = ["tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Whether Duel has written a file: it says so itself.
pub fn is_ours(path: &Path) -> bool {
    let Ok(file) = MappedFile::open(path) else { return false };
    let Ok(bytes) = file.bytes() else { return false };
    GgufHeader::parse(bytes).is_ok_and(|header| header.text("general.name", bytes) == Some(NAME))
}

/// The file is a whole model, of kinds of numbers that are read.
fn check_whole(settings: &HeaderReader<'_>) -> Result<()> {
    let key = "general.type";
    if settings.value(key).is_some() && settings.text(key) != Some("model") {
        return Err(settings.unsupported(key, "\"model\""));
    }
    let key = "split.count";
    if settings.value(key).is_some() && !matches!(settings.header.as_int(key), Some(0 | 1)) {
        let part = settings.header.as_int("split.no").map_or(String::new(), |n| format!("part {} of ", n + 1));
        let found = match settings.header.as_int(key) {
            Some(count) => format!("{part}{count}"),
            None => "no number".into(),
        };
        let accepted = "1; `llama-gguf-split --merge` joins the parts to one file".into();
        return Err(Error::Unsupported { path: settings.path.into(), key: key.into(), found, accepted });
    }
    if let Some((name, code)) = &settings.header.unread {
        let (key, found) = (name.clone(), format!("of kind {}", ggml_name(*code)));
        return Err(Error::Unsupported { path: settings.path.into(), key, found, accepted: FileDType::all_names() });
    }
    Ok(())
}

/// Factors of the rotary frequencies change every position, unless all of them are 1.
fn check_factors(settings: &HeaderReader<'_>, config: &TransformerConfig) -> Result<()> {
    let Some((_, shape, kind, range)) = settings.header.tensors.iter().find(|(name, ..)| name == FACTORS) else {
        return Ok(());
    };
    let expected = vec![config.head_width() / 2];
    if *shape != expected {
        return Err(Error::Shape { name: FACTORS.into(), found: shape.clone(), expected });
    }
    let factors = kind.decode(&settings.bytes[range.clone()]);
    if factors.iter().all(|factor| *factor == 1.0) {
        return Ok(());
    }
    let most = factors.iter().copied().fold(f32::MIN, f32::max);
    let found = format!("factors up to {most} (the scaling of Llama 3.1 and later)");
    let accepted = "none, or factors that are all 1".into();
    Err(Error::Unsupported { path: settings.path.into(), key: FACTORS.into(), found, accepted })
}

/// Every setting of the architecture is one whose meaning is known: another would change what the model computes.
fn check_known(settings: &HeaderReader<'_>, known: &[&str]) -> Result<()> {
    let prefix = settings.key("");
    let mut own = settings.header.values.keys().filter_map(|key| key.strip_prefix(&prefix));
    if let Some(name) = own.find(|name| !known.contains(name)) {
        return Err(settings.unsupported(name, "no value: what it changes is not read"));
    }
    for (key, harmless) in [("rope.scaling.factor", 1.0), ("rope.scale_linear", 1.0), ("rope.scaling.attn_factor", 1.0)]
    {
        if settings.value(key).is_some() && settings.header.as_float(&settings.key(key)) != Some(harmless) {
            return Err(settings.unsupported(key, &harmless.to_string()));
        }
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
    let tensors = &settings.header.tensors;
    let vocabulary = match tensors.iter().find(|(name, ..)| name == "token_embd.weight") {
        Some((_, shape, ..)) if shape.len() == 2 => shape[0],
        _ => return Err(Error::Lacking { name: "token_embd.weight".into() }),
    };
    if settings.size_or("vocab_size", vocabulary)? != vocabulary {
        return Err(settings.unsupported("vocab_size", &format!("{vocabulary}, the rows of the embedding")));
    }
    if width % heads != 0 {
        return Err(settings.unsupported("attention.head_count", &format!("a divisor of the width, {width}")));
    }
    let architecture = (family.read)(&settings, width, heads)?;
    Ok(TransformerConfig {
        vocabulary,
        context: settings.size("context_length")?,
        layers: settings.size("block_count")?,
        width,
        heads,
        tied: !tensors.iter().any(|(name, ..)| name == "output.weight"),
        architecture,
    })
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
        self.size(&key("context_length"), config.context);
        self.size(&key("embedding_length"), config.width);
        self.size(&key("attention.head_count"), config.heads);
        self.size(&key("vocab_size"), config.vocabulary);
        for (name, value) in (family.write)(config, path)? {
            match value {
                HeaderValue::Size(n) => self.size(&key(name), n),
                HeaderValue::Real(x) => self.real(&key(name), x),
            }
        }
        Ok(())
    }

    fn tokenizer(&mut self, words: &TokenizerFiles, rows: usize, path: &Path) -> Result<()> {
        let Some(bytes) = &words.tokenizer else { return Ok(()) };
        let vocabulary = to_vocabulary(path, bytes)?;
        self.text("tokenizer.ggml.model", "gpt2");
        self.text("tokenizer.ggml.pre", vocabulary.pre);
        let mut tokens = vocabulary.tokens;
        // a model may have more rows than its tokenizer has tokens
        for id in tokens.len()..rows {
            tokens.push((format!("[PAD{id}]"), 5));
        }
        self.list("tokenizer.ggml.tokens", 8, tokens.iter().map(|(token, _)| text_bytes(token)).collect());
        let kinds = tokens.iter().map(|(_, kind)| kind.to_le_bytes().to_vec()).collect();
        self.list("tokenizer.ggml.token_type", 5, kinds);
        self.list("tokenizer.ggml.merges", 8, vocabulary.merges.iter().map(|merge| text_bytes(merge)).collect());
        let special = &words.special;
        self.flag("tokenizer.ggml.add_bos_token", vocabulary.starts && special.bos.is_some());
        for (key, id) in [("bos", special.bos), ("eos", special.eos), ("padding", special.pad)] {
            if let Some(id) = id {
                self.size(&format!("tokenizer.ggml.{key}_token_id"), id as usize);
            }
        }
        for (key, id) in OTHER_EOS.into_iter().zip(&special.other_eos) {
            self.size(key, *id as usize);
        }
        if let Some(template) = &words.template {
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
        let (name_in_file, is_transposed) = gguf_name(&checkpoint.config, &name);
        if is_transposed {
            values = weights::transposed(&values, shape[0], shape[1]);
            shape.reverse();
        }
        if let Some(heads) = interleaved_heads(&checkpoint.config, &name) {
            values = to_interleaved(&values, heads, shape.get(1).copied().unwrap_or(1));
        }
        let blocks = shape.last().is_some_and(|n| n % 32 == 0);
        let kind = match precision {
            _ if shape.len() < 2 => FileDType::F32,
            Precision::F16 => FileDType::F16,
            Precision::Q8 if blocks => FileDType::Q8_0,
            _ => FileDType::F32,
        };
        let bytes = kind.encode_all(path, &name_in_file, &values)?;
        tensors.push((name_in_file, shape, kind, bytes));
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
    settings.tokenizer(&checkpoint.words, checkpoint.config.vocabulary, path)?;
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
