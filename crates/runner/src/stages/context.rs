//! The surroundings of every stage: the experiment, its plan, the run directory and the models that are in memory.

use super::files::{POLICY, ROWS};
use crate::error::{Error, Result};
use crate::plan::{Plan, Stage, StageKind};
use crate::sources;
use crate::world::{self, LoadedWorld};
use burn::module::Module;
use burn::tensor::Device;
use duel_data::World;
use duel_data::pairs::PreferenceRow;
use duel_ledger::{RunDir, StageDir, StageRecorder};
use duel_model::{FrozenNumbers, Policy, ResponseReader, TransformerConfig, peft, weights};
use duel_reward::{PairScorer, PretrainedReward, Scorer};
use duel_spec::seeds::{self};
use duel_spec::{ArmPoint, Clocks, Experiment};
use duel_training::{BestCheckpoint, Learner, Method, TrainContext, TrainSchedule, train};
use std::cell::{OnceCell, RefCell};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Everything a stage may read.
pub struct StageContext<'a> {
    pub experiment: &'a Experiment,
    pub plan: &'a Plan,
    pub stage: &'a Stage,
    pub run: &'a RunDir,
    pub device: Device,
    pub stop: &'a AtomicBool,
    models: ModelCache,
    /// Judges that the stage may have started.
    judges: RefCell<Vec<Arc<dyn Scorer>>>,
    pair_judges: RefCell<Vec<Arc<PairScorer>>>,
}

/// Models that several parts of a stage share: one copy in memory, under any number of adapters.
#[derive(Debug, Default)]
struct ModelCache {
    config: OnceCell<TransformerConfig>,
    pretrained: OnceCell<Policy>,
    sft: OnceCell<Policy>,
    reward: OnceCell<RewardStart>,
}

/// A pretrained reward model, before it is trained further.
#[derive(Debug)]
pub(crate) struct RewardStart {
    pub(crate) model: PretrainedReward,
    pub(super) config: TransformerConfig,
    /// Without gradient.
    pub(super) body: Policy,
}

impl<'a> StageContext<'a> {
    /// A context in which no model has been read yet.
    pub fn new(
        experiment: &'a Experiment,
        plan: &'a Plan,
        stage: &'a Stage,
        run: &'a RunDir,
        device: Device,
        stop: &'a AtomicBool,
    ) -> Self {
        let (models, judges, pair_judges) = (ModelCache::default(), RefCell::default(), RefCell::default());
        Self { experiment, plan, stage, run, device, stop, models, judges, pair_judges }
    }
}

