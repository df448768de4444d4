//! Sequence classifiers with one label, as transformers' `AutoModelForSequenceClassification` keeps them: reward models.

use crate::config::TransformerConfig;
use crate::file_dtype::FileDType;
use crate::gguf::is_gguf;
use crate::huggingface;
use crate::pretrained::Pretrained;
use crate::tokenizer_files::{self, TOKENIZER, TokenizerFiles};
use crate::transformer::{Policy, ScalarModel};
use crate::{Error, Result};
use burn::tensor::Device;
use serde_json::{Value, json};
use std::path::Path;

/// A classifier whose settings have been read, and whose tensors wait to be asked for. Its score is on the last token that is
/// not `pad`.
#[derive(Debug)]
pub struct Classifier {
    /// Its body.
    pub model: Pretrained,
    /// `pad_token_id` of `config.json`, by which transformers finds the last token; `None`: nothing is padding.
    pub pad: Option<u32>,
    head: String,
}

impl Classifier {
    /// Opens a directory.
    ///
    /// # Errors
    /// As [`Pretrained::open`]; a model that is no classifier, or has not one label.
    pub fn open(path: &Path) -> Result<Self> {
        if is_gguf(path) {
            let accepted = "a Hugging Face directory: GGUF files hold no head of a classifier".into();
            let (key, value) = ("a reward model".into(), "a GGUF file".into());
            return Err(Error::Unsupported { path: path.into(), key, found: value, accepted });
        }
        let huggingface::ClassifierFiles { config, tokenizer_files, store, ignored, head, pad } =
            huggingface::open_classifier(path)?;
        let mut model =
            Pretrained::of_directory(path, config, tokenizer_files, store, vec![weight(&head), bias(&head)])?;
        model.ignored = ignored;
        Ok(Self { model, pad, head })
    }

    /// Whether the settings of a directory say that it holds a sequence classifier.
    pub fn is_at(path: &Path) -> bool {
        !is_gguf(path) && huggingface::holds_classifier(path)
    }

    /// The model, for sequences of at most `context` tokens, without gradient.
    ///
    /// # Errors
    /// As [`Pretrained::policy`].
    pub fn scalar_model(&self, context: usize, device: &Device) -> Result<ScalarModel> {
        self.under_head(self.model.policy(context, device)?, device)
    }

    /// A body under this classifier's head.
    ///
    /// # Errors
    /// A head that is not of one number.
    pub fn under_head(&self, body: Policy, device: &Device) -> Result<ScalarModel> {
        let expected = vec![1, self.model.config.width];
        let name = weight(&self.head);
        let weights = self.model.tensor(&name)?.ok_or_else(|| Error::Lacking { name: name.clone() })?;
        if weights.shape != expected {
            return Err(Error::Shape { name, found: weights.shape, expected });
        }
        let model = ScalarModel::with_head(body, weights.values, device);
        let name = bias(&self.head);
        match self.model.tensor(&name)? {
            None => Ok(model),
            Some(bias) if bias.shape == [1] => Ok(model.with_bias(bias.values[0])),
            Some(bias) => Err(Error::Shape { name, found: bias.shape, expected: vec![1] }),
        }
    }
}

fn weight(head: &str) -> String {
    format!("{head}.weight")
}

fn bias(head: &str) -> String {
    format!("{head}.bias")
}

/// A classifier in memory, to be written.
#[derive(Debug)]
pub struct ClassifierCheckpoint {
    pub config: TransformerConfig,
    pub model: ScalarModel,
    pub tokenizer_files: TokenizerFiles,
    /// What does not count at the end of a sequence; `None`: a token is added for it.
    pub pad: Option<u32>,
    /// Centre and scale of a run's score: (number − centre) / scale, where the model gives the number.
    pub score: Option<[f64; 2]>,
}

impl ClassifierCheckpoint {
    /// The classifier with a token for padding: transformers scores the last token that is not padding, so that what ends a
    /// sequence cannot serve. A new one is the first id after the tokenizer's.
    fn with_padding(mut self, folder: &Path) -> Result<(Self, u32)> {
        if let Some(pad) = self.pad {
            self.tokenizer_files.special.pad = Some(pad);
            return Ok((self, pad));
        }
        let id = match self.tokenizer_files.tokenizer.take() {
            None => self.config.vocabulary as u32,
            Some(bytes) => {
                let damaged = |problem: String| Error::Damaged { path: folder.join(TOKENIZER), problem };
                let mut tokenizer: Value = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
                let id = tokenizer_files::first_free_id(folder, &tokenizer)?;
                let token = json!({"id": id, "content": PADDING, "special": true, "single_word": false, "lstrip": false,
                    "rstrip": false, "normalized": false});
                match tokenizer["added_tokens"].as_array_mut() {
                    Some(tokens) => tokens.push(token),
                    None => tokenizer["added_tokens"] = json!([token]),
                }
                self.tokenizer_files.tokenizer = Some(tokenizer.to_string().into_bytes());
                id
            }
        };
        if id as usize >= self.config.vocabulary {
            self.config.vocabulary = id as usize + 1;
            self.model = self.model.with_another_token();
        }
        self.tokenizer_files.special.pad = Some(id);
        Ok((self, id))
    }
}

const PADDING: &str = "<|padding|>";
/// Where centre and scale stand in `config.json`. Classifiers have no bias, so that ours is taken from the centre.
const SCORE: &str = "duel_score";

/// Writes a directory that transformers reads as `AutoModelForSequenceClassification`.
///
/// # Errors
/// A family of which transformers has no classifier.
pub fn write(folder: &Path, checkpoint: ClassifierCheckpoint, kind: FileDType) -> Result<()> {
    let (ClassifierCheckpoint { config, model, tokenizer_files, score, .. }, pad) = checkpoint.with_padding(folder)?;
    let bias = model.bias();
    let labels = |settings: &mut Value| {
        settings["id2label"] = json!({"0": "LABEL_0"});
        settings["label2id"] = json!({"LABEL_0": 0});
        settings["pad_token_id"] = json!(pad);
        if let Some([centre, scale]) = score {
            settings[SCORE] = json!({"centre": centre - bias, "scale": scale});
        }
    };
    huggingface::write_classifier(folder, &config, &model.merged(), &tokenizer_files, kind, labels)
}
