//! The world of an experiment as its stages see it: prompts, judge, and the model that somebody else has trained.

use crate::{Error, Result};
use duel_data::chat::ChatTemplate;
use duel_data::grammar::GrammarWorld;
use duel_data::records::Columns;
use duel_data::reviews::{self, PromptSizes, ReviewsWorld};
use duel_data::rows::{self, PrepareStats, RowSource, RowsWorld};
use duel_data::{Detokenize, Encoder, TextTokenizer, World};
use duel_ledger::StageRecorder;
use duel_model::{Pretrained, TransformerConfig};
use duel_reward::{
    BagOfWordsPreference, CommandJudge, GrammarGold, PreferenceJudge, RulesJudge, Scorer, Sentiment, SentimentJudge,
    TextJudge, TextScorer,
};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Clocks, Experiment, JudgeKind, JudgedText, Recorder, Split, TokenSpec, WorldKind, metrics};
use rand::RngExt;
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
}

/// File names within the corpus stage.
const SENTIMENT: &str = "gold.json";
const TASTE: &str = "taste.json";
/// Pairs of rated sentences that a taste is learned from, and the share of sentences kept to measure it.
const RATED_PAIRS: usize = 40_000;
const RATED_HELDOUT: f64 = 0.2;

/// A model that somebody else has trained, with its words.
pub(crate) struct PretrainedModel {
    pub(crate) model: Pretrained,
    tokenizer: TextTokenizer,
    eos: u32,
}

impl PretrainedModel {
    /// Opens it; its weights are not read yet.
    ///
    /// # Errors
    /// A model without a tokenizer, or whose tokenizer has no EOS.
    pub(crate) fn open(path: &str) -> Result<Self> {
        let path = Path::new(path);
        let model = Pretrained::open(path)?;
        let lacking = |name: &str| duel_model::Error::Lacking { name: name.into() };
        let tokenizer = tokenizer(path, &model)?.ok_or_else(|| lacking("tokenizer.json"))?;
        let eos = model.words.special.eos.ok_or_else(|| lacking("eos_token_id"))?;
        Ok(Self { tokenizer, eos, model })
    }

    /// The ids of a world in its words. Of control tokens a response may hold EOS alone; PAD is another one of them, where
    /// there is another.
    pub(crate) fn space(&self, prompt_tokens: usize, response_tokens: usize) -> TokenSpec {
        let special = self.model.words.special;
        let controls = self.tokenizer.controls();
        let other = |id: &u32| *id != self.eos;
        let pad = special.pad.filter(other).or_else(|| controls.iter().copied().find(other)).unwrap_or(self.eos);
        let words = self.tokenizer.vocabulary().min(self.model.config.vocabulary) as u32;
        let said = |id: &u32| *id == self.eos || !(controls.contains(id) || *id == pad);
        TokenSpec {
            vocabulary: self.model.config.vocabulary,
            pad,
            bos: special.bos.unwrap_or(pad),
            eos: self.eos,
            prompt_tokens,
            response_tokens,
            allowed_tokens: Some((0..words).filter(said).collect()),
            force_eos: false,
        }
    }

    /// What it reads before every opening of a review.
    fn start(&self, reviews: &duel_spec::ReviewsSettings) -> Result<Vec<u32>> {
        Ok(self.tokenizer.encode_start(&reviews.preface)?)
    }

    /// What turns rows into its ids; `date`: what a chat template takes for today.
    pub(crate) fn encoder(&self, date: &str) -> Result<Encoder> {
        let special = self.model.words.special;
        let text = |id: Option<u32>| id.and_then(|id| self.tokenizer.token(id));
        let template = self.model.words.template.as_ref();
        let template =
            template.map(|source| ChatTemplate::new(source, text(special.bos), text(special.eos))?.dated(date));
        let encoder = Encoder::new(self.tokenizer.clone(), template.transpose()?, self.eos);
        Ok(encoder.for_model(self.model.config.vocabulary, self.space(0, 0).pad))
    }
}

/// The tokenizer of a model's files.
///
/// # Errors
/// One that the library cannot read.
pub(crate) fn tokenizer(path: &Path, model: &Pretrained) -> Result<Option<TextTokenizer>> {
    let Some(bytes) = &model.words.tokenizer else { return Ok(None) };
    let damaged = |e: duel_data::Error| {
        let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
        duel_model::Error::Damaged { path, problem: e.to_string() }
    };
    Ok(Some(TextTokenizer::from_bytes(bytes).map_err(damaged)?))
}

