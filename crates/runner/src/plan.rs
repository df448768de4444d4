//! From an experiment to its stages: their dependencies, and the hash that names each.

use crate::error::{Error, Result};
use crate::judge_files::{JudgeFiles, judge_files, recorded_judges};
use crate::sources;
use crate::world::{self, RowFiles};
use duel_ledger::{Manifest, PlannedStage, RunDir, RunSubset, StageId, TableSource};
use duel_spec::ids::{hash_bytes, stage_hash};
use duel_spec::{Cell, Experiment, JudgeKind, MethodSettings, ModelShape, WorldKind};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a stage does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StageKind {
    /// Tokenizer, prompts and gold scorer of real text.
    Corpus,
    /// The language model that every seed starts from.
    Base,
    Sft,
    Pairs,
    Rm,
    /// Log-probs of all rows under the reference.
    Reference,
    /// Evaluation of the reference and of the exact optima.
    Yardstick,
    /// One arm at one point: training and evaluation.
    Cell,
}

impl StageKind {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Corpus, Self::Base, Self::Sft, Self::Pairs, Self::Rm, Self::Reference, Self::Yardstick, Self::Cell];

    /// As in the stage's folder.
    pub fn name(self) -> &'static str {
        match self {
            Self::Corpus => "corpus",
            Self::Base => "base",
            Self::Sft => "sft",
            Self::Pairs => "pairs",
            Self::Rm => "rm",
            Self::Reference => "reference",
            Self::Yardstick => "yardstick",
            Self::Cell => "cell",
        }
    }

    /// Whether all seeds share the stage; it then runs alone and may use every core.
    pub fn is_shared(self) -> bool {
        matches!(self, Self::Corpus | Self::Base)
    }
}

/// A piece of work with a content hash.
#[derive(Debug, Clone)]
pub struct Stage {
    pub kind: StageKind,
    pub id: StageId,
    /// The content of the hash: its seed, its settings by name, the stages that it needs by their kinds.
    pub key: Value,
    pub seed: u64,
    /// Whether it may use every core, and runs alone.
    pub wide: bool,
    /// Indices in the plan of the stages that must be finished before.
    pub needs: Vec<usize>,
    pub cell: Option<Cell>,
}

impl Stage {
    /// For people: `sft, seed 3` or `ppo beta=0.1, seed 3`.
    pub fn label(&self) -> String {
        match (&self.cell, self.kind.is_shared()) {
            (Some(cell), _) => cell.label(),
            (None, true) => self.kind.name().into(),
            (None, false) => format!("{}, seed {}", self.kind.name(), self.seed),
        }
    }

    /// As a manifest keeps it.
    pub fn planned(&self) -> PlannedStage {
        PlannedStage {
            label: self.label(),
            folder: self.id.folder(),
            seed: (!self.kind.is_shared()).then_some(self.seed),
            tuning: self.cell.as_ref().map(|cell| cell.tuning),
        }
    }
}

/// All stages in an order that respects their dependencies.
#[derive(Debug, Clone)]
pub struct Plan {
    pub stages: Vec<Stage>,
}

impl Plan {
    /// Lays cells of an experiment out with all that they need, in the cells' order: more cells leave the places of those
    /// before them as they are. `device` is part of every hash, as results depend on it.
    pub fn new(experiment: &Experiment, device: &str, cells: Vec<Cell>) -> Result<Self> {
        world::check_rules(experiment)?;
        world::check_pairwise(experiment)?;
        Self::with_judges(&judge_files(experiment)?, experiment, device, cells)
    }

    /// The plan of a run, as it was: whatever has become of the judges' programs since, the stages are those that they judged.
    ///
    /// # Errors
    /// An `experiment.toml` that is not the experiment that was run.
    pub fn of_run(run: &Path) -> Result<(Manifest, Experiment, Self)> {
        let manifest = Manifest::read(run)?;
        let (experiment, document) = Experiment::load(&run.join("experiment.toml"), &[])?;
        manifest.check_experiment(run, &document)?;
        let cells = duel_ledger::cells_of(run, &experiment)?;
        let plan = match manifest.is_of_older_format() {
            true => Self::new(&experiment, &manifest.device, cells)?,
            false => Self::with_judges(&recorded_judges(&manifest), &experiment, &manifest.device, cells)?,
        };
        Ok((manifest, experiment, plan))
    }

