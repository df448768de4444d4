//! The world of an experiment as its stages see it: prompts, judge, and the pretrained model.

use crate::error::Result;
use crate::sources;
use burn::module::Module;
use burn::tensor::Device;
use duel_data::chat::ChatTemplate;
use duel_data::grammar::GrammarWorld;
use duel_data::records::Columns;
use duel_data::reviews::{PromptSizes, ReviewsWorld};
use duel_data::rows::{RowSource, RowsWorld};
use duel_data::{Detokenize, Encoder, Json, PairQuestion, TextTokenizer, World};
use duel_model::{FrozenNumbers, Pretrained, TransformerConfig};
use duel_reward::template_tokens;
use duel_reward::{
    BagOfWordsPreference, CommandJudge, GrammarGold, ModelJudge, ModelPairJudge, PairJudge, PairScorer,
    PreferenceJudge, PretrainedReward, RulesJudge, Scorer, Sentiment, SentimentJudge, TextJudge, TextScorer,
};
use duel_spec::{
    Arm, Experiment, JudgeKind, JudgedText, ModelNumbers, RowPaths, RowsSettings, Rule, Split, TokenSpec, WorldKind,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A world with its gold scorer.
pub(crate) struct LoadedWorld {
    pub(crate) world: Arc<dyn World>,
    pub(crate) grammar: Option<Arc<GrammarWorld>>,
    pub(crate) reviews: Option<Arc<ReviewsWorld>>,
    pub(crate) rows: Option<Arc<RowsWorld>>,
    pub(crate) gold: Arc<dyn Scorer>,
    /// The judge of pairs.
    pub(crate) pairwise: Option<Arc<PairScorer>>,
}

impl LoadedWorld {
    /// Decodes its ids into text; `None` if they are not text.
    pub(crate) fn text(&self) -> Option<Arc<dyn Detokenize>> {
        let reviews = self.reviews.clone().map(|world| world as Arc<dyn Detokenize>);
        reviews.or_else(|| self.rows.clone().map(|world| world as Arc<dyn Detokenize>))
    }
}

/// File names within the corpus stage.
pub(crate) const SENTIMENT: &str = "gold.json";
pub(crate) const TASTE: &str = "taste.json";

/// A pretrained model with its tokenizer.
pub(crate) struct PretrainedModel {
    pub(crate) model: Pretrained,
    pub(crate) tokenizer: TextTokenizer,
    pub(crate) eos: u32,
    named_tokens: NamedTokens,
}

/// Adds the tokens that the model's chat template writes after an assistant's turn to the tokens that end a text, where that is one of the
/// tokenizer's added tokens.
///
/// # Errors
/// Settings of special tokens that cannot be read.
pub(crate) fn add_turn_ends(path: &Path, model: &mut Pretrained, tokenizer: &TextTokenizer) -> Result<()> {
    let (named_tokens, rows) = (named_tokens(path)?, RowsSettings::defaults());
    // a template that cannot be read is an error only of rows that need it
    let template = template(model, tokenizer, &named_tokens, &rows).ok().flatten();
    let ends = template.map_or(vec![], |template| template.turn_ends(tokenizer));
    let is_of_model = |id: &u32| (*id as usize) < model.config.vocabulary;
    let ends: Vec<u32> = ends.into_iter().filter(is_of_model).collect();
    ends.into_iter().for_each(|id| model.tokenizer_files.special.add_eos(id));
    Ok(())
}

/// What is wrong with a model's chat template, where it cannot be used.
///
/// # Errors
/// Settings of special tokens that cannot be read.
pub(crate) fn template_problem(path: &Path, model: &Pretrained, tokenizer: &TextTokenizer) -> Result<Option<String>> {
    let template = template(model, tokenizer, &named_tokens(path)?, &RowsSettings::defaults());
    Ok(template.err().map(|error| error.to_string()))
}

/// Lines that describe a model's first and last tokens, and how its tokenizer's ids fit its embedding.
pub(crate) fn tokenizer_summary(model: &Pretrained, tokenizer: &TextTokenizer) -> Vec<String> {
    let rows = model.config.vocabulary;
    let names = |ids: &[u32]| {
        let name = |id: &u32| format!("`{}` (id {id})", tokenizer.token(*id).unwrap_or_default());
        if ids.is_empty() { "nothing".into() } else { ids.iter().map(name).collect::<Vec<_>>().join(", ") }
    };
    let start = tokenizer.encode_start("").unwrap_or_default();
    let mut lines = vec![
        format!("before a text: {}", names(&start)),
        format!("a response ends with any of: {}", names(&model.tokenizer_files.special.eos_ids())),
    ];
    let beyond: Vec<u32> = tokenizer.added().into_iter().filter(|id| *id as usize >= rows).collect();
    if !beyond.is_empty() {
        let named = names(&beyond[..beyond.len().min(5)]);
        let more = if beyond.len() > 5 { ", …" } else { "" };
        lines.push(format!(
            "the embedding has {rows} rows, and none for {} added tokens: {named}{more}; rows that spell them are left out",
            beyond.len()
        ));
    }
    let spare = (0..rows as u32).filter(|id| tokenizer.token(*id).is_none()).count();
    if spare > 0 {
        lines.push(format!("the embedding has {spare} rows without a token, which are never sampled"));
    }
    lines
}

impl PretrainedModel {
    /// Opens it, with its own chat template; its weights are not read yet.
    ///
    /// # Errors
    /// A model without a tokenizer, or whose tokenizer has no EOS.
    pub(crate) fn open(from: &str) -> Result<Self> {
        Self::with_template(from, "")
    }

    /// The same with the chat template in a file, if one is named.
    ///
    /// # Errors
    /// Those of [`Self::open`]; a template that cannot be read.
    pub(crate) fn with_template(from: &str, chat_template: &str) -> Result<Self> {
        let path = sources::model(Path::new(from))?;
        let mut model = Pretrained::open(&path)?;
        if !chat_template.is_empty() {
            model.tokenizer_files.template = Some(duel_model::read_template(Path::new(chat_template))?);
        }
        let lacking = |name: &str| duel_model::Error::Lacking { name: name.into() };
        let tokenizer = tokenizer(&path, &model)?.ok_or_else(|| lacking("tokenizer.json"))?;
        add_turn_ends(&path, &mut model, &tokenizer)?;
        let eos = model.tokenizer_files.special.eos.ok_or_else(|| lacking("eos_token_id"))?;
        let named_tokens = named_tokens(&path)?;
        Ok(Self { tokenizer, eos, model, named_tokens })
    }

    /// The token ids of a world in its vocabulary. Of control tokens a response may hold only those that end it; PAD is another of
    /// them, where there is another.
    pub(crate) fn space(&self, prompt_tokens: usize, response_tokens: usize) -> TokenSpec {
        let special = &self.model.tokenizer_files.special;
        let control_tokens = self.tokenizer.controls();
        let vocabulary = self.model.config.vocabulary;
        let ends = special.eos_ids();
        let other = |id: &u32| !ends.contains(id) && (*id as usize) < vocabulary;
        let pad = special.pad.filter(other).or_else(|| control_tokens.iter().copied().find(other)).unwrap_or(self.eos);
        let is_allowed = |id: &u32| {
            ends.contains(id) || (self.tokenizer.token(*id).is_some() && !control_tokens.contains(id) && *id != pad)
        };
        TokenSpec {
            vocabulary,
            pad,
            bos: special.bos.unwrap_or(pad),
            eos: self.eos,
            other_eos: special.other_eos.clone(),
            prompt_tokens,
            response_tokens,
            allowed_tokens: Some((0..vocabulary as u32).filter(is_allowed).collect()),
            force_eos: false,
        }
    }

    /// The preface of every prompt of the reviews.
    pub(crate) fn start(&self, reviews: &duel_spec::ReviewsSettings) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode_start(&reviews.preface)?)
    }

    /// Encodes rows into its ids, with the date and the variables of the chat template.
    pub(crate) fn encoder(&self, rows: &RowsSettings) -> Result<Encoder> {
        let template = template(&self.model, &self.tokenizer, &self.named_tokens, rows)?;
        let encoder = Encoder::new(self.tokenizer.clone(), template, self.eos);
        let special = &self.model.tokenizer_files.special;
        let encoder = encoder.with_other_eos(&special.other_eos).with_bos(special.bos).with_loss_on(rows.turns);
        Ok(encoder.for_model(self.model.config.vocabulary, self.space(0, 0).pad))
    }
}

