//! The stage that learns a reward from preference rows.

use super::batches::EpochSampler;
use super::context::{StageContext, adapted};
use super::files::{PROXY, load_json, save_json};
use crate::error::Result;
use crate::plan::{Stage, StageKind};
use crate::world::LoadedWorld;
use burn::module::Module;
use burn::tensor::Device;
use duel_data::World;
use duel_data::grammar::{MAX_SYMBOLS, excitements, token};
use duel_data::pairs::PreferenceRow;
use duel_evaluation::proxy_table;
use duel_ledger::StageRecorder;
use duel_model::{FileTensor, Policy, ResponseReader, Responses, ScalarModel, TransformerConfig, generate, weights};
use duel_reward::{Calibration, LearnedReward, Linear, RewardModel, RewardNetwork, RewardReader, Scorer, quality};
use duel_spec::seeds::{self, Stream};
use duel_spec::{Clocks, Recorder, RmCheckpointSelection, RmModel, RmStage, RmStart, Split, TokenSpec, metrics};
use duel_training::{BestCheckpoint, Learner, PairBatch, Splits, TrainContext, TrainSchedule, curve_steps, train};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// A learned reward without the networks' weights.
#[derive(Serialize, Deserialize)]
struct RewardModelMeta {
    /// Of each judge's raw scores over samples of the SFT policy.
    centres: Vec<f64>,
    linear: Option<Linear>,
    /// Of the combined score.
    centre: f64,
    scale: f64,
}

const KEPT: &str = "rm.json";

/// The most train rows that the training accuracy is measured on: for a large model all of them would take as long as
/// half of its training.
const ROWS_READ_AGAIN: usize = 512;

/// The name of the `i`-th network's training.
fn network_name(i: usize) -> String {
    if i == 0 { "rm".into() } else { format!("rm-{i}") }
}

/// The file of its weights.
fn file_name(i: usize) -> String {
    format!("{}.safetensors", network_name(i))
}

/// Whether a parameter of a reward model on adapters is trained.
pub(super) fn is_trained(name: &str) -> bool {
    name.contains(".lora.") || name.starts_with("head.")
}

/// The reward model, its scale, its quality, and on grammar its score of every response.
pub(super) fn run(context: &StageContext<'_>, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
    let settings = &context.experiment.stages.rm;
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    let rows = context.rows()?;
    let of_split = |split| rows.iter().filter(|r| r.split == split).cloned().collect::<Vec<PreferenceRow>>();
    let (train_rows, validation, test) = (of_split(Split::Train), of_split(Split::Validation), of_split(Split::Test));

    // 1. Learn from the train rows.
    let (mut judges, mut clocks) = (vec![], Clocks::default());
    match settings.model {
        RmModel::Linear => {
            let strengths: Vec<f64> = train_rows.iter().map(|row| settings.margin * row.strength()).collect();
            judges.push(RewardNetwork::Linear(Linear::fit(
                &train_rows,
                &strengths,
                settings.label_smoothing,
                settings.ridge,
            )?));
        }
        RmModel::Transformer => {
            for member in 0..settings.ensemble {
                let (model, after) = network(context, member, &loaded, &train_rows, &validation, clocks, recorder)?;
                judges.push(RewardNetwork::Network(model));
                clocks = after;
            }
        }
    }

    // 2. Centre and scale on responses of the SFT policy.
    recorder.progress(0, 4, "samples of the SFT policy");
    let samples = sft_samples(context, world)?;
    let reader = reward_reader(context, &loaded, &context.device)?;
    let reward = LearnedReward::normalized_on(judges, settings.ensemble_score, reader, &samples)?;

    // 3. Measure its quality.
    measure(&reward, [&train_rows, &validation, &test], &samples, clocks, recorder)?;
    if let Some(slope) = loaded.grammar.as_ref().map(|_| trap_slope(&reward, &samples)).transpose()?.flatten() {
        recorder.record("rm", clocks, metrics::RM_TRAP_SLOPE, slope);
    }

    // 4. Save it.
    if let Some(grammar) = &loaded.grammar {
        let table = [Split::Validation, Split::Test].map(|split| {
            let prompts: Vec<Vec<u32>> = grammar.prompts(split).iter().map(|p| p.ids.clone()).collect();
            proxy_table(&reward, &prompts, token::EOS)
        });
        let [validation, test] = table;
        save_json(&to.join(PROXY), &(validation?, test?))?;
    }
    save(&reward, settings, to)
}

