//! A page as large as a study makes it, for scripts/bench/page-load.

use crate::analysis::hand_made_run::HandMadeRun;
use crate::analysis::run::Run;
use crate::analysis::tuning::TuningResults;
use crate::page::{rendering, run_page, tables};
use duel_spec::metrics::{self, Metric};
use duel_spec::{Clocks, Completion};
use std::path::PathBuf;

const ARMS: [&str; 5] = ["dpo", "grpo", "ppo", "rloo", "simpo"];
const POINTS: u64 = 30;
const SEEDS: u64 = 10;
const CHECKPOINTS: u64 = 8;
const COMPLETIONS: u64 = 8;

/// A number that looks like noise, from -1 to 1.
fn noise(parts: [u64; 4]) -> f64 {
    let mixed = parts.iter().fold(7u64, |sum, part| (sum ^ part).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29));
    (mixed >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn experiment() -> String {
    let betas: Vec<String> = (1..=POINTS).map(|i| format!("{:.3}", 0.02 * i as f64)).collect();
    let arm = |arm: &&str| {
        let method = if *arm == "simpo" { "dpo" } else { *arm };
        let loss = if *arm == "simpo" { "loss = 'simpo'\n" } else { "" };
        format!("[arms.{arm}]\nmethod = '{method}'\n{loss}grid.beta = [{}]\n", betas.join(", "))
    };
    format!("name = 'large'\nseeds = {SEEDS}\n{}", ARMS.iter().map(arm).collect::<String>())
}

/// What is measured of a policy at this KL.
fn values(kl: f64, shift: f64) -> [(Metric, f64); 12] {
    let gold = 1.0 + 1.5 * kl.sqrt() - 0.1 * kl + shift;
    [
        (metrics::KL, kl),
        (metrics::GOLD, gold),
        (metrics::GOLD_SD, 2.0),
        (metrics::PROXY, gold + 0.3 * kl),
        (metrics::WIN_RATE, 0.5 + 0.1 * kl.min(4.0)),
        (metrics::LENGTH, 3.0 + kl),
        (metrics::ENTROPY, 4.0 - 0.5 * kl),
        (metrics::DISTINCT_2, 0.5 / (1.0 + kl)),
        (metrics::ETA, (0.8 + shift).min(1.0)),
        (metrics::LOG_RATIO_CHOSEN, 0.2 * kl),
        (metrics::LOG_RATIO_REJECTED, -0.4 * kl),
        (metrics::ORDERED_PAIRS, 0.7),
    ]
}

fn large_run() -> Run {
    let mut run = HandMadeRun::new(&experiment());
    for seed in 0..SEEDS {
        run.evaluation("reference", "sft", seed, Clocks::default(), &values(0.0, 0.0));
        for step in 1..=24 {
            let kl = 0.2 * step as f64;
            run.evaluation("optimum", &step.to_string(), seed, Clocks::default(), &values(kl, 0.4));
        }
    }
    for (index, cell) in run.run().cells.clone().into_iter().enumerate() {
        let (arm, label, index) = (cell.arm.as_str(), cell.point.label.as_str(), index as u64);
        for step in 1..=CHECKPOINTS {
            let noise = noise([index, step, cell.seed, 3]);
            let kl = (4.0 / (1.0 + 4.0 * cell.point.method.beta()) + 0.2 * noise) * step as f64 / CHECKPOINTS as f64;
            let clocks =
                Clocks { step: 10 * step, tokens: 1000 * step, flops: 1e9 * step as f64, wall_seconds: step as f64 };
            run.evaluation(arm, label, cell.seed, clocks, &values(kl.max(0.0), 0.1 * noise));
            for (metric, value) in [(metrics::LOSS, 1.0 - 0.1 * noise), (metrics::MODELS_RESIDENT, 2.0)] {
                run.row([arm, label, "train"], cell.seed, clocks, metric, value);
            }
        }
        for number in 0..COMPLETIONS {
            run.run().completions.push(Completion {
                arm: cell.arm.clone(),
                point: cell.point.label.clone(),
                seed: cell.seed,
                step: 10 * CHECKPOINTS,
                split: "test".into(),
                prompt: format!("praise the actors in {} words", number + 1),
                completion: "the actors were good, wow!".into(),
                gold_reward: noise([index, number, 1, 2]),
                proxy_reward: noise([index, number, 3, 4]),
                kl: 0.5,
                tokens: 6,
                ended: true,
            });
        }
    }
    run.finish()
}

/// Writes the page to the folder `DUEL_LARGE_PAGE`.
#[test]
#[ignore = "takes a minute and is looked at by a browser: scripts/bench/page-load"]
fn a_large_page_is_written() {
    let folder = std::env::var_os("DUEL_LARGE_PAGE").map_or_else(std::env::temp_dir, PathBuf::from);
    let run = large_run();
    let tuning = TuningResults::of(&run);
    let [charts, numbers] = ["charts", "tables"].map(|name| folder.join(name));
    [&charts, &numbers].iter().for_each(|path| std::fs::create_dir_all(path).expect("a folder"));
    let charts = rendering::draw(&run, &tuning, &charts).expect("drawn");
    let tables = tables::write(&run, &tuning, &[], &numbers).expect("written");
    let page = run_page::fill(&run, &charts, &tables, &[], &[]).expect("a page");
    std::fs::write(folder.join("index.html"), page).expect("written");
}
