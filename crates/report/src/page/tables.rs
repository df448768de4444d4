//! The tables of a run.

use crate::analysis::best_of_n::{BestOfN, best_of_n};
use crate::analysis::calibration::pooled;
use crate::analysis::costs::arm_costs;
use crate::analysis::frontier;
use crate::analysis::head_to_head::{HeadToHead, SeedEstimate};
use crate::analysis::logistic::sigmoid;
use crate::analysis::over_optimization::{self, OverOptimization};
use crate::analysis::pair_bins::PooledBin;
use crate::analysis::points::MeasuredPoint;
use crate::analysis::run::Run;
use crate::analysis::scaling_fit::{ScalingFit, scaling_fits};
use crate::analysis::sensitivity::merit_label;
use crate::analysis::stats::{Estimate, mean};
use crate::analysis::tuning::{TrialScore, TuningResults};
use crate::analysis::verdict::ClaimResult;
use crate::error::Result;
use crate::format::{fixed, seconds, si};
use crate::page::text_table::{TextTable, csv, latex, markdown};
use duel_ledger::RunPart;
use duel_spec::metrics::{self, Metric};
use duel_spec::{LENGTH_BINS, NO_POINT, PairDivision, SHARED_ARM, SelectionMetric, Split};
use std::path::Path;

/// All tables of a run.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ReportTables {
    pub(crate) points: TextTable,
    /// As `points`, on validation prompts: what settings are chosen by.
    pub(crate) validation: TextTable,
    pub(crate) drops: TextTable,
    /// Functional forms of gold and proxy over √KL; empty where policies are too few.
    pub(crate) scaling: TextTable,
    pub(crate) matched: TextTable,
    /// Every two policies at one KL, as they are and with length controlled.
    pub(crate) pairs: TextTable,
    pub(crate) strengths: TextTable,
    /// What the judge of pairs says, and how far it can be relied on; empty without one.
    pub(crate) pairwise: TextTable,
    pub(crate) costs: TextTable,
    pub(crate) stages: TextTable,
    pub(crate) calibration: TextTable,
    pub(crate) pair_bins: TextTable,
    pub(crate) best_of_n: TextTable,
    pub(crate) tuning: TextTable,
    pub(crate) verdicts: TextTable,
    /// The runs that this one was merged from.
    pub(crate) parts: TextTable,
}

/// Writes `<name>.csv`, `.md` and `.tex` of every table.
pub(crate) fn write(run: &Run, tuning: &TuningResults, judged: &[ClaimResult], folder: &Path) -> Result<ReportTables> {
    let [test, validation] = both_points(run);
    let policies = HeadToHead::at_common_kl(run);
    let tables = ReportTables {
        points: test,
        validation,
        drops: drops(run),
        scaling: scaling(run),
        matched: matched(run),
        pairs: policy_pairs(policies.as_ref()),
        strengths: strengths(policies.as_ref()),
        pairwise: pairwise(run),
        costs: costs(run),
        stages: stages(run),
        calibration: calibration(run),
        pair_bins: pair_bins(run),
        best_of_n: best_of_n_rewards(run),
        tuning: tried_points(run, tuning),
        verdicts: verdicts(judged),
        parts: parts(run),
    };
    let ReportTables { points, validation, drops, matched, costs, stages, calibration, .. } = &tables;
    let always = [points, validation, drops, matched, costs, stages, calibration];
    let present = |table, is_present: bool| is_present.then_some(table);
    let others = [
        present(&tables.scaling, !tables.scaling.rows.is_empty()),
        present(&tables.pair_bins, !tables.pair_bins.rows.is_empty()),
        present(&tables.best_of_n, !tables.best_of_n.rows.is_empty()),
        present(&tables.pairs, policies.is_some()),
        present(&tables.strengths, policies.is_some()),
        present(&tables.pairwise, !tables.pairwise.rows.is_empty()),
        present(&tables.tuning, run.experiment.is_tuned()),
        present(&tables.verdicts, !judged.is_empty()),
        present(&tables.parts, run.manifest.is_merged()),
    ];
    for table in always.into_iter().chain(others.into_iter().flatten()) {
        let path = |ending: &str| folder.join(format!("{}.{ending}", table.name));
        duel_ledger::write_atomically(&path("csv"), csv(&table.head, &table.rows)?.as_bytes())?;
        duel_ledger::write_atomically(&path("md"), markdown(table).as_bytes())?;
        duel_ledger::write_atomically(&path("tex"), latex(table).as_bytes())?;
    }
    Ok(tables)
}

