//! `duel bench`: how long each step of training takes on this machine, through the code that trains.

use crate::cli::{BenchArgs, BenchShape, Format};
use crate::{Result, host, print};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use duel_data::World;
use duel_data::grammar::GrammarWorld;
use duel_data::pairs::PreferenceRow;
use duel_dpo::{Dpo, ReferenceLogp};
use duel_evaluation::GrammarYardstick;
use duel_model::{Activation, Family, Policy, Reader, Responses, Scalar, TransformerConfig, generate};
use duel_ppo::{ActorCritic, Ppo, Setting};
use duel_reward::{LearnedReward, RewardModel};
use duel_spec::{Grammar, LearnerSettings, ModelShape, Space, Split, seeds};
use duel_training::sft::{self, Sft};
use duel_training::{Learner, Method, PairBatch};
use rand::RngExt;
use serde::Serialize;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

/// Side of the square matrices whose product gives the machine's peak.
const PEAK_SIDE: usize = 2048;
/// Runs of each case before it is timed.
const WARM: usize = 2;

/// Sizes of a model and of a batch.
struct Shape {
    name: &'static str,
    config: TransformerConfig,
    space: Space,
    /// Sequences of an SFT step and of a rollout; pairs of the others.
    batch: usize,
    threads: usize,
}

/// One row of the answer.
#[derive(Debug, Serialize)]
struct Timing {
    config: &'static str,
    case: &'static str,
    threads: usize,
    runs: usize,
    seconds_median: f64,
    seconds_min: f64,
    seconds_max: f64,
    tokens_per_second: f64,
    /// Of the arithmetic that must be done: recomputation is not counted.
    gflop_per_second: Option<f64>,
    share_of_peak: Option<f64>,
}

/// All of the answer.
#[derive(Debug, Serialize)]
struct Answer {
    version: &'static str,
    processor: String,
    cores: usize,
    /// Of a product of two 2048 × 2048 matrices in the same run, best of fifteen, by threads.
    peak_gflop_per_second: Vec<(usize, f64)>,
    peak_memory_bytes: u64,
    timings: Vec<Timing>,
}

impl Shape {
    fn of(shape: BenchShape) -> Self {
        let gpt2 = |name, layers, width: usize, heads, vocabulary: usize, prompt_tokens, response_tokens, batch| {
            let family = Family::Gpt2 { activation: Activation::GeluTanh, inner: 4 * width, epsilon: 1e-5 };
            let context = prompt_tokens + response_tokens;
            let config = TransformerConfig { vocabulary, context, layers, width, heads, tied: true, family };
            // sequences of full length: EOS is no token of the vocabulary, and PAD is never said
            let actions = Some((1..vocabulary as u32).collect());
            let eos = vocabulary as u32;
            let space = Space { vocabulary, pad: 0, bos: 1, eos, prompt_tokens, response_tokens, actions, ends: false };
            Self { name, config, space, batch, threads: host::cores() }
        };
        match shape {
            BenchShape::S => gpt2("S", 4, 128, 4, 4096, 16, 48, 32),
            BenchShape::M => gpt2("M", 6, 384, 6, 8192, 32, 96, 8),
            BenchShape::Grammar => {
                let world = GrammarWorld::new(Grammar::defaults().rho, 1);
                let model = ModelShape::defaults();
                let space = world.space().clone();
                let config = TransformerConfig::small(
                    space.vocabulary,
                    space.context(),
                    model.layers,
                    model.width,
                    model.heads,
                    model.tied,
                );
                Self { name: "grammar", config, space, batch: 64, threads: 1 }
            }
        }
    }

    /// FLOPs of a forward pass over so many tokens, of which `read_out` meet the head.
    fn forward(&self, tokens: usize, read_out: usize) -> f64 {
        let TransformerConfig { layers, width, vocabulary, .. } = self.config;
        let matrices = (layers * self.config.block_matrices()) as f64;
        let attention = (2 * layers * self.space.context() * width) as f64;
        tokens as f64 * (2.0 * matrices + attention) + (2 * vocabulary * width * read_out) as f64
    }

    fn policy(&self, device: &Device) -> Policy {
        Policy::new(&self.config, &mut seeds::derive(0, "bench", 0, "init"), device)
    }

    /// Responses of full length to random prompts.
    fn responses(&self, rows: usize) -> Responses {
        let mut rng = seeds::derive(0, "bench", rows as u64, "tokens");
        let Space { prompt_tokens, response_tokens, actions, ends, eos, .. } = &self.space;
        let said = actions.clone().unwrap_or_default();
        let said: Vec<u32> = said.into_iter().filter(|id| id != eos).collect();
        let mut some = |n: usize| -> Vec<u32> { (0..n).map(|_| said[rng.random_range(0..said.len())]).collect() };
        let prompts = (0..rows).map(|_| some(*prompt_tokens)).collect();
        let responses = (0..rows)
            .map(|_| {
                let mut response = some(*response_tokens);
                if *ends {
                    response[response_tokens - 1] = *eos;
                }
                response
            })
            .collect();
        Responses { prompts, responses, logp: vec![] }
    }

