//! `defaults.toml`: every default, and the schema of the experiment file.

use crate::values::merge;
use std::sync::OnceLock;
use toml::{Table, Value};

/// The commented text of `defaults.toml`.
pub fn defaults_text() -> &'static str {
    include_str!("defaults.toml")
}

/// `defaults.toml`, parsed.
fn all_defaults() -> &'static Table {
    static PARSED: OnceLock<Table> = OnceLock::new();
    PARSED.get_or_init(|| toml::from_str(defaults_text()).expect("defaults.toml is tested to parse"))
}

/// The defaults of an experiment, and those of each method: its block merged over the block named by `like`, and both over
/// `[every]`.
pub(crate) fn default_tables() -> (Table, Table) {
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

/// A block of `defaults.toml` that is not part of an experiment itself: the defaults of an arm or a claim.
pub(crate) fn default_block(name: &str) -> Table {
    match all_defaults().get(name) {
        Some(Value::Table(block)) => block.clone(),
        _ => unreachable!("defaults.toml has [{name}]"),
    }
}

/// A block of `defaults.toml` as its type; a method's block includes the blocks it extends.
pub(crate) fn typed_default<T: serde::de::DeserializeOwned>(path: &[&str]) -> T {
    let (mut defaults, methods) = default_tables();
    defaults.insert("method".into(), Value::Table(methods));
    let table = path.iter().fold(Value::Table(defaults), |table, key| table[*key].clone());
    table.try_into().expect("defaults.toml is tested to be complete")
}