/// A special token by the model's settings; `None`: they declare that there is none.
type NamedTokens = BTreeMap<String, Option<String>>;

fn named_tokens(path: &Path) -> Result<NamedTokens> {
    Ok(if path.is_dir() { duel_model::named_special_tokens(path)? } else { NamedTokens::default() })
}

/// The chat template of a model, with its special tokens, and with the date and the variables of `world.rows`.
fn template(
    model: &Pretrained,
    tokenizer: &TextTokenizer,
    named_tokens: &NamedTokens,
    rows: &RowsSettings,
) -> Result<Option<ChatTemplate>> {
    let tokens = template_tokens(&model.tokenizer_files.special, named_tokens, tokenizer);
    let kwargs = rows.template_variables().map(|(name, value)| (name, Json::from(value)));
    let variables: Vec<_> = tokens.chain(kwargs).collect();
    let source = model.tokenizer_files.template.as_ref();
    let template = source.map(|source| ChatTemplate::new(source)?.with_variables(variables).dated(&rows.date));
    Ok(template.transpose()?)
}

/// The tokenizer of a model's files.
///
/// # Errors
/// One that the library cannot read, or cannot use.
pub(crate) fn tokenizer(path: &Path, model: &Pretrained) -> Result<Option<TextTokenizer>> {
    let Some(bytes) = &model.tokenizer_files.tokenizer else { return Ok(None) };
    let damaged = |e: duel_data::Error| {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        duel_model::Error::Damaged { path, problem: e.to_string() }
    };
    let tokenizer = TextTokenizer::from_bytes(bytes).map_err(damaged)?;
    tokenizer.encode_start("a").map_err(damaged)?; // what a file contradicts in itself may show in use only
    Ok(Some(tokenizer))
}

