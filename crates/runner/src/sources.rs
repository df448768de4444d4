//! Where models and rows are: paths of this machine, and names on the hub, whose files are in its cache or are downloaded into it.
//! A path that exists comes before a name.

use crate::error::{Error, Result};
use crate::log;
use crate::task_progress::draws_bars;
use crate::terminal::{format_bytes, sanitize, warn};
use duel_hub::{Downloaded, Hub, HubSettings, HubSnapshot, ModelName, ROWS_PREFIX, RowsName};
use duel_spec::{Experiment, WorldKind};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The directory or the file of a model.
///
/// # Errors
/// A name that is neither here nor on the hub.
pub(crate) fn model(from: &Path) -> Result<PathBuf> {
    Ok(hub_model(from)?.map_or_else(
        || from.into(),
        |(name, snapshot)| match name.file {
            Some(file) => snapshot.path.join(file),
            None => snapshot.path,
        },
    ))
}

/// The files of rows, in order: of a path, a pattern or a folder, or of a split on the hub.
///
/// # Errors
/// A name that is not on the hub; a pattern or a folder without files of rows. Paths are not checked.
pub(crate) fn rows(from: &Path) -> Result<Vec<PathBuf>> {
    match hub_rows(from)? {
        Some((_, snapshot)) => Ok(snapshot.paths().collect()),
        None => Ok(duel_data::records::expand(from)?),
    }
}

/// A model's name on other machines: that of its repository.
pub(crate) fn public_name(from: &str) -> String {
    match ModelName::parse(from) {
        Ok(model) if !Path::new(from).exists() => model.name.repo,
        _ => from.into(),
    }
}

/// Whether a path does not exist here and has the form of a name on the hub.
pub(crate) fn is_hub_name(from: &Path) -> bool {
    let text = from.to_str().unwrap_or_default();
    !from.exists() && (ModelName::parse(text).is_ok() || text.starts_with(ROWS_PREFIX))
}

/// The names of an experiment with their commits, as values for `--set`: even if a branch moves, the run keeps them.
///
/// # Errors
/// A name that is neither here nor on the hub.
pub(crate) fn pins(experiment: &Experiment) -> Result<Vec<String>> {
    let named = named_sources(experiment)?;
    let is_moving = |source: &&NamedSource| source.pinned != source.text;
    Ok(named.iter().filter(is_moving).map(|source| format!("{}={:?}", source.key, source.pinned)).collect())
}

/// The hash of each file that an experiment takes from the hub, for its manifest.
///
/// # Errors
/// A name that is neither here nor on the hub.
pub(crate) fn inputs(experiment: &Experiment) -> Result<BTreeMap<String, String>> {
    let mut inputs = BTreeMap::new();
    for NamedSource { pinned, snapshot, text, .. } in named_sources(experiment)? {
        let hashes = snapshot.hashes().map_err(|e| not_here("source", Path::new(&text), e))?;
        inputs.extend(hashes.into_iter().map(|(file, hash)| (format!("{pinned} {file}"), hash)));
    }
    Ok(inputs)
}

/// A model or rows that an experiment takes from the hub.
struct NamedSource {
    /// Its key, and the value there.
    key: &'static str,
    text: String,
    /// The name at a commit.
    pinned: String,
    snapshot: HubSnapshot,
}

fn named_sources(experiment: &Experiment) -> Result<Vec<NamedSource>> {
    let mut sources = vec![];
    let models = [
        ("model.from", &experiment.model.from),
        ("stages.rm.from", &experiment.stages.rm.from),
        ("judge.model", &experiment.judge.model),
        ("evaluation.pairwise.model", &experiment.evaluation.pairwise.model),
    ];
    for (key, text) in models.into_iter().filter(|(_, text)| !text.is_empty()) {
        if let Some((name, snapshot)) = hub_model(Path::new(text))? {
            let pinned = name.at(&snapshot.commit).to_string();
            sources.push(NamedSource { key, text: text.clone(), pinned, snapshot });
        }
    }
    let rows = &experiment.world.rows;
    let rows = [
        ("world.rows.train", &rows.train),
        ("world.rows.validation", &rows.validation),
        ("world.rows.test", &rows.test),
    ];
    for (key, paths) in rows.into_iter().filter(|_| experiment.world.kind == WorldKind::Rows) {
        for text in paths.iter() {
            if let Some((name, snapshot)) = hub_rows(Path::new(text))? {
                let pinned = name.at(&snapshot.commit).to_string();
                sources.push(NamedSource { key, text: text.into(), pinned, snapshot });
            }
        }
    }
    Ok(sources)
}

