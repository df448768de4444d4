//! Every loss trains at every beta, on short and on long responses, on narrow and on wide models; and at every beta a planted
//! fault is detected.

use burn::module::Module;
use burn::tensor::Device;
use duel_data::World;
use duel_data::grammar::GrammarWorld;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_model::{Architecture, Llama, Policy, ResponseReader, TransformerConfig, weights};
use duel_spec::{DpoSettings as Settings, LearnerSettings, LossMask, PairInput, PairLoss, Split, TokenSpec, seeds};
use duel_training::{Error, Learner, Method, PairBatch, probes};

const BETAS: [f64; 9] = [1e-3, 1e-2, 0.1, 0.5, 1.0, 10.0, 50.0, 1e2, 1e3];
/// Pairs of a batch, and updates that are made.
const BATCH: usize = 16;
const UPDATES: usize = 3;

/// A model and the rows that it is trained on.
struct Setting {
    space: TokenSpec,
    config: TransformerConfig,
    rows: Vec<PreferenceRow>,
}

fn row(prompt: Vec<u32>, chosen: Vec<u32>, rejected: Vec<u32>) -> PreferenceRow {
    PreferenceRow { gold_chosen: 1.0, p_label: 0.7, ..PreferenceRow::new(Split::Train, prompt, chosen, rejected) }
}

/// The world that has seven symbols, and responses of up to six.
fn grammar() -> Setting {
    let world = GrammarWorld::new(0.02, 400);
    let texts = world.sft_rows(&mut seeds::derive(3, "test", 0, "rows"));
    let pairs = texts.chunks_exact(2).filter(|two| two[0].response != two[1].response).take(BATCH);
    let rows = pairs.map(|two| row(two[0].prompt.clone(), two[0].response.clone(), two[1].response.clone())).collect();
    let space = world.space().clone();
    let config = TransformerConfig::small(space.vocabulary, space.context() + 3, 2, 32, 4, true);
    Setting { space, config, rows }
}

/// Text of up to 32 tokens after prompts of up to 24, read by a model of this width and depth.
fn text(layers: usize, width: usize, architecture: Option<Architecture>) -> Setting {
    let space = TokenSpec {
        vocabulary: 96,
        pad: 0,
        bos: 1,
        eos: 2,
        other_eos: vec![],
        prompt_tokens: 24,
        response_tokens: 32,
        allowed_tokens: None,
        force_eos: false,
    };
    let mut state = 1u64;
    let mut some = |from: u64, to: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407); // Knuth's MMIX
        from + (state >> 33) % (to - from)
    };
    let mut ids = |from: u64, to: u64, last: &[u32]| -> Vec<u32> {
        let length = some(from, to);
        (0..length).map(|_| some(3, 96) as u32).chain(last.iter().copied()).collect()
    };
    let rows = (0..BATCH).map(|_| row(ids(4, 25, &[]), ids(8, 32, &[2]), ids(8, 32, &[2]))).collect();
    let small = TransformerConfig::small(space.vocabulary, space.context() + 3, layers, width, 4, true);
    let config = match architecture {
        Some(architecture) => TransformerConfig { architecture, ..small },
        None => small,
    };
    Setting { space, config, rows }
}

fn llama() -> Setting {
    let architecture =
        Llama { key_value_heads: 2, head_width: 8, inner: 48, rope_theta: 10_000.0, epsilon: 1e-6 }.architecture();
    text(2, 32, Some(architecture))
}

impl Setting {
    /// Weights as far from zero as those of a trained model.
    fn policy(&self) -> Policy {
        let policy = Policy::new(&self.config, &mut seeds::derive(3, "test", 0, "init"), &Device::flex().autodiff());
        let wide: Vec<f32> = weights::flatten(&policy).iter().map(|w| 2.0 * w).collect();
        weights::unflatten(policy, &wide)
    }