/// What the kernels call these numbers; `None`: nothing is rounded.
pub(crate) fn frozen_numbers(numbers: ModelNumbers) -> Option<FrozenNumbers> {
    match numbers {
        ModelNumbers::F32 => None,
        ModelNumbers::Bf16 => Some(FrozenNumbers::Bf16),
        ModelNumbers::Q8 => Some(FrozenNumbers::Q8),
    }
}

/// The pretrained model that an experiment starts from.
pub(crate) fn pretrained(experiment: &Experiment) -> Result<Option<PretrainedModel>> {
    let open = || PretrainedModel::with_template(&experiment.model.from, &experiment.world.rows.chat_template);
    experiment.is_pretrained().then(open).transpose()
}

/// The ids of an experiment's world, and its model's sizes, without looking at any data.
pub(crate) fn sizes(experiment: &Experiment) -> Result<(TokenSpec, TransformerConfig)> {
    let world = &experiment.world;
    let pretrained = pretrained(experiment)?;
    let space = match (world.kind, &pretrained) {
        (WorldKind::Rows, Some(pretrained)) => rows_space(experiment, pretrained),
        (WorldKind::Reviews, Some(pretrained)) => reviews_space(experiment, pretrained)?,
        (WorldKind::Reviews, None) => {
            let space = reviews_sizes(experiment).space(world.reviews.vocabulary);
            // the tokens used when speed is measured: any but PAD, BOS and EOS
            let special = [space.pad, space.bos, space.eos];
            let allowed_tokens = (0..space.vocabulary as u32).filter(|id| !special.contains(id)).collect();
            TokenSpec { allowed_tokens: Some(allowed_tokens), ..space }
        }
        _ => GrammarWorld::new(world.grammar.rho, 1).space().clone(),
    };
    let config = match pretrained {
        Some(pretrained) => pretrained.model.config_for(space.context())?,
        None => fresh_config(experiment, &space),
    };
    Ok((space, config))
}

/// The shape of an experiment's model in a world.
pub(crate) fn model_of(experiment: &Experiment, space: &TokenSpec) -> Result<TransformerConfig> {
    if experiment.is_pretrained() {
        return Ok(open_model(experiment)?.config_for(space.context())?);
    }
    Ok(fresh_config(experiment, space))
}