/// Responses of the SFT policy to training prompts, by which scores are centred and scaled.
fn sft_samples(context: &StageContext<'_>, world: &dyn World) -> Result<Responses> {
    let count = context.experiment.stages.rm.samples;
    let sft_policy = context.sft_policy(world)?;
    let prompts = world.prompts(Split::Train);
    let ids = prompts.iter().cycle().take(count).map(|prompt| prompt.ids.clone()).collect();
    let mut rng = seeds::stream(context.stage.seed, Stream::RmSamples, 0);
    let samples = generate(&sft_policy, world.space(), ids, &mut rng, &context.device);
    duel_training::invariants::sampled_from_finite(0, &samples)?;
    Ok(samples)
}

/// Records the quality of a reward model on train, validation and test rows; `samples` are the SFT policy's.
fn measure(
    reward: &LearnedReward,
    [train, validation, test]: [&[PreferenceRow]; 3],
    samples: &Responses,
    clocks: Clocks,
    recorder: &mut StageRecorder,
) -> Result<()> {
    let some = &train[..train.len().min(ROWS_READ_AGAIN)];
    let mut quality_of = |done, rows: &[PreferenceRow]| {
        recorder.progress(done, 4, "accuracy on pairs");
        quality(reward, rows)
    };
    let (on_validation, on_test, on_train) = (quality_of(1, validation)?, quality_of(2, test)?, quality_of(3, some)?);
    let mut record = |metric, value| recorder.record("rm", clocks, metric, value);
    record(metrics::PAIR_ACCURACY_TRAIN, on_train.accuracy);
    record(metrics::PAIR_ACCURACY_VALIDATION, on_validation.accuracy);
    record(metrics::PAIR_ACCURACY_TEST, on_test.accuracy);
    record(metrics::RM_LOSS_VALIDATION, on_validation.loss);
    record(metrics::RM_SPEARMAN_GOLD, on_test.spearman);
    record(metrics::RM_LENGTH_CORRELATION, on_test.length_correlation);
    record(metrics::RM_CALIBRATION, on_test.calibration.error());
    if let Some(ensemble) = &on_test.ensemble {
        record(metrics::ENSEMBLE_ALIKE, ensemble.agreement.alike);
        record(metrics::ENSEMBLE_AGREEMENT, ensemble.agreement.pairwise);
        ensemble.agreement.kappa.into_iter().for_each(|kappa| record(metrics::ENSEMBLE_KAPPA, kappa));
        record(metrics::ENSEMBLE_SD_PAIRS, ensemble.spread);
    }
    if let Some(cut) = reward.cut() {
        record(metrics::RM_CUT, cut as f64);
    }
    // after the count of what was cut: these samples were read before
    reward.spread(samples)?.into_iter().for_each(|spread| record(metrics::ENSEMBLE_SD, spread));
    record_curve(&on_test.calibration, recorder);
    for (split, quality) in [(Split::Train, on_train), (Split::Validation, on_validation), (Split::Test, on_test)] {
        quality.bins.record("rm", split, recorder);
    }
    Ok(())
}

/// How the reward model reads responses: the policy's ids, or, if it has its own tokenizer, their text.
fn reward_reader(context: &StageContext<'_>, loaded: &LoadedWorld, device: &Device) -> Result<RewardReader> {
    let Some(start) = context.reward_start()? else {
        return Ok(ResponseReader::new(loaded.world.space(), device).into());
    };
    let world = loaded.text().expect("checked: a world of text");
    Ok(start.model.reader(world, &context.experiment.world.rows.date, usize::MAX, device)?)
}

