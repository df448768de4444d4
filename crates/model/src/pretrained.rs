//! A model on disk, whatever it is kept in: a Hugging Face directory or a GGUF file.

use crate::architecture::PositionSpec;
use crate::checkpoint::Checkpoint;
use crate::config::TransformerConfig;
use crate::families::{gguf_tensor, hf_tensor};
use crate::file_tensor::{FileTensor, RowPart};
use crate::frozen_weight::FrozenWeight;
use crate::gguf::{self, is_gguf};
use crate::gguf_layout::from_file;
use crate::gguf_rope::is_factors;
use crate::huggingface;
use crate::mapped_file::MappedFile;
use crate::tensor_names::{canonical_name, is_projection};
use crate::tokenizer_files::TokenizerFiles;
use crate::transformer::Policy;
use crate::weight_files::weights_and_index;
use crate::weight_store::WeightStore;
use crate::weights::{self, HostTensor};
use crate::{Error, Result};
use burn::tensor::Device;
use duel_kernels::FrozenNumbers;
use duel_spec::ids::Hasher;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model whose settings have been read, and whose tensors wait to be asked for.
#[derive(Debug)]
pub struct Pretrained {
    pub config: TransformerConfig,
    pub tokenizer_files: TokenizerFiles,
    /// Settings of its files that are not used, `key = value`: those of a GGUF file are known or refused.
    pub ignored: Vec<String>,
    store: WeightStore,
    naming: Naming,
    /// Tensors of a head that no language model has.
    head: Vec<String>,
}

/// How the files name their tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Naming {
    Gguf,
    HuggingFace,
    /// Without the prefix that a language model puts before its base model's names, as GPT-2's own file has them.
    Base,
}

/// The canonical name of the embedding, without `.weight`.
const TOKENS: &str = "tokens";
/// Matrices that are not of a block.
const OUTER_MATRICES: [&str; 2] = [TOKENS, "head"];

/// Contexts longer than any model has.
const LONGEST: usize = 1 << 24;

