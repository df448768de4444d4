//! The merge: `defaults.toml`, then the file, then `--set`, each value with its origin.
//!
//! `defaults.toml` is the schema. A key of the file must exist there and have the same type;
//! an arm's keys are those of its method's block.

use crate::method::METHODS;
use crate::search::number;
use crate::{Error, Result, SHARED_ARM};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use toml::{Table, Value};

/// Where a piece of the user's text stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceSpan {
    /// Name shown to the user: the file, or the command-line argument.
    pub name: String,
    /// The whole text that `span` points into.
    pub text: String,
    /// Bytes of `text`.
    pub span: Range<usize>,
}

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File,
    CommandLine,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::File => "file",
            Self::CommandLine => "--set",
        })
    }
}

/// The commented page of every default.
pub fn defaults_text() -> &'static str {
    include_str!("defaults.toml")
}

/// All of the page, as it stands there.
fn all_defaults() -> &'static Table {
    static PARSED: OnceLock<Table> = OnceLock::new();
    PARSED.get_or_init(|| toml::from_str(defaults_text()).expect("defaults.toml is tested to parse"))
}

/// The defaults of an experiment, and those of each method: its block laid over the one that it is `like`, and both over
/// what every arm has.
pub(crate) fn defaults() -> (Table, Table) {
    let mut defaults = all_defaults().clone();
    let mut take = |name: &str| match defaults.remove(name) {
        Some(Value::Table(table)) => table,
        _ => unreachable!("defaults.toml has [{name}]"),
    };
    let [mut methods, rollouts, every] = ["method", "rollouts", "every"].map(&mut take);
    take("arm");
    take("claim");
    for (_, block) in methods.iter_mut() {
        if let Value::Table(block) = block {
            let own = std::mem::replace(block, every.clone());
            if own.contains_key("like") {
                merge(block, rollouts.clone());
            }
            merge(block, own);
            block.remove("like");
        }
    }
    (defaults, methods)
}

/// A block of `defaults.toml` that an experiment does not hold itself: what an arm or a claim says where it is silent.
fn block(name: &str) -> Table {
    match all_defaults().get(name) {
        Some(Value::Table(block)) => block.clone(),
        _ => unreachable!("defaults.toml has [{name}]"),
    }
}

/// A merged experiment: all values, and for each leaf where it came from.
#[derive(Debug, Clone)]
pub struct Document {
    pub(crate) merged: Table,
    origins: BTreeMap<String, Origin>,
    places: BTreeMap<String, SourceSpan>,
    whole: SourceSpan,
}

impl Document {
    /// Reads `path` and merges it over the defaults, then `overrides` (`key=value`) over both.
    ///
    /// # Errors
    /// Unreadable or malformed file, unknown key, wrong type, empty grid: see [`Error`].
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = read_bounded(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Self::parse(&path.display().to_string(), &text, overrides)
    }

    /// As [`Document::load`], from text already read; `name` is shown in errors.
    pub fn parse(name: &str, text: &str, overrides: &[String]) -> Result<Self> {
        let whole = SourceSpan { name: name.into(), text: text.into(), span: 0..0 };
        let (given, mut places) = read_toml(&whole)?;
        let mut layers = vec![(given, Origin::File)];
        for argument in overrides {
            let (table, place) = read_override(argument)?;
            places.extend(leaves(&table).into_iter().map(|(key, _)| (key, place.clone())));
            layers.push((table, Origin::CommandLine));
        }
        let mut user = Table::new();
        let mut origins = BTreeMap::new();
        for (layer, origin) in layers {
            origins.extend(leaves(&layer).into_iter().map(|(key, _)| (key, origin.clone())));
            merge(&mut user, layer);
        }
        let mut document = Self { merged: Table::new(), origins, places, whole };
        document.merge_over_defaults(user)?;
        Ok(document)
    }

    /// The origin of one leaf, for `duel plan`.
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Every leaf in order: dotted key, value, origin.
    pub fn resolved(&self) -> Vec<(String, Value, Origin)> {
        leaves(&self.merged).into_iter().map(|(key, value)| (key.clone(), value, self.origin(&key))).collect()
    }