fn estimate(values: &[f64], places: usize) -> String {
    Estimate::of(values).map_or("–".into(), |e| format!("{e:.places$}"))
}

/// As [`estimate`], within the range of the metric.
fn estimate_of(metric: Metric, values: &[f64], places: usize) -> String {
    Estimate::of(values).map_or("–".into(), |e| e.text(metric, places))
}

/// Every point's metrics on test and on validation prompts.
pub(crate) fn both_points(run: &Run) -> [TextTable; 2] {
    [points(run, "points", MeasuredPoint::final_test), points(run, "validation", MeasuredPoint::final_validation)]
}

/// Every point's finished policies, mean ± half width of the 95% t-interval over seeds; `values_of` reads them on test
/// or on validation prompts.
fn points(run: &Run, name: &'static str, values_of: fn(&MeasuredPoint, Metric) -> Vec<f64>) -> TextTable {
    let columns: Vec<(&str, Metric, usize)> = [
        ("gold", metrics::GOLD, 3),
        ("KL", metrics::KL, 3),
        ("η", metrics::ETA, 3),
        ("η of PPO-ideal", metrics::IDEAL_ETA, 3),
        ("share of the optimal objective", metrics::OBJECTIVE_SHARE, 3),
        ("win rate", metrics::WIN_RATE, 3),
        ("proxy", metrics::PROXY, 3),
        ("length", metrics::LENGTH, 2),
        ("entropy", metrics::ENTROPY, 2),
        ("distinct-2", metrics::DISTINCT_2, 3),
        ("sd of the ensemble", metrics::ENSEMBLE_SD, 3),
    ]
    .into_iter()
    .filter(|(_, metric, _)| {
        run.arms().iter().flat_map(|a| run.points_of(a)).any(|p| !values_of(p, *metric).is_empty())
    })
    .collect();
    let row = |p: &MeasuredPoint| {
        let mut row = vec![p.arm.clone(), p.label.clone(), p.seeds.len().to_string()];
        row.extend(columns.iter().map(|(_, metric, places)| estimate_of(*metric, &values_of(p, *metric), *places)));
        row
    };
    let arms = run.arms();
    TextTable {
        name,
        head: ["arm", "point", "seeds"].into_iter().chain(columns.iter().map(|c| c.0)).map(String::from).collect(),
        rows: arms.iter().flat_map(|a| run.points_of(a)).chain(run.reference()).map(row).collect(),
    }
}

/// Over-optimization: what is lost beyond the peak.
fn drops(run: &Run) -> TextTable {
    let head = [
        "along",
        "seeds",
        "KL at the peak",
        "gold at the peak",
        "furthest KL",
        "gold at furthest KL",
        "drop, ref. sd",
        "proxy gain since the peak",
        "peak before one epoch, share",
    ];
    let row = |d: OverOptimization| {
        let mut row = vec![d.along, d.drop.len().to_string()];
        row.extend(
            [(&d.peak_kl, 2), (&d.peak_gold, 3), (&d.kl, 2), (&d.gold, 3)]
                .map(|(values, places)| estimate(values, places)),
        );
        row.extend([&d.drop, &d.proxy].map(|values| estimate(values, 3)));
        row.push(d.early.map_or("–".into(), |share| fixed(share, 2)));
        row
    };
    TextTable {
        name: "over-optimisation",
        head: head.map(String::from).to_vec(),
        rows: over_optimization::over_optimization(run).into_iter().map(row).collect(),
    }
}

/// Gold and proxy over d = √KL by the forms of Gao et al. 2022.
fn scaling(run: &Run) -> TextTable {
    let head = ["arm", "reward", "form, d = √KL", "seeds", "α", "β", "variance explained", "KL at the fit's peak"];
    let row = |fit: ScalingFit| {
        let peak = fit.peak().filter(|peak| *peak <= 2.0 * fit.furthest);
        let mut row = vec![fit.arm, fit.what.into(), fit.form.equation().into(), fit.alpha.n.to_string()];
        row.extend([fit.alpha, fit.beta, fit.explained].map(|x| format!("{x:.3}")));
        row.push(peak.map_or("not in reach".into(), |peak| fixed(peak * peak, 2)));
        row
    };
    TextTable {
        name: "scaling",
        head: head.map(String::from).to_vec(),
        rows: scaling_fits(run).into_iter().map(row).collect(),
    }
}

