//! Which of two completions is better, as a column says it: by one coding for the whole file.

use super::column_problem::ColumnProblem;
use super::number::to_number;
use super::survey::ColumnSurvey;
use crate::json::Json;
use serde::Serialize;

/// The largest strength. HelpSteer.
const LARGEST: f64 = 3.0;

/// How the values of a column name the better of two completions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum PreferenceCoding {
    /// From −3, the first, to 3, the second: HelpSteer.
    Strength,
    /// The index of the better one: PKU-SafeRLHF.
    FromZero,
    /// 1 or 2: AlpacaFarm.
    FromOne,
    /// Its name: arenas.
    Name,
    /// A score of each.
    Scores,
}

impl PreferenceCoding {
    /// That of a column, by the values of the first rows.
    ///
    /// # Errors
    /// Numbers that may mean one completion or the other.
    pub(super) fn of(name: &str, survey: Option<&ColumnSurvey>) -> Result<Self, ColumnProblem> {
        let range = survey.and_then(|survey| survey.range);
        match (name, range) {
            ("better_response_id", _) => Ok(Self::FromZero),
            ("preference_strength" | "overall_preference", _) => Ok(Self::Strength),
            (_, None) => Ok(Self::Name),
            (_, Some(range)) if range.low < 0.0 => Ok(Self::Strength),
            (_, Some(range)) if range.is_whole && range.low >= 1.0 && range.high <= 2.0 => Ok(Self::FromOne),
            ("winner", Some(range)) if range.is_whole && range.high <= 1.0 => Ok(Self::FromZero),
            (_, Some(range)) => Err(ColumnProblem {
                problem: format!(
                    "`{name}` holds numbers from {} to {}, which may mean the first completion or the second",
                    range.low, range.high
                ),
                hint: format!(
                    "accepted: 1 and 2; names as in a, b, tie; from -{LARGEST} (the first) to {LARGEST} (the second); scores of both stand in \
                     `score_a` and `score_b`"
                ),
            }),
        }
    }

    /// In words.
    pub(super) fn describe(self, name: &str) -> String {
        match self {
            Self::Strength => "the better of two completions is the chosen one; the strength is the margin".into(),
            Self::FromZero => {
                format!("the better of two completions is the chosen one: `{name}` 0 is the first, 1 the second")
            }
            Self::FromOne => {
                format!("the better of two completions is the chosen one: `{name}` 1 is the first, 2 the second")
            }
            Self::Name => format!("the better of two completions is the chosen one, by its name in `{name}`"),
            Self::Scores => "of two completions the one with the larger score is the chosen one".into(),
        }
    }

    /// Which of two is better, and by how much.
    ///
    /// # Errors
    /// A value of another kind, in words.
    pub(super) fn read(self, name: &str, value: &Json) -> Result<Preferred, String> {
        let index = |first: f64| match to_number(value) {
            Some(x) if x == first => Some(Preferred { is_second: false, margin: None }),
            Some(x) if x == first + 1.0 => Some(Preferred { is_second: true, margin: None }),
            _ => None,
        };
        match (self, to_number(value), value.as_str()) {
            (Self::FromZero, Some(_), _) => index(0.0).ok_or_else(|| format!("`{name}` is neither 0 nor 1")),
            (Self::FromOne, Some(_), _) => index(1.0).ok_or_else(|| format!("`{name}` is neither 1 nor 2")),
            (_, Some(x), _) if x.abs() <= LARGEST => Ok(Preferred { is_second: x > 0.0, margin: Some(x.abs()) }),
            (_, Some(x), _) => {
                Err(format!("`{name}` is {x}; a preference is from -{LARGEST} (the first) to {LARGEST} (the second)"))
            }
            (_, None, Some(text)) => match text.trim().to_lowercase().as_str() {
                "a" | "model_a" | "response_a" | "first" => Ok(Preferred { is_second: false, margin: None }),
                "b" | "model_b" | "response_b" | "second" => Ok(Preferred { is_second: true, margin: None }),
                text if text.starts_with("tie") => Ok(Preferred { is_second: false, margin: Some(0.0) }),
                _ => Err(format!("`{name}` is `{text}`; accepted: a number, a, b, model_a, model_b, tie")),
            },
            _ => Err(format!(
                "`{name}` is {}, not a number or a name; accepted: 1 and 2, a and b, model_a and model_b, tie",
                value.type_name()
            )),
        }
    }
}

