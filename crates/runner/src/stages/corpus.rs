//! The stage `corpus`: tokenizer, prompts and rows as ids, and the learned judge.

use super::context::{StageContext, check_unpaired};
use crate::error::{Error, Result};
use crate::world::{
    PretrainedModel, SENTIMENT, TASTE, needs_sentiment, pretrained, reads_reviews, row_source, rows_space,
    tokenizer_summary,
};
use duel_data::Detokenize;
use duel_data::pairs::PreferenceRow;
use duel_data::reviews::{self, CorpusSplits, RatedSentence, RaterScores};
use duel_data::rows::{self, FindingKind, RowStats, RowsWorld};
use duel_ledger::StageRecorder;
use duel_reward::{BagOfWordsPreference, Sentiment, response_text};
use duel_spec::metrics::{self, Metric};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Clocks, Experiment, JudgeKind, Recorder, Split, WorldKind};
use duel_training::PairBatch;
use rand::RngExt;
use std::cmp::Ordering;
use std::path::Path;

/// Pairs of rated sentences that the preference judge is learned from, and the share of sentences held out to measure it.
const RATED_PAIRS: usize = 40_000;
const RATED_HELDOUT: f64 = 0.2;

/// The stage `corpus`: tokenizer, prompts and rows as ids, and the learned judge.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    recorder.progress(0, 3, "reading");
    let folder = Path::new(&context.experiment.world.reviews.data);
    let films = if reads_reviews(context.experiment) { Some(Films::load(folder)?) } else { None };
    write(context.experiment, films.as_ref(), to, recorder)
}

/// Film reviews, and sentences of them with human ratings.
struct Films {
    thirds: CorpusSplits,
    rated: Vec<RatedSentence>,
    raters: Vec<RaterScores>,
}

impl Films {
    fn load(folder: &Path) -> Result<Self> {
        let thirds = reviews::load_thirds(folder)?;
        Ok(Self { thirds, rated: reviews::load_ratings(folder)?, raters: reviews::load_raters(folder)? })
    }
}

/// Writes the files of the stage; `films` are there where the experiment reads them.
fn write(experiment: &Experiment, films: Option<&Films>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let settings = &experiment.world.reviews;
    let pretrained = pretrained(experiment)?;

    // 1. Prompts and rows.
    recorder.progress(1, 3, "tokenizer");
    match (experiment.world.kind, films, &pretrained) {
        (WorldKind::Reviews, Some(films), pretrained) => {
            let tokenizer = match pretrained {
                Some(pretrained) => reviews::TokenizerSource::Given(
                    Box::new(pretrained.tokenizer.clone()),
                    pretrained.start(settings)?,
                    pretrained.eos,
                ),
                None => reviews::TokenizerSource::Own(settings.vocabulary),
            };
            reviews::prepare(&films.thirds, tokenizer, settings.prompt_tokens, to)?;
        }
        (WorldKind::Rows, _, Some(pretrained)) => prepare_rows(experiment, pretrained, to, recorder)?,
        _ => {}
    }

    // 2. The judge.
    recorder.progress(2, 3, "judge");
    let mut rng = seeds::stream(0, Stream::HumanPairs, 0);
    if let (true, Some(films)) = (needs_sentiment(experiment), films) {
        let judge = Sentiment::train(&films.thirds.gold, settings.judged_words);
        judge.save(&to.join(SENTIMENT))?;
        let quality = judge.report(&films.thirds.language, &films.rated, settings.judged_words, &mut rng);
        let mut record = |metric, value| recorder.record("corpus", Clocks::default(), metric, value);
        record(metrics::GOLD_ACCURACY, quality.accuracy);
        record(metrics::GOLD_ACCURACY_WINDOW, quality.accuracy_window);
        record(metrics::GOLD_CALIBRATION, quality.calibration_error);
        record(metrics::GOLD_HUMAN_AGREEMENT, quality.human_agreement);
    }
    if let (JudgeKind::Ratings, Some(films)) = (experiment.judge.kind, films) {
        let agreement = from_ratings(films, &to.join(TASTE))?;
        recorder.record("corpus", Clocks::default(), metrics::GOLD_HUMAN_AGREEMENT, agreement);
    }
    if let (WorldKind::Rows, JudgeKind::World, Some(pretrained)) =
        (experiment.world.kind, experiment.judge.kind, pretrained)
    {
        let space = rows_space(experiment, &pretrained);
        let world = RowsWorld::open(to, pretrained.encoder(&experiment.world.rows)?, space)?;
        let pairs = from_rows(&world, world.rows(), &to.join(TASTE))?;
        recorder.record("corpus", Clocks::default(), metrics::JUDGE_PAIRS, pairs as f64);
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
    check_rows(experiment, &stats)?;
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
fn from_ratings(Films { rated, raters, .. }: &Films, to: &Path) -> Result<f64> {
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
            let label = match a.total_cmp(&b) {
                Ordering::Less => 0.0,
                Ordering::Equal => 0.5,
                Ordering::Greater => 1.0,
            };
            (places[0], places[1], label)
        })
        .collect();
    let taste = BagOfWordsPreference::fit(&texts, &pairs);
    taste.save(to)?;
    Ok(taste.agreement(&rated[train_count..], &mut rng))
}