    /// As [`Self::new`], where the hashes of the judges' programs and files are these.
    fn with_judges(judges: &JudgeFiles, experiment: &Experiment, device: &str, cells: Vec<Cell>) -> Result<Self> {
        let mut plan = Self { stages: vec![] };
        let world = world_settings(experiment, &judges.gold)?;
        let evaluation = &evaluation_settings(experiment, &judges.pairwise);
        let learner = learner_settings(experiment);
        let pretrained = experiment.is_pretrained();
        let (model, rm_settings) = (model_settings(experiment)?, rm_settings(experiment)?);
        let mut shared = vec![];
        if experiment.world.kind != WorldKind::Grammar {
            let files: Vec<&str> = match world::reads_reviews(experiment) {
                true => duel_data::reviews::FILES.iter().map(|(_, hash)| *hash).collect(),
                false => vec![],
            };
            let mut corpus = json!({"device": device, "world": &world, "files": files});
            if pretrained {
                corpus["model"] = model.clone();
            }
            if experiment.world.kind == WorldKind::Rows {
                corpus["encoding"] = json!(duel_data::rows::ENCODING_VERSION);
                corpus["most"] = json!([experiment.stages.pairs.rows, experiment.stages.pairs.holdout_rows]);
                if world::keeps_conversations(experiment) {
                    corpus["conversations"] = json!(true);
                }
            }
            if world::learns_preferences(experiment) {
                corpus["preferences"] = json!(duel_reward::PREFERENCE_VERSION);
            }
            shared.push(plan.add(StageKind::Corpus, 0, corpus, vec![], None));
        }
        if experiment.world.kind == WorldKind::Reviews && !pretrained {
            let base = json!({"device": device, "model": model, "learner": learner, "stages": {"base": &experiment.stages.base}});
            shared.push(plan.add(StageKind::Base, 0, base, shared.clone(), None));
        }
        let shared_needs = shared;
        let mut common: BTreeMap<u64, [usize; 4]> = BTreeMap::new();
        for cell in cells {
            let seed = cell.seed;
            let with = |needs: &[usize]| [shared_needs.as_slice(), needs].concat();
            let [sft, pairs, rm, reference] = *common.entry(seed).or_insert_with(|| {
                let sft = json!({"device": device, "world": &world, "model": model, "learner": learner, "stages": {"sft": &experiment.stages.sft}});
                let sft = plan.add(StageKind::Sft, seed, sft, shared_needs.clone(), None);
                let pairs = json!({"stages": {"pairs": &experiment.stages.pairs}});
                let pairs = plan.add(StageKind::Pairs, seed, pairs, with(&[sft]), None);
                let rm = json!({"learner": learner, "stages": {"rm": &rm_settings}});
                let rm = plan.add(StageKind::Rm, seed, rm, with(&[sft, pairs]), None);
                let reference = plan.add(StageKind::Reference, seed, json!({}), with(&[sft, pairs]), None);
                plan.add(StageKind::Yardstick, seed, json!({"evaluation": evaluation}), with(&[sft, pairs, rm]), None);
                [sft, pairs, rm, reference]
            });
            let settings = cell_settings(experiment, &learner, evaluation, &cell);
            let needs = match cell.point.method {
                MethodSettings::Dpo(_) => with(&[sft, pairs, rm, reference]),
                _ => with(&[sft, pairs, rm]),
            };
            plan.add(StageKind::Cell, seed, settings, needs, Some(cell));
        }
        // a large model is in memory once, so its stages run one at a time on every core
        plan.stages.iter_mut().for_each(|stage| stage.wide = pretrained || stage.kind.is_shared());
        Ok(plan)
    }

