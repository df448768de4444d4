//! How a reward model reads responses: as the policy's ids, or, with a tokenizer of its own, as text.

use crate::judges::{first_words, response_text};
use burn::tensor::Device;
use duel_data::{Detokenize, ScoredText};
use duel_model::{ResponseReader, Responses, ScalarModel, weights};
use duel_spec::TokenSpec;
use duel_training::{PairBatch, logprobs};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most tokens that a reward model reads, even if its context is longer.
const LONGEST: usize = 8192;

/// What the policy wrote as ids of a reward model: decoded, written by the reward model's own template, and encoded by its
/// own tokenizer. Of longer texts the end is read, and they are counted.
pub struct TextInput {
    world: Arc<dyn Detokenize>,
    text: ScoredText,
    space: TokenSpec,
    /// What does not count at the end, as transformers looks for the last token that is not padding.
    pad: Option<u32>,
    /// Words of a response, separated by whitespace, that are read at most.
    judged_words: usize,
    cut: AtomicUsize,
}

impl std::fmt::Debug for TextInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TextInput(last {} tokens)", self.space.context())
    }
}

impl TextInput {
    /// `vocabulary` and `context` are the reward model's.
    pub fn new(
        world: Arc<dyn Detokenize>,
        text: ScoredText,
        [vocabulary, context]: [usize; 2],
        pad: Option<u32>,
        judged_words: usize,
    ) -> Self {
        // a sequence is read as a prompt with a response of one token, on which its score is
        let (padding, never) = (pad.unwrap_or(0), vocabulary as u32);
        let space = TokenSpec {
            vocabulary,
            pad: padding,
            bos: padding,
            eos: if pad.is_some() { never } else { padding },
            other_eos: vec![],
            prompt_tokens: Self::context(context) - 1,
            response_tokens: 1,
            allowed_tokens: pad.is_none().then(|| (0..never).collect()),
            force_eos: false,
        };
        Self { world, text, space, pad, judged_words, cut: AtomicUsize::new(0) }
    }

    /// The tokens that are read at most by a model made for `context` of them.
    pub fn context(context: usize) -> usize {
        context.clamp(2, LONGEST)
    }

    /// How many sequences were longer than the context so far.
    pub fn cut(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }

    /// All but the last of the ids that the reward model reads, and the last.
    fn ids(&self, batch: &Responses, row: usize) -> duel_data::Result<(Vec<u32>, Vec<u32>)> {
        let response = response_text(self.world.as_ref(), batch, row)?;
        let response = first_words(&response, self.judged_words);
        let mut ids = self.text.encode(&self.world.conversation(&batch.prompts[row])?, response)?;
        // transformers' last token that is not padding; of nothing but padding, the first
        let counted = ids.iter().rposition(|id| Some(*id) != self.pad).map_or(1, |last| last + 1);
        ids.truncate(counted);
        if let Some(beyond) = ids.len().checked_sub(self.space.context() + 1) {
            if self.cut.fetch_add(1, Ordering::Relaxed) == 0 {
                let (length, context) = (ids.len(), self.space.context());
                tracing::warn!("a conversation of {length} tokens: the reward model reads the last {context} of such");
            }
            ids.drain(..=beyond);
        }
        let last = ids.split_off(ids.len() - 1);
        Ok((ids, last))
    }

    fn batch(&self, batch: &Responses) -> duel_data::Result<Responses> {
        let rows = 0..batch.len();
        let (prompts, responses) = rows.map(|row| self.ids(batch, row)).collect::<Result<_, _>>()?;
        Ok(Responses { prompts, responses, logp: vec![], masks: vec![] })
    }
}

/// Reads responses for a reward model.
#[derive(Debug, Clone)]
pub struct RewardReader {
    pub(crate) reader: ResponseReader,
    text: Option<Arc<TextInput>>,
}

impl From<ResponseReader> for RewardReader {
    /// Of a reward model that reads the policy's ids.
    fn from(reader: ResponseReader) -> Self {
        Self { reader, text: None }
    }
}

impl RewardReader {
    /// Of a reward model with a tokenizer of its own.
    pub fn of_text(text: Arc<TextInput>, device: &Device) -> Self {
        Self { reader: ResponseReader::new(&text.space, device), text: Some(text) }
    }