/// The model that an experiment begins from, where somebody else has trained it.
fn given(experiment: &Experiment) -> Result<Option<PretrainedModel>> {
    experiment.is_pretrained().then(|| PretrainedModel::open(&experiment.model.from)).transpose()
}

/// The ids of an experiment's world, and its model's sizes, without looking at any data.
pub(crate) fn sizes(experiment: &Experiment) -> Result<(TokenSpec, TransformerConfig)> {
    let world = &experiment.world;
    let given = given(experiment)?;
    let space = match (world.kind, &given) {
        (WorldKind::Rows, Some(given)) => rows_space(experiment, given),
        (WorldKind::Reviews, Some(given)) => reviews_space(experiment, given)?,
        (WorldKind::Reviews, None) => {
            let space = reviews_sizes(experiment).space(world.reviews.vocabulary);
            // what is said when speed is measured: anything but PAD, BOS and EOS
            let special = [space.pad, space.bos, space.eos];
            let said = (0..space.vocabulary as u32).filter(|id| !special.contains(id)).collect();
            TokenSpec { allowed_tokens: Some(said), ..space }
        }
        _ => GrammarWorld::new(world.grammar.rho, 1).space().clone(),
    };
    let config = match given {
        Some(given) => given.model.config_for(space.context())?,
        None => fresh_config(experiment, &space),
    };
    Ok((space, config))
}

/// The shape of an experiment's model in a world.
pub(crate) fn model_of(experiment: &Experiment, space: &TokenSpec) -> Result<TransformerConfig> {
    if experiment.is_pretrained() {
        return Ok(Pretrained::open(Path::new(&experiment.model.from))?.config_for(space.context())?);
    }
    Ok(fresh_config(experiment, space))
}

/// The shape of a model that nobody has trained yet.
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

fn reviews_space(experiment: &Experiment, given: &PretrainedModel) -> Result<TokenSpec> {
    let settings = &experiment.world.reviews;
    Ok(given.space(given.start(settings)?.len() + settings.prompt_tokens, settings.response_tokens))
}

fn rows_space(experiment: &Experiment, given: &PretrainedModel) -> TokenSpec {
    given.space(experiment.world.rows.prompt_tokens, experiment.world.rows.response_tokens)
}

/// The files of a person's rows, with the split of each where it has one.
pub(crate) fn row_files(experiment: &Experiment) -> Vec<(Option<Split>, PathBuf)> {
    let rows = &experiment.world.rows;
    if rows.validation.is_empty() {
        return vec![(None, PathBuf::from(&rows.train))];
    }
    let files = [(Split::Train, &rows.train), (Split::Validation, &rows.validation), (Split::Test, &rows.test)];
    files.into_iter().map(|(split, file)| (Some(split), PathBuf::from(file))).collect()
}

/// Prompts alone can do without rows to learn a taste or an SFT policy from only where neither is asked for.
fn check_prompts_alone(experiment: &Experiment) -> Result<()> {
    let refuse = |what, hint| Err(Error::OnlyPrompts { what, hint });
    if experiment.judge.kind == JudgeKind::World {
        return refuse("a judge that learns from them", "choose another `judge.kind`: `duel defaults` lists them");
    }
    if experiment.stages.sft.steps > 0 {
        return refuse("SFT", "set stages.sft.steps = 0 to start from the model as it is");
    }
    Ok(())
}

/// The columns of a person's rows.
fn columns(experiment: &Experiment) -> Columns {
    let rows = &experiment.world.rows;
    Columns { prompt: rows.prompt.clone(), chosen: rows.chosen.clone(), rejected: rows.rejected.clone() }
}

/// Which judge an experiment has: its own word, or its world's.
fn needs_sentiment(experiment: &Experiment) -> bool {
    match experiment.judge.kind {
        JudgeKind::Sentiment => true,
        JudgeKind::World => experiment.world.kind == WorldKind::Reviews,
        _ => false,
    }
}

/// Whether an experiment reads the film reviews or their ratings.
pub(crate) fn reads_reviews(experiment: &Experiment) -> bool {
    experiment.world.kind == WorldKind::Reviews
        || matches!(experiment.judge.kind, JudgeKind::Sentiment | JudgeKind::Ratings)
}