    /// Checks that all stages that `stage` needs are finished, and with `itself` the stage too.
    ///
    /// # Errors
    /// [`Error::Unfinished`] names what is not, why, and how far the run is.
    pub fn check_finished(&self, run: &RunDir, manifest: &Manifest, stage: &Stage, itself: bool) -> Result<()> {
        let is_there = |stage: &Stage| run.stages().join(stage.id.folder()).join("done.json").is_file();
        let needed = stage.needs.iter().map(|&need| &self.stages[need]).chain(itself.then_some(stage));
        let Some(absent) = needed.into_iter().find(|stage| !is_there(stage)) else { return Ok(()) };
        let tables = TableSource::of(run.path(), manifest, RunSubset::Comparison);
        // stages of an earlier format have other folders
        let is_copied = manifest.exit == "complete" && !self.stages.iter().any(is_there);
        if is_copied || tables.is_ok_and(|tables| tables.stages.contains(&absent.id.folder())) {
            return Err(Error::NumbersAlone { path: run.path().into(), stage: absent.label() });
        }
        let cells: Vec<&Stage> = self.stages.iter().filter(|stage| stage.kind == StageKind::Cell).collect();
        Err(Error::Unfinished {
            path: run.path().into(),
            what: absent.label(),
            finished: cells.iter().filter(|cell| is_there(cell)).count(),
            cells: cells.len(),
            why: manifest.why_missing(&absent.label()),
        })
    }

    fn add(&mut self, kind: StageKind, seed: u64, settings: Value, needs: Vec<usize>, cell: Option<Cell>) -> usize {
        let inputs: Vec<&str> = needs.iter().map(|&n| self.stages[n].id.hash.as_str()).collect();
        let mut key = settings;
        key["seed"] = json!(seed);
        let hash = stage_hash(kind.name(), &key, &inputs);
        for &need in &needs {
            key["needs"][self.stages[need].kind.name()] = json!(self.stages[need].id.folder());
        }
        let id = StageId { kind: kind.name().into(), hash };
        self.stages.push(Stage { kind, id, key, seed, wide: false, needs, cell });
        self.stages.len() - 1
    }

    /// The stage of a kind that `stage` needs.
    pub fn needed(&self, stage: &Stage, kind: StageKind) -> Option<&Stage> {
        stage.needs.iter().map(|&n| &self.stages[n]).find(|s| s.kind == kind)
    }
}

/// What a stage's key holds of the experiment's model.
fn model_settings(experiment: &Experiment) -> Result<Value> {
    let ModelShape { from, numbers, layers, width, heads, tied, .. } = &experiment.model;
    Ok(match experiment.is_pretrained() {
        true if numbers.is_f32() => json!({"files": files_hash(from)?}),
        true => json!({"files": files_hash(from)?, "numbers": numbers}),
        false => json!({"from": "", "layers": layers, "width": width, "heads": heads, "tied": tied}),
    })
}

/// What a stage's key holds of the optimizer's settings: those that can change a number.
fn learner_settings(experiment: &Experiment) -> Value {
    let mut settings = json!(&experiment.learner);
    if let Some(settings) = settings.as_object_mut() {
        settings.remove("logits_memory");
    }
    settings
}

/// What the key of a cell holds of its arm's settings, and of the evaluation's: not those of best-of-N, which is measured of the reference
/// alone.
fn cell_settings(experiment: &Experiment, learner: &Value, evaluation: &Value, cell: &Cell) -> Value {
    let mut evaluation = evaluation.clone();
    if let Some(settings) = evaluation.as_object_mut() {
        settings.retain(|key, _| !key.starts_with("best_of"));
    }
    let mut settings = json!({
        "learner": learner, "method": &cell.point.method, "evaluation": evaluation, "arm": &cell.arm,
        "point": &cell.point.label
    });
    if experiment.budget.is_set() {
        settings["budget"] = json!(experiment.budget);
    }
    settings
}

/// What a stage's key holds of the reward model's settings.
fn rm_settings(experiment: &Experiment) -> Result<Value> {
    let rm = &experiment.stages.rm;
    let mut settings = json!(rm);
    if rm.is_pretrained() {
        settings["from"] = json!(files_hash(&rm.from)?);
    }
    Ok(settings)
}

/// A model's files by their bytes, whatever their path.
fn files_hash(from: &str) -> Result<String> {
    Ok(duel_model::hash_of_files(&sources::model(Path::new(from))?)?)
}