/// The model that an experiment starts from; its weights are not read yet.
pub(crate) fn open_model(experiment: &Experiment) -> Result<Pretrained> {
    Ok(Pretrained::open(&sources::model(Path::new(&experiment.model.from))?)?)
}

/// The shape of a new model.
fn fresh_config(experiment: &Experiment, space: &TokenSpec) -> TransformerConfig {
    let shape = &experiment.model;
    let context = match experiment.world.kind {
        WorldKind::Grammar | WorldKind::Rows => space.context(),
        WorldKind::Reviews => experiment.stages.base.window,
    };
    TransformerConfig::small(space.vocabulary, context, shape.layers, shape.width, shape.heads, shape.tied)
}

fn reviews_sizes(experiment: &Experiment) -> PromptSizes {
    let settings = &experiment.world.reviews;
    PromptSizes { prompt_tokens: settings.prompt_tokens, response_tokens: settings.response_tokens }
}

fn reviews_space(experiment: &Experiment, pretrained: &PretrainedModel) -> Result<TokenSpec> {
    let settings = &experiment.world.reviews;
    Ok(pretrained.space(pretrained.start(settings)?.len() + settings.prompt_tokens, settings.response_tokens))
}

pub(crate) fn rows_space(experiment: &Experiment, pretrained: &PretrainedModel) -> TokenSpec {
    pretrained.space(experiment.world.rows.prompt_tokens, experiment.world.rows.response_tokens)
}

/// The user's rows for one key of the experiment, in one or several files.
pub(crate) struct RowFiles {
    pub(crate) key: &'static str,
    /// `None`: of training, and of the splits that have no file.
    pub(crate) split: Option<Split>,
    pub(crate) paths: Vec<PathBuf>,
}

/// The files of the user's rows.
///
/// # Errors
/// What is not on the hub.
pub(crate) fn row_files(experiment: &Experiment) -> Result<Vec<RowFiles>> {
    let rows = &experiment.world.rows;
    let read = |(key, split, from): (&'static str, Option<Split>, &RowPaths)| {
        let paths = from.iter().map(|path| sources::rows(Path::new(path))).collect::<Result<Vec<_>>>()?.concat();
        Ok(RowFiles { key, split, paths })
    };
    let is_split = !rows.validation.is_empty() && !rows.test.is_empty();
    let files = [
        ("train", is_split.then_some(Split::Train), &rows.train),
        ("validation", Some(Split::Validation), &rows.validation),
        ("test", Some(Split::Test), &rows.test),
    ];
    files.into_iter().filter(|(.., from)| !from.is_empty()).map(read).collect()
}

/// The rows that a run reads, and how many.
///
/// # Errors
/// What is not on the hub.
pub(crate) fn row_source(experiment: &Experiment) -> Result<RowSource> {
    let files = row_files(experiment)?.into_iter();
    let files = files.flat_map(|RowFiles { split, paths, .. }| paths.into_iter().map(move |path| (split, path)));
    let pairs = &experiment.stages.pairs;
    Ok(RowSource {
        conversations: keeps_conversations(experiment),
        ..source_of(&experiment.world.rows, files.collect(), [pairs.rows, pairs.holdout_rows])
    })
}

/// The rows of these files: at most `most` for training and for each of the other splits.
pub(crate) fn source_of(rows: &RowsSettings, files: Vec<(Option<Split>, PathBuf)>, most: [usize; 2]) -> RowSource {
    RowSource {
        files,
        columns: Columns::from(rows),
        holdout: rows.holdout,
        prompt_tokens: rows.prompt_tokens,
        response_tokens: rows.response_tokens,
        long_prompts: rows.long_prompts,
        long_responses: rows.long_responses,
        most,
        conversations: false,
    }
}

/// Whether a judge is learned from pairs of texts: from people's ratings, or from the rows.
pub(crate) fn learns_preferences(experiment: &Experiment) -> bool {
    match experiment.judge.kind {
        JudgeKind::Ratings => true,
        JudgeKind::World => experiment.world.kind == WorldKind::Rows,
        _ => false,
    }
}

/// The judge of an experiment: its own setting, or the default of its world.
pub(crate) fn needs_sentiment(experiment: &Experiment) -> bool {
    match experiment.judge.kind {
        JudgeKind::Sentiment => true,
        JudgeKind::World => experiment.world.kind == WorldKind::Reviews,
        _ => false,
    }
}

