//! What each stage does: the experiment's settings put together with the rooms. No mathematics here.

use crate::plan::{Plan, Stage, StageKind};
use crate::registry::{self, TrainingInputs};
use crate::scene::{self, LoadedWorld};
use crate::{Error, Result};
use burn::module::Module;
use burn::tensor::Device;
use duel_data::pairs::{Annotator, PreferenceRow, bayes_accuracy, solve_tau};
use duel_data::{PromptResponse, World};
use duel_evaluation::{
    CompletionTag, EvalKind, EvalResult, Evaluator, ExactEvaluator, HeldOut, SampleSize, SampledEvaluator, kl_grammar,
};
use duel_ledger::{RunDir, StageDir, StageRecorder};
use duel_model::{Flops, Policy, Pretrained, Reader, Responses, TransformerConfig, huggingface, weights};
use duel_reward::{PairFilter, Scorer, collect, label};
use duel_spec::seeds::{self, Stream};
use duel_spec::{ArmPoint, Clocks, Experiment, Recorder, Split, Temperature, metrics};
use duel_training::pairs::shuffled_batches;
use duel_training::sft::{RunningText, Sft, heldout_nll};
use duel_training::{
    BestCheckpoint, Learner, Method, PairBatch, Splits, TrainContext, TrainSchedule, invariants, train,
};
use serde::Serialize;
use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// File names within stages.
const POLICY: &str = "policy.safetensors";
const ROWS: &str = "rows.jsonl";
pub(crate) const PROXY: &str = "proxy.json";
pub(crate) const REFERENCE: &str = "reference.json";

/// Prompts and samples of a curve point where evaluation samples.
const CURVE_EFFORT: SampleSize = SampleSize { prompts: 128, samples_per_prompt: 1 };
/// Held-out rows that the language model's loss is read on.
const HELDOUT_ROWS: usize = 2048;

/// Everything a stage may look at.
pub struct StageContext<'a> {
    pub experiment: &'a Experiment,
    pub plan: &'a Plan,
    pub stage: &'a Stage,
    pub run: &'a RunDir,
    pub device: Device,
    pub stop: &'a AtomicBool,
    models: ModelCache,
    /// Judges that the stage may have asked.
    judges: RefCell<Vec<Arc<dyn Scorer>>>,
}

/// Models that several parts of a stage share: one copy in memory, however many wear adapters on it.
#[derive(Debug, Default)]
struct ModelCache {
    config: OnceCell<TransformerConfig>,
    pretrained: OnceCell<Policy>,
    sft: OnceCell<Policy>,
}

impl<'a> StageContext<'a> {
    /// A desk at which no model has been read yet.
    pub fn new(
        experiment: &'a Experiment,
        plan: &'a Plan,
        stage: &'a Stage,
        run: &'a RunDir,
        device: Device,
        stop: &'a AtomicBool,
    ) -> Self {
        Self { experiment, plan, stage, run, device, stop, models: ModelCache::default(), judges: RefCell::default() }
    }
}