/// The arms at equal KL.
fn matched(run: &Run) -> TextTable {
    let arms = run.arms();
    let matched = frontier::at_equal_kl(run);
    let exact = matched.iter().any(|m| m.arms.iter().flatten().any(|a| a.eta.is_some()));
    let mut head = vec!["KL".to_string(), "seeds".into()];
    for arm in &arms {
        head.push(format!("{arm}: gain in gold"));
        head.extend(exact.then(|| format!("{arm}: η")));
    }
    if let [a, b] = arms[..] {
        head.push(format!("{b} − {a}, {}", if exact { "η" } else { "gold" }));
    }
    let rows = matched
        .iter()
        .map(|m| {
            let mut row = vec![format!("{}", m.kl), m.arms.iter().flatten().next().map_or(0, |a| a.gain.n).to_string()];
            for arm in &m.arms {
                row.push(arm.as_ref().map_or("–".into(), |a| format!("{:.3}", a.gain)));
                row.extend(exact.then(|| arm.as_ref().and_then(|a| a.eta).map_or("–".into(), |e| format!("{e:.3}"))));
            }
            if arms.len() == 2 {
                row.push(m.difference.map_or("–".into(), |d| format!("{d:.3}")));
            }
            row
        })
        .collect();
    TextTable { name: "equal-kl", head, rows }
}

/// An estimate, or a dash.
fn or_dash(estimate: Option<SeedEstimate>, places: usize) -> String {
    estimate.map_or("–".into(), |estimate| format!("{estimate:.places$}"))
}

/// Every two policies at the KL of the charts: win rates among all responses, among those of equal length, and with length controlled.
fn policy_pairs(policies: Option<&HeadToHead>) -> TextTable {
    let head = ["first", "second", "seeds", "win rate", "at equal length", "length-controlled", "tokens longer"];
    let rows = policies.map_or(vec![], |policies| {
        let (names, difficulties) = (&policies.names, policies.difficulties());
        let row = |(a, b): (usize, usize)| {
            let rate = policies.win_rate(a, b, false)?;
            Some(vec![
                names[a].to_string(),
                names[b].to_string(),
                rate.estimate.n.to_string(),
                or_dash(Some(rate), 3),
                or_dash(policies.win_rate(a, b, true), 3),
                or_dash(policies.length_controlled(a, b, &difficulties), 3),
                or_dash(policies.length_difference(a, b), 2),
            ])
        };
        (0..names.len()).flat_map(|a| (a + 1..names.len()).map(move |b| (a, b))).filter_map(row).collect()
    });
    TextTable { name: "win-rates", head: head.map(String::from).to_vec(), rows }
}

/// The arms' Bradley-Terry strengths at the same KL, the strongest first.
fn strengths(policies: Option<&HeadToHead>) -> TextTable {
    let head = ["arm", "seeds", "strength, log-odds", "win rate against the reference by its strength", "as measured"];
    let rows = policies.map_or(vec![], |policies| {
        let reference = policies.names.len() - 1;
        let row = |(arm, strength): (usize, SeedEstimate)| {
            vec![
                policies.names[arm].to_string(),
                strength.estimate.n.to_string(),
                or_dash(Some(strength), 2),
                fixed(sigmoid(strength.estimate.mean), 3),
                or_dash(policies.win_rate(arm, reference, false), 3),
            ]
        };
        policies.strengths().into_iter().map(row).collect()
    });
    TextTable { name: "bradley-terry", head: head.map(String::from).to_vec(), rows }
}