/// The sizes of the reward model.
pub(super) fn reward_config(context: &StageContext<'_>, world: &dyn World) -> Result<TransformerConfig> {
    context.reward_start()?.map_or_else(|| context.config(world), |start| Ok(start.config.clone()))
}

/// Writes the weights of all networks, or of their adapters, and how their scores are combined.
fn save(reward: &LearnedReward, settings: &RmStage, to: &Path) -> Result<()> {
    let mut linear = None;
    for (i, (judge, _)) in reward.judges().iter().enumerate() {
        match judge {
            RewardNetwork::Network(_) if settings.steps == 0 => {} // its weights are those of its directory
            RewardNetwork::Network(model) => {
                let name = |ours: &str| (!settings.lora || is_trained(ours)).then(|| FileTensor::same(ours));
                weights::save_some(model, &to.join(file_name(i)), name)?;
            }
            RewardNetwork::Linear(weights) => linear = Some(weights.clone()),
        }
    }
    let centres = reward.judges().iter().map(|(_, centre)| *centre).collect();
    save_json(&to.join(KEPT), &RewardModelMeta { centres, linear, centre: reward.centre, scale: reward.scale })
}

/// One network, without gradient, and the clocks after it; `before` is the cost of the others.
fn network(
    context: &StageContext<'_>,
    member: usize,
    loaded: &LoadedWorld,
    rows: &[PreferenceRow],
    validation: &[PreferenceRow],
    before: Clocks,
    recorder: &mut StageRecorder,
) -> Result<(ScalarModel, Clocks)> {
    let (settings, world) = (&context.experiment.stages.rm, loaded.world.as_ref());
    let config = reward_config(context, world)?;
    let model = scalar_on(context, context.on_train_device(body(context, world)?), member)?;
    let reader = reward_reader(context, loaded, &context.device)?;
    let probe = probe(validation, reader.space());
    let check = |step: u64, model: &ScalarModel| -> Result<()> {
        Ok(RewardModel::new(settings.clone(), reader.clone(), &config).check(step, model, &*reader.pairs(&probe)?)?)
    };
    if settings.steps == 0 {
        let model = model.valid();
        check(0, &model)?;
        return Ok((model, before));
    }
    let train_reader = reward_reader(context, loaded, &context.train_device())?;
    let mut method = RewardModel::new(settings.clone(), train_reader, &config);
    let steps = settings.steps as u64;
    let mut learner = Learner::new(model, &context.experiment.learner, settings.learning_rate, steps);
    let name = network_name(member);
    let sampler = EpochSampler::new(rows.len(), settings.batch_size, context.stage.seed, Stream::RmRows(member));
    let mut sampler = sampler.dropping_last(settings.drop_last);
    let left_out = sampler.left_out();
    let batch = |step| -> Result<_> { Ok(PairBatch::new(rows, sampler.at(step))) };

    // the most accurate step on validation rows, if the settings select it
    let mut best_checkpoint = BestCheckpoint::new(settings.patience);
    let keeps_best = settings.keep == RmCheckpointSelection::Best;
    let eval_at = if keeps_best { curve_steps(steps, settings.checks) } else { vec![] };
    let all = PairBatch::new(validation, &(0..validation.len()).collect::<Vec<_>>());
    let splits = Splits::of(world);
    let validation_prompts = all.both.prompt_hashes().into_iter();
    splits.check_split("chosen_on_validation", before.step, Split::Validation, validation_prompts)?;
    let all = reader.pairs(&all)?;
    let mut train_context = TrainContext {
        stage: "rm",
        training: &name,
        recorder: &mut *recorder,
        splits: Some(&splits),
        stop: context.stop,
    };
    let schedule = TrainSchedule::Iterations { iterations: steps, eval_at: &eval_at };
    let evaluate = |model: &ScalarModel, clocks: Clocks, recorder: &mut dyn Recorder| {
        let accuracy = RewardModel::accuracy(&reader, &model.valid(), &all);
        recorder.record("rm", clocks, metrics::PAIR_ACCURACY_VALIDATION, accuracy);
        Ok::<_, crate::error::Error>(Some(accuracy))
    };
    let after = train(&mut method, &mut learner, &mut best_checkpoint, schedule, batch, &mut train_context, evaluate)?;
    recorder.record("rm", after, metrics::ROWS_LEFT_OUT, left_out);
    let (model, kept_step) = best_checkpoint.restore(learner.into_module());
    let model = model.valid();
    if let Some(step) = kept_step {
        recorder.record("rm", after, metrics::KEPT_STEP, step as f64);
    }
    check(after.step, &model)?;
    Ok((model, clocks_after(before, after)))
}

