//! Checks the user's values against the schema, and merges them over the defaults.
//!
//! `defaults.toml` is the schema: a key of the file must exist there and have the same type. An arm's keys are those of its
//! method's block.

use crate::claim::{CLAIM_METRICS, CLAIM_RULES};
use crate::defaults::{default_block, default_tables};
use crate::method::{METHODS, REWARD_SOURCES};
use crate::nearest::nearest;
use crate::pair_loss::PAIR_LOSSES;
use crate::record::SHARED_ARM;
use crate::span::SourceMap;
use crate::values::{merge, number, same, type_name};
use crate::world::Rule;
use crate::{Error, Result};
use toml::{Table, Value};

/// Arms of an experiment, and values of an axis.
const MAX_ARMS: usize = 256;
const MAX_VALUES: usize = 10_000;

/// Settings that must divide one another, so that a range between two numbers makes no sense for them.
const DIVISORS: [&str; 3] = ["episodes", "minibatches", "group"];

/// The table whose keys are the user's.
const OPEN_TABLE: &str = "world.rows.template_kwargs";

/// A setting of an arm that is a table of losses and their weights.
const LOSS_WEIGHTS: &str = "loss_weights";

/// A setting of an arm that may be a list of rewards, each a table.
const REWARD: &str = "reward";

/// Paths of which there may be a list.
const PATH_LISTS: [&str; 3] = ["world.rows.train", "world.rows.validation", "world.rows.test"];

/// Names of pseudo-arms, and a key of the file itself.
const RESERVED_ARMS: [&str; 6] = [SHARED_ARM, "reference", "optimum", "ppo-ideal", "best-of-n", "grid"];

/// The defaults with the user's values over them.
pub(crate) fn resolve(mut user: Table, sources: &SourceMap) -> Result<Table> {
    let schema = Schema { sources };
    let (mut merged, methods) = default_tables();
    let arms = user.remove("arms");
    let claims = schema.resolve_claims(user.remove("claims"))?;
    schema.check_table("", &merged, &user)?;
    merge(&mut merged, user);
    let mut resolved = Table::new();
    match arms {
        Some(Value::Table(arms)) if arms.len() > MAX_ARMS => {
            return Err(schema.out_of_range("arms", format!("{} arms", arms.len()), format!("at most {MAX_ARMS}")));
        }
        Some(Value::Table(arms)) => {
            for (name, arm) in arms {
                let arm = schema.resolve_arm(&name, arm, &methods)?;
                resolved.insert(name, Value::Table(arm));
            }
        }
        Some(other) => return Err(schema.wrong_type("arms", "a table", &other)),
        None => {}
    }
    if resolved.is_empty() {
        return Err(Error::NoArms { span: sources.file() });
    }
    merged.insert("arms".into(), Value::Table(resolved));
    merged.insert("claims".into(), Value::Array(claims));
    Ok(merged)
}

/// Checks tables against the defaults; errors carry positions from `sources`.
struct Schema<'a> {
    sources: &'a SourceMap,
}