    /// The sizes of the reward model's inputs.
    pub fn space(&self) -> &TokenSpec {
        self.reader.space()
    }

    /// How the policy's ids are decoded; `None` if it reads the ids.
    pub fn text(&self) -> Option<&TextInput> {
        self.text.as_deref()
    }

    /// Prompts and responses as ids of the reward model.
    ///
    /// # Errors
    /// What its tokenizer or its template cannot read.
    pub fn as_read<'a>(&self, batch: &'a Responses) -> duel_data::Result<Cow<'a, Responses>> {
        Ok(match &self.text {
            Some(text) => Cow::Owned(text.batch(batch)?),
            None => Cow::Borrowed(batch),
        })
    }

    /// The same of both responses of every pair.
    ///
    /// # Errors
    /// As [`Self::as_read`].
    pub fn pairs<'a>(&self, pairs: &'a PairBatch) -> duel_data::Result<Cow<'a, PairBatch>> {
        Ok(match self.as_read(&pairs.both)? {
            Cow::Owned(both) => {
                let (rows, strengths, ties) = (pairs.rows.clone(), pairs.strengths.clone(), pairs.ties.clone());
                Cow::Owned(PairBatch { rows, both, strengths, ties })
            }
            Cow::Borrowed(_) => Cow::Borrowed(pairs),
        })
    }

    /// The score of each response of [`Self::as_read`], in blocks of rows that bound memory; `model` carries no gradient.
    pub fn scores(&self, model: &ScalarModel, as_read: &Responses) -> Vec<f32> {
        let context = self.reader.space().context();
        let longest = || as_read.prompts.iter().map(|prompt| prompt.len() + 1).max().unwrap_or(context);
        let columns = if self.text.is_some() { longest() } else { context };
        logprobs::blocks(as_read, columns, logprobs::TOKENS)
            .flat_map(|block| weights::host::<1>(self.reader.scores(model, &block)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LearnedReward, RewardNetwork, Scorer};
    use duel_data::pairs::PreferenceRow;
    use duel_data::{Result, TextTokenizer};
    use duel_model::{Policy, TransformerConfig};
    use duel_spec::{EnsembleScore, Split, seeds};

    /// A world whose ids are letters.
    struct Letters;

    impl Detokenize for Letters {
        fn text(&self, ids: &[u32]) -> Result<String> {
            Ok(ids.iter().map(|&id| char::from(b'a'.wrapping_add(id as u8))).collect())
        }
    }

    fn input(context: usize, pad: Option<u32>, judged_words: usize) -> Result<(TextTokenizer, TextInput)> {
        let tokenizer = TextTokenizer::train(["a b c d e f"].into_iter(), 259)?;
        let sizes = [tokenizer.vocabulary(), context];
        let text = ScoredText::new(tokenizer.clone(), None, Some(2), tokenizer.vocabulary());
        Ok((tokenizer, TextInput::new(Arc::new(Letters), text, sizes, pad, judged_words)))
    }

    #[test]
    fn ids_become_text_and_ids_of_the_reward_model() -> Result<()> {
        let (tokenizer, text) = input(16, Some(0), usize::MAX)?;
        let batch = Responses { prompts: vec![vec![0, 1]], responses: vec![vec![2, 3]], logp: vec![], masks: vec![] };
        let read = text.batch(&batch)?;
        assert_eq!(read.prompts, [tokenizer.encode_part("abcd")?]);
        assert_eq!(read.responses, [[2]], "its end token");
        // as in transformers: padding at the end is not read, even if it is also the end token
        let (_, text) = input(16, Some(2), usize::MAX)?;
        let read = text.batch(&batch)?;
        assert_eq!([read.prompts[0].as_slice(), &read.responses[0]].concat(), tokenizer.encode_part("abcd")?);
        Ok(())
    }

    #[test]
    fn of_what_is_too_long_the_end_is_read_and_counted() -> Result<()> {
        let (tokenizer, text) = input(4, Some(0), usize::MAX)?;
        let read = |responses: &[u32]| {
            text.batch(&Responses {
                prompts: vec![vec![0]],
                responses: vec![responses.to_vec()],
                logp: vec![],
                masks: vec![],
            })
        };
        let ids = |text: &str| tokenizer.encode_part(text);
        let three = read(&[1, 2])?;
        assert_eq!((three.prompts[0].clone(), text.cut()), (ids("abc")?, 0));
        let five = read(&[1, 2, 3, 4])?;
        assert_eq!((five.prompts[0].clone(), five.responses[0].clone(), text.cut()), (ids("cde")?, vec![2], 1));
        Ok(())
    }

    #[test]
    fn only_the_first_words_of_a_response_are_judged() -> Result<()> {
        let (tokenizer, text) = input(16, Some(0), 1)?;
        let space = (u32::from(b' ')).wrapping_sub(u32::from(b'a')) & 0xff; // the letter used for a space
        let batch =
            Responses { prompts: vec![vec![0]], responses: vec![vec![1, space, 2]], logp: vec![], masks: vec![] };
        assert_eq!(text.batch(&batch)?.prompts, [tokenizer.encode_part("ab ")?]);
        Ok(())
    }

    /// Its ids are not the policy's, so that no critic starts from it.
    #[test]
    fn a_reward_model_of_text_is_no_value_model() -> Result<()> {
        let (tokenizer, text) = input(4, Some(0), usize::MAX)?;
        let device = Device::flex();
        let reader = RewardReader::of_text(Arc::new(text), &device);
        let config = TransformerConfig::small(tokenizer.vocabulary(), 4, 1, 8, 2, true);
        let body = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &device);
        let network = RewardNetwork::Network(ScalarModel::with_head(body, vec![0.5; 8], &device));
        let reward = LearnedReward::new(vec![(network, 0.0)], EnsembleScore::Mean, reader, 0.0, 1.0);
        assert_eq!((reward.value_model().is_none(), reward.networks(), reward.cut()), (true, 1, Some(0)));
        let batch = |responses: Vec<Vec<u32>>| Responses {
            prompts: vec![vec![0]; responses.len()],
            responses,
            logp: vec![],
            masks: vec![],
        };
        let scores = reward.score(&batch(vec![vec![1, 2], vec![1, 2, 3, 4], vec![3]])).expect("scores");
        assert!(scores[0] != scores[1] && reward.cut() == Some(1), "{scores:?}");
        // rows are scored as each alone
        let alone = reward.score(&batch(vec![vec![3]])).expect("scores")[0];
        assert!((alone - scores[2]).abs() < 1e-5, "{alone}, {scores:?}");
        Ok(())
    }

    #[test]
    fn pairs_keep_what_is_known_of_them() -> Result<()> {
        let (tokenizer, text) = input(8, Some(0), usize::MAX)?;
        let reader = RewardReader::of_text(Arc::new(text), &Device::flex());
        let row = |chosen, rejected| PreferenceRow {
            p_label: 0.75,
            tie: true,
            ..PreferenceRow::new(Split::Train, vec![0], vec![chosen], vec![rejected])
        };
        let batch = PairBatch::new(&[row(1, 2), row(3, 4)], &[1, 0]);
        let pairs = reader.pairs(&batch)?;
        assert_eq!((&pairs.rows, &pairs.strengths, &pairs.ties), (&batch.rows, &batch.strengths, &batch.ties));
        let ids = |text: &str| tokenizer.encode_part(text);
        assert_eq!(pairs.both.prompts, [ids("ad")?, ids("ab")?, ids("ae")?, ids("ac")?]);
        Ok(())
    }

    #[test]
    fn no_more_than_8192_tokens_are_read() {
        assert_eq!([0, 1, 2, 8191, 8192, 8193, 131_072].map(TextInput::context), [2, 2, 2, 8191, 8192, 8192, 8192]);
    }

    #[test]
    fn of_nothing_but_padding_the_first_is_read() -> Result<()> {
        let (tokenizer, _) = input(8, Some(0), usize::MAX)?;
        let pad = tokenizer.encode_part("b")?[0];
        let text = ScoredText::new(tokenizer.clone(), None, None, tokenizer.vocabulary());
        let text = TextInput::new(Arc::new(Letters), text, [tokenizer.vocabulary(), 8], Some(pad), usize::MAX);
        let batch = Responses { prompts: vec![vec![1]], responses: vec![vec![1, 1]], logp: vec![], masks: vec![] };
        let read = text.batch(&batch)?;
        assert_eq!((read.prompts.concat(), read.responses.concat()), (vec![], vec![pad]));
        Ok(())
    }
}