impl StageContext<'_> {
    /// Trains without evaluations on the way.
    pub fn train_alone<M: Method>(
        &self,
        stage: &str,
        method: &mut M,
        learner: &mut Learner<M::Module>,
        steps: usize,
        batch: impl FnMut(u64) -> Result<M::Batch>,
        recorder: &mut StageRecorder,
    ) -> Result<Clocks> {
        let mut context = TrainContext { stage, training: stage, recorder, splits: None, stop: self.stop };
        let schedule = TrainSchedule::Iterations { iterations: steps as u64, eval_at: &[] };
        train(method, learner, &mut BestCheckpoint::default(), schedule, batch, &mut context, |_, _, _| Ok(None))
    }

    pub fn load_world(&self) -> Result<LoadedWorld> {
        let corpus = self.plan.needed(self.stage, StageKind::Corpus).map(|corpus| self.folder(corpus)).transpose()?;
        let loaded = world::open(self.experiment, corpus.as_ref().map(StageDir::path), &self.device)?;
        self.judges.borrow_mut().push(loaded.gold.clone());
        self.pair_judges.borrow_mut().extend(loaded.pairwise.clone());
        Ok(loaded)
    }

    /// Ends the judges that the stage may have started.
    pub fn finish_judges(&self) -> Result<()> {
        self.judges.borrow().iter().try_for_each(|gold| gold.finish())?;
        Ok(self.pair_judges.borrow().iter().try_for_each(|judge| judge.finish())?)
    }

    /// The shape of the experiment's model.
    pub fn config(&self, world: &dyn World) -> Result<TransformerConfig> {
        if let Some(config) = self.models.config.get() {
            return Ok(config.clone());
        }
        let config = world::model_of(self.experiment, world.space())?;
        Ok(self.models.config.get_or_init(|| config).clone())
    }

    /// A new policy, ready to train.
    pub fn fresh_policy(&self, world: &dyn World, rng: &mut seeds::Rng) -> Result<Policy> {
        Ok(self.with_memory_settings(Policy::new(&self.config(world)?, rng, &self.train_device())))
    }

    /// A policy that keeps for the backward pass what the learner's settings say.
    pub fn with_memory_settings(&self, policy: Policy) -> Policy {
        let learner = &self.experiment.learner;
        let policy = policy.with_logits_memory(learner.logits_bytes());
        if learner.recompute { policy.with_recomputed_blocks() } else { policy }
    }

    /// The pretrained model, without gradient: read once, and shared by all that start from it.
    fn pretrained(&self, world: &dyn World) -> Result<Policy> {
        if let Some(policy) = self.models.pretrained.get() {
            return Ok(policy.clone());
        }
        let model = world::open_model(self.experiment)?;
        let (settings, context) = (&self.experiment.model, world.space().context());
        let sft = &self.experiment.stages.sft;
        let policy = match self.frozen_numbers().filter(|_| sft.steps == 0 || sft.lora) {
            numbers if settings.mapped => model.mapped(context, numbers, &self.device)?,
            Some(numbers) => model.rounded(context, numbers, &self.device)?,
            None => model.policy(context, &self.device)?,
        };
        let policy = self.with_memory_settings(policy).no_grad();
        Ok(self.models.pretrained.get_or_init(|| policy).clone())
    }

    /// What matrices are rounded to that are not trained; `None`: they are not.
    fn frozen_numbers(&self) -> Option<FrozenNumbers> {
        world::frozen_numbers(self.experiment.model.numbers)
    }

    /// A policy whose weights are not trained, as the experiment keeps it, its adapters merged.
    pub(super) fn frozen(&self, policy: Policy) -> Policy {
        match self.frozen_numbers() {
            Some(numbers) => policy.merged_and_rounded(numbers).no_grad(),
            None if policy.has_lora() => policy.merged().no_grad(),
            None => policy.no_grad(),
        }
    }

    /// The reward model of `stages.rm.from`, where one is named: read once, and shared by all that start from it.
    pub(crate) fn reward_start(&self) -> Result<Option<&RewardStart>> {
        let settings = &self.experiment.stages.rm;
        if !settings.is_pretrained() {
            return Ok(None);
        }
        if self.models.reward.get().is_none() {
            let model = PretrainedReward::open(&sources::model(Path::new(&settings.from))?)?;
            let numbers = self.frozen_numbers().filter(|_| settings.lora || settings.steps == 0);
            let body = match numbers {
                Some(numbers) => model.rounded_body(numbers, &self.device)?,
                None => model.body(&self.device)?,
            };
            let (config, body) = (model.config()?, self.with_memory_settings(body).no_grad());
            return Ok(Some(self.models.reward.get_or_init(|| RewardStart { model, config, body })));
        }
        Ok(self.models.reward.get())
    }

    pub fn train_device(&self) -> Device {
        self.device.clone().autodiff()
    }

    pub fn reader(&self, world: &dyn World) -> ResponseReader {
        ResponseReader::new(world.space(), &self.device)
    }

    pub fn train_reader(&self, world: &dyn World) -> ResponseReader {
        ResponseReader::new(world.space(), &self.train_device())
    }

    /// A copy of a policy on the autodiff device, ready to train.
    pub fn on_train_device(&self, policy: Policy) -> Policy {
        policy.train()
    }

    pub fn folder(&self, stage: &Stage) -> Result<StageDir> {
        StageDir::find(&self.run.stages(), &stage.id)?.ok_or_else(|| {
            let path = self.run.stages().join(stage.id.folder());
            Error::Foreign { stage: stage.kind.name(), path, problem: "it is not there".into() }
        })
    }

    /// The policy that this cell has trained, without gradient.
    pub fn trained_policy(&self, world: &dyn World) -> Result<Policy> {
        self.read_policy(self.stage, || self.sft_policy(world), world)
    }

    /// The SFT policy of this seed, without gradient. A pretrained model is in memory once.
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
        Ok(self.models.sft.get_or_init(|| self.frozen(policy)).clone())
    }

    /// The start of SFT, without gradient: the pretrained model, or the model of the stage `base`.
    pub fn base_policy(&self, world: &dyn World) -> Result<Policy> {
        if self.experiment.is_pretrained() { self.pretrained(world) } else { self.policy_of(StageKind::Base, world) }
    }

    /// The policy that a stage of the plan has trained, without gradient.
    fn policy_of(&self, kind: StageKind, world: &dyn World) -> Result<Policy> {
        let stage = self.plan.needed(self.stage, kind).expect("later stages need the policies before them");
        self.read_policy(stage, || self.pretrained(world), world)
    }

    /// Reads what [`Self::save_policy`] wrote; adapters are added to `under`.
    fn read_policy(&self, stage: &Stage, under: impl FnOnce() -> Result<Policy>, world: &dyn World) -> Result<Policy> {
        let folder = self.folder(stage)?;
        if self.experiment.is_pretrained() && !folder.file(POLICY).is_file() {
            return Ok(peft::read_adapter(folder.path(), &self.config(world)?, under()?, &self.device)?);
        }
        let shape = self.with_memory_settings(Policy::zeros(&self.config(world)?, &self.device));
        Ok(weights::load(shape, &folder.file(POLICY))?)
    }

    /// Writes a policy: only its adapters, in PEFT's format, if it is a pretrained model; else all weights.
    pub fn save_policy(&self, policy: Policy, world: &dyn World, to: &Path) -> Result<()> {
        if self.experiment.is_pretrained() && policy.has_lora() {
            let base = sources::public_name(&self.experiment.model.from);
            return Ok(peft::write_adapter(to, &self.config(world)?, &policy, &base)?);
        }
        Ok(weights::save(&policy.merged(), &to.join(POLICY))?)
    }

    pub fn rows(&self) -> Result<Vec<PreferenceRow>> {
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
        check_unpaired(self.experiment, count_unpaired(&rows))?;
        Ok(rows)
    }
}