    /// Trains for a few updates from the reference; `spoil` may plant a fault in what was cached of it.
    fn train(&self, settings: Settings, spoil: impl Fn(&mut ReferenceLogp)) -> Result<(), Error> {
        let learner = LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() };
        self.train_with(settings, &learner, 1e-4, spoil).map(|_| ())
    }

    /// The same; returns how far each weight moved.
    fn train_with(
        &self,
        settings: Settings,
        learner: &LearnerSettings,
        rate: f64,
        spoil: impl Fn(&mut ReferenceLogp),
    ) -> Result<Vec<f32>, Error> {
        let policy = self.policy();
        let reader = |device: Device| ResponseReader::new(&self.space, &device);
        let alpha = settings.ld_alpha;
        let mut cached = ReferenceLogp::desensitized(&reader(Device::flex()), &policy.valid(), &self.rows, alpha);
        spoil(&mut cached);
        let reference = policy.valid();
        let mut dpo =
            Dpo::new(settings, reader(Device::flex().autodiff()), cached, &self.config).with_reference(&reference);
        let before = weights::flatten(&policy);
        let mut learner = Learner::new(policy, learner, rate, 100);
        let batch = PairBatch::new(&self.rows, &(0..BATCH).collect::<Vec<_>>());
        for _ in 0..UPDATES {
            dpo.iteration(&batch, &mut learner)?;
        }
        Ok(weights::flatten(learner.module()).iter().zip(before).map(|(after, before)| after - before).collect())
    }

    /// Rows whose responses begin with turns of context, and the same rows with these turns in the prompts.
    fn with_context(self) -> [Self; 2] {
        let (mut masked, mut moved) = (vec![], vec![]);
        for (index, row) in self.rows.iter().enumerate() {
            // an answer that ends, a control token, a question; some rows have none before one of their responses
            let context = |side: usize| match (index + side) % 3 {
                0 => vec![],
                n => [vec![7; n], vec![self.space.eos, self.space.pad], vec![9, 11]].concat(),
            };
            let answer = |ids: &[u32]| ids[ids.len() - 6..].to_vec();
            let with = |side: usize, ids: &[u32]| [context(side), answer(ids)].concat();
            let mask = |side: usize| {
                let start = context(side).len();
                LossMask::new([[start, start + 6]], start + 6)
            };
            masked.push(PreferenceRow {
                chosen: with(0, &row.chosen),
                rejected: with(1, &row.rejected),
                chosen_mask: mask(0),
                rejected_mask: mask(1),
                ..row.clone()
            });
            moved.push(PreferenceRow {
                prompt: [row.prompt.clone(), context(0)].concat(),
                rejected_prompt: Some([row.prompt.clone(), context(1)].concat()),
                chosen: answer(&row.chosen),
                rejected: answer(&row.rejected),
                ..row.clone()
            });
        }
        let config = TransformerConfig::small(self.space.vocabulary, self.space.context() + 12, 1, 16, 4, true);
        [masked, moved].map(|rows| Self { space: self.space.clone(), config: config.clone(), rows })
    }

    /// Trains every loss at every beta to the end.
    fn trains(&self, losses: &[PairLoss], betas: &[f64]) {
        let mut broken = String::new();
        for &loss in losses {
            for &beta in betas {
                let label_smoothing = if loss == PairLoss::Robust { 0.1 } else { 0.0 };
                let settings = Settings { loss, beta, label_smoothing, ..Settings::defaults() };
                if let Err(error) = self.train(settings, |_| ()) {
                    broken += &format!("{loss:?} at {beta}: {error}\n");
                }
            }
        }
        assert!(broken.is_empty(), "{broken}");
    }
}

#[test]
fn every_loss_trains_at_every_beta_on_the_grammar() {
    grammar().trains(&PairLoss::all(), &BETAS);
}

/// Turns of context are read and not learned: training is the same where they stand in the prompts.
#[test]
fn context_in_responses_is_as_in_prompts() {
    let [masked, moved] = text(1, 16, None).with_context();
    let read_alone = |loss: &PairLoss| !loss.takes(PairInput::Mismatched);
    // the weights then follow the gradient smoothly
    let learner = LearnerSettings { warmup: 0.0, adam_epsilon: 1.0, ..LearnerSettings::defaults() };
    for loss in PairLoss::all().into_iter().filter(read_alone) {
        let settings = Settings { loss, nll_coef: 0.1, ..Settings::defaults() };
        let train = |rows: &Setting| rows.train_with(settings.clone(), &learner, 0.1, |_| ()).expect("trains");
        let [masked, moved] = [&masked, &moved].map(train);
        let largest = |numbers: Vec<f32>| numbers.into_iter().map(f32::abs).fold(0.0, f32::max);
        let difference = largest(masked.iter().zip(&moved).map(|(a, b)| a - b).collect());
        let step = largest(moved);
        assert!(step > 1e-3 && difference < 1e-3 * step, "{loss:?}: {difference} of {step}");
    }
    // losses that read other pairs' responses train, too
    for loss in PairLoss::all().into_iter().filter(|loss| !read_alone(loss)) {
        masked.train(Settings { loss, ..Settings::defaults() }, |_| ()).expect("trains");
    }
}

#[test]
fn every_loss_trains_on_long_responses() {
    let from =
        [PairLoss::Ipo, PairLoss::Sppo, PairLoss::Hinge, PairLoss::Sigmoid, PairLoss::Robust, PairLoss::Positive];
    llama().trains(&from, &[1e-3, 50.0, 1e3]);
    text(4, 128, None).trains(&[PairLoss::Ipo, PairLoss::Sppo], &[0.1]);
}

#[test]
#[ignore = "two minutes: `scripts/dev/nightly` runs it"]
fn every_loss_trains_at_every_beta_on_text_and_on_wide_models() {
    llama().trains(&PairLoss::all(), &BETAS);
    text(4, 128, None).trains(&PairLoss::all(), &BETAS);
}