/// A preference judge learned from the rows on validation and test prompts, which no method sees; returns their number.
fn from_rows(world: &dyn Detokenize, rows: &[PreferenceRow], to: &Path) -> Result<usize> {
    let held_out: Vec<PreferenceRow> = rows.iter().filter(|row| row.split != Split::Train).cloned().collect();
    let responses = PairBatch::new(&held_out, &(0..held_out.len()).collect::<Vec<_>>()).both;
    let order = (0..held_out.len()).flat_map(|row| [row, held_out.len() + row]);
    let texts = order.map(|row| Ok(response_text(world, &responses, row)?)).collect::<Result<Vec<String>>>()?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let pairs: Vec<_> = held_out.iter().enumerate().map(|(i, row)| (2 * i, 2 * i + 1, row.p_label as f32)).collect();
    BagOfWordsPreference::fit(&texts, &pairs).save(to)?;
    Ok(pairs.len())
}

/// Whether a run can use a person's rows, of which this is known.
///
/// # Errors
/// A split without rows, or a prompt in the files of two; prompts alone, or single completions with a label, where they are not enough.
pub(crate) fn check_rows(experiment: &Experiment, stats: &RowStats) -> Result<()> {
    stats.check()?;
    if stats.kept == 0 {
        check_prompts_alone(experiment)?;
    }
    check_unpaired(experiment, stats.unpaired)
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

#[cfg(test)]
mod tests {
    use super::super::evaluator::open_evaluator;
    use super::super::testing::{PlannedRun, recorder};
    use super::*;
    use crate::plan::StageKind;
    use crate::stages::run_stage;
    use duel_data::Result as DataResult;
    use duel_data::reviews::Review;
    use duel_evaluation::Evaluator;
    use duel_ledger::{MetricTable, StageDir, read_metrics};
    use duel_training::sft::RunningText;
    use std::collections::BTreeSet;

    /// The words that ids stand for.
    struct Words;

    impl Detokenize for Words {
        fn text(&self, ids: &[u32]) -> DataResult<String> {
            let word = |&id: &u32| ["good", "bad", "dull"].get(id as usize).copied().unwrap_or_default();
            Ok(ids.iter().map(word).collect::<Vec<_>>().join(" "))
        }
    }

    #[test]
    fn a_judge_is_learned_from_held_out_rows_alone() -> Result<()> {
        let row = |split, chosen: u32, rejected: u32, p_label| PreferenceRow {
            p_label,
            ..PreferenceRow::new(split, vec![9], vec![chosen], vec![rejected])
        };
        let rows = [
            row(Split::Train, 2, 0, 1.0),
            row(Split::Validation, 0, 1, 0.9),
            row(Split::Test, 0, 2, 0.6),
            row(Split::Validation, 1, 2, 0.75),
        ];
        let path = tempfile::tempdir().expect("a folder");
        let path = path.path().join(TASTE);
        from_rows(&Words, &rows, &path)?;
        let actual = BagOfWordsPreference::open(&path)?;
        let texts = ["good", "bad", "good", "dull", "bad", "dull"];
        let expected = BagOfWordsPreference::fit(&texts, &[(0, 1, 0.9), (2, 3, 0.6), (4, 5, 0.75)]);
        for word in ["good", "bad", "dull"] {
            let [actual, expected] = [&actual, &expected].map(|judge| judge.score(word, 1));
            assert!((actual - expected).abs() < 1e-6 && expected.abs() > 0.01, "{word}: {actual}, expected {expected}");
        }
        Ok(())
    }

    /// Films whose praise is "fine" and whose blame is "dull"; their ratings are of one sentence each.
    fn films() -> Films {
        let text = |i: usize, good: bool| {
            let verdict = if good { "fine" } else { "dull" };
            format!("{i} is a {verdict} film with {verdict} acting and a {verdict} script")
        };
        let reviews = |start: usize| -> Vec<Review> {
            let block = |positive| (start..start + 60).map(move |i| Review { text: text(i, positive), positive });
            block(false).chain(block(true)).collect()
        };
        let sentences: Vec<(String, f64)> =
            (0..10).map(|i| (text(i, i % 2 == 0), if i % 2 == 0 { 2.0 } else { -2.0 })).collect();
        Films {
            thirds: CorpusSplits { language: reviews(0), gold: reviews(100), prompts: reviews(200) },
            rated: sentences.iter().map(|(text, mean)| RatedSentence { text: text.clone(), mean: *mean }).collect(),
            raters: (sentences.iter())
                .map(|(text, mean)| RaterScores { text: text.clone(), ratings: vec![*mean] })
                .collect(),
        }
    }

    #[test]
    fn a_judge_is_learned_from_ratings_and_measured_on_later_sentences() -> Result<()> {
        let path = tempfile::tempdir().expect("a folder");
        let path = path.path().join(TASTE);
        let mut films = films();
        assert_eq!(from_ratings(&films, &path)?, 1.0);
        let taste = BagOfWordsPreference::open(&path)?;
        assert!(taste.score("fine", 1) > 0.0 && taste.score("dull", 1) < 0.0);
        // the last fifth is held out: what it says changes no weight, only the measure
        films.raters[8..].iter_mut().for_each(|sentence| sentence.ratings[0] *= -1.0);
        films.rated[8..].iter_mut().for_each(|sentence| sentence.mean *= -1.0);
        assert_eq!(from_ratings(&films, &path)?, 0.0);
        assert_eq!(BagOfWordsPreference::open(&path)?.score("fine", 1), taste.score("fine", 1));
        // equal ratings teach nothing
        films.raters.iter_mut().for_each(|sentence| sentence.ratings[0] = 1.0);
        from_ratings(&films, &path)?;
        assert!(BagOfWordsPreference::open(&path)?.score("fine", 1).abs() < 0.01);
        Ok(())
    }

    #[test]
    fn prompts_alone_teach_neither_a_judge_nor_sft() {
        let mut experiment = PlannedRun::new("[arms.a]\nmethod = \"ppo\"\n").experiment;
        let refused = |experiment: &Experiment| match check_prompts_alone(experiment) {
            Err(Error::OnlyPrompts { what, .. }) => Some(what),
            _ => None,
        };
        assert_eq!(refused(&experiment), Some("a judge that learns from them"));
        experiment.judge.kind = JudgeKind::Rules;
        assert_eq!(refused(&experiment), Some("SFT"));
        experiment.stages.sft.steps = 0;
        assert_eq!(refused(&experiment), None);
    }

    /// A small language model of film reviews, and the stages after it up to the reference's measures.
    #[test]
    fn film_reviews_are_prepared_learned_and_measured() -> Result<()> {
        let run = PlannedRun::new(
            "[world]\nkind = \"reviews\"\n[world.reviews]\nvocabulary = 300\nprompt_tokens = 3\nresponse_tokens = 12\n\
             [model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.base]\nsteps = 150\nbatch_size = 8\nwindow = 20\n\
             learning_rate = 0.02\n[stages.sft]\nsteps = 2\nbatch_size = 4\n[stages.pairs]\nrows = 8\nholdout_rows = 4\ntemperature = \"bayes\"\nbayes_accuracy = 0.7\n\
             [stages.rm]\nsteps = 2\nbatch_size = 4\nsamples = 8\n[evaluation]\nprompts = 2\nsamples_per_prompt = 4\n\
             best_of = 5\ncompletions = 2\n[arms.dpo]\nmethod = \"dpo\"\n",
        );
        let made = |kind: StageKind| -> Result<MetricTable> {
            let stage = run.stage(kind);
            let mut recorder = recorder();
            let folder = StageDir::make(&run.run.stages(), &stage.id, &stage.key, |to| -> Result<()> {
                if kind == StageKind::Corpus {
                    write(&run.experiment, Some(&films()), to, &mut recorder)?;
                    return Ok(recorder.write(to)?);
                }
                run_stage(&run.context(stage), to, &mut recorder)
            })?;
            Ok(read_metrics(&folder.file("metrics.parquet"))?)
        };
        let last = |table: &MetricTable, stage: &str, metric: Metric| {
            table.of(stage, metric.name).last().unwrap_or_else(|| panic!("no {}", metric.name)).clone()
        };

        let corpus = made(StageKind::Corpus)?;
        for metric in [metrics::GOLD_ACCURACY, metrics::GOLD_ACCURACY_WINDOW, metrics::GOLD_HUMAN_AGREEMENT] {
            assert_eq!(last(&corpus, "corpus", metric).value, 1.0, "{}", metric.name);
        }

        let base = made(StageKind::Base)?;
        let loss = last(&base, "base", metrics::NLL_TOKEN);
        assert_eq!((loss.clocks.step, loss.clocks.tokens), (150, 150 * 8 * 20));
        let context = run.context(run.stage(StageKind::Sft));
        let loaded = context.load_world()?;
        let policy = context.base_policy(loaded.world.as_ref())?;
        let method = RunningText::new(context.reader(loaded.world.as_ref()), &context.config(loaded.world.as_ref())?);
        let windows = loaded.reviews.as_ref().expect("reviews").language_heldout().chunks_exact(21);
        let losses: Vec<f64> = windows
            .map(|window| f64::from(duel_model::weights::host(method.loss(&policy, &[window.to_vec()]))[0]))
            .collect();
        let expected = losses.iter().sum::<f64>() / losses.len() as f64;
        assert!((loss.value - expected).abs() < 1e-5, "{}, expected {expected}", loss.value);
        assert!(expected < 0.9 * 300f64.ln(), "it has learned: {expected}");

        // SFT starts from the language model: two steps of a new one would learn nothing
        let sft = last(&made(StageKind::Sft)?, "sft", metrics::NLL_TOKEN).value;
        assert!(sft < 0.9 * 300f64.ln(), "{sft}");
        let tau = last(&made(StageKind::Pairs)?, "pairs", metrics::TAU).value;
        made(StageKind::Rm)?;
        // at the temperature that was found, the better of two train responses is preferred as often as it should be
        let rows = run.context(run.stage(StageKind::Rm)).rows()?;
        let train: Vec<&PreferenceRow> = rows.iter().filter(|row| row.split == Split::Train).collect();
        let better = |row: &&PreferenceRow| 1.0 / (1.0 + (-(row.gold_chosen - row.gold_rejected).abs() / tau).exp());
        let accuracy = train.iter().map(better).sum::<f64>() / train.len() as f64;
        assert!((accuracy - 0.7).abs() < 1e-9, "{accuracy} at {tau}");

        // a point of the curve reads no more prompts than the end
        let context = run.context(run.stage(StageKind::Yardstick));
        let Evaluator::Sampled { curve, end, .. } = open_evaluator(&context, &context.load_world()?, &policy)? else {
            panic!("reviews are sampled")
        };
        assert_eq!([curve.prompts, curve.samples_per_prompt], [2, 1]);
        assert_eq!([end.prompts, end.samples_per_prompt], [2, 4]);
        // the reference on validation and test prompts, and the best of 1, 2 and 4 of its responses: 8 would be more than 5
        let table = made(StageKind::Yardstick)?;
        let points: BTreeSet<(&str, &str, &str)> = (table.rows.iter())
            .filter(|row| &*row.metric == metrics::GOLD.name)
            .map(|row| (&*row.arm, &*row.point, &*row.stage))
            .collect();
        let splits = ["evaluation-test", "evaluation-validation"];
        let expected = [("best-of-n", "n=1"), ("best-of-n", "n=2"), ("best-of-n", "n=4"), ("reference", "sft")];
        assert_eq!(
            points,
            expected.iter().flat_map(|(arm, point)| splits.map(|split| (*arm, *point, split))).collect()
        );
        Ok(())
    }
}