impl StageContext<'_> {
    /// Does the stage; its files go to `to`.
    pub fn run_stage(&self, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
        let done = match self.stage.kind {
            StageKind::Corpus => scene::prepare(self.experiment, to, recorder),
            StageKind::Base => self.base(to, recorder),
            StageKind::Sft => self.sft(to, recorder),
            StageKind::Pairs => self.pairs(to, recorder),
            StageKind::Rm => self.rm(to, recorder),
            StageKind::Reference => self.reference(to, recorder),
            StageKind::Yardstick => self.evaluator_stage(recorder),
            StageKind::Cell => self.cell(to, recorder),
        };
        done.map_err(|error| match self.learning_rate() {
            Some(rate) => error.at_rate(rate),
            None => error,
        })?;
        self.judges.borrow().iter().try_for_each(|gold| gold.finish())?;
        recorder.record(
            self.stage.kind.name(),
            Clocks::default(),
            metrics::PEAK_RSS,
            crate::host::peak_memory() as f64,
        );
        recorder.write(to)?;
        Ok(())
    }

    /// The peak rate of a stage that trains.
    fn learning_rate(&self) -> Option<f64> {
        let stages = &self.experiment.stages;
        match self.stage.kind {
            StageKind::Base => Some(stages.base.learning_rate),
            StageKind::Sft => Some(stages.sft.learning_rate),
            StageKind::Rm => Some(stages.rm.learning_rate),
            StageKind::Cell => self.stage.cell.as_ref().map(|cell| match &cell.point.method {
                duel_spec::MethodSettings::Dpo(dpo) => dpo.learning_rate,
                other => other.on_policy().map_or(f64::NAN, |shared| shared.learning_rate),
            }),
            _ => None,
        }
    }

    // ── stages ──────────────────────────────────────────────────────────────────────────────────

    /// The language model of running text.
    fn base(&self, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
        use rand::RngExt;
        let settings = &self.experiment.stages.base;
        let scene = self.scene()?;
        let world = scene.reviews.as_ref().expect("only reviews has a base stage");
        let config = self.config(scene.world.as_ref())?;
        let policy = self.fresh_policy(scene.world.as_ref(), &mut seeds::stream(0, Stream::BaseInit, 0))?;
        let mut method = RunningText::new(self.train_reader(scene.world.as_ref()), &config);
        let mut learner = Learner::new(policy, &self.experiment.learner, settings.learning_rate, settings.steps as u64);
        let stream = world.language();
        let batch = |step: u64| -> Result<_> {
            let mut rng = seeds::stream(0, Stream::BaseWindows, step);
            Ok((0..settings.batch_size)
                .map(|_| {
                    let start = rng.random_range(0..stream.len() - settings.window);
                    stream[start..=start + settings.window].to_vec()
                })
                .collect())
        };
        let clocks = self.train_alone("base", &mut method, &mut learner, settings.steps, batch, recorder)?;

        let heldout: Vec<Vec<u32>> =
            world.language_heldout().chunks_exact(settings.window + 1).map(<[u32]>::to_vec).collect();
        let policy = learner.into_module().valid();
        let reader = RunningText::new(self.reader(scene.world.as_ref()), &config);
        let losses: Vec<f64> =
            heldout.chunks(64).map(|w| f64::from(weights::host(reader.loss(&policy, w))[0]) * w.len() as f64).collect();
        let loss = losses.iter().sum::<f64>() / heldout.len() as f64;
        invariants::finite(clocks.step, "the loss on held-out text", loss)?;
        recorder.record("base", clocks, metrics::NLL_TOKEN, loss);
        weights::save(&policy, &to.join(POLICY))?;
        Ok(())
    }

    /// Trains without a look on the way.
    fn train_alone<M: Method>(
        &self,
        stage: &str,
        method: &mut M,
        learner: &mut Learner<M::Module>,
        steps: usize,
        batch: impl FnMut(u64) -> Result<M::Batch>,
        recorder: &mut StageRecorder,
    ) -> Result<Clocks> {
        let mut watch = TrainContext { stage, training: stage, recorder, splits: None, stop: self.stop };
        let course = TrainSchedule { iterations: steps as u64, eval_at: &[] };
        train(method, learner, &mut BestCheckpoint::default(), course, batch, &mut watch, |_, _, _| Ok(None))
    }

    /// The policy that both arms start from and are measured against.
    fn sft(&self, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
        let (settings, seed) = (&self.experiment.stages.sft, self.stage.seed);
        let scene = self.scene()?;
        let world = scene.world.as_ref();
        let config = self.config(world)?;
        if settings.steps == 0 {
            return Ok(()); // the policy is the base model
        }
        let policy = match self.experiment.is_pretrained() || self.plan.needed(self.stage, StageKind::Base).is_some() {
            true => self.on_train_device(self.base_policy(world)?),
            false => self.fresh_policy(world, &mut seeds::stream(seed, Stream::SftInit, 0))?,
        };
        let policy = match settings.lora {
            true => {
                let mut rng = seeds::stream(seed, Stream::SftLora, 0);
                let (rank, scale) = (settings.lora_rank, settings.lora_alpha / settings.lora_rank as f64);
                policy.with_fresh_lora(rank, scale, |_| true, &mut rng, &self.train_device())
            }
            false => weights::training(policy, |_| true),
        };
        let rows = responses(world.sft_rows(&mut seeds::stream(seed, Stream::SftCorpus, 0)));
        let mut method = Sft::new(self.train_reader(world), &config);
        let mut learner = Learner::new(policy, &self.experiment.learner, settings.learning_rate, settings.steps as u64);
        let mut queue = EpochSampler::new(rows.len(), settings.batch_size, seed, Stream::SftRows);
        let left_out = queue.left_out();
        let batch = |step| -> Result<_> { Ok(rows.select(queue.at(step))) };
        let clocks = self.train_alone("sft", &mut method, &mut learner, settings.steps, batch, recorder)?;

        let trained = learner.into_module().valid();
        let policy = trained.clone().for_inference();
        let reader = self.reader(world);
        let mut heldout = responses(world.heldout_rows(&mut seeds::stream(seed, Stream::SftHeldOut, 0)));
        heldout = heldout.select(&(0..heldout.len().min(HELDOUT_ROWS)).collect::<Vec<_>>());
        invariants::reads_are_sound(clocks.step, &reader, &policy, &heldout)?;
        let (token, sequence) = heldout_nll(&reader, &policy, &heldout);
        invariants::finite(clocks.step, "the loss on held-out rows", token)?;
        recorder.record("sft", clocks, metrics::ROWS_LEFT_OUT, left_out);
        recorder.record("sft", clocks, metrics::NLL_TOKEN, token);
        recorder.record("sft", clocks, metrics::NLL_SEQUENCE, sequence);
        if let Some(grammar) = &scene.grammar {
            recorder.record("sft", clocks, metrics::KL_GRAMMAR, kl_grammar(grammar, &reader, &policy)?);
        }
        self.save_policy(trained, world, to)
    }

    /// Preference rows on train prompts to learn from, on validation and test prompts to judge by.
    fn pairs(&self, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
        let (settings, seed) = (&self.experiment.stages.pairs, self.stage.seed);
        let scene = self.scene()?;
        let world = scene.world.as_ref();
        invariants::splits_are_disjoint(world)?;
        let gold = &scene.gold;
        if let Some(own) = scene.rows.as_ref().filter(|own| !own.rows().is_empty()) {
            check_unpaired(self.experiment, own.rows())?;
            return save_rows(judge_rows(own.rows(), gold.as_ref())?, to);
        }
        let policy = self.sft_policy(world)?;
        let reader = self.reader(world);
        let mut candidates = Vec::new();
        for (split, count) in [
            (Split::Train, settings.rows),
            (Split::Validation, settings.holdout_rows),
            (Split::Test, settings.holdout_rows),
        ] {
            recorder.progress(split as u64, 3, split.name());
            let mut rng = seeds::stream(seed, Stream::PairResponses, split as u64);
            let wanted = PairFilter { trap_rows: settings.trap_rows, max_edits: settings.max_edits };
            candidates.push((split, collect(&policy, &reader, world, gold.as_ref(), split, count, wanted, &mut rng)?));
        }
        let tau = match settings.temperature {
            Temperature::Fixed => settings.tau,
            Temperature::Bayes => {
                let differences: Vec<f64> = candidates[0].1.iter().map(|c| c.gold[0] - c.gold[1]).collect();
                solve_tau(&differences, settings.bayes_accuracy)
            }
        };
        let (flips, length_bias, ties) = (settings.label_flips, settings.length_bias, settings.ties);
        let annotator = Annotator { tau, flips, length_bias, ties };
        let mut all = vec![];
        for (split, candidates) in candidates {
            let mut rng = seeds::stream(seed, Stream::PairLabels, split as u64);
            let rows = label(candidates, split, &annotator, &mut rng);
            if split == Split::Test {
                recorder.record("pairs", Clocks::default(), metrics::BAYES_ACCURACY, bayes_accuracy(&rows));
                recorder.record("pairs", Clocks::default(), metrics::TAU, tau);
            }
            all.extend(rows);
        }
        save_rows(all, to)
    }

    /// The reference's log-probs of all rows, once for every point of every DPO arm. The clocks are those of
    /// the train rows: the others serve validation only.
    fn reference(&self, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
        let scene = self.scene()?;
        let world = scene.world.as_ref();
        let policy = self.sft_policy(world)?;
        let rows = self.rows()?;
        let reader = self.reader(world);
        let of = |split| {
            let rows: Vec<PreferenceRow> = rows.iter().filter(|r| r.split == split).cloned().collect();
            duel_dpo::ReferenceLogp::compute(&reader, &policy, &rows)
        };
        let started = Instant::now();
        let train = of(Split::Train);
        let clocks = Clocks {
            step: 0,
            tokens: train.tokens,
            flops: Flops::policy(&self.config(world)?).forward(train.tokens),
            wall_seconds: started.elapsed().as_secs_f64(),
        };
        recorder.record("reference", clocks, metrics::STAGE_SECONDS, clocks.wall_seconds);
        save_json(&to.join(REFERENCE), &(train, of(Split::Validation)))
    }

    /// Marks and completions of the reference; on grammar, of the exact optima too.
    fn evaluator_stage(&self, recorder: &mut StageRecorder) -> Result<()> {
        let scene = self.scene()?;
        let world = scene.world.as_ref();
        let reference = self.sft_policy(world)?;
        let yardstick = self.evaluator(&scene, &reference)?;
        recorder.set_labels("reference", "sft", "sft");
        for score in yardstick.measure(&reference, None, EvalKind::End)? {
            score.record(Clocks::default(), recorder);
            if score.split == Split::Test {
                recorder.outcomes(&score.outcomes);
            }
        }
        self.keep_completions("reference", "sft", 0, &scene, &reference, &reference, recorder)?;
        if let Evaluator::Sampled { yardstick, end, .. } = &yardstick {
            let ns: Vec<usize> = (1..=self.experiment.evaluation.best_of.ilog2()).map(|i| 1 << i).collect();
            let effort = SampleSize { samples_per_prompt: ns.last().copied().unwrap_or(1), ..*end };
            for split in [Split::Validation, Split::Test] {
                for (n, score) in yardstick.best_of_n(&ns, split, effort)? {
                    recorder.set_labels("best-of-n", "sampled", &format!("n={n}"));
                    score.record(Clocks::default(), recorder);
                }
            }
        }
        if let Evaluator::Exact(exact) = &yardstick {
            exact.check_sampler(&reference, self.stage.seed)?;
            // from nearly the reference to far beyond any useful KL
            let betas: Vec<f64> = (0..=24).map(|i| 20.0 * 10f64.powf(-f64::from(i) / 8.0)).collect();
            let ns: Vec<i32> = (1..=12).map(|i| 1 << i).collect();
            for (arm, point, score) in exact.theory(&betas, &ns)? {
                recorder.set_labels(arm, "exact", &point);
                score.record(Clocks::default(), recorder);
            }
        }
        Ok(())
    }

    /// One arm at one point.
    fn cell(&self, to: &Path, recorder: &mut StageRecorder) -> Result<()> {
        let cell = self.stage.cell.as_ref().expect("a cell stage holds its cell");
        let scene = self.scene()?;
        let world = scene.world.as_ref();
        let reference = self.sft_policy(world)?;
        let yardstick = self.evaluator(&scene, &reference)?;
        let reference_hash = reference.hash();
        let rows = self.rows()?;
        let reader = self.reader(world);
        let probe: Vec<usize> = (0..rows.len())
            .filter(|&i| rows[i].split == Split::Validation)
            .take(invariants::probe(world.space()))
            .collect();
        let probe = PairBatch::new(&rows, &probe).both;
        let held_out = HeldOut::new(reader.clone(), &reference, &rows);
        let splits = Splits::of(world);
        let work = TrainingInputs {
            seed: self.stage.seed,
            world: scene.world.clone(),
            config: self.config(world)?,
            pretrained: self.experiment.is_pretrained(),
            learner: &self.experiment.learner,
            reference: reference.clone(),
            start: self.on_train_device(reference.clone()),
            // loaded anew: clones of a module share their parameters' ids, and with them their gradients
            critic_start: self.on_train_device(self.sft_policy(world)?),
            reader: self.reader(world),
            train_reader: self.train_reader(world),
            gold: scene.gold.clone(),
            reward: self.learned_reward(world)?,
            rows,
            reference_hash: reference_hash.clone(),
            reference_logp: match self.plan.needed(self.stage, StageKind::Reference) {
                Some(stage) => Some(load_json("reference", &self.folder(stage)?.file(REFERENCE))?),
                None => None,
            },
            curve_points: self.experiment.evaluation.curve_points,
            splits: splits.clone(),
            stop: self.stop,
        };
        let beta = Some(cell.point.method.beta());
        let mut look =
            |policy: &Policy, clocks: Clocks, recorder: &mut dyn Recorder, moment: EvalKind| -> Result<EvalResult> {
                invariants::reads_are_sound(clocks.step, &reader, policy, &probe)?;
                invariants::frozen_weights_unchanged("the reference", clocks.step, &reference_hash, &reference.hash())?;
                let started = Instant::now();
                let scores = yardstick.measure(policy, beta, moment).map_err(|e| e.at_step(clocks.step))?;
                for score in &scores {
                    let prompts = score.prompts.iter().copied();
                    splits.check_disjoint("measures_prompts_of_the_split", clocks.step, score.split, prompts)?;
                    score.record(clocks, recorder);
                }
                for (split, values) in held_out.measure(policy) {
                    let stage = EvalResult::stage(split);
                    values.iter().for_each(|(metric, value)| recorder.record(&stage, clocks, *metric, *value));
                }
                if moment == EvalKind::End {
                    scores.iter().filter(|s| s.split == Split::Test).for_each(|s| recorder.outcomes(&s.outcomes));
                }
                recorder.record("train", clocks, metrics::EVALUATION_SECONDS, started.elapsed().as_secs_f64());
                Ok(scores.into_iter().find(|score| score.split == Split::Validation).expect("both splits are measured"))
            };
        let (trained, clocks) = registry::run(&cell.point.method, work, &mut look, recorder)?;
        let policy = trained.clone().for_inference();
        look(&policy, clocks, recorder, EvalKind::End)?;
        if let Evaluator::Exact(exact) = &yardstick {
            exact.check_sampler(&policy, self.stage.seed).map_err(|e| e.at_step(clocks.step))?;
        }
        self.keep_completions(&cell.arm, &cell.point.label, clocks.step, &scene, &policy, &reference, recorder)?;
        self.save_policy(trained, world, to)
    }

    // ── what stages share ───────────────────────────────────────────────────────────────────────

    #[expect(clippy::too_many_arguments, reason = "passes on what a completion is made of")]
    fn keep_completions(
        &self,
        arm: &str,
        point: &str,
        step: u64,
        scene: &LoadedWorld,
        policy: &Policy,
        reference: &Policy,
        recorder: &mut StageRecorder,
    ) -> Result<()> {
        let world = scene.world.as_ref();
        let reward = self.learned_reward(world)?;
        let whose = CompletionTag { arm, point, seed: self.stage.seed, step };
        let count = self.experiment.evaluation.completions;
        let reader = self.reader(world);
        duel_evaluation::completions(
            whose,
            world,
            &reader,
            policy,
            reference,
            scene.gold.as_ref(),
            Some(&reward),
            count,
            recorder,
        )?;
        Ok(())
    }

    fn evaluator(&self, scene: &LoadedWorld, reference: &Policy) -> Result<Evaluator> {
        let reader = self.reader(scene.world.as_ref());
        match &scene.grammar {
            Some(grammar) => {
                let rm = self.plan.needed(self.stage, StageKind::Rm).expect("measuring stages need the reward model");
                let tables: (Vec<Vec<f64>>, Vec<Vec<f64>>) = load_json("rm", &self.folder(rm)?.file(PROXY))?;
                let table = |split| if split == Split::Validation { tables.0.clone() } else { tables.1.clone() };
                Ok(Evaluator::Exact(Box::new(ExactEvaluator::new(grammar, reader, reference, Some(&table))?)))
            }
            None => {
                let reward: Arc<dyn Scorer> = Arc::new(self.learned_reward(scene.world.as_ref())?);
                let settings = &self.experiment.evaluation;
                let end = SampleSize { prompts: settings.prompts, samples_per_prompt: settings.samples_per_prompt };
                let curve = SampleSize { prompts: CURVE_EFFORT.prompts.min(settings.prompts), ..CURVE_EFFORT };
                let yardstick = SampledEvaluator::new(
                    scene.world.clone(),
                    reader,
                    reference.clone(),
                    scene.gold.clone(),
                    Some(reward),
                    self.stage.seed,
                );
                Ok(Evaluator::Sampled { yardstick: Box::new(yardstick), curve, end })
            }
        }
    }

    pub(crate) fn scene(&self) -> Result<LoadedWorld> {
        let corpus = self.plan.needed(self.stage, StageKind::Corpus).map(|corpus| self.folder(corpus)).transpose()?;
        let scene = scene::open(self.experiment, corpus.as_ref().map(StageDir::path))?;
        self.judges.borrow_mut().push(scene.gold.clone());
        Ok(scene)
    }

    /// The shape of the experiment's model.
    pub(crate) fn config(&self, world: &dyn World) -> Result<TransformerConfig> {
        if let Some(config) = self.models.config.get() {
            return Ok(config.clone());
        }
        let config = scene::model_of(self.experiment, world.space())?;
        Ok(self.models.config.get_or_init(|| config).clone())
    }

    /// A fresh policy, ready to train.
    fn fresh_policy(&self, world: &dyn World, rng: &mut seeds::Rng) -> Result<Policy> {
        Ok(self.with_recompute(Policy::new(&self.config(world)?, rng, &self.train_device())))
    }

    pub(crate) fn with_recompute(&self, policy: Policy) -> Policy {
        if self.experiment.learner.recompute { policy.with_recomputed_blocks() } else { policy }
    }

    /// The pretrained model, without gradient: read once, and shared by all that start from it.
    fn pretrained(&self, world: &dyn World) -> Result<Policy> {
        if let Some(policy) = self.models.pretrained.get() {
            return Ok(policy.clone());
        }
        let model = Pretrained::open(Path::new(&self.experiment.model.from))?;
        let (mapped, context) = (self.experiment.model.mapped, world.space().context());
        let policy = if mapped { model.mapped(context, &self.device)? } else { model.policy(context, &self.device)? };
        let policy = self.with_recompute(policy).no_grad();
        Ok(self.models.pretrained.get_or_init(|| policy).clone())
    }

    pub(crate) fn train_device(&self) -> Device {
        self.device.clone().autodiff()
    }

    pub(crate) fn reader(&self, world: &dyn World) -> Reader {
        Reader::new(world.space(), &self.device)
    }

    pub(crate) fn train_reader(&self, world: &dyn World) -> Reader {
        Reader::new(world.space(), &self.train_device())
    }

    /// A copy of a policy on the autodiff device, ready to train.
    pub(crate) fn on_train_device(&self, policy: Policy) -> Policy {
        policy.train()
    }

    pub(crate) fn folder(&self, stage: &Stage) -> Result<StageDir> {
        StageDir::find(&self.run.stages(), &stage.id)?.ok_or_else(|| {
            let path = self.run.stages().join(stage.id.folder());
            Error::Foreign { stage: stage.kind.name(), path, problem: "it is not there".into() }
        })
    }

    /// The policy that this cell has trained, without gradient.
    pub(crate) fn trained_policy(&self, world: &dyn World) -> Result<Policy> {
        self.read_policy(self.stage, || self.sft_policy(world), world)
    }

    /// The SFT policy of this seed, without gradient. Where it is a pretrained model it is held once, whoever asks.
    pub fn sft_policy(&self, world: &dyn World) -> Result<Policy> {
        if let Some(policy) = self.models.sft.get() {
            return Ok(policy.clone());
        }
        let policy = match self.experiment.stages.sft.steps {
            0 => self.base_policy(world)?,
            _ => self.policy_of(StageKind::Sft, world)?,
        };
        if !self.experiment.is_pretrained() {
            return Ok(policy); // clones of a module share their parameters' ids, and with them their gradients
        }
        let policy = if policy.has_lora() { policy.merged() } else { policy };
        Ok(self.models.sft.get_or_init(|| policy.no_grad()).clone())
    }

    /// What SFT starts from, without gradient: the pretrained model, or what the stage `base` has trained.
    pub(crate) fn base_policy(&self, world: &dyn World) -> Result<Policy> {
        if self.experiment.is_pretrained() { self.pretrained(world) } else { self.policy_of(StageKind::Base, world) }
    }

    /// The policy that a stage of the plan has trained, without gradient.
    fn policy_of(&self, kind: StageKind, world: &dyn World) -> Result<Policy> {
        let stage = self.plan.needed(self.stage, kind).expect("later stages need the policies before them");
        self.read_policy(stage, || self.pretrained(world), world)
    }

    /// Reads what [`Self::save_policy`] wrote; adapters are put onto `under`.
    fn read_policy(&self, stage: &Stage, under: impl FnOnce() -> Result<Policy>, world: &dyn World) -> Result<Policy> {
        let folder = self.folder(stage)?;
        if self.experiment.is_pretrained() && !folder.file(POLICY).is_file() {
            return Ok(huggingface::read_adapter(folder.path(), &self.config(world)?, under()?, &self.device)?);
        }
        let shape = self.with_recompute(Policy::zeros(&self.config(world)?, &self.device));
        Ok(weights::load(shape, &folder.file(POLICY))?)
    }

    /// Writes a policy: its adapters alone, as PEFT does, where they stand on a pretrained model; else all weights.
    fn save_policy(&self, policy: Policy, world: &dyn World, to: &Path) -> Result<()> {
        if self.experiment.is_pretrained() && policy.has_lora() {
            return Ok(huggingface::write_adapter(to, &self.config(world)?, &policy, &self.experiment.model.from)?);
        }
        Ok(weights::save(&policy.merged(), &to.join(POLICY))?)
    }

    pub(crate) fn rows(&self) -> Result<Vec<PreferenceRow>> {
        let pairs = self.plan.needed(self.stage, StageKind::Pairs).expect("stages that read rows need them");
        let path = self.folder(pairs)?.file(ROWS);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Io {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let read = |line| {
            serde_json::from_str(line).map_err(|e| Error::Foreign {
                stage: "pairs",
                path: path.clone(),
                problem: e.to_string(),
            })
        };
        let rows = text.lines().map(read).collect::<Result<Vec<PreferenceRow>>>()?;
        check_unpaired(self.experiment, &rows)?;
        Ok(rows)
    }
}