/// The world's settings that decide what it is, its judge's among them.
fn world_settings(experiment: &Experiment, judge: &BTreeMap<String, String>) -> Result<Value> {
    let world = &experiment.world;
    let mut judge = json!({"settings": &experiment.judge, "files": judge});
    if experiment.judge.kind == JudgeKind::Model {
        // where its files stand does not change what they say
        judge["settings"]["model"] = judge["files"][&experiment.judge.model].take();
        judge["files"] = json!({});
    }
    Ok(match world.kind {
        WorldKind::Grammar => json!({"kind": "grammar", "grammar": world.grammar}),
        WorldKind::Reviews => {
            let mut settings = json!(world.reviews);
            settings["data"] = json!(null); // where the files stand does not change what they say
            json!({"kind": "reviews", "reviews": settings, "judge": judge})
        }
        WorldKind::Rows => {
            let mut settings = json!(world.rows);
            for RowFiles { key, paths, .. } in world::row_files(experiment)? {
                settings[key] = json!(hash_of_rows(&paths)?);
            }
            let template = &world.rows.chat_template;
            if !template.is_empty() {
                settings["chat_template"] =
                    json!(hash_bytes(duel_model::read_template(Path::new(template))?.as_bytes()));
            }
            json!({"kind": "rows", "rows": settings, "judge": judge})
        }
    })
}

/// What a stage's key holds of the evaluation's settings: with the files of the judge of pairs, where there is one.
fn evaluation_settings(experiment: &Experiment, pairwise: &BTreeMap<String, String>) -> Value {
    let mut settings = json!(&experiment.evaluation);
    let judge = &experiment.evaluation.pairwise;
    if judge.is_model() {
        // where its files stand does not change what they say; its template may ask for the date
        settings["pairwise"]["model"] = json!(pairwise.get(&judge.model));
        settings["pairwise"]["question"] = json!(judge.question);
        settings["pairwise"]["date"] = json!(experiment.world.rows.date);
    } else if !judge.is_off() {
        settings["pairwise"]["files"] = json!(pairwise);
    }
    settings
}

/// The hash of a file of rows; of several, that of their hashes, in order.
fn hash_of_rows(paths: &[PathBuf]) -> Result<String> {
    let hashes = paths.iter().map(|path| duel_data::records::hash(path)).collect::<duel_data::Result<Vec<_>>>()?;
    Ok(if let [hash] = hashes.as_slice() { hash.clone() } else { hash_bytes(hashes.concat().as_bytes()) })
}

