//! `duel bench`: how long each step of training takes on this machine, alone or beside PyTorch and TRL in the same run.

use crate::bench::{self, BenchShape, CASES, Case, Shape, peers, with_threads};
use crate::error::Result;
use crate::sysinfo;
use crate::terminal::print;
use crate::world::frozen_numbers;
use burn::tensor::{Device, Distribution, Tensor};
use clap::{Args, ValueEnum};
use duel_model::device::product_rate;
use duel_spec::ModelNumbers;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant, SystemTime};

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model size; repeatable
    #[arg(long, default_values = ["S"])]
    pub config: Vec<BenchShape>,
    /// Only this case; repeatable. `evaluation` exists only for `grammar`
    #[arg(long, value_parser = CASES)]
    pub case: Vec<String>,
    /// Number format of frozen matrices; repeatable. bf16 and q8 apply only to sizes trained with LoRA
    #[arg(long, default_values = ["f32"])]
    pub numbers: Vec<BenchNumbers>,
    /// Batch size of a step (sequences, or pairs) [default: the size's own]; repeatable
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub batch: Vec<u16>,
    /// Prompt and response tokens, for example 32+96 [default: the size's own]; repeatable
    #[arg(long, value_name = "P+T", value_parser = prompt_and_response)]
    pub tokens: Vec<[usize; 2]>,
    /// Threads [default: the size's own]; repeatable
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Vec<u16>,
    /// Warm-up rounds of each case; fewer if they would take over 20 seconds
    #[arg(long, value_name = "N", default_value = "6", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub warm: u16,
    /// Timed runs of each case
    #[arg(long, value_name = "N", default_value = "7", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub runs: u16,
    /// Also time PyTorch and TRL, alternating with Duel; installs them with pip the first time (scripts/bench/bench-peers)
    #[arg(long)]
    pub peers: bool,
    /// Output for people, for programs, or as Markdown tables
    #[arg(long, default_value = "text")]
    pub format: BenchFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchFormat {
    Text,
    Json,
    /// The table of docs/performance.md
    Markdown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchNumbers {
    F32,
    Bf16,
    Q8,
}

impl From<BenchNumbers> for ModelNumbers {
    fn from(numbers: BenchNumbers) -> Self {
        match numbers {
            BenchNumbers::F32 => Self::F32,
            BenchNumbers::Bf16 => Self::Bf16,
            BenchNumbers::Q8 => Self::Q8,
        }
    }
}

/// Parses the tokens of prompts and responses.
fn prompt_and_response(text: &str) -> std::result::Result<[usize; 2], String> {
    let number = |text: &str| text.parse().ok().filter(|n| (1..=4096).contains(n));
    let both = text.split_once('+').and_then(|(prompt, response)| Some([number(prompt)?, number(response)?]));
    both.ok_or_else(|| "expected two numbers from 1 to 4096, as in 32+96".into())
}

/// Side of the square matrices whose product gives the machine's peak.
const PEAK_SIDE: usize = 2048;
/// Time after which warm-up ends in any case.
const WARM_TIME: Duration = Duration::from_secs(20);
/// Seconds that a program is timed before the next one's turn.
const TURN: f64 = 0.1;
/// Pause before a run that follows another program's, so that the other's threads are asleep.
const STILL: Duration = Duration::from_millis(20);

/// One case of one shape; seconds of one step.
#[derive(Debug, Serialize)]
struct Timing {
    config: &'static str,
    numbers: ModelNumbers,
    case: &'static str,
    /// Of the model, biases left out.
    parameters: usize,
    /// Sequences of an SFT step and of a rollout; pairs of the others.
    batch: usize,
    prompt_tokens: usize,
    response_tokens: usize,
    threads: usize,
    runs: usize,
    seconds: TimingSpread,
    /// Seconds that a step runs on a processor, over its threads: what it takes on a machine that does nothing else, but for waiting.
    processor_seconds: TimingSpread,
    tokens_per_second: f64,
    /// Of the required arithmetic: recomputation is not counted.
    gflop_per_second: Option<f64>,
    share_of_peak: Option<f64>,
    /// Largest resident set during the case, bytes; of the whole process.
    peak_memory_bytes: u64,
    peers: Vec<PeerTiming>,
}

/// The same case, timed in a peer in turn with ours.
#[derive(Debug, Serialize)]
struct PeerTiming {
    name: &'static str,
    versions: BTreeMap<String, String>,
    seconds: TimingSpread,
    /// Its seconds over ours, round by round.
    ratio: TimingSpread,
}

/// Median and range of some timings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct TimingSpread {
    median: f64,
    min: f64,
    max: f64,
}

