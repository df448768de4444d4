//! The stage `corpus`: tokenizer, prompts and rows as ids, and the learned judge.

use super::context::StageContext;
use crate::error::{Error, Result};
use crate::world::{
    PretrainedModel, SENTIMENT, TASTE, needs_sentiment, pretrained, reads_reviews, row_source, rows_space,
    tokenizer_summary,
};
use duel_data::pairs::PreferenceRow;
use duel_data::reviews;
use duel_data::rows::{self, FindingKind, RowsWorld};
use duel_ledger::StageRecorder;
use duel_reward::{BagOfWordsPreference, Sentiment, response_text};
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Clocks, Experiment, JudgeKind, Recorder, Split, WorldKind};
use duel_training::PairBatch;
use rand::RngExt;
use std::path::{Path, PathBuf};

/// Pairs of rated sentences that the preference judge is learned from, and the share of sentences held out to measure it.
const RATED_PAIRS: usize = 40_000;
const RATED_HELDOUT: f64 = 0.2;

/// The stage `corpus`: tokenizer, prompts and rows as ids, and the learned judge.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let experiment = context.experiment;
    let settings = &experiment.world.reviews;
    let folder = PathBuf::from(&settings.data);
    recorder.progress(0, 3, "reading");
    let pretrained = pretrained(experiment)?;
    let thirds = if reads_reviews(experiment) { Some(reviews::load_thirds(&folder)?) } else { None };

    // 1. Prompts and rows.
    recorder.progress(1, 3, "tokenizer");
    match (experiment.world.kind, &thirds, &pretrained) {
        (WorldKind::Reviews, Some(thirds), pretrained) => {
            let tokenizer = match pretrained {
                Some(pretrained) => reviews::TokenizerSource::Given(
                    Box::new(pretrained.tokenizer.clone()),
                    pretrained.start(settings)?,
                    pretrained.eos,
                ),
                None => reviews::TokenizerSource::Own(settings.vocabulary),
            };
            reviews::prepare(thirds, tokenizer, settings.prompt_tokens, to)?;
        }
        (WorldKind::Rows, _, Some(pretrained)) => prepare_rows(experiment, pretrained, to, recorder)?,
        _ => {}
    }

    // 2. The judge.
    recorder.progress(2, 3, "judge");
    let mut rng = seeds::stream(0, Stream::HumanPairs, 0);
    if let (true, Some(thirds)) = (needs_sentiment(experiment), &thirds) {
        let judge = Sentiment::train(&thirds.gold, settings.judged_words);
        judge.save(&to.join(SENTIMENT))?;
        let rated = reviews::load_ratings(&folder)?;
        let quality = judge.report(&thirds.language, &rated, settings.judged_words, &mut rng);
        let mut record = |metric, value| recorder.record("corpus", Clocks::default(), metric, value);
        record(metrics::GOLD_ACCURACY, quality.accuracy);
        record(metrics::GOLD_ACCURACY_WINDOW, quality.accuracy_window);
        record(metrics::GOLD_CALIBRATION, quality.calibration_error);
        record(metrics::GOLD_HUMAN_AGREEMENT, quality.human_agreement);
    }
    if experiment.judge.kind == JudgeKind::Ratings {
        let agreement = from_ratings(&folder, &to.join(TASTE))?;
        recorder.record("corpus", Clocks::default(), metrics::GOLD_HUMAN_AGREEMENT, agreement);
    }
    if let (WorldKind::Rows, JudgeKind::World, Some(pretrained)) =
        (experiment.world.kind, experiment.judge.kind, pretrained)
    {
        let space = rows_space(experiment, &pretrained);
        from_rows(&RowsWorld::open(to, pretrained.encoder(&experiment.world.rows)?, space)?, &to.join(TASTE))?;
    }
    Ok(())
}

