//! The cache, in the layout of the hub's own clients:
//!
//! ```text
//! models--org--name/refs/main                     the commit of a revision
//! models--org--name/snapshots/<commit>/config.json → ../../blobs/<hash>
//! models--org--name/blobs/<hash>                  a file by its hash; <hash>.incomplete while it is downloaded
//! models--org--name/.no_exist/<commit>/<file>     what the repository does not have
//! ```

use crate::environment::HubSettings;
use crate::layout::{self, CONFIG, INDEX, README, TOKENIZER_CONFIG, VOCABULARIES, WEIGHTS};
use crate::name::{ModelName, RepoName, RowsName, is_commit};
use crate::remote::{Listing, Remote, is_file_name, repo};
use crate::transfer::{self, BlobHash, Downloaded, RemoteFile};
use crate::{Error, Result};
use hf_hub::{Cache, CacheRepo, RepoType};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Most bytes of a file of settings, and of weights or rows.
const MAX_SETTINGS: u64 = 256 << 20;
const MAX_DATA: u64 = 1 << 40;
/// Levels of folders and files of a snapshot that are listed.
const MAX_DEPTH: usize = 8;
const MAX_CACHED: usize = 100_000;

/// The hub and its cache.
#[derive(Debug)]
pub struct Hub {
    settings: HubSettings,
    cache: Cache,
    remote: Remote,
}

/// A repository's files at one commit, in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubSnapshot {
    /// The folder of the commit's files.
    pub path: PathBuf,
    pub name: RepoName,
    pub commit: String,
    /// The requested files, by their names within the folder, in order.
    pub files: Vec<String>,
    /// What the cache may lack, if the hub could not be reached.
    pub warning: Option<String>,
}

/// The files of a name in the cache.
enum Cached {
    Nothing(String),
    /// It can be used, but may lack files of the repository.
    Partial(HubSnapshot, String),
    Whole(HubSnapshot),
}