/// The clocks after two trainings, one after the other.
fn clocks_after(before: Clocks, after: Clocks) -> Clocks {
    Clocks {
        step: before.step + after.step,
        tokens: before.tokens + after.tokens,
        flops: before.flops + after.flops,
        wall_seconds: before.wall_seconds + after.wall_seconds,
    }
}

/// The first validation pairs, on which invariants of the reward model are checked.
fn probe(validation: &[PreferenceRow], space: &TokenSpec) -> PairBatch {
    let count = validation.len().min(4 * duel_training::probes::probe_rows(space));
    PairBatch::new(validation, &(0..count).collect::<Vec<_>>())
}

/// The start of a reward model's training, without its head and without gradient.
fn body(context: &StageContext<'_>, world: &dyn World) -> Result<Policy> {
    match (context.reward_start()?, context.experiment.stages.rm.start) {
        (Some(start), _) => Ok(start.body.clone()),
        (None, RmStart::Sft) => context.sft_policy(world),
        (None, RmStart::Base) if context.experiment.stages.rm.lora => Ok(context.frozen(context.base_policy(world)?)),
        (None, RmStart::Base) => context.base_policy(world),
    }
}

/// A scalar head on a body, and adapters on the body if only they are trained.
fn scalar_on(context: &StageContext<'_>, body: Policy, member: usize) -> Result<ScalarModel> {
    let settings = &context.experiment.stages.rm;
    let device = context.train_device();
    let start = context.reward_start()?;
    let scalar = |body| -> Result<ScalarModel> {
        match start {
            Some(start) => Ok(start.model.classifier.under_head(body, &device)?),
            None => Ok(ScalarModel::from_policy(body, &device).scoring(settings.score)),
        }
    };
    if !settings.lora {
        return Ok(weights::training(scalar(body)?, |_| true));
    }
    let mut rng = seeds::stream(context.stage.seed, Stream::RmLora, member as u64);
    scalar(adapted(body, (settings.lora_rank, settings.lora_alpha), |_| true, &mut rng, &device))
}

/// The reward that the plan's stage has learned.
pub fn learned_reward(context: &StageContext<'_>, loaded: &LoadedWorld) -> Result<LearnedReward> {
    let (settings, world) = (&context.experiment.stages.rm, loaded.world.as_ref());
    let rm: &Stage =
        context.plan.needed(context.stage, StageKind::Rm).expect("stages that score need the reward model");
    let folder = context.folder(rm)?;
    let RewardModelMeta { centres, linear, centre, scale } = load_json("rm", &folder.file(KEPT))?;
    let mut judges = vec![];
    for (i, mean) in centres.into_iter().enumerate() {
        let judge = match &linear {
            Some(linear) => RewardNetwork::Linear(linear.clone()),
            None => {
                let file = folder.file(&file_name(i));
                let body = match (settings.lora, settings.is_pretrained()) {
                    (false, false) => {
                        context.with_memory_settings(Policy::zeros(&context.config(world)?, &context.device))
                    }
                    _ => body(context, world)?,
                };
                let shape = scalar_on(context, context.on_train_device(body), i)?;
                let model = match (settings.steps, settings.lora) {
                    (0, _) => shape,
                    (_, true) => weights::load_some(shape, &file)?,
                    (_, false) => weights::load(shape, &file)?,
                };
                RewardNetwork::Network(model.valid())
            }
        };
        judges.push((judge, mean));
    }
    let reader = reward_reader(context, loaded, &context.device)?;
    Ok(LearnedReward::new(judges, settings.ensemble_score, reader, centre, scale))
}

