//! The walls between crates: who may import whom, read from the manifests. ARCHITECTURE.md says why.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What each crate of ours may import of ours.
const MAY_IMPORT: [(&str, &[&str]); 17] = [
    ("spec", &[]),
    ("objectives", &[]),
    ("kernels", &[]),
    ("tables", &[]),
    ("hub", &[]),
    ("data", &["spec", "tables"]),
    ("model", &["spec", "kernels"]),
    ("training", &["spec", "kernels", "objectives", "data", "model"]),
    ("reward", &["spec", "objectives", "data", "model", "training"]),
    ("ppo", &["spec", "objectives", "data", "model", "training", "reward"]),
    ("dpo", &["spec", "objectives", "data", "model", "training"]),
    ("evaluation", &["spec", "kernels", "objectives", "data", "model", "training", "reward"]),
    ("ledger", &["spec", "tables"]),
    ("report", &["spec", "ledger"]),
    ("testing", &[]),
    ("testing-tensors", &["spec", "data", "model", "testing"]),
    (
        "runner",
        &[
            "spec",
            "objectives",
            "data",
            "model",
            "hub",
            "training",
            "reward",
            "ppo",
            "dpo",
            "evaluation",
            "ledger",
            "report",
        ],
    ),
];

/// Crates that never compile a tensor, and the libraries of tensors.
const WITHOUT_TENSORS: [&str; 8] = ["spec", "kernels", "tables", "hub", "data", "ledger", "report", "testing"];
const TENSORS: [&str; 2] = ["burn", "burn-flex"];

/// Each crate's direct dependencies outside tests.
fn manifests() -> BTreeMap<String, BTreeSet<String>> {
    dependencies(&["dependencies", "build-dependencies"])
}

/// What stands in these tables of each crate's manifest.
fn dependencies(tables: &[&str]) -> BTreeMap<String, BTreeSet<String>> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/");
    let mut manifests = BTreeMap::new();
    for entry in std::fs::read_dir(crates).expect("crates/ can be listed") {
        let path = entry.expect("an entry").path().join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(&path).expect("a manifest").parse().expect("valid TOML");
        let name = manifest["package"]["name"].as_str().expect("a name").to_string();
        let dependencies = tables.iter().filter_map(|table| manifest.get(*table)?.as_table());
        manifests.insert(name, dependencies.flat_map(|table| table.keys().cloned()).collect());
    }
    manifests
}

#[test]
fn the_workspace_has_these_crates_and_no_other() {
    let expected: BTreeSet<String> = MAY_IMPORT.iter().map(|(name, _)| format!("duel-{name}")).collect();
    assert_eq!(manifests().into_keys().collect::<BTreeSet<_>>(), expected);
}

#[test]
fn crates_import_only_what_lies_below_them() {
    let manifests = manifests();
    for (name, may) in MAY_IMPORT {
        let may: BTreeSet<String> = may.iter().map(|m| format!("duel-{m}")).collect();
        for imported in manifests[&format!("duel-{name}")].iter().filter(|d| d.starts_with("duel-")) {
            assert!(may.contains(imported), "{name} must not import {imported}");
        }
    }
}

#[test]
fn tensors_tables_charts_and_error_rendering_stay_in_their_rooms() {
    let manifests = manifests();
    for name in WITHOUT_TENSORS {
        for tensor in TENSORS {
            assert!(!manifests[&format!("duel-{name}")].contains(tensor), "{name} must not import {tensor}");
        }
    }
    for (name, dependencies) in &manifests {
        assert_eq!(
            dependencies.contains("parquet"),
            matches!(name.as_str(), "duel-tables" | "duel-data"),
            "{name}: Parquet is read and written by duel-tables; duel-data reads rows"
        );
        assert_eq!(dependencies.contains("plotters"), name == "duel-report", "{name}: only the report draws");
        assert_eq!(dependencies.contains("miette"), name == "duel-runner", "{name}: only the runner renders errors");
    }
}

/// The tests of crates without tensors compile none either, and so rebuild as fast.
#[test]
fn tests_without_tensors_stay_without() {
    let for_tests = dependencies(&["dev-dependencies"]);
    for name in WITHOUT_TENSORS {
        for tensor in TENSORS.into_iter().chain(["duel-testing-tensors"]) {
            assert!(!for_tests[&format!("duel-{name}")].contains(tensor), "the tests of {name} must not use {tensor}");
        }
    }
}