type OnProgress<'a> = &'a mut dyn FnMut(Downloaded<'_>);

impl Hub {
    pub fn new(settings: HubSettings) -> Self {
        let (cache, remote) = (Cache::new(settings.cache.clone()), Remote::new(&settings));
        Self { settings, cache, remote }
    }

    /// A model: its weights in safetensors, and those of the `settings` files that it has; or its GGUF file.
    ///
    /// # Errors
    /// What is neither in the cache nor on the hub; what the hub refuses; downloads that fail.
    pub fn model(&self, model: &ModelName, settings: &[&str], progress: OnProgress<'_>) -> Result<HubSnapshot> {
        match &model.file {
            Some(file) => self.gguf(&model.name, file, progress),
            None => self.safetensors(&model.name, settings, progress),
        }
    }

    /// A GGUF file, with the other parts of its model where it is one of several.
    fn gguf(&self, name: &RepoName, file: &str, progress: OnProgress<'_>) -> Result<HubSnapshot> {
        let cached = self.cached_gguf(name, file)?;
        self.complete(name, RepoType::Model, cached, |hub, listing| {
            let parts = layout::gguf_parts(file, &listing.files);
            if parts.is_empty() {
                let (repo, file, accepted) = (name.repo.clone(), file.into(), layout::ggufs(&listing.files));
                return Err(Error::NoGguf { repo, file, accepted });
            }
            Ok((hub.fetch(name, RepoType::Model, listing, parts, MAX_DATA, progress)?, vec![]))
        })
    }

    fn safetensors(&self, name: &RepoName, settings: &[&str], progress: OnProgress<'_>) -> Result<HubSnapshot> {
        let cached = self.cached_model(name, settings)?;
        self.complete(name, RepoType::Model, cached, |hub, listing| {
            let mut files: Vec<String> = settings.iter().map(|file| (*file).to_string()).collect();
            files.retain(|file| listing.files.contains(file));
            let has = |file: &str| listing.files.iter().any(|other| other == file);
            let repo = name.repo.clone();
            if !has(CONFIG) || !(has(WEIGHTS) || has(INDEX)) {
                return Err(Error::NoWeights { repo, found: layout::other_weights(&listing.files) });
            }
            let mut blobs = hub.fetch(name, RepoType::Model, listing, files, MAX_SETTINGS, progress)?;
            let weights = match has(WEIGHTS) {
                true => vec![WEIGHTS.to_string()],
                false => {
                    let index =
                        hub.fetch(name, RepoType::Model, listing, vec![INDEX.into()], MAX_SETTINGS, progress)?;
                    let shards = layout::shards(&read(&index[0].1)?)
                        .map_err(|problem| Error::NoWeights { repo, found: format!("`{INDEX}`: {problem}") })?;
                    blobs.extend(index);
                    shards
                }
            };
            blobs.extend(hub.fetch(name, RepoType::Model, listing, weights, MAX_DATA, progress)?);
            let absent = settings.iter().copied().filter(|file| !has(file)).collect();
            Ok((blobs, absent))
        })
    }

    /// The rows of one split of a dataset, in one file or several.
    ///
    /// # Errors
    /// As [`Self::model`]; a configuration or a split that is not there.
    pub fn rows(&self, rows: &RowsName, progress: OnProgress<'_>) -> Result<HubSnapshot> {
        let cached = self.cached_rows(rows)?;
        let mut snapshot = self.complete(&rows.name, RepoType::Dataset, cached, |hub, listing| {
            let (name, kind) = (&rows.name, RepoType::Dataset);
            let mut blobs = vec![];
            if listing.files.iter().any(|file| file == README) {
                blobs = hub.fetch(name, kind, listing, vec![README.into()], MAX_SETTINGS, progress)?;
            }
            let readme = blobs.first().map(|(_, path)| read(path)).transpose()?;
            let readme = readme.as_deref().map(String::from_utf8_lossy);
            let files = layout::row_files(rows, &listing.files, readme.as_deref())?;
            blobs.extend(hub.fetch(name, kind, listing, files, MAX_DATA, progress)?);
            let absent = if readme.is_none() { vec![README] } else { vec![] };
            Ok((blobs, absent))
        })?;
        snapshot.files.retain(|file| file != README);
        Ok(snapshot)
    }

    /// The files in the cache, otherwise those that `fetch` adds. If the hub cannot be reached, the files in the cache are used.
    fn complete<'f>(
        &self,
        name: &RepoName,
        kind: RepoType,
        cached: Cached,
        fetch: impl FnOnce(&Self, &Listing) -> Result<(Vec<(String, PathBuf)>, Vec<&'f str>)>,
    ) -> Result<HubSnapshot> {
        let partial = match cached {
            Cached::Whole(snapshot) => return Ok(snapshot),
            Cached::Partial(snapshot, _) if self.settings.offline => return Ok(snapshot),
            Cached::Nothing(lacking) if self.settings.offline => {
                return Err(Error::Offline { name: name.to_string(), cache: self.settings.cache.clone(), lacking });
            }
            Cached::Partial(snapshot, lacking) => Some((snapshot, lacking)),
            Cached::Nothing(_) => None,
        };
        // an interrupted download is resumed, even if the branch has moved
        let revision = partial.as_ref().map_or_else(|| name.clone(), |(snapshot, _)| name.at(&snapshot.commit));
        let listing = match (self.remote.listing(&revision, kind), partial) {
            (Ok(listing), _) => listing,
            (Err(error), Some((snapshot, lacking))) => {
                let warning = format!("`{name}` is taken from the cache as it is there, {lacking}: {error}");
                return Ok(HubSnapshot { warning: Some(warning), ..snapshot });
            }
            (Err(error), None) => return Err(error),
        };
        let (blobs, absent) = fetch(self, &listing)?;
        let cache_folder = self.cache_folder(name, kind);
        // all names at once, when every file is there
        for (file, blob) in &blobs {
            cache_folder.link(&listing.commit, file, blob)?;
        }
        for file in absent {
            let mark = cache_folder.folder.join(".no_exist").join(&listing.commit).join(file);
            create_parent(&mark)?;
            File::create(&mark).map_err(|source| Error::Io { action: "create", path: mark, source })?;
        }
        if !is_commit(&name.revision) {
            let io = |source| Error::Io { action: "write", path: cache_folder.folder.join("refs"), source };
            cache_folder.repo.create_ref(&listing.commit).map_err(io)?;
        }
        let mut files: Vec<String> = blobs.into_iter().map(|(file, _)| file).collect();
        files.sort();
        let path = cache_folder.repo.pointer_path(&listing.commit);
        Ok(HubSnapshot { path, name: name.clone(), commit: listing.commit, files, warning: None })
    }

    /// Downloads those of a commit's files that the cache does not have; returns each with where its bytes are.
    fn fetch(
        &self,
        name: &RepoName,
        kind: RepoType,
        listing: &Listing,
        files: Vec<String>,
        limit: u64,
        progress: OnProgress<'_>,
    ) -> Result<Vec<(String, PathBuf)>> {
        let cache_folder = self.cache_folder(name, kind);
        let at_commit = name.at(&listing.commit);
        let mut blobs = vec![];
        for file in files {
            let cached = cache_folder.repo.pointer_path(&listing.commit).join(&file);
            if cached.is_file() {
                blobs.push((file, cached));
                continue;
            }
            let remote_file = RemoteFile { name: &at_commit, kind, file: &file, limit };
            let blob = cache_folder.download(&self.remote, remote_file, progress)?;
            blobs.push((file, blob));
        }
        Ok(blobs)
    }

    fn cache_folder(&self, name: &RepoName, kind: RepoType) -> CacheFolder {
        let repo = repo(name, kind);
        let folder = self.settings.cache.join(repo.folder_name());
        CacheFolder { repo: self.cache.repo(repo), folder }
    }

    fn cached_gguf(&self, name: &RepoName, file: &str) -> Result<Cached> {
        let cache_folder = self.cache_folder(name, RepoType::Model);
        let Some((commit, path)) = cache_folder.snapshot(name)? else {
            return Ok(Cached::Nothing("not at this revision".into()));
        };
        let mut names = vec![];
        list(&path, "", 0, &mut names);
        names.sort();
        let files = layout::gguf_parts(file, &names);
        if files.is_empty() || !layout::are_whole(&files) {
            return Ok(Cached::Nothing(format!("of which it has not all of `{file}`")));
        }
        Ok(Cached::Whole(HubSnapshot { path, name: name.clone(), commit, files, warning: None }))
    }

    fn cached_model(&self, name: &RepoName, settings: &[&str]) -> Result<Cached> {
        let cache_folder = self.cache_folder(name, RepoType::Model);
        let Some((commit, path)) = cache_folder.snapshot(name)? else {
            return Ok(Cached::Nothing("not at this revision".into()));
        };
        let has = |file: &str| path.join(file).is_file();
        let mut files: Vec<String> = settings.iter().filter(|file| has(file)).map(|file| (*file).to_string()).collect();
        let nothing = |file: &str| Ok(Cached::Nothing(format!("of which it has no `{file}`")));
        if !has(CONFIG) {
            return nothing(CONFIG);
        }
        if has(WEIGHTS) {
            files.push(WEIGHTS.into());
        } else if has(INDEX) {
            let Ok(shards) = layout::shards(&read(&path.join(INDEX))?) else { return nothing(INDEX) };
            if let Some(lacking) = shards.iter().find(|file| !has(file)) {
                return nothing(lacking);
            }
            files.push(INDEX.into());
            files.extend(shards);
        } else {
            return nothing(WEIGHTS);
        }
        files.sort();
        let is_known = |file: &str| has(file) || cache_folder.is_absent(&commit, file) || !settings.contains(&file);
        let has_vocabulary =
            VOCABULARIES.iter().any(|file| has(file)) || VOCABULARIES.iter().all(|file| is_known(file));
        let lacking = match (has_vocabulary, is_known(TOKENIZER_CONFIG)) {
            (false, _) => Some("without a tokenizer"),
            (_, false) => Some("without `tokenizer_config.json`"),
            _ => None,
        };
        let snapshot = HubSnapshot { path, name: name.clone(), commit, files, warning: None };
        Ok(match lacking {
            Some(lacking) => Cached::Partial(snapshot, lacking.into()),
            None => Cached::Whole(snapshot),
        })
    }

    fn cached_rows(&self, rows: &RowsName) -> Result<Cached> {
        let cache_folder = self.cache_folder(&rows.name, RepoType::Dataset);
        let Some((commit, path)) = cache_folder.snapshot(&rows.name)? else {
            return Ok(Cached::Nothing("not at this revision".into()));
        };
        let mut names = vec![];
        list(&path, "", 0, &mut names);
        names.sort();
        let readme = path.join(README);
        let has_readme = readme.is_file();
        let text = if has_readme { Some(read(&readme)?) } else { None };
        let text = text.as_deref().map(String::from_utf8_lossy);
        let files = match layout::row_files(rows, &names, text.as_deref()) {
            Ok(files) if layout::are_whole(&files) => files,
            Ok(_) => return Ok(Cached::Nothing("of which it has some files only".into())),
            Err(error) => return Ok(Cached::Nothing(format!("as far as it goes: {error}"))),
        };
        let is_known = has_readme || cache_folder.is_absent(&commit, README);
        let snapshot = HubSnapshot { path, name: rows.name.clone(), commit, files, warning: None };
        Ok(match is_known {
            true => Cached::Whole(snapshot),
            false => Cached::Partial(snapshot, format!("without `{README}`, which names the configurations")),
        })
    }
}

impl HubSnapshot {
    /// Where the files are.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.iter().map(|file| self.path.join(file))
    }

    /// The hash of each file on the hub: its blob's name in the cache, else its SHA-256.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn hashes(&self) -> Result<Vec<(String, String)>> {
        let hash = |file: &String| {
            let path = self.path.join(file);
            let blob =
                std::fs::read_link(&path).ok().filter(|to| to.parent().is_some_and(|blobs| blobs.ends_with("blobs")));
            let blob = blob.and_then(|to| BlobHash::parse(to.file_name()?.to_str()?));
            blob.map_or_else(|| transfer::sha256(&path), |blob| Ok(blob.as_str().to_string()))
        };
        self.files.iter().map(|file| Ok((file.clone(), hash(file)?))).collect()
    }
}

