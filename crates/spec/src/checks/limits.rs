//! The size of an experiment: numbers that are each in range, but together larger than anyone could run.

use crate::Result;
use crate::document::Document;
use crate::experiment::Experiment;
use crate::world::Rule;

/// Points of an arm: those of its grid, or the corners of its space.
const MAX_POINTS: usize = 10_000;
/// Trainings of an experiment, and of its search.
const MAX_TRAININGS: usize = 100_000;
/// Weights of a fresh model.
const MAX_WEIGHTS: f64 = 1e9;
/// Tokens of a batch of running text.
const MAX_TOKENS: usize = 1 << 24;
/// Claims, and KL distances of one claim.
const MAX_CLAIMS: usize = 1000;
/// Rules of a judge, and the largest number in a rule.
const MAX_RULES: usize = 1000;
pub(super) const MAX_RULE_NUMBER: f64 = 1e9;

/// Checks what the numbers add up to, before anything of that size is built.
pub(super) fn check_limits(experiment: &Experiment, document: &Document) -> Result<()> {
    check_trainings(experiment, document)?;
    check_model(experiment, document)?;
    check_claims(experiment, document)?;
    check_rules(experiment, document)
}

fn too_many(document: &Document, key: &str, value: String, accepted: String) -> Result<()> {
    Err(document.out_of_range(key, value, accepted))
}

fn check_trainings(experiment: &Experiment, document: &Document) -> Result<()> {
    let (mut trainings, mut widest) = (0usize, ("seeds".to_string(), 0));
    for (name, arm) in &experiment.arms {
        let points = arm.max_points();
        let table = if arm.space.is_empty() { "grid" } else { "space" };
        let key = format!("arms.{name}.{table}");
        if points > MAX_POINTS {
            let unit = if table == "grid" { "points" } else { "corners" };
            return too_many(document, &key, format!("{points} {unit}"), format!("at most {MAX_POINTS} {unit}"));
        }
        trainings = trainings.saturating_add(points.saturating_mul(experiment.seeds as usize));
        if points > widest.1 {
            widest = (key, points);
        }
    }
    let accepted = format!("at most {MAX_TRAININGS} in all");
    if experiment.is_tuned() {
        let tuning = &experiment.tuning;
        let per_arm = tuning.configurations.saturating_mul(tuning.seeds as usize);
        let searched = per_arm.saturating_mul(experiment.arms.len());
        if searched > MAX_TRAININGS {
            let value = format!("{searched} trainings: points times tuning.seeds, over all arms");
            return too_many(document, "tuning.configurations", value, accepted);
        }
        trainings = experiment.arms.len().saturating_mul(experiment.seeds as usize);
    }
    if trainings > MAX_TRAININGS {
        let value = format!("{trainings} trainings: points times seeds, over all arms");
        return too_many(document, &widest.0, value, accepted);
    }
    Ok(())
}

fn check_model(experiment: &Experiment, document: &Document) -> Result<()> {
    let (shape, base) = (&experiment.model, &experiment.stages.base);
    let weights = 12.0 * shape.layers as f64 * (shape.width as f64).powi(2)
        + (experiment.world.reviews.vocabulary + base.window) as f64 * shape.width as f64;
    if !experiment.is_pretrained() && weights > MAX_WEIGHTS {
        let value = format!("{} layers of width {} are {weights:.1e} weights", shape.layers, shape.width);
        return too_many(document, "model.layers", value, format!("at most {MAX_WEIGHTS:e} weights"));
    }
    let tokens = base.batch_size.saturating_mul(base.window);
    if tokens > MAX_TOKENS {
        let value = format!("{} windows of {} are {tokens} tokens", base.batch_size, base.window);
        return too_many(document, "stages.base.batch_size", value, format!("at most {MAX_TOKENS} tokens"));
    }
    Ok(())
}

fn check_claims(experiment: &Experiment, document: &Document) -> Result<()> {
    let (claims, accepted) = (&experiment.claims, format!("at most {MAX_CLAIMS}"));
    if claims.len() > MAX_CLAIMS {
        return too_many(document, "claims", format!("{} claims", claims.len()), accepted);
    }
    match claims.iter().find(|claim| claim.kl.len() > MAX_CLAIMS) {
        Some(claim) => {
            let value = format!("{} values of kl in claim {}", claim.kl.len(), claim.id);
            too_many(document, "claims", value, accepted)
        }
        None => Ok(()),
    }
}