/// The calibration curve, one bin per step.
fn record_curve(curve: &Calibration, recorder: &mut StageRecorder) {
    for (i, bin) in curve.bins.iter().enumerate().filter(|(_, bin)| bin.pairs > 0.0) {
        let clocks = Clocks { step: i as u64, ..Clocks::default() };
        recorder.record("rm-calibration", clocks, metrics::CALIBRATION_SAID, bin.predicted);
        recorder.record("rm-calibration", clocks, metrics::CALIBRATION_WAS, bin.observed);
        recorder.record("rm-calibration", clocks, metrics::CALIBRATION_PAIRS, bin.pairs);
    }
}

/// Mean change of the proxy when one more x follows a response that ends in its only x (docs/worlds.md,
/// 'Manipulation check'); `None` where no sample is of that kind.
fn trap_slope(reward: &LearnedReward, samples: &Responses) -> Result<Option<f64>> {
    let longer: Vec<Option<Vec<u32>>> = samples.responses.iter().map(|response| with_second_x(response)).collect();
    let once: Vec<usize> = (0..samples.len()).filter(|&i| longer[i].is_some()).collect();
    if once.is_empty() {
        return Ok(None);
    }
    let before = samples.select(&once);
    let mut after = before.clone();
    after.responses = longer.into_iter().flatten().collect();
    let change: f64 = reward.score(&after)?.iter().zip(reward.score(&before)?).map(|(a, b)| a - b).sum();
    Ok(Some(change / once.len() as f64))
}