/// The stage `corpus`: tokenizer, prompts and rows as ids, and whatever the judge has to learn.
pub(crate) fn prepare(experiment: &Experiment, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let settings = &experiment.world.reviews;
    let folder = PathBuf::from(&settings.data);
    recorder.progress(0, 3, "reading");
    let given = given(experiment)?;
    let thirds = if reads_reviews(experiment) { Some(reviews::load_thirds(&folder)?) } else { None };

    // 1. Prompts and rows.
    recorder.progress(1, 3, "tokenizer");
    match (experiment.world.kind, &thirds, &given) {
        (WorldKind::Reviews, Some(thirds), given) => {
            let words = match given {
                Some(given) => reviews::TokenizerSource::Given(
                    Box::new(given.tokenizer.clone()),
                    given.start(settings)?,
                    given.eos,
                ),
                None => reviews::TokenizerSource::Own(settings.vocabulary),
            };
            reviews::prepare(thirds, words, settings.prompt_tokens, to)?;
        }
        (WorldKind::Rows, _, Some(given)) => {
            let (rows, pairs) = (&experiment.world.rows, &experiment.stages.pairs);
            let source = RowSource {
                files: row_files(experiment),
                columns: columns(experiment),
                holdout: rows.holdout,
                prompt_tokens: rows.prompt_tokens,
                response_tokens: rows.response_tokens,
                most: [pairs.rows, pairs.holdout_rows],
            };
            let tally: PrepareStats = rows::prepare(&source, &given.encoder(&experiment.world.rows.date)?, to)?;
            tracing::info!("{tally}");
            tally.left_out.iter().for_each(|row| tracing::warn!("left out: {row}"));
            if tally.kept == 0 {
                check_prompts_alone(experiment)?;
            }
            let mut say = |metric, count: usize| recorder.record("corpus", Clocks::default(), metric, count as f64);
            say(metrics::ROWS_READ, tally.read);
            say(metrics::ROWS_KEPT, tally.kept);
        }
        _ => {}
    }

    // 2. The judge.
    recorder.progress(2, 3, "judge");
    let mut rng = seeds::stream(0, Stream::HumanPairs, 0);
    if let (true, Some(thirds)) = (needs_sentiment(experiment), &thirds) {
        let judge = Sentiment::train(&thirds.gold, settings.judged_words);
        judge.save(&to.join(SENTIMENT))?;
        let rated = reviews::load_ratings(&folder)?;
        let report = judge.report(&thirds.language, &rated, settings.judged_words, &mut rng);
        let mut say = |metric, value| recorder.record("corpus", Clocks::default(), metric, value);
        say(metrics::GOLD_ACCURACY, report.accuracy);
        say(metrics::GOLD_ACCURACY_WINDOW, report.accuracy_window);
        say(metrics::GOLD_CALIBRATION, report.calibration_error);
        say(metrics::GOLD_HUMAN_AGREEMENT, report.human_agreement);
    }
    if experiment.judge.kind == JudgeKind::Ratings {
        let agreement = from_ratings(&folder, &to.join(TASTE))?;
        recorder.record("corpus", Clocks::default(), metrics::GOLD_HUMAN_AGREEMENT, agreement);
    }
    if let (WorldKind::Rows, JudgeKind::World, Some(given)) = (experiment.world.kind, experiment.judge.kind, given) {
        let space = rows_space(experiment, &given);
        from_rows(&RowsWorld::open(to, given.encoder(&experiment.world.rows.date)?, space)?, &to.join(TASTE))?;
    }
    Ok(())
}

/// A taste learned from single ratings of film sentences, two raters a pair, so that their noise is in it; returns how often it
/// orders held-out sentences as the means do.
fn from_ratings(folder: &Path, to: &Path) -> Result<f64> {
    let judged = reviews::load_raters(folder)?;
    let rated = reviews::load_ratings(folder)?;
    // neighbours are of one film: the end is held out in one piece
    let kept = (judged.len() as f64 * (1.0 - RATED_HELDOUT)) as usize;
    let texts: Vec<&str> = judged[..kept].iter().map(|one| one.text.as_str()).collect();
    let mut rng = seeds::stream(0, Stream::RatedPairs, 0);
    let pairs: Vec<(usize, usize, f32)> = (0..RATED_PAIRS)
        .map(|_| {
            let places = [rng.random_range(0..kept), rng.random_range(0..kept)];
            let [a, b] = places.map(|place| {
                let ratings = &judged[place].ratings;
                ratings[rng.random_range(0..ratings.len())]
            });
            let label = if a == b { 0.5 } else { f32::from(a > b) };
            (places[0], places[1], label)
        })
        .collect();
    let taste = BagOfWordsPreference::fit(&texts, &pairs);
    taste.save(to)?;
    Ok(taste.agreement(&rated[kept..], &mut rng))
}