/// All timings, with the machine that they were made on.
#[derive(Debug, Serialize)]
struct BenchReport {
    version: &'static str,
    date: String,
    processor: String,
    cores: usize,
    /// Of a product of two 2048 × 2048 matrices in the same run, best of fifteen, by threads.
    peak_gflop_per_second: Vec<(usize, f64)>,
    /// Of the small product on one thread that `duel plan` takes for the speed of the machine.
    product_gflop_per_second: Vec<(ModelNumbers, f64)>,
    timings: Vec<Timing>,
}

impl TimingSpread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let n = values.len();
        Self { median: (values[(n - 1) / 2] + values[n / 2]) / 2.0, min: values[0], max: values[n - 1] }
    }
}

/// Times the requested cases and prints the timings.
pub fn bench(args: &BenchArgs) -> Result<()> {
    if args.peers {
        peers::set_up()?;
    }
    let mut peaks: Vec<(usize, f64)> = Vec::new();
    let mut timings = Vec::new();
    let numbers_of = |shape: &Shape| -> Vec<ModelNumbers> {
        let all = args.numbers.iter().map(|&numbers| numbers.into());
        all.filter(|numbers: &ModelNumbers| numbers.is_f32() || shape.is_large()).collect()
    };
    let shapes = args.config.iter().flat_map(|&shape| sizes(Shape::of(shape), args));
    let shapes =
        shapes.flat_map(|shape| numbers_of(&shape).into_iter().map(move |numbers| Shape { numbers, ..shape.clone() }));
    let mut products = vec![(ModelNumbers::F32, product_gflops(ModelNumbers::F32))];
    for shape in shapes {
        if products.iter().all(|(numbers, _)| *numbers != shape.numbers) {
            products.push((shape.numbers, product_gflops(shape.numbers)));
        }
        // as a worker of such a model
        sysinfo::set_purge_delay(sysinfo::purge_milliseconds(shape.is_large(), shape.numbers));
        with_threads(shape.threads, || -> Result<()> {
            let peak = match peaks.iter().find(|(threads, _)| *threads == shape.threads) {
                Some((_, peak)) => *peak,
                None => {
                    let peak = peak();
                    peaks.push((shape.threads, peak));
                    peak
                }
            };
            for name in CASES.into_iter().filter(|name| args.case.is_empty() || args.case.iter().any(|x| x == name)) {
                sysinfo::forget_peak_memory();
                if let Some(case) = bench::case(&shape, name)? {
                    timings.push(time(&shape, name, case, args, peak)?);
                }
            }
            Ok(())
        })?;
    }
    let report = BenchReport {
        version: env!("CARGO_PKG_VERSION"),
        date: chrono::DateTime::<chrono::Utc>::from(SystemTime::now()).format("%Y-%m-%d").to_string(),
        processor: sysinfo::describe().processor,
        cores: sysinfo::cores(),
        peak_gflop_per_second: peaks,
        product_gflop_per_second: products,
        timings,
    };
    print(&match args.format {
        BenchFormat::Json => format!("{}\n", serde_json::to_string_pretty(&report).expect("plain numbers")),
        BenchFormat::Markdown => as_markdown(&report),
        BenchFormat::Text => as_text(&report),
    });
    Ok(())
}