/// A response that ends in its only x, with another one after it; `None` of any other, and where there is no room.
fn with_second_x(response: &[u32]) -> Option<Vec<u32>> {
    match response {
        [before @ .., token::X, token::EOS] if excitements(before) == 0 && before.len() + 2 <= MAX_SYMBOLS => {
            Some([before, &[token::X, token::X, token::EOS]].concat())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PlannedRun, pretrained_run, recorded, recorder, tiny_policies};
    use super::*;
    use duel_data::grammar::GrammarWorld;

    #[test]
    fn a_reward_model_is_probed_on_the_first_pairs() {
        let world = GrammarWorld::new(0.02, 1);
        let row = |i: u32| PreferenceRow::new(Split::Validation, vec![i], vec![1000 + i], vec![2000 + i]);
        let rows: Vec<PreferenceRow> = (0..100).map(row).collect();
        assert_eq!(probe(&rows, world.space()).rows, (0..64).collect::<Vec<_>>());
        assert_eq!(probe(&rows[..5], world.space()).rows, (0..5).collect::<Vec<_>>());
    }

    /// A linear reward model keeps its margin to each pair in proportion to the annotator's certainty.
    #[test]
    fn the_margins_of_a_linear_reward_model_are_shares_of_the_strengths() -> Result<()> {
        let run = PlannedRun::new(
            "[model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.sft]\nsteps = 1\nbatch_size = 8\n\
             [stages.pairs]\nrows = 64\nholdout_rows = 4\n[stages.rm]\nmodel = \"linear\"\nmargin = 0.4\nsamples = 8\n\
             [arms.a]\nmethod = \"dpo\"\n",
        );
        for kind in [StageKind::Sft, StageKind::Pairs, StageKind::Rm] {
            run.make(kind)?;
        }
        let context = run.context(run.stage(StageKind::Yardstick));
        let rows = run.context(run.stage(StageKind::Rm)).rows()?;
        let train: Vec<PreferenceRow> = rows.into_iter().filter(|row| row.split == Split::Train).collect();
        let margins: Vec<f64> = train.iter().map(|row| 0.4 * row.strength()).collect();
        let settings = &run.experiment.stages.rm;
        let expected = Linear::fit(&train, &margins, settings.label_smoothing, settings.ridge)?;
        match learned_reward(&context, &context.load_world()?)?.judges() {
            [(RewardNetwork::Linear(actual), _)] => {
                for row in &train {
                    let [actual, expected] = [actual, &expected].map(|linear| linear.score(&row.prompt, &row.chosen));
                    assert!((actual - expected).abs() < 1e-9, "{actual}, expected {expected}");
                }
            }
            other => panic!("{other:?}"),
        }
        Ok(())
    }

    #[test]
    fn the_first_network_has_no_number() {
        assert_eq!([0, 1, 2].map(network_name), ["rm", "rm-1", "rm-2"]);
        assert_eq!([0, 1].map(file_name), ["rm.safetensors", "rm-1.safetensors"]);
    }

    /// Only adapters are trained where `lora` says so, on a body that is rounded as frozen weights are.
    #[test]
    fn a_reward_model_on_adapters_has_a_frozen_body() -> Result<()> {
        let world = GrammarWorld::new(0.02, 1);
        for (numbers, lora) in [("", false), ("numbers = \"bf16\"\n", true)] {
            let settings = format!("{numbers}[stages.sft]\nsteps = 2\n");
            let (run, folder) = pretrained_run(&settings, &format!("start = \"base\"\nlora = {lora}\n"));
            let expected = tiny_policies(folder.path())?[usize::from(lora)].hash();
            let context = run.context(run.stage(StageKind::Pairs));
            let body = body(&context, &world)?;
            assert_eq!(body.hash(), expected, "lora = {lora}");
            let model = scalar_on(&context, context.on_train_device(body), 0)?;
            let adapted = weights::shapes(&model).iter().any(|(name, _)| name.contains(".lora."));
            assert_eq!(adapted, lora);
        }
        Ok(())
    }

    /// A pretrained network that was not trained is in its own directory.
    #[test]
    fn weights_are_saved_where_they_were_trained() -> Result<()> {
        let (world, device) = (GrammarWorld::new(0.02, 1), Device::flex());
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &device);
        let network = ScalarModel::with_head(policy, vec![0.5; 8], &device).no_grad();
        let judges = [0.25, 0.5].map(|centre| (RewardNetwork::Network(network.clone()), centre)).to_vec();
        let reader = ResponseReader::new(space, &device);
        let reward = LearnedReward::new(judges, duel_spec::EnsembleScore::Mean, reader, 0.0, 1.0);
        let files = |steps| -> Result<Vec<String>> {
            let folder = tempfile::tempdir().expect("a folder");
            save(&reward, &RmStage { steps, ..RmStage::defaults() }, folder.path())?;
            let entries = std::fs::read_dir(folder.path()).expect("a folder");
            let mut names: Vec<String> =
                entries.map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            Ok(names)
        };
        assert_eq!(files(0)?, ["rm.json"]);
        assert_eq!(files(1)?, ["rm-1.safetensors", "rm.json", "rm.safetensors"]);
        Ok(())
    }

    /// Of 20 rows, batches of 8 leave 4 out of each epoch, or make a smaller batch of them.
    #[test]
    fn a_short_last_batch_is_dropped_or_trained_on() -> Result<()> {
        let metrics_of = |drop_last: bool| -> Result<[f64; 2]> {
            let run = PlannedRun::new(&format!(
                "[model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.sft]\nsteps = 1\nbatch_size = 8\n\
                 [stages.pairs]\nrows = 20\nholdout_rows = 4\n\
                 [stages.rm]\nsteps = 3\nbatch_size = 8\nsamples = 8\ndrop_last = {drop_last}\n[arms.a]\nmethod = \"dpo\"\n"
            ));
            run.make(StageKind::Sft)?;
            run.make(StageKind::Pairs)?;
            let table = duel_ledger::read_metrics(&run.make(StageKind::Rm)?.file("metrics.parquet"))?;
            let last = |metric: metrics::Metric| table.of("rm", metric.name).last().map_or(f64::NAN, |row| row.value);
            Ok([last(metrics::ROWS_LEFT_OUT), last(metrics::TRAINED_TOKENS)])
        };
        let (dropped, trained_on) = (metrics_of(true)?, metrics_of(false)?);
        assert_eq!((dropped[0], trained_on[0]), (0.2, 0.0));
        assert!(trained_on[1] < dropped[1], "the third batch is of 4 rows in place of 8: {trained_on:?}, {dropped:?}");
        Ok(())
    }

    #[test]
    fn clocks_of_two_trainings_add_up() {
        let clocks = |factor: u64| Clocks {
            step: 3 * factor,
            tokens: 5 * factor,
            flops: 7.0 * factor as f64,
            wall_seconds: 11.0 * factor as f64,
        };
        assert_eq!(clocks_after(clocks(2), clocks(3)), clocks(5));
    }

    #[test]
    fn a_second_x_follows_only_a_last_and_only_one() {
        use token::{B, EOS, G, X};
        assert_eq!(with_second_x(&[X, EOS]), Some(vec![X, X, EOS]));
        assert_eq!(with_second_x(&[G, B, X, EOS]), Some(vec![G, B, X, X, EOS]));
        assert_eq!(with_second_x(&[G, B, G, X, EOS]), Some(vec![G, B, G, X, X, EOS]));
        let others: [&[u32]; 6] =
            [&[EOS], &[G, EOS], &[X, G, EOS], &[X, X, EOS], &[X, G, X, EOS], &[G, B, G, B, X, EOS]];
        assert!(others.iter().all(|response| with_second_x(response).is_none()));
    }

    /// A reward of 2 an x less 1 a symbol too many or too few, halved, on a prompt that asks for two symbols.
    #[test]
    fn the_slope_of_the_trap_is_a_mean_change() -> Result<()> {
        use token::{B, BOS, EOS, G, SEP, STANCE, TOPIC, X};
        let mut weights = [0.0; 12];
        (weights[9], weights[10]) = (2.0, -1.0);
        let linear: Linear = serde_json::from_value(serde_json::json!({ "weights": weights })).expect("weights");
        let reader = ResponseReader::new(GrammarWorld::new(0.02, 1).space(), &Device::flex());
        let judges = vec![(RewardNetwork::Linear(linear), 0.3)];
        let reward = LearnedReward::new(judges, duel_spec::EnsembleScore::Mean, reader, 0.1, 2.0);
        let samples = |responses: &[&[u32]]| Responses {
            prompts: vec![vec![BOS, TOPIC, STANCE, SEP]; responses.len()],
            responses: responses.iter().map(|response| response.to_vec()).collect(),
            logp: vec![],
            masks: vec![],
        };
        // from one symbol to two: 2 + 1; from three to four, twice: 2 − 1
        let some = samples(&[&[X, X, EOS], &[X, EOS], &[G, EOS], &[G, B, X, EOS], &[B, G, X, EOS]]);
        let slope = trap_slope(&reward, &some)?.expect("three of them");
        assert!((slope - (3.0 + 1.0 + 1.0) / 3.0 / 2.0).abs() < 1e-12, "{slope}");
        assert_eq!(trap_slope(&reward, &samples(&[&[EOS], &[X, X, EOS]]))?, None);
        Ok(())
    }

    #[test]
    fn the_calibration_curve_has_the_bins_that_hold_pairs() -> Result<()> {
        let mut curve = Calibration::default();
        for (i, [pairs, predicted, observed]) in [(2, [3.0, 0.62, 0.5]), (9, [1.0, 0.97, 1.0])] {
            (curve.bins[i].pairs, curve.bins[i].predicted, curve.bins[i].observed) = (pairs, predicted, observed);
        }
        let mut recorder = recorder();
        record_curve(&curve, &mut recorder);
        let (table, _) = recorded(&recorder)?;
        let of = |metric: metrics::Metric| -> Vec<(u64, f64)> {
            table.of("rm-calibration", metric.name).map(|row| (row.clocks.step, row.value)).collect()
        };
        assert_eq!(of(metrics::CALIBRATION_PAIRS), [(2, 3.0), (9, 1.0)]);
        assert_eq!(of(metrics::CALIBRATION_SAID), [(2, 0.62), (9, 0.97)]);
        assert_eq!(of(metrics::CALIBRATION_WAS), [(2, 0.5), (9, 1.0)]);
        Ok(())
    }
}
