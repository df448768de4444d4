//! Tests of cells without evaluations: diverged if the manifest lists them, otherwise missing and in no claim.

use crate::analysis::effects::has_diverged;
use crate::analysis::hand_made_run::HandMadeRun;
use crate::analysis::run::Run;
use crate::analysis::tuning::TuningResults;
use crate::analysis::verdict::{ClaimResult, Verdict, judge, missing_lines};
use duel_ledger::Manifest;
use duel_spec::{Cell, Clocks, metrics};

const EXPERIMENT: &str = r#"
    name = "missing"
    seeds = 6
    [arms.a]
    method = "dpo"
    grid.beta = [0.1, 0.2]
    [arms.b]
    method = "dpo"
    grid.beta = [0.1, 0.2]
    [[claims]]
    id = "diverged"
    arms = ["a", "b"]
    metric = "diverged"
"#;

/// A run in which the cells `(arm, label, seed)` have evaluations; its reference is at KL 0 and gold 0.
fn measured(has_marks: impl Fn(&str, &str, u64) -> bool) -> HandMadeRun {
    let mut run = HandMadeRun::new(EXPERIMENT);
    let clocks = Clocks { step: 1, ..Clocks::default() };
    for cell in run.run().cells.clone() {
        let marks = [(metrics::KL, 0.5), (metrics::GOLD, 1.0), (metrics::GOLD_SD, 1.0)];
        run.evaluation("reference", "sft", cell.seed, clocks, &[(metrics::KL, 0.0), (metrics::GOLD, 0.0), marks[2]]);
        if has_marks(&cell.arm, &cell.point.label, cell.seed) {
            run.evaluation(&cell.arm, &cell.point.label, cell.seed, clocks, &marks);
        }
    }
    run
}

fn verdict(run: &Run) -> ClaimResult {
    judge(run, &TuningResults::of(run)).remove(0)
}

/// `b` lacks its second cell at all six seeds: a divergence share of ½ against `a`'s 0 is CONTRADICTED for `b`, but only where the
/// manifest says that those trainings diverged.
#[test]
fn a_cell_without_evaluations_has_diverged_only_where_its_manifest_says_so() {
    let lacking = |arm: &str, label: &str, _| !(arm == "b" && label == "beta=0.2");
    let labels = |run: &Run| -> Vec<String> {
        run.cells
            .iter()
            .filter(|c| !lacking(&c.arm, &c.point.label, c.seed))
            .map(|c| format!("b beta=0.2, seed {}", c.seed))
            .collect()
    };

    let mut diverged = measured(lacking);
    diverged.run().manifest.diverged = labels(diverged.run()).into_iter().collect();
    let diverged = verdict(&diverged.finish());
    assert_eq!((diverged.judgement, diverged.tests[0].effect), (Verdict::Reproduced, Some(0.5)));
    assert!(diverged.missing.is_empty());

    for (exit, failed, because) in [
        ("interrupted", None, "the run was interrupted before"),
        ("running", None, "the run has not ended"),
        (
            "failed",
            Some("the worker was ended by signal: 9 (SIGKILL) (out of memory?)"),
            "the worker was ended by signal: 9 (SIGKILL) (out of memory?)",
        ),
        ("failed", Some("No space left on device (os error 28)"), "No space left on device (os error 28)"),
        (
            "failed",
            Some("invariant `padding_is_inert` failed at step 1"),
            "invariant `padding_is_inert` failed at step 1",
        ),
        ("complete", None, "the run ended before"),
    ] {
        let mut run = measured(lacking);
        let labels = labels(run.run());
        let manifest = &mut run.run().manifest;
        manifest.exit = exit.into();
        manifest.failed =
            failed.into_iter().flat_map(|why| labels.iter().map(move |l| (l.clone(), why.to_string()))).collect();
        let run = run.finish();
        let result = verdict(&run);
        assert_eq!(
            (result.judgement, result.tests[0].seeds, result.tests[0].effect),
            (Verdict::Inconclusive, 0, None),
            "{exit}"
        );
        assert!(
            result.missing.len() == 6 && result.missing.iter().all(|cell| cell.because == because),
            "{:?}",
            result.missing
        );
        let of_b = |cell: &&Cell| cell.arm == "b" && cell.point.label == "beta=0.2";
        assert!(run.cells.iter().filter(of_b).all(|cell| has_diverged(&run, cell).is_none()), "{exit}");
        let lines = missing_lines(&run.missing());
        assert_eq!(
            lines,
            [format!(
                "6 trainings of b, the first beta=0.2 at seed 0, are missing and count in no claim, because: {because}"
            )]
        );
        assert!(result.reasons.contains(&lines[0]), "{:?}", result.reasons);
    }
}

/// A seed at which one cell is missing is left out entirely, so that arms are compared over the same points; the other five stay.
#[test]
fn a_seed_with_a_missing_cell_is_left_out() {
    let run = measured(|arm, label, seed| !(arm == "a" && label == "beta=0.1" && seed == 3)).finish();
    let result = verdict(&run);
    assert_eq!(
        (result.judgement, result.tests[0].seeds, result.tests[0].effect),
        (Verdict::Contradicted, 5, Some(0.0))
    );
    assert_eq!(result.missing.len(), 1);
    assert_eq!(
        result.reasons.last().map(String::as_str),
        Some("the training a beta=0.1, seed 3, is missing and counts in no claim, because: the run ended before")
    );
}

/// Manifests before format 12 have only the error message of a failed stage.
#[test]
fn an_older_manifest_shows_divergence_by_its_error_message() {
    let mut manifest = Manifest { format: 11, ..Manifest::default() };
    manifest.failed.insert("b beta=0.2, seed 1".into(), "training diverged at step 7: loss is NaN".into());
    manifest.failed.insert("b beta=0.2, seed 2".into(), "invariant `x` failed at step 7".into());
    assert!(manifest.has_diverged("b beta=0.2, seed 1") && !manifest.has_diverged("b beta=0.2, seed 2"));
    manifest.format = 12;
    assert!(!manifest.has_diverged("b beta=0.2, seed 1"));
}