/// A shape in each requested batch, length and number of threads.
fn sizes(shape: Shape, args: &BenchArgs) -> Vec<Shape> {
    /// As many as were requested; without any, the shape's own.
    fn each<T: Copy>(values: &[T]) -> Vec<Option<T>> {
        if values.is_empty() { vec![None] } else { values.iter().copied().map(Some).collect() }
    }
    let mut shapes = vec![];
    for batch in each(&args.batch) {
        for tokens in each(&args.tokens) {
            for threads in each(&args.threads) {
                let threads = threads.map_or(shape.threads, usize::from);
                shapes.push(Shape { threads, ..shape.clone().resized(batch.map(usize::from), tokens) });
            }
        }
    }
    shapes
}

fn product_gflops(numbers: ModelNumbers) -> f64 {
    with_threads(1, || product_rate(frozen_numbers(numbers))) / 1e9
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

/// Warms up all programs, then times them in turn; the one that begins changes from round to round. A turn has as many steps
/// as fit in [`TURN`], the same number for every program, so that a step of milliseconds is timed as in training.
fn time(shape: &Shape, name: &'static str, mut case: Case, args: &BenchArgs, peak: f64) -> Result<Timing> {
    let mut peers = if args.peers { peers::start(shape, name)? } else { vec![] };
    let runs = usize::from(args.runs);
    let programs = 1 + peers.len();
    let (mut seconds, mut processor) = (vec![Vec::with_capacity(runs); programs], Vec::with_capacity(runs));
    let (mut steps, mut next) = (1, 1);
    let (started, mut warm, mut round) = (Instant::now(), usize::from(args.warm), 0);
    while round < warm + runs {
        for program in (0..programs).map(|i| (i + round) % programs) {
            if programs > 1 {
                std::thread::sleep(STILL);
            }
            let (mut elapsed, before) = (0.0, sysinfo::processor_seconds());
            for _ in 0..steps {
                elapsed += match program.checked_sub(1) {
                    Some(peer) => peers[peer].step()?,
                    None => {
                        let started = Instant::now();
                        (case.run)()?;
                        started.elapsed().as_secs_f64()
                    }
                };
            }
            elapsed /= f64::from(steps);
            if round >= warm {
                seconds[program].push(elapsed);
                if program == 0 {
                    let ran = sysinfo::processor_seconds() - before;
                    processor.push(ran / f64::from(steps) / shape.threads as f64);
                }
            } else if program == 0 {
                next = (TURN / elapsed).clamp(1.0, 100.0) as u32;
            }
        }
        if round < warm {
            steps = next;
            if started.elapsed() > WARM_TIME {
                warm = round + 1;
            }
        }
        round += 1;
    }
    let own_seconds = seconds[0].clone();
    let peers = peers.iter().zip(&seconds[1..]).map(|(peer, peer_seconds)| PeerTiming {
        name: peer.name,
        versions: peer.versions.clone(),
        seconds: TimingSpread::of(peer_seconds.clone()),
        ratio: TimingSpread::of(peer_seconds.iter().zip(&own_seconds).map(|(peer, own)| peer / own).collect()),
    });
    let (peers, seconds) = (peers.collect(), TimingSpread::of(own_seconds));
    let speed = case.flops.map(|flops| flops / seconds.median / 1e9);
    Ok(Timing {
        config: shape.name,
        numbers: shape.numbers,
        case: name,
        parameters: shape.config.num_params().unwrap_or(usize::MAX),
        batch: shape.batch,
        prompt_tokens: shape.space.prompt_tokens,
        response_tokens: shape.space.response_tokens,
        threads: shape.threads,
        runs,
        seconds,
        processor_seconds: TimingSpread::of(processor),
        tokens_per_second: case.tokens as f64 / seconds.median,
        gflop_per_second: speed,
        share_of_peak: speed.map(|speed| speed / peak),
        peak_memory_bytes: sysinfo::peak_memory(),
        peers,
    })
}

fn percent(share: Option<f64>) -> String {
    share.map_or("–".into(), |share| format!("{:.0} %", 100.0 * share))
}

fn as_text(report: &BenchReport) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "duel {} on {}, {} cores", report.version, report.processor, report.cores);
    for (threads, peak) in &report.peak_gflop_per_second {
        let _ = writeln!(text, "matrix product {PEAK_SIDE}³, {threads} threads: {peak:.0} GFLOP/s");
    }
    let _ = writeln!(
        text,
        "\n{:8} {:7} {:12} {:>5} {:>7} {:>7} {:>5} {:>10} {:>20} {:>10} {:>8} {:>8} {:>8}",
        "config",
        "numbers",
        "case",
        "batch",
        "tokens",
        "threads",
        "runs",
        "median s",
        "from – to",
        "tokens/s",
        "GFLOP/s",
        "of peak",
        "peak MB"
    );
    for t in &report.timings {
        let speed = t.gflop_per_second.map_or("–".into(), |speed| format!("{speed:.0}"));
        let spread = format!("{:.5} – {:.5}", t.seconds.min, t.seconds.max);
        let _ = writeln!(
            text,
            "{:8} {:7} {:12} {:>5} {:>7} {:>7} {:>5} {:>10.5} {:>20} {:>10.0} {:>8} {:>8} {:>8.0}",
            t.config,
            name_of(t.numbers),
            t.case,
            t.batch,
            format!("{}+{}", t.prompt_tokens, t.response_tokens),
            t.threads,
            t.runs,
            t.seconds.median,
            spread,
            t.tokens_per_second,
            speed,
            percent(t.share_of_peak),
            t.peak_memory_bytes as f64 / 1e6
        );
        for p in &t.peers {
            let spread = format!("{:.5} – {:.5}", p.seconds.min, p.seconds.max);
            let _ = writeln!(
                text,
                "{:16}   {:32} {:>5} {:>10.5} {:>20}   ours is {:.2} times as fast ({:.2} – {:.2})",
                "", p.name, "", p.seconds.median, spread, p.ratio.median, p.ratio.min, p.ratio.max
            );
        }
    }
    text
}

