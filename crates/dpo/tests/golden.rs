//! A whole DPO training against bare PyTorch and TRL, step by step.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::Module;
use burn::tensor::Device;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_model::{Checkpoint, ResponseReader};
use duel_objectives::entropy;
use duel_spec::metrics::{self, Metric};
use duel_testing::golden;
use duel_testing_tensors::{precision, trajectory};
use duel_training::{Learner, Method, PairBatch, logprobs};
use golden::{close, numbers};

#[test]
fn golden_dpo_training_step_by_step() {
    let file = golden::topic("dpo_steps.json");
    let hyper = &file["hyper"];
    let device = Device::flex().autodiff();
    let Checkpoint { config, policy, .. } = trajectory::checkpoint(&file["model"], &device);
    let (rows, space) = trajectory::pairs(&file, config.vocabulary);

    let reference = ReferenceLogp::compute(&ResponseReader::new(&space, &Device::flex()), &policy.valid(), &rows);
    let host = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    close("reference, chosen", &host(&reference.chosen), &numbers(&file["reference_chosen_logps"]), 1e-5);
    close("reference, rejected", &host(&reference.rejected), &numbers(&file["reference_rejected_logps"]), 1e-5);

    let settings = duel_spec::DpoSettings {
        beta: hyper.number("beta"),
        epochs: 1.0,
        batch_size: rows.len(),
        learning_rate: hyper.number("lr"),
        label_smoothing: 0.0,
        ..duel_spec::DpoSettings::defaults()
    };
    let mut dpo = Dpo::new(settings, ResponseReader::new(&space, &device), reference, &config);
    let (steps, trl) = (file.items("steps"), file.items("trl_steps"));
    assert_eq!([steps.len(), trl.len()], [hyper.number("steps") as usize; 2]);
    let adamw = trajectory::adamw(hyper["max_grad_norm"].as_f64(), hyper.number("weight_decay"));
    let mut learner = Learner::new(policy, &adamw, hyper.number("lr"), steps.len() as u64);
    let batch = PairBatch::new(&rows, &(0..rows.len()).collect::<Vec<_>>());
    for (i, (step, trl)) in steps.iter().zip(trl).enumerate() {
        // TRL alone reports the policy's entropy, over all tokens of both responses
        let plain = ResponseReader::new(&space, &Device::flex());
        let logits = plain.logits(&learner.module().valid(), &plain.tokens(&batch.both));
        let actual = precision::values(logprobs::mask(&plain, &batch.both).mean(entropy(logits)));
        close(&format!("step {i}, entropy"), &actual, &[trl.number("entropy")], 1e-4);
        let metrics = dpo.iteration(&batch, &mut learner).unwrap();
        let value_of = |metric: Metric| metrics.values.iter().find(|(m, _)| *m == metric).unwrap().1;
        for (key, metric) in [
            ("loss", metrics::LOSS),
            ("rewards/chosen", metrics::REWARD_CHOSEN),
            ("rewards/rejected", metrics::REWARD_REJECTED),
            ("rewards/margins", metrics::DPO_MARGIN),
            ("rewards/accuracies", metrics::DPO_ACCURACY),
            ("logps/chosen", metrics::LOGP_CHOSEN),
            ("logps/rejected", metrics::LOGP_REJECTED),
            ("grad_norm", metrics::GRAD_NORM),
        ] {
            let actual = value_of(metric);
            for (by, expected) in [("PyTorch", step.number(key)), ("TRL", trl.number(key))] {
                let what = format!("step {i}, {key} by {by}");
                match key {
                    // before the first update all pairs tie, and rounding decides
                    "rewards/accuracies" if i == 0 => {}
                    // differences of log-probs near -90, which f32 holds to 4e-6
                    _ if key.starts_with("rewards") => {
                        assert!(
                            (actual - expected).abs() < 1e-4 * expected.abs() + 1e-6,
                            "{what}: {actual}, {expected}"
                        );
                    }
                    _ => close(&what, &[actual], &[expected], 1e-4),
                }
            }
        }
    }
    trajectory::same_norms("DPO", learner.module(), &config, false, &file["final_parameter_norms"]);
}