/// Where single completions with a label stand in twos, each to a prompt of its own, only losses that look at each alone, or at
/// all together, may read them.
fn check_unpaired(experiment: &Experiment, rows: &[PreferenceRow]) -> Result<()> {
    let unpaired = rows.iter().filter(|row| row.rejected_prompt.is_some()).count();
    let compares = |point: &ArmPoint| match &point.method {
        duel_spec::MethodSettings::Dpo(dpo) => !dpo.loss.entry().unpaired,
        _ => false,
    };
    match experiment.arms.iter().find(|(_, arm)| unpaired > 0 && arm.representative_points().iter().any(compares)) {
        Some((arm, _)) => Err(Error::Unpaired { arm: arm.clone(), rows: unpaired }),
        None => Ok(()),
    }
}

/// A person's rows with what the judge says of both completions.
fn judge_rows(rows: &[PreferenceRow], gold: &dyn Scorer) -> Result<Vec<PreferenceRow>> {
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut chosen = gold.score(&PairBatch::new(rows, &all).both)?;
    let rejected = chosen.split_off(rows.len());
    let with = |((row, gold_chosen), gold_rejected): ((&PreferenceRow, f64), f64)| PreferenceRow {
        gold_chosen,
        gold_rejected,
        ..row.clone()
    };
    Ok(rows.iter().zip(chosen).zip(rejected).map(with).collect())
}