    fn rows(&self) -> Vec<PreferenceRow> {
        let both = self.responses(2 * self.batch);
        let n = self.batch;
        (0..n)
            .map(|i| PreferenceRow {
                split: Split::Train,
                prompt: both.prompts[i].clone(),
                chosen: both.responses[i].clone(),
                rejected: both.responses[n + i].clone(),
                gold_chosen: 0.0,
                gold_rejected: 0.0,
                p_label: 0.5,
            })
            .collect()
    }
}

/// Something to time: tokens and FLOPs of a run, and the run.
struct Case<'a> {
    name: &'static str,
    tokens: usize,
    flops: Option<f64>,
    run: Box<dyn FnMut() -> Result<()> + 'a>,
}

/// Times what was asked for and prints it.
pub fn bench(args: &BenchArgs) -> Result<()> {
    let mut peaks: Vec<(usize, f64)> = Vec::new();
    let mut timings = Vec::new();
    for &shape in &args.config {
        let shape = Shape::of(shape);
        in_threads(shape.threads, || -> Result<()> {
            let peak = match peaks.iter().find(|(threads, _)| *threads == shape.threads) {
                Some((_, peak)) => *peak,
                None => {
                    let peak = peak();
                    peaks.push((shape.threads, peak));
                    peak
                }
            };
            for mut case in cases(&shape)? {
                if args.case.is_empty() || args.case.iter().any(|name| name == case.name) {
                    timings.push(time(&shape, &mut case, args.runs as usize, peak)?);
                }
            }
            Ok(())
        })?;
    }
    let answer = Answer {
        version: env!("CARGO_PKG_VERSION"),
        processor: host::describe().processor,
        cores: host::cores(),
        peak_gflop_per_second: peaks,
        peak_memory_bytes: host::peak_memory(),
        timings,
    };
    print(&match args.format {
        Format::Json => format!("{}\n", serde_json::to_string_pretty(&answer).expect("plain numbers")),
        Format::Text => as_text(&answer),
    });
    Ok(())
}

/// Runs something with so many threads for all kernels.
fn in_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    match rayon::ThreadPoolBuilder::new().num_threads(threads).build() {
        Ok(pool) => pool.install(run),
        Err(_) => run(),
    }
}

/// GFLOP/s of a large matrix product, best of fifteen.
fn peak() -> f64 {
    let side = PEAK_SIDE;
    let device = Device::flex();
    let random = || Tensor::<2>::random([side, side], Distribution::Default, &device);
    let (a, b) = (random(), random());
    let seconds = (0..15).map(|_| {
        let started = Instant::now();
        std::hint::black_box(a.clone().matmul(b.clone()));
        started.elapsed().as_secs_f64()
    });
    2.0 * (side as f64).powi(3) / seconds.fold(f64::INFINITY, f64::min) / 1e9
}

