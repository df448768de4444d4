//! A pretrained reward model: a sequence classifier with its own tokenizer and chat template.

use crate::{Result, RewardReader, TextInput};
use burn::tensor::Device;
use duel_data::chat::ChatTemplate;
use duel_data::{Detokenize, Json, ScoredText, TextTokenizer};
use duel_model::{
    Classifier, Error as ModelError, FrozenNumbers, Policy, ScalarModel, SpecialTokens, TransformerConfig,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A classifier with its text.
#[derive(Debug)]
pub struct PretrainedReward {
    pub classifier: Classifier,
    path: PathBuf,
}

impl PretrainedReward {
    /// Opens a directory; its weights are not read yet.
    ///
    /// # Errors
    /// As [`Classifier::open`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self { classifier: Classifier::open(path)?, path: path.into() })
    }

    /// Its sizes, at the length that it reads.
    ///
    /// # Errors
    /// A model whose context is too short for a prompt and a response.
    pub fn config(&self) -> Result<TransformerConfig> {
        Ok(self.classifier.model.config_for(self.context())?)
    }

    fn context(&self) -> usize {
        TextInput::context(self.classifier.model.config.context)
    }

    /// Its body, without gradient.
    ///
    /// # Errors
    /// As [`duel_model::Pretrained::policy`].
    pub fn body(&self, device: &Device) -> Result<Policy> {
        Ok(self.classifier.model.policy(self.context(), device)?)
    }

    /// Its body rounded as it is read.
    ///
    /// # Errors
    /// As [`duel_model::Pretrained::rounded`].
    pub fn rounded_body(&self, numbers: FrozenNumbers, device: &Device) -> Result<Policy> {
        Ok(self.classifier.model.rounded(self.context(), numbers, device)?)
    }

    /// The model, without gradient.
    ///
    /// # Errors
    /// As [`Classifier::scalar_model`].
    pub fn scalar_model(&self, device: &Device) -> Result<ScalarModel> {
        Ok(self.classifier.scalar_model(self.context(), device)?)
    }

    /// Encodes responses of a world into its ids. `date`: today's date for its template; `judged_words`: words of a
    /// response that it reads at most.
    ///
    /// # Errors
    /// A tokenizer or a template that is missing or cannot be read.
    pub fn reader(
        &self,
        world: Arc<dyn Detokenize>,
        date: &str,
        judged_words: usize,
        device: &Device,
    ) -> Result<RewardReader> {
        let (tokenizer_files, vocabulary) =
            (&self.classifier.model.tokenizer_files, self.classifier.model.config.vocabulary);
        let file = || self.path.join("tokenizer.json");
        let bytes = tokenizer_files.tokenizer.as_ref().ok_or_else(|| {
            let problem = "it is missing: a reward model reads text with its own tokenizer".into();
            ModelError::Damaged { path: file(), problem }
        })?;
        let damaged = |e: duel_data::Error| ModelError::Damaged { path: file(), problem: e.to_string() };
        let tokenizer = TextTokenizer::from_bytes(bytes).map_err(damaged)?;
        let named_tokens = duel_model::named_special_tokens(&self.path)?;
        let variables: Vec<_> = template_tokens(&tokenizer_files.special, &named_tokens, &tokenizer).collect();
        let source = tokenizer_files.template.as_ref();
        let template = source.map(|source| ChatTemplate::new(source)?.with_variables(variables).dated(date));
        let text = ScoredText::new(tokenizer.clone(), template.transpose()?, tokenizer_files.special.eos, vocabulary);
        let input = TextInput::new(world, text, [vocabulary, self.context()], self.classifier.pad, judged_words);
        Ok(RewardReader::of_text(Arc::new(input), device))
    }
}

/// The special tokens that a chat template reads, by name: what the model's settings call them (`None`: they say that there is no such
/// token), and those that these do not mention, by their ids.
pub fn template_tokens(
    special: &SpecialTokens,
    named_tokens: &BTreeMap<String, Option<String>>,
    tokenizer: &TextTokenizer,
) -> impl Iterator<Item = (String, Json)> {
    let ids = [("bos_token", special.bos), ("eos_token", special.eos), ("pad_token", special.pad)];
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.token(id));
    let mut tokens: BTreeMap<_, _> = ids.into_iter().map(|(name, id)| (name.to_owned(), text(id))).collect();
    tokens.extend(named_tokens.clone());
    tokens.into_iter().filter_map(|(name, token)| Some((name, Json::Text(token?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_reads_named_tokens_before_those_of_the_ids() -> Result<()> {
        let tokenizer = TextTokenizer::train(["a b c"].into_iter(), 259)?;
        let special = SpecialTokens { bos: Some(0), eos: Some(1), pad: Some(2), ..SpecialTokens::default() };
        let named = [("eos_token", Some("<end>")), ("pad_token", None), ("unk_token", Some("<unknown>"))];
        let named = named.map(|(name, token)| (name.to_owned(), token.map(str::to_owned))).into_iter().collect();
        let actual: Vec<(String, String)> = template_tokens(&special, &named, &tokenizer)
            .map(|(name, token)| match token {
                Json::Text(token) => (name, token),
                other => panic!("{other:?}"),
            })
            .collect();
        let bos = tokenizer.token(0).expect("a token");
        let expected = [("bos_token", bos.as_str()), ("eos_token", "<end>"), ("unk_token", "<unknown>")];
        assert_eq!(actual, expected.map(|(name, token)| (name.to_owned(), token.to_owned())));
        Ok(())
    }
}