fn save_rows(rows: Vec<PreferenceRow>, to: &Path) -> Result<()> {
    let mut lines = String::new();
    for row in rows {
        lines += &serde_json::to_string(&row).expect("a row is plain data");
        lines.push('\n');
    }
    Ok(duel_ledger::write_atomically(&to.join(ROWS), lines.as_bytes())?)
}

/// Row numbers, epoch after epoch, each shuffled by its own generator.
pub struct EpochSampler {
    rows: usize,
    batch_size: usize,
    seed: u64,
    stream: Stream<'static>,
    epoch: Option<u64>,
    batches: Vec<Vec<usize>>,
}

impl EpochSampler {
    /// Batches of `batch_size` of `rows` rows, shuffled by a stream at each epoch.
    pub fn new(rows: usize, batch_size: usize, seed: u64, stream: Stream<'static>) -> Self {
        Self { rows, batch_size, seed, stream, epoch: None, batches: vec![] }
    }

    /// Share of the rows that are in no batch of an epoch, other ones in each.
    pub fn left_out(&self) -> f64 {
        (self.rows % self.batch_size.min(self.rows)) as f64 / self.rows as f64
    }

    /// The batch of a step; the same one whenever it is asked.
    pub fn at(&mut self, step: u64) -> &[usize] {
        let an_epoch = (self.rows / self.batch_size.min(self.rows)) as u64;
        let (epoch, place) = (step / an_epoch, (step % an_epoch) as usize);
        if self.epoch != Some(epoch) {
            let mut rng = seeds::stream(self.seed, self.stream, epoch);
            self.batches = shuffled_batches(self.rows, self.batch_size, &mut rng);
            self.epoch = Some(epoch);
        }
        &self.batches[place]
    }
}

fn responses(rows: Vec<PromptResponse>) -> Responses {
    let (prompts, responses) = rows.into_iter().map(|r| (r.prompt, r.response)).unzip();
    Responses { prompts, responses, logp: vec![] }
}

pub(crate) fn save_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let json = serde_json::to_vec(value).expect("stages write plain data");
    Ok(duel_ledger::write_atomically(path, &json)?)
}

pub(crate) fn load_json<T: serde::de::DeserializeOwned>(stage: &'static str, path: &Path) -> Result<T> {
    let bytes = std::fs::read(path).map_err(|source| Error::Io { action: "read", path: path.into(), source })?;
    serde_json::from_slice(&bytes).map_err(|e| Error::Foreign { stage, path: path.into(), problem: e.to_string() })
}