fn time(shape: &Shape, case: &mut Case<'_>, runs: usize, peak: f64) -> Result<Timing> {
    for _ in 0..WARM {
        (case.run)()?;
    }
    let mut seconds = Vec::with_capacity(runs);
    for _ in 0..runs {
        let started = Instant::now();
        (case.run)()?;
        seconds.push(started.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = (seconds[(runs - 1) / 2] + seconds[runs / 2]) / 2.0;
    let speed = case.flops.map(|flops| flops / median / 1e9);
    Ok(Timing {
        config: shape.name,
        case: case.name,
        threads: shape.threads,
        runs,
        seconds_median: median,
        seconds_min: seconds[0],
        seconds_max: seconds[runs - 1],
        tokens_per_second: case.tokens as f64 / median,
        gflop_per_second: speed,
        share_of_peak: speed.map(|speed| speed / peak),
    })
}

/// Every case of a shape. A training step is forward, backward, clipping and AdamW.
fn cases(shape: &Shape) -> Result<Vec<Case<'_>>> {
    let (plain, train) = (Device::flex(), Device::flex().autodiff());
    let (reader, train_reader) = (Reader::new(&shape.space, &plain), Reader::new(&shape.space, &train));
    let settings = LearnerSettings::defaults();
    let config = &shape.config;
    let (batch, context, said) = (shape.batch, shape.space.context(), shape.space.response_tokens);
    let policy = || shape.policy(&train);
    let scalar = || Scalar::from_policy(policy(), &train);
    // far from its end, so that the rate never reaches 0
    let learner = |module| Learner::new(module, &settings, 1e-4, 1 << 20);
    let mut cases: Vec<Case<'_>> = Vec::new();

    let texts = shape.responses(batch);
    let (mut method, mut trained) = (Sft::new(train_reader.clone(), config), learner(policy()));
    cases.push(Case {
        name: "sft",
        tokens: batch * context,
        flops: Some(3.0 * shape.forward(batch * context, batch * said)),
        run: Box::new(move || Ok(method.iteration(&texts, &mut trained).map(drop)?)),
    });

    let rows = shape.rows();
    let pairs = PairBatch::new(&rows, &(0..batch).collect::<Vec<_>>());
    let mut method = RewardModel::new(train_reader.clone(), config);
    let mut trained = Learner::new(scalar(), &settings, 1e-4, 1 << 20);
    let both = pairs.clone();
    cases.push(Case {
        name: "reward",
        tokens: 2 * batch * context,
        flops: Some(3.0 * shape.forward(2 * batch * context, 0)),
        run: Box::new(move || Ok(method.iteration(&both, &mut trained).map(drop)?)),
    });

    let (dpo, ppo) = (duel_spec::Dpo::defaults(), duel_spec::Ppo::defaults());
    let reference = policy().valid();
    let cached = ReferenceLogp::compute(&reader, &reference, &rows);
    for live in [false, true] {
        let mut method = Dpo::new(dpo.clone(), train_reader.clone(), cached.clone(), config);
        let (mut trained, both) = (learner(policy()), pairs.clone());
        let (reader, reference) = (reader.clone(), reference.clone());
        cases.push(Case {
            name: if live { "dpo_live" } else { "dpo_cached" },
            tokens: 2 * batch * context,
            flops: Some(if live { 4.0 } else { 3.0 } * shape.forward(2 * batch * context, 2 * batch * said)),
            run: Box::new(move || {
                if live {
                    std::hint::black_box(sft::sequence_logp(&reader, &reference, &both.both));
                }
                Ok(method.iteration(&both, &mut trained).map(drop)?)
            }),
        });
    }

    let prompts = shape.responses(batch).prompts;
    let (writer, space, device) = (reference.clone(), shape.space.clone(), plain.clone());
    let mut round = 0;
    cases.push(Case {
        name: "generate",
        tokens: batch * said,
        flops: None,
        run: Box::new(move || {
            round += 1;
            let mut rng = seeds::derive(round, "bench", 0, "generate");
            std::hint::black_box(generate(&writer, &space, prompts.clone(), &mut rng, &device));
            Ok(())
        }),
    });

    let (texts, read_by, scorer) = (shape.responses(batch), reference.clone(), reader.clone());
    cases.push(Case {
        name: "logp",
        tokens: batch * context,
        flops: Some(shape.forward(batch * context, batch * said)),
        run: Box::new(move || {
            std::hint::black_box(sft::sequence_logp(&scorer, &read_by, &texts));
            Ok(())
        }),
    });

    let given = Setting {
        reference: reference.clone(),
        scorer: Arc::new(LearnedReward::new(scalar().valid(), reader.clone(), 0.0, 1.0)),
        reader: reader.clone(),
        train_reader: train_reader.clone(),
        config: config.clone(),
        scorer_flops: 1.0,
        seed: 0,
    };
    // every minibatch is trained on, as in the peers' loop
    let ppo = duel_spec::Ppo { target_kl: 1e9, episodes: batch, ..ppo };
    let prompts = shape.responses(batch).prompts;
    let mut method = Ppo::new(ppo, given);
    let mut trained = Learner::new(ActorCritic { actor: policy(), critic: scalar() }, &settings, 1e-5, 1 << 20);
    cases.push(Case {
        name: "ppo",
        tokens: batch * said,
        flops: None,
        run: Box::new(move || Ok(method.iteration(&prompts, &mut trained).map(drop)?)),
    });

    if shape.name == "grammar" {
        let world = GrammarWorld::new(Grammar::defaults().rho, 1);
        let yardstick = GrammarYardstick::new(&world, reader.clone(), &reference, None)?;
        cases.push(Case {
            name: "evaluation",
            tokens: 0,
            flops: None,
            run: Box::new(move || {
                std::hint::black_box(yardstick.measure(&reference, Some(0.5))?);
                Ok(())
            }),
        });
    }
    Ok(cases)
}

fn as_text(answer: &Answer) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "duel {} on {}, {} cores", answer.version, answer.processor, answer.cores);
    for (threads, peak) in &answer.peak_gflop_per_second {
        let _ = writeln!(text, "matrix product {PEAK_SIDE}³, {threads} threads: {peak:.0} GFLOP/s");
    }
    let _ = writeln!(
        text,
        "\n{:8} {:12} {:>7} {:>5} {:>10} {:>20} {:>10} {:>8} {:>8}",
        "config", "case", "threads", "runs", "median s", "from – to", "tokens/s", "GFLOP/s", "of peak"
    );
    for t in &answer.timings {
        let speed = t.gflop_per_second.map_or("–".into(), |speed| format!("{speed:.0}"));
        let share = t.share_of_peak.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share));
        let spread = format!("{:.5} – {:.5}", t.seconds_min, t.seconds_max);
        let _ = writeln!(
            text,
            "{:8} {:12} {:>7} {:>5} {:>10.5} {:>20} {:>10.0} {:>8} {:>8}",
            t.config, t.case, t.threads, t.runs, t.seconds_median, spread, t.tokens_per_second, speed, share
        );
    }
    let _ = writeln!(text, "\npeak memory {:.0} MB", answer.peak_memory_bytes as f64 / 1e6);
    text
}