fn check_rules(experiment: &Experiment, document: &Document) -> Result<()> {
    check_rule_numbers("judge.rules", &experiment.judge.rules, document)
}

/// How many rules a list has, and the size of their numbers.
pub(super) fn check_rule_numbers(key: &str, rules: &[Rule], document: &Document) -> Result<()> {
    if rules.len() > MAX_RULES {
        return too_many(document, key, format!("{} rules", rules.len()), format!("at most {MAX_RULES}"));
    }
    for (index, rule) in rules.iter().enumerate() {
        let (weight, words, per) = match rule {
            Rule::Length { words, per, weight } => (*weight, *words, *per),
            Rule::Keyword { weight, .. } | Rule::Regex { weight, .. } | Rule::Json { weight } => (*weight, 0.0, 1.0),
        };
        let is_in_range = |x: f64| (0.0..=MAX_RULE_NUMBER).contains(&x);
        if !(is_in_range(weight.abs()) && is_in_range(words) && is_in_range(per) && per > 0.0) {
            let value = format!("in rule {}: {rule:?}", index + 1);
            let accepted = format!("numbers of at most {MAX_RULE_NUMBER:e}; `words` of at least 0, `per` above 0");
            return too_many(document, key, value, accepted);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use duel_testing::EXTREME_NUMBERS;

    const ARMS: &str = "[arms.p]\nmethod = \"ppo\"\n[arms.d]\nmethod = \"dpo\"\n";

    fn parse(text: &str, overrides: &[String]) -> Result<Experiment> {
        Experiment::from_document(&Document::parse("t", text, overrides)?)
    }

    /// One arm of each method, so that the document has every key of the defaults.
    fn every_method() -> String {
        crate::method::METHODS.iter().map(|method| format!("[arms.{method}]\nmethod = \"{method}\"\n")).collect()
    }

    #[test]
    fn an_extreme_number_is_accepted_or_refused_by_its_key() {
        let all = every_method();
        let keys: Vec<(String, toml::Value)> = Document::parse("t", &all, &[])
            .expect("valid")
            .resolved()
            .into_iter()
            .map(|(key, value, _)| (key, value))
            .filter(|(_, value)| matches!(value, toml::Value::Integer(_) | toml::Value::Float(_)))
            // a key that several methods share is tried once
            .filter({
                let mut seen = std::collections::BTreeSet::new();
                move |(key, _)| !key.starts_with("arms.") || seen.insert(key.rsplit('.').next().map(String::from))
            })
            .collect();
        assert!(keys.len() > 100, "{}", keys.len());
        for (key, default) in &keys {
            let method = key.strip_prefix("arms.").and_then(|rest| rest.split_once('.')).map(|(method, _)| method);
            // only the arm of the key: reading the others again would take time
            let text = method.map_or(ARMS.into(), |method| format!("[arms.{method}]\nmethod = \"{method}\"\n"));
            let axis = method.map(|method| key.replace(&format!("arms.{method}."), &format!("arms.{method}.grid.")));
            let as_axis = |value: &str| axis.as_ref().map(|axis| format!("{axis}=[{value}]"));
            for value in EXTREME_NUMBERS {
                for assignment in [Some(format!("{key}={value}")), as_axis(value)].into_iter().flatten() {
                    let Err(error) = parse(&text, std::slice::from_ref(&assignment)) else {
                        let is_huge =
                            if default.is_float() { value == "1e300" || value == "1e999" } else { value.len() == 19 };
                        let is_allowed = value == "1e999" && accepts_infinity(key);
                        assert!(!is_huge || is_allowed, "{assignment} is accepted");
                        continue;
                    };
                    let message = format!("{error} {} {}", error.label(), error.hint());
                    let name = key.rsplit('.').next().unwrap_or(key);
                    assert!(message.contains(name), "{assignment}: {message}");
                }
            }
        }
    }

    /// Whether the key accepts inf, which 1e999 is in TOML.
    fn accepts_infinity(key: &str) -> bool {
        crate::checks::range_of(key) == Some(crate::checks::Constraint::Bound)
    }

    #[test]
    fn experiments_that_are_too_large_are_refused_before_they_are_expanded() {
        let list = |n: usize| (1..=n).map(|i| format!("{}", i as f64 / 1e3)).collect::<Vec<_>>().join(", ");
        let axes = |n: usize| {
            let names = ["beta", "learning_rate", "simpo_margin", "label_smoothing", "alpha", "margin", "tie_margin"];
            let more =
                ["nll_coef", "kto_desirable", "kto_undesirable", "discopop_tau", "positive_lambda", "lora_alpha"];
            let all = names.into_iter().chain(more).chain(["lora_dropout", "unlikelihood_alpha"]);
            all.take(n).map(|name| format!("{name} = {{ low = 0.1, high = 0.4 }}\n")).collect::<String>()
        };
        let searched =
            "[tuning]\nconfigurations = 4\n[arms.d]\nmethod = \"dpo\"\nsearch = \"random\"\n[arms.d.space]\n";
        let grid = |points: &str| format!("[arms.d]\nmethod = \"dpo\"\n[arms.d.grid]\n{points}");
        for (text, says) in [
            (format!("{searched}{}", axes(15)), "32768 corners"),
            (grid(&format!("beta = [{0}]\nlearning_rate = [{0}]\n", list(1000))), "1000000 points"),
            (grid(&format!("beta = [{}]\n", list(10_001))), "10001 values"),
            (format!("seeds = 1000\n{}", grid(&format!("beta = [{}]\n", list(101)))), "101000 trainings"),
            (format!("[tuning]\nconfigurations = 1000000\n{ARMS}"), "6000000 trainings"),
            (format!("[model]\nlayers = 512\nwidth = 16384\n{ARMS}"), "weights"),
            (format!("[stages.base]\nbatch_size = 65536\nwindow = 16384\n{ARMS}"), "tokens"),
            (format!("[judge]\nrules = [{{ rule = \"length\", words = 1e300, per = 1 }}]\n{ARMS}"), "rule 1"),
            (format!("[judge]\nrules = [{{ rule = \"length\", words = 1, per = 0 }}]\n{ARMS}"), "rule 1"),
            (format!("[judge]\nrules = [{{ rule = \"json\", weight = inf }}]\n{ARMS}"), "rule 1"),
            ((0..300).map(|i| format!("[arms.a{i}]\nmethod = \"dpo\"\n")).collect(), "300 arms"),
        ] {
            let error = parse(&text, &[]).expect_err(says);
            assert!(error.to_string().contains(says), "{error}");
            assert!(error.label().contains("at most"), "{}", error.label());
        }
        assert!(parse(&grid(&format!("beta = [{}]\n", list(1000))), &[]).is_ok());
    }

    #[test]
    fn keys_and_files_are_bounded_too() {
        let deep = format!("{}=1", vec!["a"; 30_000].join("."));
        assert!(matches!(parse(ARMS, &[deep]), Err(Error::Override { .. })));
        for nested in ["[".repeat(100_000), "{a=".repeat(100_000), format!("{}b=1", "a.".repeat(100_000))] {
            assert!(parse(&format!("name = {nested}"), &[]).is_err());
            assert!(parse(&nested, &[]).is_err());
        }
        assert!(matches!(Document::load(std::path::Path::new("/dev/zero"), &[]), Err(Error::Read { .. })));
    }

    #[test]
    fn slurm_settings_are_single_lines_of_safe_characters() {
        let slurm = |line: &str| parse(&format!("[slurm]\n{line}\n{ARMS}"), &[]);
        for accepted in [
            "partition = \"gpu-a100,long\"",
            "time = \"90\"",
            "time = \"90:00\"",
            "time = \"365-0\"",
            "time = \"2-12:00:00\"",
            "memory = \"512M\"",
            "memory = \"0\"",
            "extra = [\"--account=lab\", \"--comment=\\\"a b\\\"\"]",
            "setup = \"module load a\\nmodule load b\"",
        ] {
            assert!(slurm(accepted).is_ok(), "{accepted}");
        }
        for refused in [
            "partition = \"a\\nrm -rf x\"",
            "partition = \"a b\"",
            "partition = \"$(x)\"",
            "time = \"1\\n#SBATCH --uid=0\"",
            "time = \"forever\"",
            "time = \"99999999999999999999\"",
            "time = \"\"",
            "time = \"0\"",
            "time = \"1:2:3:4\"",
            "time = \"9999-00:00:00\"",
            "memory = \"G\"",
            "memory = \"1001T\"",
            "memory = \"4 G\"",
            "memory = \"4GG\"",
            "memory = \"99999999999T\"",
            "extra = [\"--account=lab\\n--uid=0\"]",
            "extra = [\"account\"]",
            "setup = \"a\\u001bb\"",
            "setup = \"a\\u0000b\"",
        ] {
            let error = slurm(refused).expect_err(refused);
            assert!(matches!(error, Error::OutOfRange { .. }), "{refused}: {error}");
        }
    }
}