/// The judge of pairs on the finished policies of every point that it compared with the reference.
fn pairwise(run: &Run) -> TextTable {
    let columns: [(&str, Metric); 6] = [
        ("win rate by the judge", metrics::PAIRWISE_WIN_RATE),
        ("by gold, same pairs", metrics::PAIRWISE_GOLD_WIN_RATE),
        ("agrees with gold", metrics::PAIRWISE_GOLD_AGREEMENT),
        ("ties", metrics::PAIRWISE_TIE_RATE),
        ("order decides", metrics::PAIRWISE_ORDER_DECIDES),
        ("first shown is preferred", metrics::PAIRWISE_FIRST_RATE),
    ];
    let row = |p: &MeasuredPoint| {
        let seeds = p.final_test(metrics::PAIRWISE_WIN_RATE).len();
        let mut row = vec![p.arm.clone(), p.label.clone(), seeds.to_string()];
        row.extend(columns.iter().map(|(_, metric)| estimate(&p.final_test(*metric), 3)));
        (seeds > 0).then_some(row)
    };
    let arms = run.arms();
    TextTable {
        name: "pairwise-judge",
        head: ["arm", "point", "seeds"].into_iter().chain(columns.map(|c| c.0)).map(String::from).collect(),
        rows: arms.iter().flat_map(|a| run.points_of(a)).chain(run.reference()).filter_map(row).collect(),
    }
}

/// The verdicts, one row per test.
fn verdicts(judged: &[ClaimResult]) -> TextTable {
    let head = ["claim", "verdict", "at KL", "test", "effect", "interval", "level", "p", "seeds", "smallest", "unit"];
    let number = |x: Option<f64>| x.map_or("–".into(), |x| fixed(x, 3));
    let rows = judged.iter().flat_map(|v| {
        v.tests.iter().map(move |test| {
            vec![
                v.claim.id.clone(),
                v.judgement.to_string(),
                test.kl.map_or("–".into(), |kl| kl.to_string()),
                test.judgement.to_string().to_lowercase(),
                number(test.effect),
                test.interval.map_or("–".into(), |[low, high]| format!("{} to {}", fixed(low, 3), fixed(high, 3))),
                format!("{:.3}", test.level),
                test.p.map_or("–".into(), |p| format!("{p:.2e}")),
                test.seeds.to_string(),
                v.claim.smallest.to_string(),
                v.unit.into(),
            ]
        })
    });
    TextTable { name: "verdicts", head: head.map(String::from).to_vec(), rows: rows.collect() }
}

/// What training cost.
fn costs(run: &Run) -> TextTable {
    let head = ["arm", "models in memory", "tokens sampled", "FLOPs", "prerequisites", "seconds", "prerequisites"];
    let rows = arm_costs(run)
        .into_iter()
        .map(|c| {
            vec![
                c.arm,
                fixed(c.models, 0),
                si(c.sampled),
                si(c.flops),
                si(c.flops_before),
                seconds(c.seconds),
                seconds(c.seconds_before),
            ]
        })
        .collect();
    TextTable { name: "costs", head: head.map(String::from).to_vec(), rows }
}

/// How each part of a merged run was made, and what is from it.
fn parts(run: &Run) -> TextTable {
    let head = [
        "part",
        "seeds",
        "cells",
        "stages",
        "processor",
        "cores",
        "at once",
        "device",
        "Duel",
        "commit",
        "seconds",
        "peak memory",
    ];
    let plan = &run.manifest.plan;
    let row = |(index, part): (usize, &RunPart)| {
        let made = &part.manifest;
        let used = || plan.iter().filter(|stage| part.used.contains(&stage.folder));
        vec![
            (index + 1).to_string(),
            part.seeds(plan),
            used().filter(|stage| stage.tuning.is_some()).count().to_string(),
            used().count().to_string(),
            made.host.processor.clone(),
            made.host.cores.to_string(),
            made.jobs.to_string(),
            made.device.clone(),
            made.duel.clone(),
            made.commit.chars().take(10).collect(),
            made.wall_seconds.map_or("–".into(), seconds),
            format!("{}B", si(made.peak_memory as f64)),
        ]
    };
    let rows = run.manifest.parts.iter().enumerate().map(row).collect();
    TextTable { name: "parts", head: head.map(String::from).to_vec(), rows }
}

