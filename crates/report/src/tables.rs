//! Tables of a run as CSV, Markdown and LaTeX.

use crate::figures::arm_costs;
use crate::format::{fixed, seconds, si};
use crate::over::{self, OverOptimization};
use crate::run::{MeasuredPoint, Run};
use crate::stats::Estimate;
use crate::tuning::TuningResults;
use crate::verdict::ClaimResult;
use crate::{Error, Result, frontier};
use duel_spec::metrics::{self, Metric};
use std::path::Path;

/// A table of words.
#[derive(Debug, serde::Serialize)]
pub(crate) struct TextTable {
    pub(crate) name: &'static str,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// All tables of a run.
#[derive(Debug, serde::Serialize)]
pub(crate) struct ReportTables {
    pub(crate) points: TextTable,
    /// As `points`, on validation prompts: what settings are chosen by.
    pub(crate) validation: TextTable,
    pub(crate) drops: TextTable,
    pub(crate) matched: TextTable,
    pub(crate) costs: TextTable,
    pub(crate) stages: TextTable,
    pub(crate) calibration: TextTable,
    pub(crate) tuning: TextTable,
    pub(crate) verdicts: TextTable,
}

/// Writes `<name>.csv`, `.md` and `.tex` of every table.
pub(crate) fn write(run: &Run, tuning: &TuningResults, judged: &[ClaimResult], folder: &Path) -> Result<ReportTables> {
    let [test, validation] = both_points(run);
    let tables = ReportTables {
        points: test,
        validation,
        drops: drops(run),
        matched: matched(run),
        costs: costs(run),
        stages: stages(run),
        calibration: crate::calibration::table(run),
        tuning: crate::sensitivity::table(run, tuning),
        verdicts: verdicts(judged),
    };
    let ReportTables { points, validation, drops, matched, costs, stages, calibration, tuning, verdicts } = &tables;
    let tuning = run.experiment.is_tuned().then_some(tuning);
    let verdicts = (!judged.is_empty()).then_some(verdicts);
    for table in
        [points, validation, drops, matched, costs, stages, calibration].into_iter().chain(tuning).chain(verdicts)
    {
        let to = |ending: &str| folder.join(format!("{}.{ending}", table.name));
        duel_ledger::write_atomically(&to("csv"), csv(&table.head, &table.rows)?.as_bytes())?;
        duel_ledger::write_atomically(&to("md"), markdown_of(table).as_bytes())?;
        duel_ledger::write_atomically(&to("tex"), latex_of(table).as_bytes())?;
    }
    Ok(tables)
}

fn estimate(values: &[f64], places: usize) -> String {
    Estimate::of(values).map_or("–".into(), |e| format!("{e:.places$}"))
}

/// Every point's marks on test and on validation prompts.
pub(crate) fn both_points(run: &Run) -> [TextTable; 2] {
    [points(run, "points", MeasuredPoint::final_test), points(run, "validation", MeasuredPoint::final_validation)]
}

/// Every point's finished policies, mean ± half width of the 95% t-interval over seeds; `of` reads them on test or on
/// validation prompts.
fn points(run: &Run, name: &'static str, of: fn(&MeasuredPoint, Metric) -> Vec<f64>) -> TextTable {
    let columns: Vec<(&str, Metric, usize)> = [
        ("gold", metrics::GOLD, 3),
        ("KL", metrics::KL, 3),
        ("η", metrics::ETA, 3),
        ("η of PPO-ideal", metrics::IDEAL_ETA, 3),
        ("share of J(π*)", metrics::OBJECTIVE_SHARE, 3),
        ("win rate", metrics::WIN_RATE, 3),
        ("proxy", metrics::PROXY, 3),
        ("length", metrics::LENGTH, 2),
        ("entropy", metrics::ENTROPY, 2),
        ("distinct-2", metrics::DISTINCT_2, 3),
    ]
    .into_iter()
    .filter(|(_, metric, _)| run.arms().iter().flat_map(|a| run.points_of(a)).any(|p| !of(p, *metric).is_empty()))
    .collect();
    let row = |p: &MeasuredPoint| {
        let mut row = vec![p.arm.clone(), p.label.clone(), p.seeds.len().to_string()];
        row.extend(columns.iter().map(|(_, metric, places)| estimate(&of(p, *metric), *places)));
        row
    };
    let arms = run.arms();
    TextTable {
        name,
        head: ["arm", "point", "seeds"].into_iter().chain(columns.iter().map(|c| c.0)).map(String::from).collect(),
        rows: arms.iter().flat_map(|a| run.points_of(a)).chain(run.reference()).map(row).collect(),
    }
}

/// Over-optimisation: what is lost beyond the peak.
fn drops(run: &Run) -> TextTable {
    let head = [
        "along",
        "seeds",
        "KL at the peak",
        "gold at the peak",
        "furthest KL",
        "gold there",
        "drop, ref. sd",
        "proxy gained since the peak",
        "peak before one epoch, share",
    ];
    let row = |d: OverOptimization| {
        let mut row = vec![d.along, d.drop.len().to_string()];
        row.extend(
            [(&d.peak_kl, 2), (&d.peak_gold, 3), (&d.kl, 2), (&d.gold, 3)].map(|(of, places)| estimate(of, places)),
        );
        row.extend([&d.drop, &d.proxy].map(|of| estimate(of, 3)));
        row.push(d.early.map_or("–".into(), |share| fixed(share, 2)));
        row
    };
    TextTable {
        name: "over-optimisation",
        head: head.map(String::from).to_vec(),
        rows: over::over_optimization(run).into_iter().map(row).collect(),
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

/// What became of each claim, a row a test.
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

/// What training took.
fn costs(run: &Run) -> TextTable {
    let head = ["arm", "models in memory", "tokens sampled", "FLOPs", "before the loop", "seconds", "before the loop"];
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

/// What the shared stages measured, mean ± interval over seeds.
fn stages(run: &Run) -> TextTable {
    let wanted: [(&str, &str, Metric, usize); 18] = [
        ("gold scorer: accuracy on held-out full reviews", "corpus", metrics::GOLD_ACCURACY, 3),
        ("gold scorer: accuracy on the judged window", "corpus", metrics::GOLD_ACCURACY_WINDOW, 3),
        ("gold scorer: calibration error", "corpus", metrics::GOLD_CALIBRATION, 3),
        ("gold scorer: agreement with human ratings", "corpus", metrics::GOLD_HUMAN_AGREEMENT, 3),
        ("base model: held-out nats a token", "base", metrics::NLL_TOKEN, 3),
        ("SFT: held-out nats a token", "sft", metrics::NLL_TOKEN, 3),
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
        ("reward model: seconds", "rm", metrics::STAGE_SECONDS, 1),
    ];
    let rows = wanted
        .into_iter()
        .filter_map(|(words, stage, metric, places)| {
            let values = run.shared(stage, metric);
            (!values.is_empty()).then(|| vec![words.into(), estimate(&values, places), values.len().to_string()])
        })
        .collect();
    TextTable { name: "stages", head: vec!["what".into(), "value".into(), "seeds".into()], rows }
}

/// Whether a cell is numbers alone, as `-0.3 ± 0.1` or `-1.0 to 2.0`.
fn is_numbers(cell: &str) -> bool {
    cell.split([' ', '±']).filter(|part| !part.is_empty() && *part != "to").all(|part| part.parse::<f64>().is_ok())
}

/// A cell that no program of spreadsheets takes for a formula: an apostrophe before whatever would begin one.
fn no_formula(cell: &str) -> std::borrow::Cow<'_, str> {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) && !is_numbers(cell) {
        format!("'{cell}").into()
    } else {
        cell.into()
    }
}

/// Comma-separated values.
pub(crate) fn csv(head: &[String], rows: &[Vec<String>]) -> Result<String> {
    let broken = |e: String| Error::Page { problem: e };
    let mut writer = csv::Writer::from_writer(vec![]);
    for row in std::iter::once(head).chain(rows.iter().map(Vec::as_slice)) {
        let cells = row.iter().map(|cell| no_formula(cell).into_owned());
        writer.write_record(cells).map_err(|e| broken(e.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|e| broken(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| broken(e.to_string()))
}

/// One line, whatever stands in it.
fn in_one_line(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect()
}

/// A cell of Markdown that says what it holds: what would end it, mark it up or begin HTML has a backslash. An underscore between
/// letters is none of these.
fn markdown_cell(cell: &str) -> String {
    let text: Vec<char> = in_one_line(cell).chars().collect();
    let is_word = |place: Option<usize>| place.and_then(|p| text.get(p)).is_some_and(|c| c.is_alphanumeric());
    let mut out = String::new();
    for (place, &c) in text.iter().enumerate() {
        let is_mark = match c {
            '\\' | '|' | '`' | '*' | '[' | ']' | '<' | '>' | '&' | '~' | '$' => true,
            '_' => !(is_word(place.checked_sub(1)) && is_word(Some(place + 1))),
            _ => false,
        };
        out.extend(is_mark.then_some('\\'));
        out.push(c);
    }
    out
}

fn markdown_of(table: &TextTable) -> String {
    let line = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(|cell| markdown_cell(cell)).collect::<Vec<_>>().join(" | "))
    };
    let rule = vec!["---".to_string(); table.head.len()];
    let rule = format!("| {} |\n", rule.join(" | "));
    line(&table.head) + &rule + &table.rows.iter().map(|row| line(row)).collect::<String>()
}

/// A cell of LaTeX: the characters that it reads are escaped, the Greek and the signs put in math.
fn latex_cell(cell: &str) -> String {
    let mut out = String::new();
    for c in in_one_line(cell).chars() {
        out += match c {
            '&' => "\\&",
            '%' => "\\%",
            '#' => "\\#",
            '_' => "\\_",
            '$' => "\\$",
            '{' => "\\{",
            '}' => "\\}",
            '\\' => "\\textbackslash{}",
            '~' => "\\textasciitilde{}",
            '^' => "\\textasciicircum{}",
            '<' => "$<$",
            '>' => "$>$",
            '|' => "$|$",
            '"' => "''",
            '[' => "{[}", // one after a line's end would be its space
            'η' => "$\\eta$",
            'β' => "$\\beta$",
            'π' => "$\\pi$",
            '√' => "$\\surd$",
            '×' => "$\\times$",
            '∞' => "$\\infty$",
            '±' => "$\\pm$",
            '−' => "$-$",
            '–' => "--",
            c => {
                out.push(c);
                continue;
            }
        };
    }
    out
}

/// Booktabs.
fn latex_of(table: &TextTable) -> String {
    let line = |row: &Vec<String>| row.iter().map(|cell| latex_cell(cell)).collect::<Vec<_>>().join(" & ") + " \\\\\n";
    let columns = "l".repeat(table.head.len());
    let body: String = table.rows.iter().map(line).collect();
    format!(
        "\\begin{{tabular}}{{{columns}}}\n\\toprule\n{}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n",
        line(&table.head)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What people call their arms, settings and claims stays what it is in every form.
    #[test]
    fn no_cell_is_read_as_anything_but_itself() {
        for (cell, csv_cell, markdown, latex) in [
            ("=HYPERLINK(1)", "'=HYPERLINK(1)", "=HYPERLINK(1)", "=HYPERLINK(1)"),
            ("@SUM(A1)", "'@SUM(A1)", "@SUM(A1)", "@SUM(A1)"),
            ("-1+cmd|' /C'!A0", "'-1+cmd|' /C'!A0", "-1+cmd\\|' /C'!A0", "-1+cmd$|$' /C'!A0"),
            ("+x", "'+x", "+x", "+x"),
            ("-0.3 ± 0.1", "-0.3 ± 0.1", "-0.3 ± 0.1", "-0.3 $\\pm$ 0.1"),
            ("-1.000 to 2.000", "-1.000 to 2.000", "-1.000 to 2.000", "-1.000 to 2.000"),
            ("a|b", "a|b", "a\\|b", "a$|$b"),
            ("a,\"b\"", "\"a,\"\"b\"\"\"", "a,\"b\"", "a,''b''"),
            ("a\r\n\r\nb", "\"a\r\n\r\nb\"", "a    b", "a    b"),
            ("\tx", "'\tx", " x", " x"),
            ("\\input{x}", "\\input{x}", "\\\\input{x}", "\\textbackslash{}input\\{x\\}"),
            ("^~#%", "^~#%", "^\\~#%", "\\textasciicircum{}\\textasciitilde{}\\#\\%"),
            ("[2] x", "[2] x", "\\[2\\] x", "{[}2] x"),
            ("<b>&amp;", "<b>&amp;", "\\<b\\>\\&amp;", "$<$b$>$\\&amp;"),
            (
                "_a_ b_c *d* `e` $f$",
                "_a_ b_c *d* `e` $f$",
                "\\_a\\_ b_c \\*d\\* \\`e\\` \\$f\\$",
                "\\_a\\_ b\\_c *d* `e` \\$f\\$",
            ),
        ] {
            let row = vec![cell.to_string(), "1".into()];
            assert_eq!(
                csv(&["a".into(), "b".into()], std::slice::from_ref(&row)).expect("csv"),
                format!("a,b\n{csv_cell},1\n")
            );
            assert_eq!((markdown_cell(cell), latex_cell(cell)), (markdown.to_string(), latex.to_string()));
        }
    }

    #[test]
    fn the_three_forms_say_the_same() {
        let table = TextTable {
            name: "t",
            head: vec!["arm".into(), "η".into()],
            rows: vec![vec!["ppo_1".into(), "0.8 ± 0.1".into()]],
        };
        assert_eq!(csv(&table.head, &table.rows).expect("csv"), "arm,η\nppo_1,0.8 ± 0.1\n");
        assert_eq!(markdown_of(&table), "| arm | η |\n| --- | --- |\n| ppo_1 | 0.8 ± 0.1 |\n");
        assert_eq!(
            latex_of(&table),
            "\\begin{tabular}{ll}\n\\toprule\narm & $\\eta$ \\\\\n\\midrule\nppo\\_1 & 0.8 $\\pm$ 0.1 \\\\\n\\bottomrule\n\\end{tabular}\n"
        );
    }
}