/// The user's rows as ids, split by a hash of the prompt.
fn prepare_rows(
    experiment: &Experiment,
    pretrained: &PretrainedModel,
    to: &Path,
    recorder: &mut StageRecorder,
) -> Result<()> {
    let stats = rows::prepare(&row_source(experiment)?, &pretrained.encoder(&experiment.world.rows)?, to)?;
    tracing::info!("{stats}");
    tokenizer_summary(&pretrained.model, &pretrained.tokenizer).iter().for_each(|line| tracing::info!("{line}"));
    for (kind, finding) in &stats.findings {
        finding.first.iter().for_each(|row| match kind.is_error() {
            true => tracing::warn!("left out: {row}"),
            false => tracing::info!("{row}"),
        });
    }
    if stats.kept == 0 {
        check_prompts_alone(experiment)?;
    }
    let mut record = |metric, count: usize| recorder.record("corpus", Clocks::default(), metric, count as f64);
    record(metrics::ROWS_READ, stats.read);
    record(metrics::ROWS_KEPT, stats.kept);
    for (metric, kind) in ROW_METRICS {
        record(metric, stats.count(kind));
    }
    Ok(())
}

/// Records how many rows were changed or left out.
const ROW_METRICS: [(Metric, FindingKind); 9] = [
    (metrics::ROWS_UNREADABLE, FindingKind::Unreadable),
    (metrics::ROWS_SAME, FindingKind::Same),
    (metrics::ROWS_DUPLICATE, FindingKind::Duplicates),
    (metrics::ROWS_LONG_PROMPT, FindingKind::PromptsTooLong),
    (metrics::ROWS_LONG_RESPONSE, FindingKind::ResponsesTooLong),
    (metrics::ROWS_PROMPT_CUT, FindingKind::PromptsCut),
    (metrics::ROWS_RESPONSE_CUT, FindingKind::ResponsesCut),
    (metrics::ROWS_CUT_AT_EOS, FindingKind::Cut),
    (metrics::ROWS_MERGED, FindingKind::Merged),
];

/// A preference judge learned from single ratings of film sentences, two raters per pair, so that it has their noise; also
/// returns how often it orders held-out sentences as the means do.
fn from_ratings(folder: &Path, to: &Path) -> Result<f64> {
    let raters = reviews::load_raters(folder)?;
    let rated = reviews::load_ratings(folder)?;
    // neighbours are of the same film: the end is held out as a whole
    let train_count = (raters.len() as f64 * (1.0 - RATED_HELDOUT)) as usize;
    let texts: Vec<&str> = raters[..train_count].iter().map(|one| one.text.as_str()).collect();
    let mut rng = seeds::stream(0, Stream::RatedPairs, 0);
    let pairs: Vec<(usize, usize, f32)> = (0..RATED_PAIRS)
        .map(|_| {
            let places = [rng.random_range(0..train_count), rng.random_range(0..train_count)];
            let [a, b] = places.map(|place| {
                let ratings = &raters[place].ratings;
                ratings[rng.random_range(0..ratings.len())]
            });
            let label = if a == b { 0.5 } else { f32::from(a > b) };
            (places[0], places[1], label)
        })
        .collect();
    let taste = BagOfWordsPreference::fit(&texts, &pairs);
    taste.save(to)?;
    Ok(taste.agreement(&rated[train_count..], &mut rng))
}

/// A preference judge learned from the rows on validation and test prompts, which no method sees.
fn from_rows(world: &RowsWorld, to: &Path) -> Result<()> {
    let held_out: Vec<PreferenceRow> = world.rows().iter().filter(|row| row.split != Split::Train).cloned().collect();
    let responses = PairBatch::new(&held_out, &(0..held_out.len()).collect::<Vec<_>>()).both;
    let order = (0..held_out.len()).flat_map(|row| [row, held_out.len() + row]);
    let texts = order.map(|row| Ok(response_text(world, &responses, row)?)).collect::<Result<Vec<String>>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pairs: Vec<_> = held_out.iter().enumerate().map(|(i, row)| (2 * i, 2 * i + 1, row.p_label as f32)).collect();
    Ok(BagOfWordsPreference::fit(&texts, &pairs).save(to)?)
}

/// Prompts alone are enough only if neither a judge nor an SFT policy is learned from the rows.
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