    /// The settings in which this experiment asks for other numbers than `recorded`: all but the question, the claims and
    /// what is asked of a cluster. `key is here, and there as recorded`.
    pub fn differences(&self, recorded: &Self) -> Vec<String> {
        let of = |document: &Self| -> BTreeMap<String, Value> {
            let measured = |key: &str| key != "question" && key != "claims" && !key.starts_with("slurm.");
            leaves(&document.merged).into_iter().filter(|(key, _)| measured(key)).collect()
        };
        let (here, there) = (of(self), of(recorded));
        let word = |value: Option<&Value>| value.map_or("not set".into(), Value::to_string);
        let keys: BTreeSet<&String> = here.keys().chain(there.keys()).collect();
        let apart = |key: &&String| match (here.get(*key), there.get(*key)) {
            (Some(a), Some(b)) => !same(a, b),
            _ => true,
        };
        keys.into_iter()
            .filter(apart)
            .map(|key| format!("{key} is {}, and {} as recorded", word(here.get(key)), word(there.get(key))))
            .collect()
    }

    /// The merged file, as TOML text.
    pub fn to_toml(&self) -> String {
        self.merged.to_string()
    }

    /// Where `key` (or the nearest table around it) stands.
    pub fn place(&self, key: &str) -> Box<SourceSpan> {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return Box::new(place.clone());
            }
            match key.rfind('.') {
                Some(dot) => key = &key[..dot],
                None => return Box::new(self.whole.clone()),
            }
        }
    }

    fn merge_over_defaults(&mut self, mut user: Table) -> Result<()> {
        let (mut defaults, methods) = defaults();
        let arms = user.remove("arms");
        let claims = self.resolve_claims(user.remove("claims"))?;
        self.check_table("", &defaults, &user)?;
        merge(&mut defaults, user);
        let mut resolved = Table::new();
        match arms {
            Some(Value::Table(arms)) if arms.len() > MOST_ARMS => {
                let (key, found) = ("arms".into(), format!("{} arms", arms.len()));
                return Err(Error::OutOfRange {
                    place: self.place("arms"),
                    key,
                    found,
                    accepted: format!("at most {MOST_ARMS}"),
                });
            }
            Some(Value::Table(arms)) => {
                for (name, arm) in arms {
                    let arm = self.resolve_arm(&name, arm, &methods)?;
                    resolved.insert(name, Value::Table(arm));
                }
            }
            Some(other) => return Err(self.wrong_type("arms", "a table", &other)),
            None => {}
        }
        if resolved.is_empty() {
            return Err(Error::NoArms { place: Box::new(self.whole.clone()) });
        }
        defaults.insert("arms".into(), Value::Table(resolved));
        defaults.insert("claims".into(), Value::Array(claims));
        self.merged = defaults;
        Ok(())
    }

    /// Every claim with all that it does not say.
    fn resolve_claims(&self, given: Option<Value>) -> Result<Vec<Value>> {
        let given = match given {
            None => return Ok(vec![]),
            Some(Value::Array(claims)) => claims,
            Some(other) => {
                return Err(self.wrong_type("claims", "an array of tables, each begun by [[claims]]", &other));
            }
        };
        let schema = block("claim");
        let resolve = |claim: Value| {
            let Value::Table(claim) = claim else { return Err(self.wrong_type("claims", "a table", &claim)) };
            self.check_table("claims", &schema, &claim)?;
            let mut resolved = schema.clone();
            merge(&mut resolved, claim);
            let arms = resolved["arms"].as_array().map_or(&[][..], Vec::as_slice);
            if !(1..=2).contains(&arms.len()) || !arms.iter().all(Value::is_str) {
                let (key, found) = ("claims.arms".into(), resolved["arms"].to_string());
                let accepted = "two arms: the one that is claimed to be ahead, and the other; or one alone".into();
                return Err(Error::OutOfRange { place: self.place("claims"), key, found, accepted });
            }
            Ok(Value::Table(resolved))
        };
        given.into_iter().map(resolve).collect()
    }

    fn resolve_arm(&self, name: &str, arm: Value, methods: &Table) -> Result<Table> {
        let key = format!("arms.{name}");
        let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !plain || RESERVED_ARMS.contains(&name) {
            return Err(Error::ArmName { arm: name.into(), place: self.place(&key) });
        }
        let Value::Table(mut arm) = arm else { return Err(self.wrong_type(&key, "a table", &arm)) };
        let method = match arm.remove("method") {
            Some(Value::String(method)) => method,
            Some(other) => return Err(self.wrong_type(&format!("{key}.method"), "a string", &other)),
            None => return Err(Error::NoMethod { arm: name.into(), place: self.place(&key) }),
        };
        let Some(Value::Table(schema)) = methods.get(&method) else {
            return Err(Error::UnknownChoice {
                key: format!("{key}.method"),
                found: method,
                accepted: METHODS.to_vec(),
                place: self.place(&format!("{key}.method")),
            });
        };
        let grid = arm.remove("grid").unwrap_or_else(|| Value::Table(Table::new()));
        let Value::Table(grid) = grid else { return Err(self.wrong_type(&format!("{key}.grid"), "a table", &grid)) };
        for (axis, values) in &grid {
            let axis_key = format!("{key}.grid.{axis}");
            let Some(example) = schema.get(axis) else { return Err(self.unknown_key(&axis_key, schema)) };
            let Value::Array(values) = values else {
                return Err(self.wrong_type(&axis_key, "an array of values to try", values));
            };
            if values.is_empty() {
                return Err(Error::EmptyGrid { key: axis_key.clone(), place: self.place(&axis_key) });
            }
            self.check_length(&axis_key, values)?;
            for (i, value) in values.iter().enumerate() {
                self.check_value(&axis_key, example, value)?;
                if values[..i].iter().any(|earlier| same(earlier, value)) {
                    let found = value.to_string();
                    return Err(Error::GridRepeats { place: self.place(&axis_key), key: axis_key, found });
                }
            }
        }
        let space = match arm.remove("space") {
            Some(Value::Table(space)) => self.resolve_space(&key, space, schema)?,
            Some(other) => return Err(self.wrong_type(&format!("{key}.space"), "a table", &other)),
            None => Table::new(),
        };
        let mut with_shape = schema.clone();
        with_shape.insert("space".into(), Value::Table(Table::new()));
        with_shape.extend(block("arm"));
        with_shape.insert("grid".into(), Value::Table(Table::new()));
        with_shape.insert("method".into(), Value::String(method.clone()));
        self.check_table(&key, &with_shape, &arm)?;
        let mut resolved = schema.clone();
        resolved.extend(block("arm"));
        merge(&mut resolved, arm);
        resolved.insert("method".into(), Value::String(method));
        resolved.insert("grid".into(), Value::Table(grid));
        resolved.insert("space".into(), Value::Table(space));
        Ok(resolved)
    }

    /// Checks where an arm's settings may lie; ends of a number that is no integer become such.
    fn resolve_space(&self, arm: &str, mut space: Table, schema: &Table) -> Result<Table> {
        let names: Vec<String> = space.keys().cloned().collect();
        let conditional: Vec<String> =
            names.iter().filter(|name| space[*name].get("when").is_some()).cloned().collect();
        for (name, axis) in space.iter_mut() {
            let key = format!("{arm}.space.{name}");
            let Some(example) = schema.get(name) else { return Err(self.unknown_key(&key, schema)) };
            let refuse = |key: String, found: String, accepted: &str| {
                Err(Error::OutOfRange { place: self.place(&key), key, found, accepted: accepted.into() })
            };
            let Value::Table(axis) = axis else {
                return Err(self.wrong_type(&key, "a table with `low` and `high`, or with `choices`", axis));
            };
            let shape = Table::from_iter([
                ("low".into(), example.clone()),
                ("high".into(), example.clone()),
                ("log".into(), Value::Boolean(false)),
                ("choices".into(), Value::Array(vec![])),
                ("when".into(), Value::Table(schema.iter().map(|(k, _)| (k.clone(), Value::Array(vec![]))).collect())),
            ]);
            self.check_table(&key, &shape, axis)?;
            for (setting, values) in axis.get("when").and_then(Value::as_table).into_iter().flatten() {
                let key = format!("{key}.when.{setting}");
                if conditional.contains(setting) {
                    let with = format!("{arm}.space.{setting}.when");
                    let why = "a condition may not have one itself".into();
                    return Err(Error::Clash { place: self.place(&key), key, with, why });
                }
                for value in values.as_array().into_iter().flatten() {
                    self.check_value(&key, &schema[setting], value)?;
                }
            }
            if let Some(choices) = axis.get("choices").and_then(Value::as_array) {
                if axis.contains_key("low") || axis.contains_key("high") || axis.contains_key("log") {
                    return refuse(key, "choices and ends".into(), "either `choices`, or `low` and `high`");
                }
                if choices.len() < 2 {
                    return refuse(
                        format!("{key}.choices"),
                        format!("{} choices", choices.len()),
                        "two choices or more",
                    );
                }
                self.check_length(&format!("{key}.choices"), choices)?;
                for (i, value) in choices.iter().enumerate() {
                    self.check_value(&format!("{key}.choices"), example, value)?;
                    if choices[..i].iter().any(|earlier| same(earlier, value)) {
                        let (key, found) = (format!("{key}.choices"), value.to_string());
                        return Err(Error::GridRepeats { place: self.place(&key), key, found });
                    }
                }
                continue;
            }
            let ends = ["low", "high"].map(|end| axis.get(end).and_then(number));
            let [Some(low), Some(high)] = ends else {
                return refuse(key, "no two ends".into(), "`low` and `high` for a number, `choices` for a word");
            };
            let log = axis.get("log").and_then(Value::as_bool).unwrap_or(false);
            if !(low < high && low.is_finite() && high.is_finite()) || (log && low <= 0.0) {
                let found = format!("from {low} to {high}");
                return refuse(key, found, if log { "0 < low < high" } else { "low < high" });
            }
            if example.is_float() {
                axis.insert("low".into(), Value::Float(low));
                axis.insert("high".into(), Value::Float(high));
            } else if UNEVEN.contains(&name.as_str()) {
                return refuse(
                    key,
                    "a span".into(),
                    "`choices`: episodes, minibatches and group must divide each other",
                );
            }
        }
        Ok(space)
    }

    fn check_table(&self, prefix: &str, schema: &Table, given: &Table) -> Result<()> {
        for (name, value) in given {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let Some(example) = schema.get(name) else { return Err(self.unknown_key(&key, schema)) };
            match (example, value) {
                (Value::Table(schema), Value::Table(given)) => self.check_table(&key, schema, given)?,
                _ => self.check_value(&key, example, value)?,
            }
        }
        Ok(())
    }

    fn check_value(&self, key: &str, example: &Value, value: &Value) -> Result<()> {
        let fits = matches!((example, value), (Value::Float(_), Value::Integer(_))) || example.same_type(value);
        if fits { Ok(()) } else { Err(self.wrong_type(key, type_name(example), value)) }
    }

    /// Refuses an axis of more values than an arm may have points.
    fn check_length(&self, key: &str, values: &[Value]) -> Result<()> {
        if values.len() <= MOST_VALUES {
            return Ok(());
        }
        let (found, accepted) = (format!("{} values", values.len()), format!("at most {MOST_VALUES}"));
        Err(Error::OutOfRange { key: key.into(), found, accepted, place: self.place(key) })
    }

    fn wrong_type(&self, key: &str, expected: &'static str, found: &Value) -> Error {
        Error::WrongType {
            key: key.into(),
            expected,
            found: format!("{} `{found}`", type_name(found)),
            place: self.place(key),
        }
    }

    fn unknown_key(&self, key: &str, schema: &Table) -> Error {
        let name = key.rsplit('.').next().unwrap_or(key);
        let mut known: Vec<String> = schema.keys().cloned().collect();
        if key.split('.').count() == 1 {
            known.extend(["arms".into(), "claims".into()]);
        }
        let nearest = known
            .iter()
            .map(|k| (strsim::jaro_winkler(name, k), k))
            .filter(|(similarity, _)| *similarity > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, k)| k.clone());
        Error::UnknownKey { key: key.into(), nearest, known, place: self.place(key) }
    }
}