/// A repository's folder in the cache.
struct CacheFolder {
    repo: CacheRepo,
    folder: PathBuf,
}

impl CacheFolder {
    /// The commit of a revision, and the folder of its files, where the cache has both.
    fn snapshot(&self, name: &RepoName) -> Result<Option<(String, PathBuf)>> {
        let commit = match is_commit(&name.revision) {
            true => Some(name.revision.clone()),
            false => {
                let mut text = String::new();
                let file = File::open(self.folder.join("refs").join(&name.revision));
                let read = file.and_then(|file| file.take(64).read_to_string(&mut text));
                read.ok().map(|_| text.trim().to_string()).filter(|commit| is_commit(commit))
            }
        };
        Ok(commit.map(|commit| (commit.clone(), self.repo.pointer_path(&commit))).filter(|(_, path)| path.is_dir()))
    }

    fn is_absent(&self, commit: &str, file: &str) -> bool {
        self.folder.join(".no_exist").join(commit).join(file).is_file()
    }

    /// Downloads a file among the blobs. Another process that is at the same file is waited for.
    fn download(&self, remote: &Remote, file: RemoteFile<'_>, progress: OnProgress<'_>) -> Result<PathBuf> {
        let io = |action, path: &Path, source| Error::Io { action, path: path.into(), source };
        // a file of a commit never changes: a partial download can be resumed
        let key = Sha256::digest(format!("{} {}", file.name.revision, file.file));
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let part = self.folder.join("blobs").join(format!("{key}.incomplete"));
        let lock = self
            .folder
            .with_file_name(".locks")
            .join(self.folder.file_name().unwrap_or_default())
            .join(format!("{key}.lock"));
        create_parent(&part)?;
        create_parent(&lock)?;
        let lock_file = File::create(&lock).map_err(|e| io("create", &lock, e))?;
        lock_file.lock().map_err(|e| io("lock", &lock, e))?;
        let blob = |hash: &BlobHash| self.folder.join("blobs").join(hash.as_str());
        let hash = transfer::download(remote, file, &part, &|hash| blob(hash).is_file(), progress)?;
        let to = blob(&hash);
        match to.is_file() {
            true => drop(std::fs::remove_file(&part)),
            false => std::fs::rename(&part, &to).map_err(|e| io("rename", &part, e))?,
        }
        Ok(to)
    }