#[test]
fn every_version_is_pinned_in_one_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let manifest: toml::Table = std::fs::read_to_string(root).expect("the manifest").parse().expect("valid TOML");
    for (name, dependency) in manifest["workspace"]["dependencies"].as_table().expect("dependencies") {
        let version = dependency.as_str().or_else(|| dependency.get("version")?.as_str());
        match version {
            Some(version) => assert!(version.starts_with('='), "{name} = \"{version}\" is not pinned"),
            None => assert!(dependency.get("path").is_some(), "{name} has neither version nor path"),
        }
    }
}

/// All sources outside tests, with their paths: what stands before a file's own tests, comments left out.
fn sources() -> Vec<(String, String)> {
    let mut sources = vec![];
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/").to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder that can be listed") {
            let path = entry.expect("an entry").path();
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() && !name.ends_with("/tests") {
                folders.push(path);
            } else if name.ends_with(".rs") && !name.contains("/wiring") && !name.ends_with("/tests.rs") {
                let text = std::fs::read_to_string(&path).expect("a source");
                let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
                let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
                sources.push((name, code.collect::<Vec<_>>().join("\n")));
            }
        }
    }
    sources
}

/// The registry of random streams, `Stream` in spec: each is drawn from in one place of the code, no two have the same name, and
/// nobody names a generator otherwise but the exact claims and the benchmarks.
#[test]
fn every_random_stream_is_registered_and_drawn_from_in_one_place() {
    let sources = sources();
    let (_, seeds) = sources.iter().find(|(path, _)| path.ends_with("spec/src/seeds.rs")).expect("the registry");
    let variants =
        seeds.split_once("pub enum Stream<'a> {").expect("the streams").1.split_once("\n}").expect("their end").0;
    let variants: Vec<&str> =
        variants.lines().filter_map(|line| line.trim().strip_suffix(',')?.split('(').next()).collect();
    assert!(variants.len() > 30, "{variants:?}");
    for variant in &variants {
        let name = format!("Stream::{variant}");
        let uses = |text: &str| {
            let ends = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric());
            text.match_indices(&name).filter(|(index, _)| ends(&text[index + name.len()..])).count()
        };
        let places: Vec<&str> = (sources.iter().filter(|(_, text)| uses(text) > 0)).map(|(path, _)| &**path).collect();
        let count: usize = sources.iter().map(|(_, text)| uses(text)).sum();
        // the reference's numbers are drawn for a policy's win rate, and again, the same, for the best of N's
        let expected = if *variant == "EvaluatedReference" { 2 } else { 1 };
        assert_eq!(count, expected, "{name} is drawn from in {places:?}");
    }
    let names =
        seeds.split_once("fn names(self)").expect("their names").1.split_once("fn stream").expect("their end").0;
    let names: Vec<&str> =
        names.lines().filter_map(|line| line.trim().split_once("=> ")).map(|(_, name)| name).collect();
    assert_eq!(names.len(), variants.len() + 1, "one each, and an ensemble's members: {names:?}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "two streams have one name: {names:?}");
    for (path, text) in &sources {
        let other =
            ["spec/src/seeds.rs", "/claims/", "/bench/", "/testing-tensors/"].iter().any(|part| path.contains(part));
        assert!(other || !text.replace("#[derive(", "").contains("derive("), "{path} names a generator of its own");
    }
}

/// The forge runs what a person runs: the workflows call the repository's own scripts, and their actions have a version.
#[test]
fn workflows_call_our_scripts() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (file, script) in [("ci.yml", ".ci/run"), ("release.yml", "scripts/release")] {
        let text = std::fs::read_to_string(root.join(".github/workflows").join(file)).expect("a workflow");
        let all = yaml_rust2::YamlLoader::load_from_str(&text).expect("valid YAML");
        let jobs = all[0]["jobs"].as_hash().expect("jobs");
        let steps: Vec<_> = jobs.values().flat_map(|job| job["steps"].as_vec().expect("steps")).collect();
        let commands: Vec<&str> = steps.iter().filter_map(|step| step["run"].as_str()).collect();
        assert!(commands.iter().any(|command| command.starts_with(script)), "{file} runs no {script}: {commands:?}");
        assert!(root.join(script).is_file(), "{script}");
        for action in steps.iter().filter_map(|step| step["uses"].as_str()) {
            assert!(action.contains("@v"), "{file}: {action} has no version");
        }
        assert_eq!(steps.iter().filter(|step| step["run"].is_badvalue() == step["uses"].is_badvalue()).count(), 0);
    }
}