/// Bytes of an experiment file.
const MOST_BYTES: u64 = 4 << 20;
/// Arms of an experiment, and values of an axis.
const MOST_ARMS: usize = 256;
const MOST_VALUES: usize = 10_000;
/// Tables within tables on the command line.
const DEEPEST: usize = 16;

/// Reads a file of no more than [`MOST_BYTES`].
fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(std::io::Error::other(format!("it is larger than {} MB, as no experiment is", MOST_BYTES >> 20)));
    }
    Ok(text)
}

/// Integers that must divide others.
const UNEVEN: [&str; 3] = ["episodes", "minibatches", "group"];

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "an array",
        Value::Table(_) => "a table",
    }
}

/// Names that rows of pseudo-arms carry, and a word of the file itself.
const RESERVED_ARMS: [&str; 6] = [SHARED_ARM, "reference", "optimum", "ppo-ideal", "best-of-n", "grid"];

/// Whether two values train the same point: 1 and 1.0 do.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (number(a), number(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Parses a file; returns its values and the span of each key's value.
fn read_toml(whole: &SourceSpan) -> Result<(Table, BTreeMap<String, SourceSpan>)> {
    let syntax = |message: &str, span: Option<Range<usize>>| Error::Syntax {
        message: message.into(),
        place: Box::new(SourceSpan { span: span.unwrap_or(0..0), ..whole.clone() }),
    };
    let parsed: toml_edit::Document<&str> =
        toml_edit::Document::parse(whole.text.as_str()).map_err(|e| syntax(e.message(), e.span()))?;
    let values: Table = toml::from_str(&whole.text).map_err(|e| syntax(e.message(), e.span()))?;
    let mut places = BTreeMap::new();
    collect_places("", parsed.as_table(), whole, &mut places);
    Ok((values, places))
}

