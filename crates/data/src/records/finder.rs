//! Finds the columns of a file by the names that were set and by the usual ones, and with them the layout of its rows.

use super::column_problem::ColumnProblem;
use super::columns::{Columns, NO_COLUMN, OTHER_PAIRS, SCORES_OF_BOTH, usual_names};
use super::preference::PreferenceCoding;
use super::survey::ColumnSurvey;
use duel_spec::{ChatFormat, ColumnRole as Role};
use indexmap::IndexMap;
use serde::Serialize;
use std::collections::BTreeMap;

/// How the rows of a file are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RowShape {
    /// `chosen` and `rejected`, a `completion` with its `label`, or a prompt alone: TRL's columns.
    Columns,
    /// A conversation whose last answer has a label.
    LabelledAnswer,
    /// Several completions, ranked or with scores.
    Ranked,
    /// Two completions, and which of them is better.
    Preference(PreferenceCoding),
    /// One completion with a score; the rows of a prompt follow one another.
    Scored,
}

/// Roles with the names of their columns, each column in one role.
#[derive(Default)]
struct RoleNames(BTreeMap<Role, String>);

impl RoleNames {
    fn add(&mut self, role: Role, name: Option<String>) {
        if let Some(name) = name.filter(|name| !self.0.values().any(|used| used == name)) {
            self.0.insert(role, name);
        }
    }

    fn add_both(&mut self, roles: [Role; 2], names: Option<[String; 2]>) {
        let both = names.into_iter().flatten();
        roles.into_iter().zip(both).for_each(|(role, name)| self.add(role, Some(name)));
    }
}

/// Finds columns by the names that were set, and by the usual ones.
pub(super) struct ColumnFinder<'a> {
    pub(super) surveys: &'a IndexMap<String, ColumnSurvey>,
    pub(super) columns: &'a Columns,
}