    /// Gives a blob its name in a commit's folder.
    fn link(&self, commit: &str, file: &str, blob: &Path) -> Result<()> {
        let path = self.repo.pointer_path(commit).join(file);
        let is_blob = blob.parent() == Some(&self.folder.join("blobs"));
        let Some(name) = blob.file_name().filter(|_| is_blob) else {
            return Ok(()); // it is there by its name
        };
        create_parent(&path)?;
        let up = "../".repeat(2 + file.matches('/').count());
        let target = Path::new(&up).join("blobs").join(name);
        let _ = std::fs::remove_file(&path); // a link to nothing
        std::os::unix::fs::symlink(&target, &path).map_err(|source| Error::Io { action: "link", path, source })
    }
}

fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    std::fs::create_dir_all(parent).map_err(|source| Error::Io { action: "create", path: parent.into(), source })
}

/// The bytes of a file of settings.
fn read(path: &Path) -> Result<Vec<u8>> {
    let io = |source| Error::Io { action: "read", path: path.into(), source };
    let mut bytes = vec![];
    File::open(path).map_err(io)?.take(MAX_SETTINGS + 1).read_to_end(&mut bytes).map_err(io)?;
    match bytes.len() as u64 > MAX_SETTINGS {
        true => Err(Error::TooLarge { file: path.display().to_string(), limit: MAX_SETTINGS }),
        false => Ok(bytes),
    }
}

/// The names of the files below a folder.
fn list(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if names.len() >= MAX_CACHED {
            return;
        } else if path.is_file() && is_file_name(&name) {
            names.push(name);
        } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < MAX_DEPTH {
            list(&path, &format!("{name}/"), depth + 1, names);
        }
    }
}