fn collect_places(
    prefix: &str,
    table: &dyn toml_edit::TableLike,
    whole: &SourceSpan,
    out: &mut BTreeMap<String, SourceSpan>,
) {
    for (name, item) in table.iter() {
        let key = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        // An unknown key is marked at its name, everything else at its value: keep the value's span
        // for leaves and the header's for tables.
        let span = match item {
            toml_edit::Item::Value(value) => value.span(),
            other => other.span().or_else(|| table.key(name).and_then(toml_edit::Key::span)),
        };
        let key_span = table.get_key_value(name).and_then(|(k, _)| k.span());
        if let Some(span) = span.or(key_span) {
            out.insert(key.clone(), SourceSpan { span, ..whole.clone() });
        }
        if let Some(inner) = item.as_table_like() {
            collect_places(&key, inner, whole, out);
        }
    }
}

fn read_override(argument: &str) -> Result<(Table, SourceSpan)> {
    let refuse = || Error::Override { given: argument.into() };
    let (key, value) = argument.split_once('=').ok_or_else(refuse)?;
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || key.split('.').any(str::is_empty) || key.split('.').count() > DEEPEST {
        return Err(refuse());
    }
    let value = toml::from_str::<Table>(&format!("v = {value}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
        .filter(|value| !matches!(value, Value::Datetime(_))) // a time of day is a word here
        .unwrap_or_else(|| Value::String(value.into()));
    let table = key.rsplit('.').fold(value, |inner, name| Value::Table(Table::from_iter([(name.to_string(), inner)])));
    let Value::Table(table) = table else { return Err(refuse()) };
    Ok((table, SourceSpan { name: "--set".into(), text: argument.into(), span: 0..argument.len() }))
}

/// Lays `over` on `base`; tables merge, everything else replaces.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(over)) => merge(base, over),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

fn leaves(table: &Table) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    for (name, value) in table {
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                out.extend(leaves(inner).into_iter().map(|(key, v)| (format!("{name}.{key}"), v)));
            }
            other => out.push((name.clone(), other.clone())),
        }
    }
    out
}