/// Whether a model reads prompts with another tokenizer than the policy's, so that they are kept as in the rows.
pub(crate) fn keeps_conversations(experiment: &Experiment) -> bool {
    experiment.judge.kind == JudgeKind::Model || experiment.stages.rm.is_pretrained()
}

/// Whether an experiment reads the film reviews or their ratings.
pub(crate) fn reads_reviews(experiment: &Experiment) -> bool {
    experiment.world.kind == WorldKind::Reviews
        || matches!(experiment.judge.kind, JudgeKind::Sentiment | JudgeKind::Ratings)
}

/// Opens the world of an experiment; `corpus` is the folder of that stage, where there is one.
pub(crate) fn open(experiment: &Experiment, corpus: Option<&Path>, device: &Device) -> Result<LoadedWorld> {
    let settings = &experiment.world;
    let (Some(folder), false) = (corpus, settings.kind == WorldKind::Grammar) else {
        let grammar = Arc::new(GrammarWorld::new(settings.grammar.rho, settings.grammar.sft_rows));
        let gold = Arc::new(GrammarGold);
        return Ok(LoadedWorld {
            world: grammar.clone(),
            grammar: Some(grammar),
            reviews: None,
            rows: None,
            gold,
            pairwise: None,
        });
    };
    let pretrained = pretrained(experiment)?;
    match (settings.kind, pretrained) {
        (WorldKind::Rows, Some(pretrained)) => {
            let world = Arc::new(RowsWorld::open(
                folder,
                pretrained.encoder(&settings.rows)?,
                rows_space(experiment, &pretrained),
            )?);
            let gold = gold(experiment, folder, world.clone(), device)?;
            let pairwise = pair_scorer(experiment, world.clone(), device)?;
            Ok(LoadedWorld { world: world.clone(), grammar: None, reviews: None, rows: Some(world), gold, pairwise })
        }
        (_, pretrained) => {
            let sizes_of = |pretrained: PretrainedModel| -> Result<_> {
                Ok((reviews_space(experiment, &pretrained)?, pretrained.start(&settings.reviews)?))
            };
            let pretrained = pretrained.map(sizes_of).transpose()?;
            let world = Arc::new(ReviewsWorld::open(folder, reviews_sizes(experiment), pretrained)?);
            let gold = gold(experiment, folder, world.clone(), device)?;
            let pairwise = pair_scorer(experiment, world.clone(), device)?;
            Ok(LoadedWorld { world: world.clone(), grammar: None, reviews: Some(world), rows: None, gold, pairwise })
        }
    }
}

/// What every judge of text reads of a response, and how many words of it at most.
fn judged_text(experiment: &Experiment) -> (JudgedText, usize) {
    match experiment.world.kind {
        // a prefix without its rest says little
        WorldKind::Reviews => (JudgedText::All, experiment.world.reviews.judged_words),
        _ => (experiment.judge.reads, experiment.world.rows.judged_words),
    }
}

/// Rules as a scorer of the world's responses, which read what its judge reads; `None` where responses are no text.
///
/// # Errors
/// A pattern that is no regular expression.
pub(crate) fn rules_scorer(
    experiment: &Experiment,
    loaded: &LoadedWorld,
    rules: &[Rule],
) -> Result<Option<Arc<dyn Scorer>>> {
    let Some(world) = loaded.text() else { return Ok(None) };
    let (reads, judged_words) = judged_text(experiment);
    let judge = Arc::new(RulesJudge::new(rules)?);
    Ok(Some(Arc::new(TextScorer { judge, world, reads, judged_words, token_ends: false })))
}

/// Whether the rules of the judge and of all arms can be used.
///
/// # Errors
/// A pattern that is no regular expression.
pub(crate) fn check_rules(experiment: &Experiment) -> Result<()> {
    RulesJudge::new(&experiment.judge.rules)?;
    for point in experiment.arms.values().flat_map(Arm::representative_points) {
        if let Some(shared) = point.method.on_policy() {
            RulesJudge::new(shared.reward.rules())?;
        }
    }
    Ok(())
}