/// What the shared stages measured, mean ± interval over seeds.
fn stages(run: &Run) -> TextTable {
    let stage_metrics: [(&str, &str, Metric, usize); 23] = [
        ("gold scorer: accuracy on held-out full reviews", "corpus", metrics::GOLD_ACCURACY, 3),
        ("gold scorer: accuracy on the judged window", "corpus", metrics::GOLD_ACCURACY_WINDOW, 3),
        ("gold scorer: calibration error", "corpus", metrics::GOLD_CALIBRATION, 3),
        ("gold scorer: agreement with human ratings", "corpus", metrics::GOLD_HUMAN_AGREEMENT, 3),
        ("base model: held-out nats per token", "base", metrics::NLL_TOKEN, 3),
        ("SFT: held-out nats per token", "sft", metrics::NLL_TOKEN, 3),
        ("SFT: KL(grammar || reference), nats", "sft", metrics::KL_GRAMMAR, 4),
        ("pairs: temperature of the labels", "pairs", metrics::TAU, 3),
        ("pairs: Bayes accuracy of the test rows", "pairs", metrics::BAYES_ACCURACY, 3),
        ("reward model: pair accuracy, train", "rm", metrics::PAIR_ACCURACY_TRAIN, 3),
        ("reward model: pair accuracy, validation", "rm", metrics::PAIR_ACCURACY_VALIDATION, 3),
        ("reward model: pair accuracy, test", "rm", metrics::PAIR_ACCURACY_TEST, 3),
        ("reward model: loss on validation, nats", "rm", metrics::RM_LOSS_VALIDATION, 3),
        ("reward model: rank correlation with gold", "rm", metrics::RM_SPEARMAN_GOLD, 3),
        ("reward model: correlation with length", "rm", metrics::RM_LENGTH_CORRELATION, 3),
        ("reward model: calibration error", "rm", metrics::RM_CALIBRATION, 3),
        ("reward model: change at a second x", "rm", metrics::RM_TRAP_SLOPE, 3),
        ("ensemble: test pairs that all members order alike", "rm", metrics::ENSEMBLE_ALIKE, 3),
        ("ensemble: test pairs that two members order alike", "rm", metrics::ENSEMBLE_AGREEMENT, 3),
        ("ensemble: Cohen's kappa of two members", "rm", metrics::ENSEMBLE_KAPPA, 3),
        ("ensemble: standard deviation over members, test pairs", "rm", metrics::ENSEMBLE_SD_PAIRS, 3),
        ("ensemble: standard deviation over members, responses of the reference", "rm", metrics::ENSEMBLE_SD, 3),
        ("reward model: seconds", "rm", metrics::STAGE_SECONDS, 1),
    ];
    let rows = stage_metrics
        .into_iter()
        .filter_map(|(label, stage, metric, places)| {
            let values = run.shared_metric(stage, metric);
            (!values.is_empty())
                .then(|| vec![label.into(), estimate_of(metric, &values, places), values.len().to_string()])
        })
        .collect();
    TextTable { name: "stages", head: vec!["metric".into(), "value".into(), "seeds".into()], rows }
}

/// The same as numbers.
fn calibration(run: &Run) -> TextTable {
    TextTable {
        name: "calibration",
        head: ["pairs", "predicted probability of the higher score", "observed share chosen"].map(String::from).into(),
        rows: pooled(run)
            .iter()
            .map(|bin| {
                vec![format!("{:.0}", bin.pairs), format!("{:.3}", bin.predicted), format!("{:.3}", bin.observed)]
            })
            .collect(),
    }
}

/// How many pairs the reward model and each arm's featured policies order as labelled, bin by bin.
fn pair_bins(run: &Run) -> TextTable {
    let head =
        ["by", "split", "divided by", "bin", "pairs", "mean of the bin", "ceiling", "share", "95% interval", "seeds"];
    let has_ceiling = !run.shared_metric("pairs", metrics::BAYES_ACCURACY).is_empty();
    let row = |name: &str, split: Split, by: PairDivision, bin: &PooledBin| {
        let [low, high] = bin.interval;
        vec![
            name.to_string(),
            split.name().into(),
            division_name(by).into(),
            bin_name(by, bin.number),
            format!("{:.0}", bin.pairs),
            fixed(bin.value, 2),
            if has_ceiling { fixed(bin.ceiling, 3) } else { "–".into() },
            fixed(bin.accuracy, 3),
            format!("{} to {}", fixed(low, 3), fixed(high, 3)),
            bin.seeds.to_string(),
        ]
    };
    let points =
        run.arms().into_iter().filter_map(|arm| Some((arm.to_uppercase(), arm, run.featured(arm)?.label.as_str())));
    let rewards = std::iter::once(("reward model".to_string(), SHARED_ARM, NO_POINT)).chain(points);
    let mut rows = vec![];
    for (name, arm, point) in rewards {
        for (split, by) in Split::ALL.into_iter().flat_map(|split| PairDivision::ALL.map(|by| (split, by))) {
            rows.extend(run.pair_bins.pooled(arm, point, split, by).iter().map(|bin| row(&name, split, by, bin)));
        }
    }
    TextTable { name: "pair-bins", head: head.map(String::from).into(), rows }
}