impl ColumnFinder<'_> {
    /// Checks that the columns that were named are there.
    pub(super) fn check_names(&self) -> std::result::Result<(), ColumnProblem> {
        for role in Role::all() {
            let Some(name) = self.name(role).filter(|name| *name != NO_COLUMN) else { continue };
            let is_field = role == Role::Score
                && self.surveys.values().any(|survey| survey.item_fields.iter().any(|field| field == name));
            // these may come later in a file of JSON
            let may_be_absent = matches!(
                role,
                Role::Input
                    | Role::System
                    | Role::Tools
                    | Role::Label
                    | Role::Margin
                    | Role::ScoreChosen
                    | Role::ScoreRejected
            );
            if !self.surveys.contains_key(name) && !is_field && !may_be_absent {
                return Err(ColumnProblem {
                    problem: format!("there is no column `{name}`, which {role} names"),
                    hint: format!("its columns are {}", self.listed(|_| true)),
                });
            }
        }
        Ok(())
    }

    /// The name that was set. `prompt`, `chosen` and `rejected` under their own names may be absent: these were the defaults once.
    fn name(&self, role: Role) -> Option<&str> {
        let was_default =
            |name: &str| matches!(role, Role::Prompt | Role::Chosen | Role::Rejected) && name == role.key();
        self.columns.name(role).filter(|name| self.surveys.contains_key(*name) || !was_default(name))
    }

    /// The names of columns, in words.
    fn listed(&self, is_listed: impl Fn(&ColumnSurvey) -> bool) -> String {
        let names = self.surveys.iter().filter(|(_, survey)| is_listed(survey)).map(|(name, _)| format!("`{name}`"));
        let names: Vec<String> = names.collect();
        if names.is_empty() { "none".into() } else { names.join(", ") }
    }

    fn survey(&self, name: &str) -> Option<&ColumnSurvey> {
        self.surveys.get(name).filter(|survey| survey.rows > 0)
    }

    /// The column that has one of a role's usual names, in any case, and whose values are of the type that it needs.
    fn usual(&self, role: Role, usual: &str) -> Option<String> {
        let is_usual = |(name, _): &(&String, &ColumnSurvey)| name.eq_ignore_ascii_case(usual);
        let exact = self.surveys.get_key_value(usual).filter(|(_, survey)| survey.rows > 0);
        let (name, survey) =
            exact.or_else(|| self.surveys.iter().filter(|(_, survey)| survey.rows > 0).find(is_usual))?;
        Self::fits(role, usual, survey).then(|| name.clone())
    }

    /// Whether a column's values are of the type that a role needs. The column with the role's own name always is: values of
    /// another type are errors of their rows.
    fn fits(role: Role, name: &str, survey: &ColumnSurvey) -> bool {
        match role {
            Role::Completions => survey.lists > 0 || survey.turns > 0 || survey.spelled_lists == survey.rows,
            _ if name == role.key() => true,
            Role::Prompt if ["conversations", "conversation", "messages", "context"].contains(&name) => {
                survey.has_turns()
            }
            Role::Label | Role::Preference => survey.lists == 0 && survey.turns == 0,
            Role::Score | Role::ScoreChosen | Role::ScoreRejected | Role::Margin => survey.numbers + survey.texts > 0,
            Role::Tools => true,
            _ => survey.has_content(),
        }
    }

    /// The column of a role.
    fn find(&self, role: Role) -> Option<String> {
        match self.name(role) {
            Some(NO_COLUMN) => None,
            Some(name) => Some(name.into()),
            None => usual_names(role).iter().find_map(|name| self.usual(role, name)),
        }
    }

    /// The columns of two roles that belong together.
    fn find_both(&self, roles: [Role; 2]) -> Option<[String; 2]> {
        let [one, other] = roles.map(|role| self.columns.name(role));
        if one.is_some() || other.is_some() {
            return self.find_both_apart(roles);
        }
        let mut both = usual_names(roles[0]).iter().zip(usual_names(roles[1]));
        both.find_map(|(one, other)| Some([self.usual(roles[0], one)?, self.usual(roles[1], other)?]))
    }

    /// The names of two columns of which only one is there: rows with it are malformed.
    fn find_either(&self, roles: [Role; 2]) -> Option<[String; 2]> {
        let [ones, others] = roles.map(usual_names);
        let mut both = ones.iter().zip(others);
        let (one, other) = both.find(|(one, other)| self.survey(one).or(self.survey(other)).is_some())?;
        let is_set = roles.iter().any(|role| self.columns.name(*role).is_some());
        (!is_set).then(|| [(*one).to_owned(), (*other).to_owned()])
    }

    /// The columns of two roles with names of their own.
    fn find_both_apart(&self, roles: [Role; 2]) -> Option<[String; 2]> {
        let [one, other] = roles.map(|role| self.find(role));
        Some([one?, other?])
    }

    /// The layout of the rows, and the column of each role that it needs.
    pub(super) fn shape(&self) -> std::result::Result<(RowShape, BTreeMap<Role, String>), ColumnProblem> {
        let mut names = RoleNames::default();
        let [chosen, rejected] = self.sides();
        let shape = if chosen.is_some() || rejected.is_some() {
            self.add_pair(&mut names, chosen, rejected)?;
            RowShape::Columns
        } else if let Some(column) = self.find(Role::Completions) {
            let score = self.item_score(&column);
            if score.is_none() && self.columns.name(Role::Score).is_none() {
                self.check_no_score(&column)?;
            }
            names.add(Role::Score, score);
            names.add(Role::Completions, Some(column));
            RowShape::Ranked
        } else if let Some(both) = self.find_both([Role::First, Role::Second]) {
            let scores = self.scores_of_both();
            names.add_both([Role::First, Role::Second], Some(both));
            match (self.find(Role::Preference), scores) {
                (Some(name), _) => {
                    let coding = PreferenceCoding::of(&name, self.survey(&name))?;
                    names.add(Role::Preference, Some(name));
                    RowShape::Preference(coding)
                }
                (None, Some(scores)) => {
                    names.add_both([Role::ScoreChosen, Role::ScoreRejected], Some(scores));
                    RowShape::Preference(PreferenceCoding::Scores)
                }
                (None, None) => {
                    let is_taken = |name: &str| names.0.values().any(|used| used == name);
                    return Err(self.ask_of_preference(is_taken));
                }
            }
        } else {
            self.add_single(&mut names)
        };
        names.add(Role::Prompt, self.prompt(shape, names.0.get(&Role::Chosen).or(names.0.get(&Role::First)))?);
        names.add(Role::System, self.find(Role::System));
        names.add(Role::Tools, self.find(Role::Tools));
        let is_instruction = names.0.get(&Role::Prompt).is_some_and(|name| name.eq_ignore_ascii_case("instruction"));
        if is_instruction || self.columns.name(Role::Input).is_some() {
            names.add(Role::Input, self.find(Role::Input));
        }
        match names.0.get(&Role::System) {
            Some(system) if self.columns.chat == ChatFormat::Never => Err(ColumnProblem {
                problem: format!("`{system}` is a turn of the system, but chat = \"never\" leaves text as it is"),
                hint: "set world.rows.system = \"none\" to leave it, or chat = \"auto\"".into(),
            }),
            _ => Ok((shape, names.0)),
        }
    }

    /// The columns of the two completions of a pair; of one alone, where only that is there.
    fn sides(&self) -> [Option<String>; 2] {
        let roles = [Role::Chosen, Role::Rejected];
        if roles.iter().all(|role| self.columns.name(*role).is_none()) {
            let usual = |[one, other]: [&str; 2]| Some([self.usual(roles[0], one)?, self.usual(roles[1], other)?]);
            let is_named = self.usual(Role::Chosen, Role::Chosen.key()).is_some()
                || self.find_both([Role::First, Role::Second]).is_some();
            if let Some(both) = OTHER_PAIRS.into_iter().find_map(usual).filter(|_| !is_named) {
                return both.map(Some);
            }
        }
        roles.map(|role| self.find(role))
    }

    /// Pairs, and rows with one labelled completion among them.
    fn add_pair(
        &self,
        names: &mut RoleNames,
        chosen: Option<String>,
        rejected: Option<String>,
    ) -> std::result::Result<(), ColumnProblem> {
        let other = self.other_side(chosen.as_deref(), rejected.as_deref())?;
        names.add(Role::Chosen, chosen.or_else(|| other.clone()));
        names.add(Role::Rejected, rejected.or(other));
        let scores = [Role::ScoreChosen, Role::ScoreRejected];
        names.add_both(scores, self.find_both(scores).or_else(|| self.find_either(scores)));
        names.add(Role::Margin, self.find(Role::Margin));
        let single = [Role::Completion, Role::Label];
        names.add_both(single, self.find_both_apart(single));
        Ok(())
    }

    /// Rows with one completion, or none.
    fn add_single(&self, names: &mut RoleNames) -> RowShape {
        let label = self.find(Role::Label);
        let score = self.find(Role::Score).filter(|_| label.is_none());
        match (self.find(Role::Completion), label, score) {
            (Some(completion), None, Some(score)) => {
                names.add(Role::Completion, Some(completion));
                names.add(Role::Score, Some(score));
                RowShape::Scored
            }
            (Some(completion), label, _) => {
                // under other names, one answer without a label is left
                let is_named = completion == Role::Completion.key() || self.columns.name(Role::Completion).is_some();
                if label.is_some() || is_named {
                    names.add(Role::Completion, Some(completion));
                    names.add(Role::Label, label);
                }
                RowShape::Columns
            }
            (None, Some(label), _) => {
                let prompt = self.find(Role::Prompt);
                let prompt = prompt.as_ref().and_then(|name| self.survey(name));
                if prompt.is_none_or(|prompt| prompt.answered == 0) {
                    return RowShape::Columns;
                }
                names.add(Role::Label, Some(label));
                RowShape::LabelledAnswer
            }
            (None, None, _) => RowShape::Columns,
        }
    }

    /// The missing one of `chosen` and `rejected`: a column without values, or one that is asked for.
    fn other_side(
        &self,
        chosen: Option<&str>,
        rejected: Option<&str>,
    ) -> std::result::Result<Option<String>, ColumnProblem> {
        let role = match (chosen, rejected) {
            (Some(_), None) => Role::Rejected,
            (None, Some(_)) => Role::Chosen,
            _ => return Ok(None),
        };
        if self.surveys.contains_key(role.key()) {
            return Ok(Some(role.key().into()));
        }
        Err(self.ask(role, "the other completion of a pair", ColumnSurvey::has_content))
    }

    /// The scores of two completions.
    fn scores_of_both(&self) -> Option<[String; 2]> {
        let set = [Role::ScoreChosen, Role::ScoreRejected].map(|role| self.columns.name(role));
        if let [Some(first), Some(second)] = set {
            return Some([first.into(), second.into()]);
        }
        let numbers = |usual: &str| {
            let mut columns = self.surveys.iter().filter(|(_, survey)| survey.rows > 0 && survey.range.is_some());
            columns.find(|(name, _)| name.eq_ignore_ascii_case(usual)).map(|(name, _)| name.clone())
        };
        SCORES_OF_BOTH.into_iter().find_map(|[first, second]| Some([numbers(first)?, numbers(second)?]))
    }

    /// Asks which column says the better of two completions: one of few short values.
    fn ask_of_preference(&self, is_taken: impl Fn(&str) -> bool) -> ColumnProblem {
        let problem = format!(
            "no column has a known name for which of two completions is better; its columns are {}",
            self.listed(|_| true)
        );
        let could_say = |(name, survey): &(&String, &ColumnSurvey)| {
            survey.rows > 0
                && !is_taken(name)
                && PreferenceCoding::of(name, Some(survey)).is_ok()
                && survey.range.is_some()
        };
        let candidates: Vec<String> =
            self.surveys.iter().filter(could_say).map(|(name, _)| format!("`{name}`")).collect();
        let known = "a column `preference` with 1 or 2, `winner` with a, b or tie, or `score_a` and `score_b`";
        let hint = match &candidates[..] {
            [] => format!("write {known}"),
            names => format!(
                "name it, as in [world.rows] preference = {:?} (`--preference` of the command), if one of {} is it; or write {known}",
                names[0].trim_matches('`'),
                names.join(", ")
            ),
        };
        ColumnProblem { problem, hint }
    }

    /// Checks that nothing looks like a score of completions that would be taken as ranked.
    fn check_no_score(&self, completions: &str) -> std::result::Result<(), ColumnProblem> {
        const NO_SCORES: [&str; 7] = ["id", "index", "idx", "seed", "turn", "tokens", "length"];
        let fields = self.survey(completions).map_or(&[][..], |survey| &survey.item_numbers);
        let beside = self.surveys.iter().filter(|(name, survey)| *name != completions && survey.number_lists > 0);
        let candidates = fields.iter().chain(beside.map(|(name, _)| name));
        let Some(name) = candidates.into_iter().find(|name| !NO_SCORES.contains(&name.to_lowercase().as_str())) else {
            return Ok(());
        };
        Err(ColumnProblem {
            problem: format!("`{name}` has a number for each of `{completions}`, and no known name of a score"),
            hint: format!(
                "name it: [world.rows] score = \"{name}\" (`--score` of the command), the largest first; \"none\" takes the completions as \
                 ranked, the best first"
            ),
        })
    }

    /// The column or the field that orders completions.
    fn item_score(&self, completions: &str) -> Option<String> {
        let fields = self.survey(completions).map(|survey| &survey.item_fields);
        let is_there = |name: &str| {
            let is_field = fields.is_some_and(|fields| fields.iter().any(|field| field == name));
            is_field || self.survey(name).is_some_and(|survey| survey.lists + survey.spelled_lists > 0)
        };
        match self.columns.name(Role::Score) {
            Some(NO_COLUMN) => None,
            Some(name) => Some(name.into()),
            None => usual_names(Role::Score).iter().find(|name| is_there(name)).map(|name| (*name).to_owned()),
        }
    }

    /// The column of prompts; none where both completions begin with them.
    fn prompt(&self, shape: RowShape, chosen: Option<&String>) -> std::result::Result<Option<String>, ColumnProblem> {
        let column = self.find(Role::Prompt);
        let chosen = chosen.and_then(|name| self.survey(name));
        let Some(chosen) = chosen else {
            let what = if shape == RowShape::Columns { "`chosen` and `rejected`, or a prompt" } else { "the prompt" };
            return column.map(Some).ok_or_else(|| self.ask(Role::Prompt, what, ColumnSurvey::has_content));
        };
        // a whole conversation beside two others is none that they answer
        let is_transcript = |name: &String| {
            let survey = self.survey(name);
            self.columns.name(Role::Prompt).is_none()
                && name != Role::Prompt.key()
                && survey.is_some_and(|survey| survey.answered > 0 && survey.answered == survey.rows)
        };
        let column = column.filter(|name| !is_transcript(name));
        let sides = self.sides();
        let others =
            |name: &String, survey: &ColumnSurvey| survey.texts > 0 && !sides.iter().flatten().any(|side| side == name);
        let may_be_implicit = self.columns.name(Role::Prompt) == Some(NO_COLUMN)
            || chosen.has_turns()
            || chosen.spoken > 0
            || (shape == RowShape::Columns && !self.surveys.iter().any(|(name, survey)| others(name, survey)));
        match column {
            Some(name) => Ok(Some(name)),
            None if may_be_implicit => Ok(None),
            None => Err(self.ask(Role::Prompt, "the prompt", |survey| survey.texts > 0)),
        }
    }

    /// Asks for a column by its name.
    fn ask(&self, role: Role, what: &str, is_candidate: impl Fn(&ColumnSurvey) -> bool) -> ColumnProblem {
        let sides = self.sides();
        let candidates: Vec<&String> = self
            .surveys
            .iter()
            .filter(|(name, survey)| {
                survey.rows > 0 && is_candidate(survey) && !sides.iter().flatten().any(|side| side == *name)
            })
            .map(|(name, _)| name)
            .collect();
        let is_unusual = |name: &&&String| !Role::all().any(|role| usual_names(role).contains(&name.as_str()));
        let example =
            candidates.iter().find(is_unusual).or(candidates.first()).map_or(role.key(), |name| name.as_str());
        let problem = format!("no column has a known name for {what}; its columns are {}", self.listed(|_| true));
        let is_object = |usual: &&&str| self.survey(usual).is_some_and(|survey| survey.kind() == "objects");
        if let Some(name) = usual_names(role).iter().find(is_object) {
            let hint =
                format!("`{name}` is an object: write the text or the turns that it holds as a column of their own");
            return ColumnProblem { problem, hint };
        }
        if candidates.is_empty() {
            let hint = "none of them could be it: write text or turns as columns of their own, not within objects";
            return ColumnProblem { problem, hint: hint.into() };
        }
        let candidates = candidates.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let key = role.key();
        let option = format!("[world.rows] {key} = \"{example}\" (`--{}` of the command)", key.replace('_', "-"));
        let none = if role == Role::Prompt { "; \"none\" where both completions begin with it" } else { "" };
        ColumnProblem { problem, hint: format!("name one of {candidates}: {option}{none}") }
    }
}