/// The policy frozen, with fresh adapters that count α/rank times on the projections whose names `is_adapted` is true of.
pub(super) fn adapted(
    policy: Policy,
    (rank, alpha): (usize, f64),
    is_adapted: impl Fn(&str) -> bool,
    rng: &mut seeds::Rng,
    device: &Device,
) -> Policy {
    policy.with_fresh_lora(rank, alpha / rank as f64, is_adapted, rng, device)
}

/// Pairs of two single completions with a label, each with its own prompt.
pub(super) fn count_unpaired(rows: &[PreferenceRow]) -> usize {
    rows.iter().filter(|row| row.rejected_prompt.is_some()).count()
}

/// If single completions with a label are paired, each with its own prompt, only losses that read each of them alone, or
/// all of them together, may be used.
pub(super) fn check_unpaired(experiment: &Experiment, unpaired: usize) -> Result<()> {
    let compares = |point: &ArmPoint| match &point.method {
        duel_spec::MethodSettings::Dpo(dpo) => !dpo.allows_unpaired(),
        _ => false,
    };
    match experiment.arms.iter().find(|(_, arm)| unpaired > 0 && arm.representative_points().iter().any(compares)) {
        Some((arm, _)) => Err(Error::Unpaired { arm: arm.clone(), rows: unpaired }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{PlannedRun, pretrained_run, tiny_policies};
    use super::*;
    use duel_data::Detokenize;
    use duel_data::grammar::GrammarWorld;
    use duel_model::Responses;
    use duel_reward::{JudgedPair, PairJudge};
    use duel_spec::{JudgedText, Split};

    /// A judge that has noticed too late that its scores were wrong.
    struct WrongScores;

    impl Scorer for WrongScores {
        fn score(&self, batch: &Responses) -> duel_reward::Result<Vec<f64>> {
            Ok(vec![0.0; batch.len()])
        }

        fn finish(&self) -> duel_reward::Result<()> {
            Err(duel_reward::Error::Command { command: "judge".into(), problem: "a line too many".into() })
        }
    }

    impl PairJudge for WrongScores {
        fn prefer(&self, pairs: &[JudgedPair]) -> duel_reward::Result<Vec<f64>> {
            Ok(vec![0.5; pairs.len()])
        }

        fn finish(&self) -> duel_reward::Result<()> {
            Scorer::finish(self)
        }
    }

    struct NoText;

    impl Detokenize for NoText {
        fn text(&self, _: &[u32]) -> duel_data::Result<String> {
            Ok(String::new())
        }
    }

    #[test]
    fn a_stage_fails_with_what_its_judge_says_at_the_end() {
        let run = PlannedRun::new("[arms.a]\nmethod = \"dpo\"\n");
        let context = run.context(run.stage(StageKind::Pairs));
        assert!(context.finish_judges().is_ok());
        context.judges.borrow_mut().push(Arc::new(WrongScores));
        let error = context.finish_judges().expect_err("wrong scores");
        assert!(error.to_string().contains("a line too many"), "{error}");
        // and so with what the judge of pairs says
        let context = run.context(run.stage(StageKind::Pairs));
        let world: Arc<dyn Detokenize> = Arc::new(NoText);
        let scorer = PairScorer { judge: Arc::new(WrongScores), world, reads: JudgedText::Response, judged_words: 1 };
        context.pair_judges.borrow_mut().push(Arc::new(scorer));
        assert!(context.finish_judges().expect_err("wrong answers").to_string().contains("a line too many"));
    }

    #[test]
    fn unpaired_rows_need_losses_that_do_not_compare_them() {
        let experiment = |loss: &str| {
            PlannedRun::new(&format!("[arms.a]\nmethod = \"ppo\"\n[arms.b]\nmethod = \"dpo\"\nloss = \"{loss}\"\n"))
                .experiment
        };
        let paired = PreferenceRow::new(Split::Train, vec![1], vec![2], vec![3]);
        let unpaired = PreferenceRow { rejected_prompt: Some(vec![4]), ..paired.clone() };
        let check = |loss: &str, rows: &[PreferenceRow]| match check_unpaired(&experiment(loss), count_unpaired(rows)) {
            Ok(()) => None,
            Err(Error::Unpaired { arm, rows }) => Some((arm, rows)),
            Err(other) => panic!("{other}"),
        };
        let rows = [unpaired.clone(), paired.clone(), unpaired];
        assert_eq!(check("sigmoid", &rows), Some(("b".into(), 2)));
        assert_eq!(check("kto", &rows), None);
        assert_eq!(check("sigmoid", &[paired]), None);
    }

    /// A model that is trained in place is read anew for each use: clones would share their parameters, and so their gradients.
    #[test]
    fn every_copy_of_a_small_policy_has_parameters_of_its_own() -> Result<()> {
        let run = PlannedRun::new(
            "[model]\nlayers = 1\nwidth = 8\nheads = 2\n[stages.sft]\nsteps = 1\nbatch_size = 2\n[arms.a]\nmethod = \"dpo\"\n",
        );
        run.make(StageKind::Sft)?;
        let context = run.context(run.stage(StageKind::Pairs));
        let loaded = context.load_world()?;
        let [first, second] = [context.sft_policy(loaded.world.as_ref())?, context.sft_policy(loaded.world.as_ref())?];
        assert_eq!(first.hash(), second.hash());
        let ids = |policy: &Policy| burn::module::list_param_ids(policy);
        assert!(ids(&first).iter().all(|id| !ids(&second).contains(id)));
        Ok(())
    }

    #[test]
    fn a_pretrained_model_is_rounded_where_it_is_not_trained() -> Result<()> {
        let world = GrammarWorld::new(0.02, 1);
        for (settings, expected) in [
            ("[stages.sft]\nsteps = 0\n", 0),
            ("numbers = \"bf16\"\n[stages.sft]\nsteps = 0\n", 1),
            ("numbers = \"bf16\"\n[stages.sft]\nsteps = 2\n", 0),
            ("numbers = \"bf16\"\n[stages.sft]\nsteps = 2\nlora = true\n", 1),
        ] {
            let (run, folder) = pretrained_run(settings, "lora = true\n");
            let policies = tiny_policies(folder.path())?;
            let context = run.context(run.stage(StageKind::Pairs));
            assert_eq!(context.base_policy(&world)?.hash(), policies[expected].hash(), "{settings}");
        }
        Ok(())
    }

    /// A mapped model notices that its file was cut off; one in memory does not read it again.
    #[test]
    fn matrices_stay_in_their_file_if_they_are_mapped() -> Result<()> {
        for (settings, mapped) in [
            ("", false),
            ("mapped = true\n", true),
            ("numbers = \"bf16\"\n", false),
            ("numbers = \"bf16\"\nmapped = true\n", true),
        ] {
            let (run, folder) = pretrained_run(&format!("{settings}[stages.sft]\nsteps = 0\n"), "lora = true\n");
            let context = run.context(run.stage(StageKind::Pairs));
            let policy = context.base_policy(&GrammarWorld::new(0.02, 1))?;
            let file = folder.path().join("model/model.safetensors");
            std::fs::File::options().write(true).open(file).expect("opened").set_len(100).expect("cut off");
            let read = duel_model::catching(|| duel_model::Result::Ok(policy.hash()));
            assert_eq!(read.is_err(), mapped, "{settings}");
        }
        Ok(())
    }

    /// A policy that is no longer trained has no adapters beside its weights.
    #[test]
    fn adapters_are_merged_where_they_are_not_trained() -> Result<()> {
        let (run, folder) = pretrained_run("", "");
        let [policy, _] = tiny_policies(folder.path())?;
        let mut rng = seeds::derive(3, "test", 0, "init");
        let trained = adapted(policy, (2, 4.0), |_| true, &mut rng, &Device::flex());
        let frozen = run.context(run.stage(StageKind::Pairs)).frozen(trained.clone());
        assert_eq!((frozen.has_lora(), frozen.hash()), (false, trained.merged().hash()));
        Ok(())
    }

    #[test]
    fn a_pretrained_reward_model_is_rounded_where_it_is_not_trained() -> Result<()> {
        for settings in ["steps = 0\n", "steps = 2\nlora = true\n"] {
            let hash = |numbers: &str| -> Result<String> {
                let (run, _folder) = pretrained_run(numbers, &format!("from = \"AT/reward\"\n{settings}"));
                let context = run.context(run.stage(StageKind::Pairs));
                Ok(context.reward_start()?.expect("one is named").body.hash())
            };
            assert_ne!(hash("")?, hash("numbers = \"bf16\"\n")?, "{settings}");
        }
        Ok(())
    }

    /// Of a pretrained model with adapters these alone are written, in PEFT's format; of any other all weights.
    #[test]
    fn policies_are_written_and_read_as_they_were_trained() -> Result<()> {
        let world = GrammarWorld::new(0.02, 1);
        let mut rng = seeds::derive(3, "test", 0, "init");
        let mut trained = |policy: Policy| adapted(policy, (2, 4.0), |_| true, &mut rng, &Device::flex());
        let (pretrained, folder) = pretrained_run("", "");
        let [policy, _] = tiny_policies(folder.path())?;
        let own = PlannedRun::new("[model]\nlayers = 1\nwidth = 8\nheads = 2\n[arms.a]\nmethod = \"dpo\"\n");
        let small = Policy::new(
            &own.context(own.stage(StageKind::Pairs)).config(&world)?,
            &mut seeds::derive(4, "test", 0, "init"),
            &Device::flex(),
        );
        for (run, policy, adapters) in [
            (&pretrained, trained(policy.clone()), true),
            (&pretrained, policy, false),
            (&own, trained(small.clone()), false),
            (&own, small, false),
        ] {
            let stage = run.stage(StageKind::Sft);
            let context = run.context(stage);
            let expected = policy.clone().merged().hash();
            let make = |to: &Path| context.save_policy(policy.clone(), &world, to);
            let written = StageDir::make(&run.run.stages(), &stage.id, &stage.key, make)?;
            assert_eq!(written.file(POLICY).is_file(), !adapters);
            let read = context.read_policy(stage, || context.pretrained(&world), &world)?;
            assert_eq!((read.has_lora(), read.merged().hash()), (adapters, expected));
            std::fs::remove_dir_all(written.path()).expect("removed");
        }
        Ok(())
    }
}