#[test]
fn variants_of_the_losses_train() {
    let (grammar, mut failed) = (grammar(), String::new());
    for loss in PairLoss::all() {
        let defaults = || Settings { loss, ..Settings::defaults() };
        let variants = [
            ("reference_free", Settings { reference_free: true, ..defaults() }),
            // the losses that read it
            (
                "margin",
                Settings {
                    margin: if loss.entry().settings.contains(&"margin") { 3.0 } else { 0.0 },
                    beta: 1e-3,
                    ..defaults()
                },
            ),
            ("nll", Settings { nll_coef: 1.0, beta: 1e3, ..defaults() }),
            ("smoothed", Settings { label_smoothing: 0.45, ..defaults() }),
            (
                "one-sided",
                Settings { kto_desirable: 0.0, positive_lambda: 50.0, unlikelihood_alpha: 1.0, ..defaults() },
            ),
            ("weightless", Settings { kto_desirable: 0.0, kto_undesirable: 0.0, discopop_tau: 1e-3, ..defaults() }),
        ];
        for (name, settings) in variants {
            if let Err(error) = grammar.train(settings, |_| ()) {
                failed += &format!("{loss:?}, {name}: {error}\n");
            }
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

/// Weights of tokens and of pairs, a β that changes, a reference that follows and sums of losses break no invariant, at any β.
#[test]
fn options_of_the_losses_train_at_every_beta() {
    let mut failed = String::new();
    for (name, setting, betas) in [("grammar", grammar(), &BETAS[..]), ("llama", llama(), &[1e-3, 0.5, 1e3][..])] {
        for loss in [PairLoss::Sigmoid, PairLoss::Ipo, PairLoss::IpoAveraged, PairLoss::Hinge, PairLoss::Sppo] {
            for &beta in betas {
                let defaults = || Settings { loss, beta, ..Settings::defaults() };
                let loss_weights = [(loss, 0.5), (PairLoss::Bco, 30.0), (PairLoss::SimPo, 1e-3)].into();
                let options = [
                    Settings { ld_alpha: 0.3, nll_coef: 0.1, ..defaults() },
                    Settings { use_weighting: true, ..defaults() },
                    Settings { dynamic_beta: 5.0, ..defaults() },
                    Settings {
                        sync_ref_model: true,
                        ref_model_sync_steps: 1,
                        ref_model_mixup_alpha: 1.0,
                        ..defaults()
                    },
                    Settings { loss_weights, ..defaults() },
                    Settings {
                        ld_alpha: 0.0,
                        use_weighting: true,
                        dynamic_beta: 0.6,
                        sync_ref_model: true,
                        ref_model_sync_steps: 2,
                        ..defaults()
                    },
                ];
                for settings in options {
                    if let Err(error) = setting.train(settings.clone(), |_| ()) {
                        failed += &format!("{name}: {error}, {settings:?}\n");
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

#[test]
fn a_planted_fault_is_detected_at_every_beta() {
    type Fault = (&'static str, fn(&mut ReferenceLogp));
    let faults: [Fault; 3] = [
        ("1 % off", |cached| cached.chosen.iter_mut().chain(&mut cached.rejected).for_each(|logp| *logp *= 1.01)),
        ("swapped", |cached| std::mem::swap(&mut cached.chosen, &mut cached.rejected)),
        ("another row's", |cached| cached.chosen.swap(0, 1)),
    ];
    let (grammar, llama) = (grammar(), llama());
    for beta in [1e-3, 0.1, 1e3] {
        for (name, fault) in faults {
            for (setting, loss) in [(&grammar, PairLoss::Sigmoid), (&grammar, PairLoss::Ipo), (&llama, PairLoss::Ipo)] {
                let result = setting.train(Settings { loss, beta, ..Settings::defaults() }, fault);
                let named = matches!(&result, Err(Error::Invariant { name: "cached_reference_is_live", .. }));
                assert!(named, "{name}, {loss:?} at {beta}: {result:?}");
            }
        }
    }
}

/// Weights that are not finite, or too large to be read with any precision, are blamed on the learning rate.
#[test]
fn huge_learning_rates_diverge_and_violate_no_invariant() {
    let setting = grammar();
    for rate in [1.0, 1e3, 1e10, 1e30, 1e300] {
        let policy = setting.policy();
        let reader = |device: Device| ResponseReader::new(&setting.space, &device);
        let cached = ReferenceLogp::compute(&reader(Device::flex()), &policy.valid(), &setting.rows);
        let mut dpo = Dpo::new(Settings::defaults(), reader(Device::flex().autodiff()), cached, &setting.config);
        let learner = LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() };
        let mut learner = Learner::new(policy, &learner, rate, 100);
        let batch = PairBatch::new(&setting.rows, &(0..BATCH).collect::<Vec<_>>());
        let plain = reader(Device::flex());
        let mut run = || -> Result<(), Error> {
            for step in 1..10 {
                dpo.iteration(&batch, &mut learner)?;
                let policy = learner.module().valid();
                probes::reads_are_sound(step, &plain, &policy, &batch.both)?;
            }
            Ok(())
        };
        let result = run();
        assert!(
            matches!(result, Err(Error::Diverged { step: 1.., .. })) || (rate < 1e3 && result.is_ok()),
            "at {rate}: {result:?}"
        );
    }
}