impl Schema<'_> {
    /// Every claim, with defaults for what it leaves out.
    fn resolve_claims(&self, claims: Option<Value>) -> Result<Vec<Value>> {
        let claims = match claims {
            None => return Ok(vec![]),
            Some(Value::Array(claims)) => claims,
            Some(other) => {
                return Err(self.wrong_type("claims", "an array of tables, each starting with [[claims]]", &other));
            }
        };
        let schema = default_block("claim");
        let resolve = |(number, claim): (usize, Value)| {
            let key = |name: &str| format!("claims.{number}.{name}");
            let Value::Table(claim) = claim else { return Err(self.wrong_type("claims", "a table", &claim)) };
            self.check_table(&format!("claims.{number}"), &schema, &claim)?;
            let mut resolved = schema.clone();
            merge(&mut resolved, claim);
            let arms = resolved["arms"].as_array().map_or(&[][..], Vec::as_slice);
            if !(1..=2).contains(&arms.len()) || !arms.iter().all(Value::is_str) {
                let value = resolved["arms"].to_string();
                let accepted = "two arms, the one claimed to be ahead first; or a single arm";
                return Err(self.out_of_range(&key("arms"), value, accepted));
            }
            for (name, accepted) in [("metric", &CLAIM_METRICS[..]), ("rule", &CLAIM_RULES)] {
                let found = resolved[name].as_str().unwrap_or_default();
                if !accepted.contains(&found) {
                    let (key, found, accepted) = (key(name), found.to_string(), accepted.to_vec());
                    return Err(Error::UnknownChoice { span: self.sources.span(&key), key, found, accepted });
                }
            }
            Ok(Value::Table(resolved))
        };
        (1..).zip(claims).map(resolve).collect()
    }

    fn resolve_arm(&self, name: &str, arm: Value, methods: &Table) -> Result<Table> {
        let key = format!("arms.{name}");
        let is_plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !is_plain || RESERVED_ARMS.contains(&name) {
            return Err(Error::ArmName { arm: name.into(), span: self.sources.span(&key) });
        }
        let Value::Table(mut arm) = arm else { return Err(self.wrong_type(&key, "a table", &arm)) };
        let method = match arm.remove("method") {
            Some(Value::String(method)) => method,
            Some(other) => return Err(self.wrong_type(&format!("{key}.method"), "a string", &other)),
            None => return Err(Error::NoMethod { arm: name.into(), span: self.sources.span(&key) }),
        };
        let Some(Value::Table(schema)) = methods.get(&method) else {
            let key = format!("{key}.method");
            let (accepted, span) = (METHODS.to_vec(), self.sources.span(&key));
            return Err(Error::UnknownChoice { key, found: method, accepted, span });
        };
        let grid = match arm.remove("grid") {
            Some(Value::Table(grid)) => grid,
            Some(other) => return Err(self.wrong_type(&format!("{key}.grid"), "a table", &other)),
            None => Table::new(),
        };
        for (axis, values) in &grid {
            self.check_grid_axis(&format!("{key}.grid.{axis}"), values, schema.get(axis), schema)?;
        }
        let space = match arm.remove("space") {
            Some(Value::Table(space)) => self.resolve_space(&key, space, schema)?,
            Some(other) => return Err(self.wrong_type(&format!("{key}.space"), "a table", &other)),
            None => Table::new(),
        };
        let mut arm_schema = schema.clone();
        arm_schema.insert("space".into(), Value::Table(Table::new()));
        arm_schema.extend(default_block("arm"));
        arm_schema.insert("grid".into(), Value::Table(Table::new()));
        arm_schema.insert("method".into(), Value::String(method.clone()));
        self.check_table(&key, &arm_schema, &arm)?;
        let mut resolved = schema.clone();
        resolved.extend(default_block("arm"));
        merge(&mut resolved, arm);
        resolved.insert("method".into(), Value::String(method));
        resolved.insert("grid".into(), Value::Table(grid));
        resolved.insert("space".into(), Value::Table(space));
        Ok(resolved)
    }

    fn check_grid_axis(&self, key: &str, values: &Value, example: Option<&Value>, schema: &Table) -> Result<()> {
        let Some(example) = example else { return Err(self.unknown_key(key, schema)) };
        self.check_axis(key, example)?;
        let Value::Array(values) = values else {
            return Err(self.wrong_type(key, "an array of values to try", values));
        };
        if values.is_empty() {
            return Err(Error::EmptyGrid { key: key.into(), span: self.sources.span(key) });
        }
        self.check_distinct(key, example, values)
    }

    /// Checks where an arm's settings may be drawn from; integer ends of a float's range become floats.
    fn resolve_space(&self, arm: &str, mut space: Table, schema: &Table) -> Result<Table> {
        let conditional: Vec<String> =
            space.iter().filter(|(_, axis)| axis.get("when").is_some()).map(|(name, _)| name.clone()).collect();
        for (name, axis) in space.iter_mut() {
            let key = format!("{arm}.space.{name}");
            let Some(example) = schema.get(name) else { return Err(self.unknown_key(&key, schema)) };
            self.check_axis(&key, example)?;
            let Value::Table(axis) = axis else {
                return Err(self.wrong_type(&key, "a table with `low` and `high`, or with `choices`", axis));
            };
            let axis_schema = Table::from_iter([
                ("low".into(), example.clone()),
                ("high".into(), example.clone()),
                ("log".into(), Value::Boolean(false)),
                ("choices".into(), Value::Array(vec![])),
                ("when".into(), Value::Table(schema.iter().map(|(k, _)| (k.clone(), Value::Array(vec![]))).collect())),
            ]);
            self.check_table(&key, &axis_schema, axis)?;
            for (setting, values) in axis.get("when").and_then(Value::as_table).into_iter().flatten() {
                let key = format!("{key}.when.{setting}");
                if conditional.contains(setting) {
                    let with = format!("{arm}.space.{setting}.when");
                    let why = "a condition cannot depend on a setting that is itself conditional".into();
                    return Err(Error::Clash { span: self.sources.span(&key), key, with, why });
                }
                for value in values.as_array().into_iter().flatten() {
                    self.check_value(&key, &schema[setting], value)?;
                }
            }
            match axis.get("choices").and_then(Value::as_array) {
                Some(choices) => self.check_choices(&key, example, axis, choices)?,
                None => self.resolve_range(&key, name, example, axis)?,
            }
        }
        Ok(space)
    }

    /// A table is no value of an axis.
    fn check_axis(&self, key: &str, example: &Value) -> Result<()> {
        if example.is_table() {
            return Err(self.out_of_range(
                key,
                "an axis of tables",
                "a table in the arm itself: an arm for each mixture",
            ));
        }
        Ok(())
    }

    /// An axis of choices.
    fn check_choices(&self, key: &str, example: &Value, axis: &Table, choices: &[Value]) -> Result<()> {
        if ["low", "high", "log"].iter().any(|end| axis.contains_key(*end)) {
            let accepted = "either `choices`, or `low` and `high`";
            return Err(self.out_of_range(key, "both `choices` and a range", accepted));
        }
        let key = format!("{key}.choices");
        if choices.len() < 2 {
            return Err(self.out_of_range(&key, format!("{} choices", choices.len()), "two choices or more"));
        }
        self.check_distinct(&key, example, choices)
    }

    /// An axis between two numbers.
    fn resolve_range(&self, key: &str, name: &str, example: &Value, axis: &mut Table) -> Result<()> {
        let ends = ["low", "high"].map(|end| axis.get(end).and_then(number));
        let [Some(low), Some(high)] = ends else {
            let accepted = "`low` and `high` for a number, `choices` for a string";
            return Err(self.out_of_range(key, "no range", accepted));
        };
        let log = axis.get("log").and_then(Value::as_bool).unwrap_or(false);
        if !(low < high && low.is_finite() && high.is_finite()) || (log && low <= 0.0) {
            let accepted = if log { "0 < low < high" } else { "low < high" };
            return Err(self.out_of_range(key, format!("from {low} to {high}"), accepted));
        }
        // whole epochs stay whole
        let whole = name == "epochs" && ["low", "high"].iter().all(|end| axis.get(*end).is_some_and(Value::is_integer));
        if example.is_float() && !whole {
            axis.insert("low".into(), Value::Float(low));
            axis.insert("high".into(), Value::Float(high));
        } else if DIVISORS.contains(&name) {
            let accepted = "`choices`: episodes, minibatches and group must divide each other";
            return Err(self.out_of_range(key, "a range", accepted));
        }
        Ok(())
    }

    fn check_table(&self, prefix: &str, schema: &Table, table: &Table) -> Result<()> {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let Some(example) = schema.get(name) else { return Err(self.unknown_key(&key, schema)) };
            match (example, value) {
                (Value::Table(_), Value::Table(_)) if key == OPEN_TABLE => {}
                (Value::Table(_), Value::Table(weights)) if name == LOSS_WEIGHTS => {
                    self.check_loss_weights(&key, weights)?;
                }
                (Value::String(_), Value::Array(rewards)) if name == REWARD => self.check_rewards(&key, rewards)?,
                (Value::Table(schema), Value::Table(table)) => self.check_table(&key, schema, table)?,
                _ => self.check_value(&key, example, value)?,
            }
        }
        Ok(())
    }

    /// A table of losses and their weights.
    fn check_loss_weights(&self, key: &str, weights: &Table) -> Result<()> {
        for (loss, weight) in weights {
            let key = format!("{key}.{loss}");
            if !PAIR_LOSSES.contains(&loss.as_str()) {
                let (accepted, span) = (PAIR_LOSSES.to_vec(), self.sources.span(&key));
                return Err(Error::UnknownChoice { key, found: loss.clone(), accepted, span });
            }
            self.check_value(&key, &Value::Float(1.0), weight)?;
        }
        Ok(())
    }

    /// A list of rewards: what gives each, its weight and its rules.
    fn check_rewards(&self, key: &str, rewards: &[Value]) -> Result<()> {
        let schema = Table::from_iter([
            ("from".into(), Value::String(String::new())),
            ("weight".into(), Value::Float(1.0)),
            ("rules".into(), Value::Array(vec![])),
        ]);
        for (index, reward) in rewards.iter().enumerate() {
            let expected = "a name, or a list such as [{ from = \"rm\" }, { from = \"length\", weight = -0.01 }]";
            let Value::Table(reward) = reward else { return Err(self.wrong_type(key, expected, reward)) };
            self.check_table(key, &schema, reward)?;
            let Some(Value::String(from)) = reward.get("from") else {
                let accepted = format!("`from`, one of {}", REWARD_SOURCES.join(", "));
                return Err(self.out_of_range(key, format!("reward {} comes from nothing", index + 1), accepted));
            };
            if !REWARD_SOURCES.contains(&from.as_str()) {
                let (accepted, span) = (REWARD_SOURCES.to_vec(), self.sources.span(key));
                return Err(Error::UnknownChoice { key: key.into(), found: from.clone(), accepted, span });
            }
            for rule in reward.get("rules").and_then(Value::as_array).into_iter().flatten() {
                if let Err(e) = rule.clone().try_into::<Rule>() {
                    let (found, span) = (format!("in reward {}: {}", index + 1, e.message()), self.sources.span(key));
                    let expected = "rules as `duel defaults` shows them under [judge]";
                    return Err(Error::WrongType { key: key.into(), expected, found, span });
                }
            }
        }
        Ok(())
    }

    fn check_value(&self, key: &str, example: &Value, value: &Value) -> Result<()> {
        let is_list = |value: &Value| value.as_array().is_some_and(|paths| paths.iter().all(Value::is_str));
        let fits = matches!((example, value), (Value::Float(_), Value::Integer(_)))
            || example.same_type(value)
            || (PATH_LISTS.contains(&key) && is_list(value));
        if fits { Ok(()) } else { Err(self.wrong_type(key, type_name(example), value)) }
    }

    /// Values of an axis: not too many, each of the right type, each listed once.
    fn check_distinct(&self, key: &str, example: &Value, values: &[Value]) -> Result<()> {
        if values.len() > MAX_VALUES {
            let (value, accepted) = (format!("{} values", values.len()), format!("at most {MAX_VALUES}"));
            return Err(self.out_of_range(key, value, accepted));
        }
        for (i, value) in values.iter().enumerate() {
            self.check_value(key, example, value)?;
            if values[..i].iter().any(|earlier| same(earlier, value)) {
                return Err(Error::GridRepeats {
                    key: key.into(),
                    found: value.to_string(),
                    span: self.sources.span(key),
                });
            }
        }
        Ok(())
    }

    fn out_of_range(&self, key: &str, value: impl Into<String>, accepted: impl Into<String>) -> Error {
        let span = self.sources.span(key);
        Error::OutOfRange { key: key.into(), found: value.into(), accepted: accepted.into(), span }
    }

    fn wrong_type(&self, key: &str, expected: &'static str, value: &Value) -> Error {
        let text = format!("{} `{value}`", type_name(value));
        Error::WrongType { key: key.into(), expected, found: text, span: self.sources.span(key) }
    }

    fn unknown_key(&self, key: &str, schema: &Table) -> Error {
        let name = key.rsplit('.').next().unwrap_or(key);
        let mut known: Vec<String> = schema.keys().cloned().collect();
        if key.split('.').count() == 1 {
            known.extend(["arms".into(), "claims".into()]);
        }
        let nearest = nearest(name, &known.iter().map(String::as_str).collect::<Vec<_>>());
        Error::UnknownKey { key: key.into(), nearest, known, span: self.sources.name_span(key) }
    }
}
