//! A training that is interrupted between two iterations continues as if it had not been.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::Device;
use duel_model::{Flops, Policy, ResponseReader, Responses, TransformerConfig, weights};
use duel_spec::metrics::Metric;
use duel_spec::{
    BudgetSettings, BudgetUnit, Clocks, Completion, LearnerSettings, OptimizerKind, OutcomeRow, Recorder, TokenSpec,
    seeds,
};
use duel_testing_tensors::trajectory;
use duel_training::sft::Sft;
use duel_training::{BestCheckpoint, BudgetSchedule, Error, Learner, TrainContext, TrainSchedule, train};
use std::sync::atomic::AtomicBool;

/// Rows in memory, and the last checkpoint.
#[derive(Default)]
struct Memory {
    rows: Vec<(u64, &'static str, u64)>,
    checkpoint: Option<(usize, Vec<u8>)>,
}

impl Recorder for Memory {
    fn record(&mut self, _: &str, clocks: Clocks, metric: Metric, value: f64) {
        if !metric.is_machine_dependent() {
            self.rows.push((clocks.step, metric.name, value.to_bits()));
        }
    }
    fn completion(&mut self, _: Completion) {}
    fn outcomes(&mut self, _: &[OutcomeRow]) {}
    fn progress(&mut self, _: u64, _: u64, _: &str) {}
    fn save(&mut self, _: &str, state: &[u8]) -> std::io::Result<()> {
        self.checkpoint = Some((self.rows.len(), state.to_vec()));
        Ok(())
    }
    fn resume(&mut self, _: &str) -> std::io::Result<Option<Vec<u8>>> {
        let Some((rows, state)) = self.checkpoint.clone() else { return Ok(None) };
        self.rows.truncate(rows);
        Ok(Some(state))
    }
}

fn config() -> TransformerConfig {
    TransformerConfig::small(12, 8, 1, 8, 2, true)
}

/// Trains for six iterations, or a budget that six use up, interrupted before those in `cuts`; returns the final and the best weights,
/// and the rows.
fn trained(settings: &LearnerSettings, budget: Option<BudgetSchedule>, cuts: &[u64]) -> (Vec<f32>, Memory) {
    let space = TokenSpec { allowed_tokens: Some((2..12).collect()), ..trajectory::space(12, [0, 2], 3, 4) };
    let device = Device::flex().autodiff();
    let config = config();
    let mut memory = Memory::default();
    let mut cuts = cuts.iter().copied();
    loop {
        let cut = cuts.next();
        let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &device);
        let policy = policy.with_fresh_lora(2, 2.0, |_| true, &mut seeds::derive(0, "test", 0, "lora"), &device);
        let mut learner = Learner::new(policy, settings, 1e-2, 6).with_dropout(0.3, 5);
        let mut method = Sft::new(ResponseReader::new(&space, &device), &config);
        let mut best = BestCheckpoint::new(f64::INFINITY);
        let stop = AtomicBool::new(false);
        let mut context =
            TrainContext { stage: "test", training: "test", recorder: &mut memory, splits: None, stop: &stop };
        let batch = |iteration: u64| {
            if cut == Some(iteration) {
                stop.store(true, std::sync::atomic::Ordering::Relaxed); // read before the next iteration
            }
            let word = 3 + iteration as u32;
            let responses = vec![vec![word, word + 1, 2], vec![word, 4, 5, 2]];
            Ok::<_, Error>(Responses {
                prompts: vec![vec![1, 3, 4], vec![1, 6, 7]],
                responses,
                logp: vec![],
                masks: vec![],
            })
        };
        // the third step is the best
        let evaluate = |_: &Policy, clocks: Clocks, _: &mut dyn Recorder| Ok(Some(-(clocks.step as f64 - 3.0).abs()));
        let schedule = match budget {
            Some(budget) => TrainSchedule::Budget(budget),
            None => TrainSchedule::Iterations { iterations: 6, eval_at: &[1, 2, 3, 4, 5, 6] },
        };
        match train(&mut method, &mut learner, &mut best, schedule, batch, &mut context, evaluate) {
            Err(Error::Interrupted) => assert!(memory.checkpoint.is_some() && cut.is_some()),
            done => {
                assert_eq!(done.unwrap().step, 6);
                let last = weights::flatten(learner.module());
                let (best, step) = best.restore(learner.into_module());
                assert_eq!(step, Some(3));
                return ([last, weights::flatten(&best.valid())].concat(), memory);
            }
        }
    }
}

#[test]
fn an_interrupted_training_ends_like_an_uninterrupted_one() {
    for optimizer in [OptimizerKind::Adamw, OptimizerKind::Rmsprop, OptimizerKind::Lion] {
        let settings = LearnerSettings { optimizer, ..LearnerSettings::defaults() };
        let (expected, expected_rows) = trained(&settings, None, &[]);
        let (actual, actual_rows) = trained(&settings, None, &[0, 2, 4]);
        assert!(expected == actual, "{optimizer:?}: other weights");
        assert_eq!(expected_rows.rows, actual_rows.rows, "{optimizer:?}");
    }
}

/// An iteration reads 13 tokens. What is used of a budget, and with it the end and the learning rate, are those of all attempts.
#[test]
fn a_training_on_a_budget_resumes_too() {
    let settings = LearnerSettings::defaults();
    let flops = Flops::policy(&config()).train(13);
    for (unit, amount, expected) in [
        (BudgetUnit::Steps, 6.0, Some(1.0)),
        (BudgetUnit::Tokens, 5.5 * 13.0, Some(20.0)),
        (BudgetUnit::Flops, 5.2 * flops, Some(0.8 * flops)),
    ] {
        let budget = BudgetSettings { unit, amount };
        let budget =
            Some(BudgetSchedule { settings: budget, updates: 1, expected, evaluations: 6, evaluates_end: true });
        let (expected, expected_rows) = trained(&settings, budget, &[]);
        let (actual, actual_rows) = trained(&settings, budget, &[0, 2, 5]);
        assert!(expected == actual, "{unit:?}: other weights");
        assert_eq!(expected_rows.rows, actual_rows.rows, "{unit:?}");
    }
}