/// The judge of pairs of the world's responses, which reads of each what the judge reads; its program is started, or its model's weights
/// are read, when it is first asked.
///
/// # Errors
/// A model that cannot be opened, or that cannot be asked its question.
fn pair_scorer(
    experiment: &Experiment,
    world: Arc<dyn Detokenize>,
    device: &Device,
) -> Result<Option<Arc<PairScorer>>> {
    let settings = &experiment.evaluation.pairwise;
    if settings.is_off() {
        return Ok(None);
    }
    let judge: Arc<dyn PairJudge> = match asked_model(experiment)? {
        Some((model, question)) => {
            let (numbers, context) = (frozen_numbers(settings.numbers), question.context());
            let on = device.clone();
            Arc::new(ModelPairJudge::new(question, settings.batch, device, move || {
                let policy = match numbers {
                    Some(numbers) => model.rounded(context, numbers, &on)?,
                    None => model.policy(context, &on)?,
                };
                Ok(policy.no_grad())
            }))
        }
        None => {
            let timeout = Duration::from_secs_f64(settings.timeout);
            Arc::new(CommandJudge::new(settings.command.clone(), timeout, settings.batch))
        }
    };
    let (reads, judged_words) = judged_text(experiment);
    Ok(Some(Arc::new(PairScorer { judge, world, reads, judged_words })))
}

/// The language model that judges pairs, where there is one, and what it is asked; its weights are not read.
fn asked_model(experiment: &Experiment) -> Result<Option<(Pretrained, PairQuestion)>> {
    let settings = &experiment.evaluation.pairwise;
    if !settings.is_model() {
        return Ok(None);
    }
    let PretrainedModel { model, tokenizer, named_tokens, .. } = PretrainedModel::open(&settings.model)?;
    let rows = RowsSettings { date: experiment.world.rows.date.clone(), ..RowsSettings::defaults() };
    let template = template(&model, &tokenizer, &named_tokens, &rows)?;
    let sizes = [model.config.vocabulary, ModelPairJudge::context(model.config.context)];
    let question = PairQuestion::new(&settings.question, tokenizer, template, sizes)?;
    Ok(Some((model, question)))
}

/// Whether the model that judges pairs can be asked its question.
///
/// # Errors
/// As [`PairQuestion::new`]; a model that cannot be opened.
pub(crate) fn check_pairwise(experiment: &Experiment) -> Result<()> {
    asked_model(experiment).map(|_| ())
}

/// The judge as a scorer of the world's responses.
fn gold(
    experiment: &Experiment,
    folder: &Path,
    world: Arc<dyn Detokenize>,
    device: &Device,
) -> Result<Arc<dyn Scorer>> {
    let (judge, (reads, judged_words)) = (&experiment.judge, judged_text(experiment));
    if judge.kind == JudgeKind::Model {
        let path = sources::model(Path::new(&judge.model))?;
        let (date, device) = (experiment.world.rows.date.clone(), device.clone());
        return Ok(Arc::new(ModelJudge::new(move || {
            let reward = PretrainedReward::open(&path)?;
            Ok((reward.scalar_model(&device)?.no_grad(), reward.reader(world.clone(), &date, judged_words, &device)?))
        })));
    }
    let clip =
        if experiment.world.kind == WorldKind::Reviews { experiment.world.reviews.gold_clip } else { judge.clip };
    // judges of words count words by their own rule; for all others words are separated by spaces
    let mut most_words = judged_words;
    let text_judge: Arc<dyn TextJudge> = match judge.kind {
        JudgeKind::Rules => Arc::new(RulesJudge::new(&judge.rules)?),
        JudgeKind::Command => {
            Arc::new(CommandJudge::new(judge.command.clone(), Duration::from_secs_f64(judge.timeout), judge.batch))
        }
        _ if needs_sentiment(experiment) => {
            most_words = usize::MAX;
            let sentiment = Sentiment::open(&folder.join(SENTIMENT))?;
            Arc::new(SentimentJudge { sentiment, judged_words, clip })
        }
        _ => {
            most_words = usize::MAX;
            Arc::new(PreferenceJudge {
                preference: BagOfWordsPreference::open(&folder.join(TASTE))?,
                judged_words,
                clip,
            })
        }
    };
    Ok(Arc::new(TextScorer { judge: text_judge, world, reads, judged_words: most_words, token_ends: judge.token_ends }))
}