/// A taste learned from the rows on validation and test prompts, which no method sees.
fn from_rows(world: &RowsWorld, to: &Path) -> Result<()> {
    let held_out = || world.rows().iter().filter(|row| row.split != Split::Train);
    let said = held_out().flat_map(|row| [&row.chosen, &row.rejected]);
    let texts = said.map(|ids| Ok(world.text(ids)?)).collect::<Result<Vec<String>>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pairs: Vec<_> = held_out().enumerate().map(|(i, row)| (2 * i, 2 * i + 1, row.p_label as f32)).collect();
    Ok(BagOfWordsPreference::fit(&texts, &pairs).save(to)?)
}

/// Opens the world of an experiment; `corpus` is the folder of that stage, where there is one.
pub(crate) fn open(experiment: &Experiment, corpus: Option<&Path>) -> Result<LoadedWorld> {
    let settings = &experiment.world;
    let (Some(folder), false) = (corpus, settings.kind == WorldKind::Grammar) else {
        let grammar = Arc::new(GrammarWorld::new(settings.grammar.rho, settings.grammar.sft_rows));
        let gold = Arc::new(GrammarGold);
        return Ok(LoadedWorld { world: grammar.clone(), grammar: Some(grammar), reviews: None, rows: None, gold });
    };
    let given = given(experiment)?;
    match (settings.kind, given) {
        (WorldKind::Rows, Some(given)) => {
            let world =
                Arc::new(RowsWorld::open(folder, given.encoder(&settings.rows.date)?, rows_space(experiment, &given))?);
            let gold = gold(experiment, folder, world.clone(), experiment.judge.reads, settings.rows.judged_words)?;
            Ok(LoadedWorld { world: world.clone(), grammar: None, reviews: None, rows: Some(world), gold })
        }
        (_, given) => {
            let spoken = |given: PretrainedModel| -> Result<_> {
                Ok((reviews_space(experiment, &given)?, given.start(&settings.reviews)?))
            };
            let given = given.map(spoken).transpose()?;
            let world = Arc::new(ReviewsWorld::open(folder, reviews_sizes(experiment), given)?);
            // a prefix without its rest says little
            let gold = gold(experiment, folder, world.clone(), JudgedText::All, settings.reviews.judged_words)?;
            Ok(LoadedWorld { world: world.clone(), grammar: None, reviews: Some(world), rows: None, gold })
        }
    }
}

/// The judge as a scorer of the world's responses.
fn gold(
    experiment: &Experiment,
    folder: &Path,
    world: Arc<dyn Detokenize>,
    reads: JudgedText,
    judged_words: usize,
) -> Result<Arc<dyn Scorer>> {
    let judge = &experiment.judge;
    let clip =
        if experiment.world.kind == WorldKind::Reviews { experiment.world.reviews.gold_clip } else { judge.clip };
    // judges of words count them as they do; all others read as many as stand between spaces
    let mut read = judged_words;
    let asked: Arc<dyn TextJudge> = match judge.kind {
        JudgeKind::Rules => Arc::new(RulesJudge::new(&judge.rules)?),
        JudgeKind::Command => {
            Arc::new(CommandJudge::new(judge.command.clone(), Duration::from_secs_f64(judge.timeout), judge.batch))
        }
        _ if needs_sentiment(experiment) => {
            read = usize::MAX;
            let sentiment = Sentiment::open(&folder.join(SENTIMENT))?;
            Arc::new(SentimentJudge { sentiment, judged_words, clip })
        }
        _ => {
            read = usize::MAX;
            Arc::new(PreferenceJudge {
                preference: BagOfWordsPreference::open(&folder.join(TASTE))?,
                judged_words,
                clip,
            })
        }
    };
    Ok(Arc::new(TextScorer { judge: asked, world, reads, judged_words: read }))
}
