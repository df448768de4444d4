//! Whole reward-model trainings against bare PyTorch and TRL, step by step.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::tensor::Device;
use duel_model::{Checkpoint, ResponseReader, ScalarModel};
use duel_objectives::{BradleyTerryOptions, bradley_terry_loss};
use duel_reward::RewardModel;
use duel_spec::RmStage;
use duel_spec::metrics::{self, Metric};
use duel_testing::golden;
use duel_testing_tensors::{precision, trajectory};
use duel_training::{Learner, Method, PairBatch, pairs::halves};
use golden::{close, numbers};
use precision::{F32, values};

#[test]
fn golden_reward_model_trainings_step_by_step() {
    let file = golden::topic("reward_steps.json").ignoring(&["deviation_between_the_two"]); // of the libraries from each other
    let hyper = &file["hyper"];
    let device = Device::flex().autodiff();
    let head: Vec<f32> = numbers(&file["score_weight"]).into_iter().map(|x| x as f32).collect();
    for variant in file.items("variants") {
        let name = variant.text("name");
        let Checkpoint { config, policy, .. } = trajectory::checkpoint(&file["model"], &device);
        let (rows, space) = trajectory::pairs(&file, config.vocabulary);
        let batch = PairBatch::new(&rows, &(0..rows.len()).collect::<Vec<_>>());
        let reader = ResponseReader::new(&space, &device);
        let model = ScalarModel::with_head(policy, head.clone(), &device);
        let (steps, trl) = (variant.items("steps"), variant.items("trl_steps"));
        assert_eq!([steps.len(), trl.len()], [hyper.number("steps") as usize; 2]);
        let adamw = trajectory::adamw(hyper["max_grad_norm"].as_f64(), hyper.number("weight_decay"));
        let mut learner = Learner::new(model, &adamw, hyper.number("lr"), steps.len() as u64);

        let plain = variant["margins"].is_null() && variant["center_rewards_coefficient"].is_null();
        let mut method = RewardModel::new(RmStage::defaults(), reader.clone(), &config);
        for (i, (step, trl)) in steps.iter().zip(trl).enumerate() {
            let both = reader.scores(learner.module(), &batch.both); // [2N]
            let n = rows.len();
            let scores = halves(both.clone());
            let all = values(both);
            if i == 0 {
                close(name, &all[..n], &numbers(&variant["initial_rewards_chosen"]), 1e-4);
                close(name, &all[n..], &numbers(&variant["initial_rewards_rejected"]), 1e-4);
            }
            let same = |key: &str, value: f64| {
                close(&format!("{name}, step {i}, {key}"), &[value; 2], &[step.number(key), trl.number(key)], 1e-4);
            };
            let right = (0..n).filter(|&pair| all[pair] > all[n + pair]).count() as f64 / n as f64;
            same("accuracy", right);
            same("mean_reward", all.iter().sum::<f64>() / all.len() as f64);
            same("min_reward", all.iter().copied().fold(f64::INFINITY, f64::min));
            same("max_reward", all.iter().copied().fold(f64::NEG_INFINITY, f64::max));
            let (loss, grad_norm, margin) = if plain {
                // the method itself
                let message = method.iteration(&batch, &mut learner).unwrap();
                let value = |metric: Metric| message.values.iter().find(|(m, _)| *m == metric).unwrap().1;
                assert_eq!(value(metrics::PAIR_ACCURACY_TRAIN), step.number("accuracy"), "{name}, step {i}");
                (value(metrics::LOSS), value(metrics::GRAD_NORM), value(metrics::RM_MARGIN))
            } else {
                let strengths = (!variant["margins"].is_null()).then(|| F32.tensor::<1>(&variant["margins"]));
                let centring = variant["center_rewards_coefficient"].as_f64().unwrap_or(0.0);
                let outcome = bradley_terry_loss(
                    scores,
                    BradleyTerryOptions { strengths, centring, ..BradleyTerryOptions::default() },
                );
                let margins = values(outcome.margins);
                let update = learner.minimize(outcome.loss).unwrap();
                (update.loss, update.grad_norm, margins.iter().sum::<f64>() / n as f64)
            };
            same("loss", loss);
            same("grad_norm", grad_norm);
            same("margin", margin);
        }
        trajectory::same_norms(name, learner.module(), &config, true, &variant["final_parameter_norms"]);
    }
}
