//! A list of statements about methods, each beside the claims that test it, in one or more runs: the summary of several experiments.

use super::verdict::{ClaimResult, ClaimTest, Verdict, judge_folder};
use crate::format::{fixed, short, si};
use crate::{Error, Result};
use duel_spec::ClaimMetric;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A claim of a run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimPath {
    /// A directory, from the list's own.
    run: PathBuf,
    claim: String,
}

/// A statement, with its claims by column.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementEntry {
    statement: String,
    #[serde(default)]
    claims: BTreeMap<String, Vec<ClaimPath>>,
    /// What is known of it without a claim.
    #[serde(default)]
    note: String,
}

/// The file of a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatementFile {
    /// The worlds or models on which statements are tested, in order.
    columns: Vec<String>,
    statements: Vec<StatementEntry>,
}

/// A claim of a statement, judged.
#[derive(Debug, Clone, Serialize)]
pub struct JudgedStatementClaim {
    pub column: String,
    /// The run's directory, from the list's own.
    pub run: PathBuf,
    #[serde(flatten)]
    pub result: ClaimResult,
}

/// A statement with its claims, judged.
#[derive(Debug, Clone, Serialize)]
pub struct JudgedStatement {
    pub statement: String,
    pub claims: Vec<JudgedStatementClaim>,
    pub note: String,
}

/// A list of statements, judged.
#[derive(Debug, Clone, Serialize)]
pub struct JudgedStatements {
    pub columns: Vec<String>,
    pub statements: Vec<JudgedStatement>,
}

/// Judges the claims of a list of statements.
///
/// # Errors
/// A file that is no such list; a column, a run or a claim that does not exist.
pub fn judge_statements(list: &Path) -> Result<JudgedStatements> {
    let text = std::fs::read_to_string(list).map_err(|source| Error::Read { path: list.into(), source })?;
    let of_list = |problem: String| Error::Statements { path: list.into(), problem };
    let StatementFile { columns, statements } = toml::from_str(&text).map_err(|error| of_list(error.to_string()))?;
    let folder = list.parent().unwrap_or(Path::new(""));
    let mut runs: BTreeMap<PathBuf, Vec<ClaimResult>> = BTreeMap::new();
    let mut judged = vec![];
    for StatementEntry { statement, claims, note } in statements {
        if let Some(column) = claims.keys().find(|column| !columns.contains(column)) {
            let problem = format!("`{statement}` has claims under `{column}`; the columns are {}", columns.join(", "));
            return Err(of_list(problem));
        }
        let mut of_statement = vec![];
        for column in &columns {
            for ClaimPath { run, claim } in claims.get(column).into_iter().flatten() {
                if !runs.contains_key(run) {
                    runs.insert(run.clone(), judge_folder(&folder.join(run))?.verdicts);
                }
                let Some(result) = runs[run].iter().find(|result| result.claim.id == *claim) else {
                    let known: Vec<&str> = runs[run].iter().map(|result| result.claim.id.as_str()).collect();
                    let run = run.display();
                    return Err(of_list(format!(
                        "the run `{run}` has no claim `{claim}`; it has {}",
                        known.join(", ")
                    )));
                };
                let (column, run) = (column.clone(), run.clone());
                of_statement.push(JudgedStatementClaim { column, run, result: result.clone() });
            }
        }
        judged.push(JudgedStatement { statement, claims: of_statement, note });
    }
    Ok(JudgedStatements { columns, statements: judged })
}

impl JudgedStatements {
    /// A table in Markdown, whose links begin with `folder`, the list's own.
    pub fn markdown(&self, folder: &str) -> String {
        let cell = |text: &str| text.replace('|', "\\|");
        let mut table = format!("| statement | {} |\n", self.columns.join(" | "));
        table.push_str(&"| --- ".repeat(self.columns.len() + 1));
        table.push_str("|\n");
        for JudgedStatement { statement, claims, note } in &self.statements {
            let of_column = |column: &String| {
                let own = claims.iter().filter(|claim| claim.column == *column);
                let answers: Vec<String> = own.map(|claim| answer(claim, folder)).collect();
                if answers.is_empty() { "not tested".into() } else { answers.join("<br>") }
            };
            let answers = match claims.is_empty() && !note.is_empty() {
                true => [vec![note.clone()], vec![String::new(); self.columns.len() - 1]].concat(),
                false => self.columns.iter().map(of_column).collect(),
            };
            table.push_str(&format!("| {} | {} |\n", cell(statement), answers.join(" | ")));
        }
        table
    }
}