/// A model on the hub; `None` where the path exists.
fn hub_model(from: &Path) -> Result<Option<(ModelName, HubSnapshot)>> {
    if from.exists() {
        return Ok(None);
    }
    let error = |e| not_here("model", from, e);
    let name = ModelName::parse(&from.to_string_lossy()).map_err(error)?;
    let snapshot = fetch(from, |hub, progress| hub.model(&name, &duel_model::SETTINGS_FILES, progress));
    Ok(Some((name, snapshot.map_err(error)?)))
}

/// Rows on the hub; `None` for a path.
fn hub_rows(from: &Path) -> Result<Option<(RowsName, HubSnapshot)>> {
    let text = from.to_string_lossy();
    if !text.starts_with(ROWS_PREFIX) || from.exists() {
        return Ok(None);
    }
    let error = |e| not_here("file of rows", from, e);
    let name = RowsName::parse(&text).map_err(error)?;
    let snapshot = fetch(from, |hub, progress| hub.rows(&name, progress)).map_err(error)?;
    Ok(Some((name, snapshot)))
}

fn not_here(what: &'static str, from: &Path, source: duel_hub::Error) -> Error {
    Error::NotHere { what, from: from.display().to_string(), source: Box::new(source) }
}

/// The results of this process: a name is looked up once.
static SNAPSHOTS: Mutex<BTreeMap<PathBuf, HubSnapshot>> = Mutex::new(BTreeMap::new());

/// Downloads from the hub, showing progress and warnings.
fn fetch(
    from: &Path,
    ask: impl FnOnce(&Hub, &mut dyn FnMut(Downloaded<'_>)) -> duel_hub::Result<HubSnapshot>,
) -> duel_hub::Result<HubSnapshot> {
    let mut snapshots = SNAPSHOTS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(snapshot) = snapshots.get(from) {
        return Ok(snapshot.clone());
    }
    let hub = Hub::new(HubSettings::from_env()?);
    let mut shown = DownloadDisplay::default();
    let snapshot = ask(&hub, &mut |now| shown.update(now));
    shown.finish();
    let snapshot = snapshot?;
    if let Some(warning) = &snapshot.warning {
        tracing::warn!("{warning}");
        warn(std::slice::from_ref(warning));
    }
    snapshots.insert(from.into(), snapshot.clone());
    Ok(snapshot)
}

/// The file that is downloaded: a bar on a terminal, one line elsewhere.
#[derive(Debug, Default)]
struct DownloadDisplay {
    file: String,
    bar: Option<ProgressBar>,
}

impl DownloadDisplay {
    fn update(&mut self, now: Downloaded<'_>) {
        if self.file != now.file {
            self.finish();
            self.file = now.file.into();
            self.start(now);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(now.bytes);
        }
    }

    fn start(&mut self, now: Downloaded<'_>) {
        let size = now.total.map_or(String::new(), |total| format!(", {}", format_bytes(total as f64)));
        tracing::info!(file = now.file, bytes = now.bytes, total = now.total, "download");
        if log::is_quiet() {
            return;
        }
        if !draws_bars() {
            let _ = writeln!(std::io::stderr(), "downloading {}{size}", sanitize(now.file));
            return;
        }
        let bar = ProgressBar::with_draw_target(now.total, ProgressDrawTarget::stderr());
        let template = "{msg} {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(sanitize(now.file).into_owned());
        self.bar = Some(bar);
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