impl Pretrained {
    /// Opens a directory or a `.gguf` file.
    ///
    /// # Errors
    /// Files that are missing or damaged, settings that are not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let is_gguf = is_gguf(path);
        if is_gguf {
            let (config, tokenizer_files, store) = gguf::open(path)?;
            return Self::new(path, config, tokenizer_files, store, Naming::Gguf, vec![]);
        }
        if path.is_file() {
            let accepted = "a directory, or a file whose name ends in .gguf".into();
            let (key, found) = ("a model".into(), "a file".into());
            return Err(Error::Unsupported { path: path.into(), key, found, accepted });
        }
        let (config, tokenizer_files, store, ignored) = huggingface::open(path)?;
        Ok(Self { ignored, ..Self::new(path, config, tokenizer_files, store, Naming::HuggingFace, vec![])? })
    }

    /// A model of a directory whose files also hold these tensors of another head.
    pub(crate) fn of_directory(
        path: &Path,
        config: TransformerConfig,
        tokenizer_files: TokenizerFiles,
        store: WeightStore,
        head: Vec<String>,
    ) -> Result<Self> {
        Self::new(path, config, tokenizer_files, store, Naming::HuggingFace, head)
    }

    fn new(
        path: &Path,
        config: TransformerConfig,
        tokenizer_files: TokenizerFiles,
        store: WeightStore,
        naming: Naming,
        head: Vec<String>,
    ) -> Result<Self> {
        let is_gguf = naming == Naming::Gguf;
        config.architecture.check()?;
        // what is made room for by the settings is at most what the files hold
        let (needed, stored) = (config.num_params(), store.numbers());
        if needed.is_none_or(|needed| needed > stored) || config.context > LONGEST || config.layers > store.len() {
            let needed = needed.map_or("more numbers than can be counted".into(), |n| format!("{n} numbers"));
            let (layers, context, tensors) = (config.layers, config.context, store.len());
            let problem = format!(
                "its settings ask for {needed} in {layers} layers and contexts of {context}, and its {tensors} tensors hold \
                 {stored}; contexts up to {LONGEST} are read"
            );
            return Err(Error::Damaged { path: path.into(), problem });
        }
        let mut model = Self { config, tokenizer_files, ignored: vec![], store, naming, head };
        let embedding = |model: &Self| model.file_tensor(&model.config, "tokens.weight").name;
        if !is_gguf && model.store.shape(&embedding(&model)).is_none() {
            model.naming = Naming::Base;
            if model.store.shape(&embedding(&model)).is_none() {
                model.naming = Naming::HuggingFace;
            }
        }
        let name = embedding(&model);
        let expected = vec![model.config.vocabulary, model.config.width];
        match model.store.shape(&name) {
            None => Err(Error::Lacking { name }),
            Some(shape) if shape != expected => Err(Error::Shape { name, found: shape.to_vec(), expected }),
            Some(_) => Ok(model),
        }
    }

    /// The model, for sequences of at most `context` tokens.
    ///
    /// # Errors
    /// Tensors that do not fit the settings; more tokens than the model was made for.
    pub fn policy(&self, context: usize, device: &Device) -> Result<Policy> {
        let config = self.config_for(context)?;
        self.read(&config, Policy::zeros(&config, device), &HashSet::new())
    }

    /// The same model with the matrices of its blocks left in their files, which are mapped into memory, and decoded each time
    /// they are read, and rounded where `numbers` are given, as the embedding and the head then are in memory. They cannot be trained,
    /// and the files must stay as they are as long as the model is used: where one has another length or another time of change when
    /// it is read, [`Error::Changed`] is thrown for [`crate::catching`].
    ///
    /// # Errors
    /// As [`Pretrained::policy`]; matrices that are stored `[in, out]`.
    pub fn mapped(&self, context: usize, numbers: Option<FrozenNumbers>, device: &Device) -> Result<Policy> {
        let config = self.config_for(context)?;
        let is_frozen = |stem: &str| is_projection(stem) || (numbers.is_some() && OUTER_MATRICES.contains(&stem));
        self.with_frozen(&config, device, is_frozen, |stem, file_tensor| {
            if let Some(numbers) = numbers.filter(|_| !is_projection(stem)) {
                return self.rounded_weight(stem, file_tensor, numbers);
            }
            if !file_tensor.is_transposed {
                let value = format!("a model of the family {}, stored [in, out]", config.architecture.family);
                let (key, accepted) = ("model.mapped".into(), "false; true for matrices stored [out, in]".into());
                return Err(Error::Unsupported { path: self.store.path(), key, found: value, accepted });
            }
            let matrix = self.store.mapped(file_tensor);
            let matrix = matrix.ok_or_else(|| Error::Lacking { name: file_tensor.name.clone() })?;
            Ok(FrozenWeight::File { matrix: Arc::new(matrix), numbers })
        })
    }

    /// The same model with its matrices, its embedding and its head rounded as they are read: no matrix that its file has `[out, in]` is
    /// ever in memory in f32.
    ///
    /// # Errors
    /// As [`Pretrained::policy`].
    pub fn rounded(&self, context: usize, numbers: FrozenNumbers, device: &Device) -> Result<Policy> {
        let config = self.config_for(context)?;
        let is_frozen = |stem: &str| is_projection(stem) || OUTER_MATRICES.contains(&stem);
        self.with_frozen(&config, device, is_frozen, |stem, file_tensor| {
            self.rounded_weight(stem, file_tensor, numbers)
        })
    }

    /// A matrix of the file rounded, by its canonical name without `.weight`.
    fn rounded_weight(&self, stem: &str, file_tensor: &FileTensor, numbers: FrozenNumbers) -> Result<FrozenWeight> {
        let is_by_output = file_tensor.is_transposed || stem == TOKENS; // of which the outputs are the tokens
        Ok(FrozenWeight::Memory(Arc::new(self.store.rounded(file_tensor, is_by_output, numbers)?)))
    }

    /// The model with some of its matrices, by their canonical names without `.weight`, as no tensors.
    fn with_frozen(
        &self,
        config: &TransformerConfig,
        device: &Device,
        is_frozen: impl Fn(&str) -> bool,
        matrix: impl Fn(&str, &FileTensor) -> Result<FrozenWeight>,
    ) -> Result<Policy> {
        let empty = Policy::zeros(config, device);
        let (mut file_tensors, mut left) = (HashMap::new(), HashSet::new());
        for (ours, shape) in weights::shapes(&empty) {
            let plain = canonical_name(&ours);
            let Some(stem) = plain.strip_suffix(".weight").filter(|stem| is_frozen(stem)) else { continue };
            let file_tensor = self.file_tensor(config, &ours);
            self.store.check_shape(&file_tensor, shape)?;
            left.insert(file_tensor.name.clone());
            file_tensors.insert(stem.to_owned(), file_tensor);
        }
        let policy = self.read(config, empty, &left)?;
        policy.with_frozen(|stem| file_tensors.get(stem).map(|file_tensor| matrix(stem, file_tensor)).transpose())
    }

    /// Reads a directory or a `.gguf` file as a whole.
    ///
    /// # Errors
    /// Files that are missing or damaged, settings that are not supported, tensors that do not fit.
    pub fn read_checkpoint(path: &Path, device: &Device) -> Result<Checkpoint> {
        let model = Self::open(path)?;
        Ok(Checkpoint {
            policy: model.policy(model.config.context, device)?,
            config: model.config,
            tokenizer_files: model.tokenizer_files,
        })
    }

    /// The formats of the tensors' numbers, by name, those of the most tensors first.
    pub fn dtypes(&self) -> Vec<String> {
        self.store.dtypes()
    }

    /// A tensor of the files as it stands there.
    pub(crate) fn tensor(&self, name: &str) -> Result<Option<HostTensor>> {
        self.store.get(name)
    }

    fn is_gguf(&self) -> bool {
        self.naming == Naming::Gguf
    }

    /// Where the files hold one of our parameters.
    fn file_tensor(&self, config: &TransformerConfig, ours: &str) -> FileTensor {
        match self.naming {
            Naming::Gguf => self.in_joint_qkv(config, gguf_tensor(config, ours)),
            Naming::HuggingFace => hf_tensor(config, ours),
            Naming::Base => {
                let file_tensor = hf_tensor(config, ours);
                FileTensor { name: huggingface::without_prefix(&file_tensor.name).to_owned(), ..file_tensor }
            }
        }
    }

    /// Queries, keys and values that a GGUF file may hold in one tensor, all of a kind together, as parts of it.
    fn in_joint_qkv(&self, config: &TransformerConfig, file_tensor: FileTensor) -> FileTensor {
        const JOINT: &str = ".attn_qkv.";
        let (queries, others) = (config.heads * config.head_width(), config.key_value_heads() * config.head_width());
        let parts = [
            (".attn_q.", 0..queries),
            (".attn_k.", queries..queries + others),
            (".attn_v.", queries + others..queries + 2 * others),
        ];
        let Some((name, rows)) = parts.into_iter().find(|(name, _)| file_tensor.name.contains(name)) else {
            return file_tensor;
        };
        let joint = file_tensor.name.replace(name, JOINT);
        if self.store.shape(&file_tensor.name).is_some() || self.store.shape(&joint).is_none() {
            return file_tensor;
        }
        let part = Some(RowPart { rows, of: queries + 2 * others });
        FileTensor { name: joint, part, ..file_tensor }
    }

    /// Fills an empty model of these sizes, but for tensors that are left in the file.
    fn read(&self, config: &TransformerConfig, empty: Policy, left: &HashSet<String>) -> Result<Policy> {
        let naming =
            |ours: &str| Some(self.file_tensor(config, ours)).filter(|file_tensor| !left.contains(&file_tensor.name));
        if self.is_gguf() {
            let adjusted = |ours: &str, tensor: HostTensor| from_file(config, ours, tensor);
            let spare = |name: &str| is_factors(name) || left.contains(name);
            return weights::load_from(empty, &self.store, naming, adjusted, spare);
        }
        let of_head = |name: &str| self.head.iter().any(|head| head == name);
        let spare = |name: &str| huggingface::is_buffer(name) || left.contains(name) || of_head(name);
        weights::load_from(empty, &self.store, naming, |_, tensor| tensor, spare)
    }

    /// The model's sizes where sequences have at most `context` tokens: its positions are tables of that length.
    ///
    /// # Errors
    /// More tokens than the model was made for.
    pub fn config_for(&self, context: usize) -> Result<TransformerConfig> {
        if context > self.config.context {
            return Err(Error::TooLong { asked: context, context: self.config.context });
        }
        // learned positions are weights, and stay as they are
        let rotary = matches!(self.config.architecture.positions, PositionSpec::Rotary(_));
        Ok(TransformerConfig { context: if rotary { context } else { self.config.context }, ..self.config.clone() })
    }
}

/// The files of a directory that say what a model and its tokenizer are: all that is read but weights and their index.
pub const SETTINGS_FILES: [&str; 12] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];

/// A hash of all that [`Pretrained::open`] reads, whatever else lies beside it.
///
/// # Errors
/// A file that cannot be read.
pub fn hash(path: &Path) -> Result<String> {
    let mut hasher = Hasher::default();
    let add = |path: PathBuf| -> Result<()> {
        let file = MappedFile::open(&path)?;
        hasher.add(path.file_name().unwrap_or_default().as_encoded_bytes());
        hasher.add(file.bytes()?);
        file.bytes().map(|_| ())
    };
    if is_gguf(path) {
        gguf::files(path)?.into_iter().try_for_each(add)?;
        return Ok(hasher.finish());
    }
    let mut files = weights_and_index(path)?;
    files.extend(SETTINGS_FILES.map(|name| path.join(name)).into_iter().filter(|file| file.is_file()));
    files.sort();
    files.into_iter().try_for_each(add)?;
    Ok(hasher.finish())
}