/// A hash over the whole resolved experiment, for the manifest.
pub fn experiment_hash(experiment: &Experiment) -> String {
    hash_bytes(json!(experiment).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_spec::{Document, PairwiseSettings};
    use duel_testing_tensors::tiny_model;

    fn plan(text: &str) -> Plan {
        let document = Document::parse("t", text, &[]).expect("valid");
        let experiment = Experiment::from_document(&document).expect("valid");
        Plan::new(&experiment, "flex", experiment.cells_for(&experiment.trials())).expect("plans")
    }

    const TEXT: &str =
        "seeds = 2\n[arms.ppo]\nmethod = \"ppo\"\n[arms.ppo.grid]\nbeta = [0.1, 0.5]\n[arms.dpo]\nmethod = \"dpo\"\n";

    #[test]
    fn both_arms_share_start_rows_and_reference() {
        let plan = plan(TEXT);
        let count = |kind| plan.stages.iter().filter(|s| s.kind == kind).count();
        assert_eq!([StageKind::Sft, StageKind::Pairs, StageKind::Rm, StageKind::Cell].map(count), [2, 2, 2, 6]);
        for stage in plan.stages.iter().filter(|s| s.kind == StageKind::Cell && s.seed == 1) {
            let sft = plan.needed(stage, StageKind::Sft).expect("starts from sft");
            assert_eq!(sft.seed, 1);
            assert!(plan.needed(stage, StageKind::Pairs).is_some());
        }
        for (place, stage) in plan.stages.iter().enumerate() {
            assert!(stage.needs.iter().all(|&n| n < place));
        }
    }

    #[test]
    fn rules_that_cannot_be_used_are_refused_before_anything_is_made() {
        let regex = "[{ rule = \"regex\", pattern = \"(\" }]";
        let reward = format!("reward = [{{ from = \"rm\" }}, {{ from = \"rules\", rules = {regex} }}]");
        for text in [
            format!("[world]\nkind = \"reviews\"\n[arms.a]\nmethod = \"ppo\"\n{reward}\n"),
            format!(
                "[world]\nkind = \"reviews\"\n[judge]\nkind = \"rules\"\nrules = {regex}\n[arms.a]\nmethod = \"dpo\"\n"
            ),
        ] {
            let document = Document::parse("t", &text, &[]).expect("valid");
            let experiment = Experiment::from_document(&document).expect("valid");
            let cells = experiment.cells_for(&experiment.trials());
            let error = Plan::new(&experiment, "flex", cells).expect_err("no pattern");
            assert!(error.to_string().contains("`(` of a rule is not a regular expression"), "{error}");
        }
    }

    #[test]
    fn more_cells_leave_the_places_of_those_before() {
        let document = Document::parse("t", TEXT, &[]).expect("valid");
        let experiment = Experiment::from_document(&document).expect("valid");
        let cells = experiment.cells_for(&experiment.trials());
        let all = Plan::new(&experiment, "flex", cells.clone()).expect("plans");
        let some = Plan::new(&experiment, "flex", cells[..4].to_vec()).expect("plans");
        let ids = |plan: &Plan| plan.stages.iter().map(|s| s.id.folder()).collect::<Vec<_>>();
        assert!(ids(&all).starts_with(&ids(&some)) && all.stages.len() > some.stages.len());
    }

    #[test]
    fn a_setting_moves_only_what_depends_on_it() {
        let (before, after) = (plan(TEXT), plan(&format!("{TEXT}epochs = 2\n")));
        for (a, b) in before.stages.iter().zip(&after.stages) {
            let is_dpo = a.cell.as_ref().is_some_and(|c| c.arm == "dpo");
            assert_eq!(a.id == b.id, !is_dpo, "{}", a.label());
        }
        let best_of = plan(&format!("{TEXT}[evaluation]\nbest_of = 8\n"));
        assert_eq!(moved(&before, &best_of), ["yardstick, seed 0", "yardstick, seed 1"]);
        let more_rows = plan(&format!("{TEXT}[stages.pairs]\nrows = 99\n"));
        for (a, b) in before.stages.iter().zip(&more_rows.stages) {
            assert_eq!(a.id == b.id, a.kind == StageKind::Sft, "{}", a.label());
        }
    }

    #[test]
    fn a_setting_that_changes_no_number_is_in_no_key() {
        let (before, after) = (plan(TEXT), plan(&format!("{TEXT}[learner]\nlogits_memory = 1\n")));
        assert!(moved(&before, &after).is_empty());
        let other = plan(&format!("{TEXT}[learner]\nclip_norm = 2.0\n"));
        assert!(!moved(&before, &other).is_empty());
    }

    #[test]
    fn a_budget_is_part_of_the_keys_of_the_arms() {
        let before = plan(TEXT);
        let with = |amount: &str| plan(&format!("{TEXT}[budget]\nunit = \"tokens\"\namount = {amount}\n"));
        let cells = before.stages.iter().filter(|stage| stage.kind == StageKind::Cell).count();
        assert_eq!(moved(&before, &with("1000")).len(), cells);
        assert_eq!(moved(&with("1000"), &with("2000")).len(), cells);
        assert!(moved(&with("1000"), &with("1e3")).is_empty());
    }

    /// Labels of the stages whose hashes are not the same.
    fn moved(before: &Plan, after: &Plan) -> Vec<String> {
        let pairs = before.stages.iter().zip(&after.stages);
        pairs.filter(|(a, b)| a.id != b.id).map(|(a, _)| a.label()).collect()
    }

    #[test]
    fn another_judge_is_another_experiment() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("written");
        std::fs::create_dir(folder.path().join("model")).expect("made");
        ["judge.py", "weights.bin", "inner.sh", "model/a"].into_iter().for_each(|name| write(name, "1"));
        let judged = |more: &str| {
            let (script, weights, inner, model) =
                (path("judge.py"), path("weights.bin"), path("inner.sh"), path("model"));
            plan(&format!(
                "seeds = 1\n[world]\nkind = \"reviews\"\n[judge]\nkind = \"command\"\n\
                 command = [\"python3\", \"{script}\", \"--weights={weights}\", \"exec {inner} --fast\", \"--model={model}\", \"no/file\"]\n{more}\n\
                 [arms.dpo]\nmethod = \"dpo\"\n"
            ))
        };
        let before = judged("");
        assert!(moved(&before, &judged("")).is_empty());
        write("beside.py", "2");
        assert!(moved(&before, &judged("")).is_empty(), "a file that the command does not name");
        for name in ["judge.py", "weights.bin", "inner.sh", "model/a"] {
            write(name, "2");
            assert_eq!(moved(&before, &judged("")).len(), before.stages.len(), "{name}");
            write(name, "1");
            assert!(moved(&before, &judged("")).is_empty());
        }
        assert_eq!(moved(&before, &judged("version = \"2\"")).len(), before.stages.len());
    }

    /// A judge of pairs is asked where policies are evaluated: those stages alone are made again with another one.
    #[test]
    fn another_judge_of_pairs_is_another_evaluation() {
        let folder = tempfile::tempdir().expect("a folder");
        let script = folder.path().join("pairwise.py");
        std::fs::write(&script, "1").expect("written");
        let judged = |pairwise: &str| {
            plan(&format!("seeds = 1\n[world]\nkind = \"reviews\"\n{pairwise}\n[arms.dpo]\nmethod = \"dpo\"\n"))
        };
        let with = |more: &str| {
            judged(&format!("[evaluation.pairwise]\ncommand = [\"python3\", \"{}\"]\n{more}", script.display()))
        };
        let (none, before) = (judged(""), with(""));
        assert!(none.stages.iter().all(|stage| !stage.key.to_string().contains("pairwise")));
        let evaluated = |stage: &&Stage| matches!(stage.kind, StageKind::Yardstick | StageKind::Cell);
        let labels: Vec<String> = before.stages.iter().filter(evaluated).map(Stage::label).collect();
        assert_eq!((moved(&none, &before), labels.len()), (labels.clone(), 2));
        assert_eq!(moved(&before, &with("version = \"2\"")), labels);
        assert!(moved(&before, &with("")).is_empty());
        std::fs::write(&script, "2").expect("written");
        assert_eq!(moved(&before, &with("")), labels);
    }

    /// A model is known by its files, wherever they are, by what it is asked, and on which date its template is rendered.
    #[test]
    fn a_model_that_judges_pairs_is_known_by_its_files_and_its_question() {
        let folder = tempfile::tempdir().expect("a folder");
        ["one", "other"].into_iter().for_each(|name| tiny_model::model(&folder.path().join(name)));
        let text = |name: &str, more: &str| {
            let path = folder.path().join(name);
            format!(
                "seeds = 1\n[world]\nkind = \"reviews\"\n[evaluation.pairwise]\nmodel = \"{}\"\n{more}\n[arms.dpo]\nmethod = \"dpo\"\n",
                path.display()
            )
        };
        let question = |word: &str| format!("question = \"{word} {{{{ a }}}} {{{{ b }}}}\"\n");
        let with = |name: &str, more: &str| plan(&text(name, &format!("{}{more}", question("Which?"))));
        let before = with("one", "");
        assert!(moved(&before, &with("other", "")).is_empty());
        let evaluated = |stage: &&Stage| matches!(stage.kind, StageKind::Yardstick | StageKind::Cell);
        let labels: Vec<String> = before.stages.iter().filter(evaluated).map(Stage::label).collect();
        for more in ["numbers = \"bf16\"", "[world.rows]\ndate = \"2025-01-01\""] {
            assert_eq!(moved(&before, &with("one", more)), labels, "{more}");
        }
        assert_eq!(moved(&before, &plan(&text("one", &question("Better?")))), labels);
        let usual = PairwiseSettings::default().question;
        let experiment = |text: &str| {
            let document = Document::parse("t", text, &[]).expect("valid");
            Experiment::from_document(&document).expect("valid")
        };
        let asked = |question: &str| {
            let mut experiment = experiment(&text("one", ""));
            experiment.evaluation.pairwise.question = question.into();
            let path = experiment.evaluation.pairwise.model.clone();
            evaluation_settings(&experiment, &BTreeMap::from([(path, "hash".to_string())]))
        };
        assert_eq!(asked(&usual)["pairwise"]["question"], json!(usual), "another default is another question");
        let config = folder.path().join("other/config.json");
        let changed = std::fs::read_to_string(&config).expect("read") + "\n";
        std::fs::write(&config, changed).expect("written");
        assert_eq!(moved(&before, &with("other", "")), labels);
        // what it cannot be asked is refused before anything is made
        let long = experiment(&text("one", &question(&"Which? ".repeat(200))));
        let error = Plan::new(&long, "flex", long.cells_for(&long.trials())).expect_err("too long").to_string();
        assert!(error.contains("tokens, and the model reads at most 128"), "{error}");
    }
}