/// A claim's verdict with its effect and seeds, as a link to its run's page.
fn answer(claim: &JudgedStatementClaim, folder: &str) -> String {
    let JudgedStatementClaim { run, result, .. } = claim;
    let verdict = match result.judgement {
        Verdict::Reproduced => "yes",
        Verdict::Contradicted => "**no**",
        Verdict::Inconclusive => "undecided",
    };
    format!("[{verdict}]({folder}{}/report/index.html): {}", run.display(), effect(result))
}

/// What a log ratio of costs or spreads says is less.
fn less_of(metric: ClaimMetric) -> &'static str {
    match metric {
        ClaimMetric::Flops => "fewer FLOPs",
        ClaimMetric::Seconds => "fewer seconds",
        ClaimMetric::Memory => "less resident memory",
        ClaimMetric::Spread | ClaimMetric::SpreadOfPoints => "less spread",
        _ => "less",
    }
}

/// The effect, over all distances from the reference, and the number of seeds.
fn effect(result: &ClaimResult) -> String {
    let seeds = result.tests.iter().map(|test| test.seeds).min().unwrap_or(0);
    let unit = result.unit;
    let measured: Vec<&ClaimTest> = result.tests.iter().filter(|test| test.effect.is_some()).collect();
    let effects: Vec<f64> = measured.iter().filter_map(|test| test.effect).collect();
    let text = match (&effects[..], &measured[..]) {
        ([], _) => "nothing measured".into(),
        ([_], [ClaimTest { times: Some(times), .. }]) => {
            format!("{} times {}", short(*times), less_of(result.claim.metric))
        }
        ([effect], _) if unit == "bytes" => format!("{}B fewer", si(*effect)),
        ([effect], _) if result.claim.metric.is_counted() => format!("{} {unit} fewer", si(*effect)),
        ([effect], [ClaimTest { interval: Some(ends), .. }])
            if *effect == 0.0 && ends.iter().all(|end| *end == 0.0) =>
        {
            "no difference at any seed".into()
        }
        ([effect], [ClaimTest { interval: Some([low, high]), .. }]) => {
            format!("{} {unit} ({} to {})", fixed(*effect, 3), fixed(*low, 3), fixed(*high, 3))
        }
        ([effect], _) => format!("{} {unit}", fixed(*effect, 3)),
        (several, _) => {
            let end = |of: fn(f64, f64) -> f64| fixed(several.iter().copied().reduce(of).unwrap_or(f64::NAN), 3);
            format!("{} to {} {unit} at {} distances", end(f64::min), end(f64::max), several.len())
        }
    };
    format!("{text}, {seeds} seeds")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem_of(text: &str) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list.toml");
        std::fs::write(&path, text).expect("written");
        let error = judge_statements(&path).expect_err("refused");
        format!("{error}: {}", std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default())
    }

    #[test]
    fn lists_that_name_what_is_not_there_are_refused() {
        for (text, says) in [
            ("columns = []\n", "missing field `statements`"),
            ("columns = [\"a\"]\nstatement = []\n", "unknown field `statement`"),
            ("columns = [\"a\"]\n[[statements]]\nstatement = \"s\"\nclaims.b = []\n", "under `b`; the columns are a"),
            (
                "columns = [\"a\"]\n[[statements]]\nstatement = \"s\"\nclaims.a = [{ run = \"none\", claim = \"c\" }]\n",
                "none",
            ),
        ] {
            let problem = problem_of(text);
            assert!(problem.contains(says), "{text}: {problem}");
        }
        let missing = judge_statements(Path::new("no such list")).expect_err("no file").to_string();
        assert!(missing.contains("no such list"), "{missing}");
    }
}