/// The table of docs/performance.md.
fn as_markdown(report: &BenchReport) -> String {
    let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, version) in report.timings.iter().flat_map(|t| &t.peers).flat_map(|p| &p.versions) {
        let known = versions.entry(name).or_default();
        if !known.contains(&version.as_str()) {
            known.push(version);
        }
    }
    let peaks = report.peak_gflop_per_second.iter().map(|(threads, peak)| format!("{peak:.0} GFLOP/s with {threads}"));
    let peaks: Vec<String> = peaks.collect();
    let versions: Vec<String> =
        versions.iter().map(|(name, known)| format!("{name} {}", known.join(" and "))).collect();
    let mut text = format!(
        "{}, {}, {} cores; product of {PEAK_SIDE}³: {} threads; duel {}, {}.\n\n",
        report.date,
        report.processor,
        report.cores,
        peaks.join(", "),
        report.version,
        versions.join(", ")
    );
    text += "| size | numbers | step | threads | seconds | of peak | memory | PyTorch: seconds | times ours | TRL / HF: seconds | times ours |\n";
    text += "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for t in &report.timings {
        let peer_cells = |name: &str| match t.peers.iter().find(|p| p.name == name) {
            Some(p) => format!(
                "{} | **{:.2}** ({:.2} – {:.2})",
                seconds(p.seconds.median),
                p.ratio.median,
                p.ratio.min,
                p.ratio.max
            ),
            None => "– | –".into(),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} ({} – {}) | {} | {:.0} MB | {} | {} |",
            t.config,
            name_of(t.numbers),
            t.case,
            t.threads,
            seconds(t.seconds.median),
            seconds(t.seconds.min),
            seconds(t.seconds.max),
            percent(t.share_of_peak),
            t.peak_memory_bytes as f64 / 1e6,
            peer_cells("torch"),
            peer_cells("trl")
        );
    }
    text
}

fn name_of(numbers: ModelNumbers) -> &'static str {
    match numbers {
        ModelNumbers::F32 => "f32",
        ModelNumbers::Bf16 => "bf16",
        ModelNumbers::Q8 => "q8",
    }
}

/// With three significant digits.
fn seconds(x: f64) -> String {
    if x < 0.1 { format!("{x:.4}") } else { format!("{x:.3}") }
}