/// A division for people.
fn division_name(by: PairDivision) -> &'static str {
    match by {
        PairDivision::Whole => "–",
        PairDivision::GoldMargin => "difference of gold",
        PairDivision::LabelStrength => "strength of the label",
        PairDivision::OwnMargin => "its own margin",
        PairDivision::Length => "tokens, chosen minus rejected",
    }
}

/// A bin for people.
fn bin_name(by: PairDivision, number: u64) -> String {
    match by {
        PairDivision::Whole => "all".into(),
        PairDivision::Length => LENGTH_BINS.get(number as usize).map_or("–".into(), |name| format!("chosen {name}")),
        _ => format!("quarter {}", number + 1),
    }
}

/// The best of N responses of the reference by the learned reward.
fn best_of_n_rewards(run: &Run) -> TextTable {
    let head = ["N", "seeds", "KL", "its bound", "learned reward", "gold", "win rate", "its bound"];
    let row = |best: BestOfN| {
        vec![
            best.n.to_string(),
            best.gold.len().to_string(),
            estimate(&best.kl, 3),
            fixed(best.kl_bound(), 3),
            estimate(&best.proxy, 3),
            estimate(&best.gold, 3),
            estimate(&best.win_rate, 3),
            fixed(best.win_rate_bound(), 3),
        ]
    };
    let rows = best_of_n(run).into_iter().map(row).collect();
    TextTable { name: "best-of-n", head: head.map(String::from).into(), rows }
}

/// Every point of a search, the best of each arm first; empty without a search.
fn tried_points(run: &Run, tuning: &TuningResults) -> TextTable {
    let (choose, seeds) = (run.experiment.tuning.choose, run.experiment.tuning_seeds());
    let head = ["arm", "point", "", "seeds", &merit_label(tuning, run), "learned reward there", "FLOPs per training"];
    let mut rows = vec![];
    for arm in run.arms().into_iter().filter(|_| run.experiment.is_tuned()) {
        let ranked = tuning.ranked(arm, &seeds, choose);
        let best = |choose| tuning.ranked(arm, &seeds, choose).first().map(|t| t.label.clone());
        let (chosen, blind) = (best(choose), best(SelectionMetric::Proxy));
        let unranked = tuning.trials.iter().filter(|t| t.arm == arm && !ranked.iter().any(|r| r.label == t.label));
        for trial in ranked.iter().copied().chain(unranked) {
            let scores: Vec<_> = trial.seeds.values().flatten().collect();
            let estimate_of = |value: fn(&&TrialScore) -> f64| {
                Estimate::of(&scores.iter().map(value).collect::<Vec<_>>()).map_or("–".into(), |e| format!("{e:.3}"))
            };
            let is_point = |label: &Option<String>| label.as_ref() == Some(&trial.label);
            let mut notes = vec![];
            notes.extend(is_point(&chosen).then_some("chosen"));
            notes.extend(
                (is_point(&blind) && choose == SelectionMetric::Gold)
                    .then_some("would be chosen by the learned reward"),
            );
            notes.extend((scores.len() < trial.seeds.len()).then_some("not finished"));
            notes.extend((trial.seeds.len() < seeds.len()).then_some("dropped"));
            rows.push(vec![
                arm.to_string(),
                trial.label.clone(),
                notes.join(", "),
                trial.seeds.len().to_string(),
                estimate_of(|score| score.gold),
                estimate_of(|score| score.proxy),
                si(mean(&scores.iter().map(|score| score.flops).collect::<Vec<_>>())),
            ]);
        }
    }
    TextTable { name: "tuning", head: head.map(String::from).to_vec(), rows }
}