/// Which of two completions is better, and by how much.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Preferred {
    pub(super) is_second: bool,
    pub(super) margin: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::super::survey::survey;
    use super::*;
    use serde_json::json;

    fn coding(name: &str, values: &serde_json::Value) -> Result<PreferenceCoding, String> {
        let rows: Vec<Json> =
            values.as_array().expect("a list").iter().map(|value| json!({ name: value }).into()).collect();
        PreferenceCoding::of(name, survey(rows.iter()).get(name)).map_err(|e| e.problem)
    }

    /// A number says which of two is better only where it cannot mean the other one.
    #[test]
    fn a_coding_is_that_of_all_values() {
        for (name, values, expected) in [
            ("preference", json!([1, 2, 1]), PreferenceCoding::FromOne),
            ("winner", json!(["1", "2"]), PreferenceCoding::FromOne),
            ("winner", json!([0, 1]), PreferenceCoding::FromZero),
            ("better_response_id", json!([0, 0]), PreferenceCoding::FromZero),
            ("preference", json!([-1, 2, 0]), PreferenceCoding::Strength),
            ("preference", json!(["-0.5", "3"]), PreferenceCoding::Strength),
            ("preference_strength", json!([1, 3]), PreferenceCoding::Strength),
            ("winner", json!(["model_a", "tie"]), PreferenceCoding::Name),
        ] {
            assert_eq!(coding(name, &values), Ok(expected), "{name}: {values}");
        }
        for (name, values) in [
            ("preference", json!([0, 1])),
            ("label", json!([0, 1])),
            ("preference", json!([0.9, 0.1])),
            ("winner", json!([0, 1, 2])),
            ("score_a", json!([1.0, 5.0])),
            ("preference", json!([1, 2, 3])),
            ("preference", json!([1.5, 2.0])),
        ] {
            let problem = coding(name, &values).expect_err("either of two");
            assert!(problem.contains("may mean the first completion or the second"), "{name}: {problem}");
        }
    }

    #[test]
    fn values_are_read_by_their_coding() {
        let read = |coding: PreferenceCoding, value: serde_json::Value| {
            coding.read("p", &value.into()).map(|preferred| (preferred.is_second, preferred.margin))
        };
        assert_eq!(read(PreferenceCoding::FromOne, json!(1)), Ok((false, None)));
        assert_eq!(read(PreferenceCoding::FromOne, json!("2")), Ok((true, None)));
        assert_eq!(read(PreferenceCoding::FromOne, json!(0)), Err("`p` is neither 1 nor 2".into()));
        assert_eq!(read(PreferenceCoding::FromOne, json!("tie")), Ok((false, Some(0.0))));
        assert_eq!(read(PreferenceCoding::FromZero, json!(0)), Ok((false, None)));
        assert_eq!(read(PreferenceCoding::FromZero, json!(1)), Ok((true, None)));
        assert_eq!(read(PreferenceCoding::Strength, json!(-2)), Ok((false, Some(2.0))));
        assert_eq!(read(PreferenceCoding::Strength, json!(1.5)), Ok((true, Some(1.5))));
        assert_eq!(read(PreferenceCoding::Name, json!("Model_B")), Ok((true, None)));
        assert!(read(PreferenceCoding::Strength, json!(4)).is_err_and(|e| e.contains("from -3")));
        assert!(read(PreferenceCoding::Name, json!(true)).is_err_and(|e| e.contains("accepted: 1 and 2")));
    }
}
