//! Removes the files of processes that have ended.

use crate::files::TEMPORARY;
use crate::lease::Lease;
use crate::live;
use crate::process::is_gone_by_tag;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Time without a change after which the files of an unknown process count as abandoned.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Nested folders that are swept.
const MAX_DEPTH: usize = 6;

/// Whether `path`, with its writer's tag after `mark` in its name, is abandoned: the writer has ended, or is not visible from
/// here, has changed nothing for a day, and holds no lease.
pub(crate) fn is_left_behind(path: &Path, mark: &str) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some((stage, tag)) = name.split_once(mark) else { return false };
    is_gone_by_tag(tag).unwrap_or_else(|| {
        if path.parent().is_some_and(|stages| Lease::is_held(stages, stage)) {
            return false; // a long training writes its stage only at its end
        }
        let changed = |path: &Path| std::fs::symlink_metadata(path).and_then(|data| data.modified()).ok();
        let inside = std::fs::read_dir(path).into_iter().flatten().flatten().filter_map(|entry| changed(&entry.path()));
        let last_change = inside.chain(changed(path)).max();
        last_change.is_some_and(|last| SystemTime::now().duration_since(last).is_ok_and(|age| age > ABANDONED_AFTER))
    })
}

/// Removes what killed processes left in a run directory: temporary files, unfinished stages, attempts at a lease, live files.
/// Files of running processes stay; so do those of unknown processes until they have not changed for a day.
pub fn sweep(run: &Path) {
    sweep_below(run, 0);
    live::remove_abandoned(run);
}

fn sweep_below(folder: &Path, depth: usize) {
    for path in std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(data) = std::fs::symlink_metadata(&path) else { continue };
        if data.is_file() && [TEMPORARY, ".lease-"].iter().any(|mark| is_left_behind(&path, mark)) {
            let _ = std::fs::remove_file(&path);
        } else if data.is_dir() && is_left_behind(&path, ".making-") {
            let _ = std::fs::remove_dir_all(&path);
        } else if data.is_dir() && depth < MAX_DEPTH {
            sweep_below(&path, depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::{create_folder, parent};
    use crate::process::ProcessId;

    #[test]
    fn abandoned_files_are_distinguished_from_files_being_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = ProcessId::here();
        let make = |tag: &str| {
            let path = folder.path().join(format!("cell-abc.making-{tag}"));
            std::fs::create_dir_all(&path).expect("made");
            std::fs::write(path.join("half"), b"a").expect("written");
            path
        };
        assert!(!is_left_behind(&make(&here.tag()), ".making-"));
        assert!(is_left_behind(&make(&ProcessId { began: 1, ..here.clone() }.tag()), ".making-"));
        let unseen = make(&ProcessId { host: "elsewhere".into(), ..here }.tag());
        assert!(!is_left_behind(&unseen, ".making-"));
        for path in [unseen.join("half"), unseen.clone()] {
            let file = std::fs::File::open(path).expect("there");
            file.set_modified(SystemTime::now() - 2 * ABANDONED_AFTER).expect("set");
        }
        std::fs::write(folder.path().join("cell-abc.lease"), b"renewed just now").expect("written");
        assert!(!is_left_behind(&unseen, ".making-"));
        std::fs::remove_file(folder.path().join("cell-abc.lease")).expect("removed");
        assert!(is_left_behind(&unseen, ".making-"));
    }

    #[test]
    fn files_of_dead_processes_are_removed_and_those_of_running_ones_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path();
        let (here, dead_process) = (ProcessId::here(), ProcessId { began: 1, ..ProcessId::here() });
        let create = |path: &str, owner: &ProcessId| {
            let path = run.join(path.replace("OWNER", &owner.tag()));
            create_folder(parent(&path)).expect("made");
            std::fs::write(&path, b"half").expect("written");
            path
        };
        let paths = [
            ".tmp-OWNER-0",
            "live/.tmp-OWNER-1",
            "stages/cell-0123.kept/.tmp-OWNER-2",
            "stages/cell-0123.making-OWNER-0/weights",
            "stages/cell-0123.lease-OWNER-4",
            "report/charts/.tmp-OWNER-3",
        ];
        let (dead, alive) = (paths.map(|path| create(path, &dead_process)), paths.map(|path| create(path, &here)));
        let live_file =
            |owner: &ProcessId| serde_json::to_vec(&live::Live::owned_by(owner.clone())).expect("plain data");
        for (name, owner) in [("live/dead.json", &dead_process), ("live/alive.json", &here)] {
            std::fs::write(run.join(name), live_file(owner)).expect("written");
        }
        let other_files = ["stages/.DS_Store", "stages/cell-0123.lease", ".tmp-notes"].map(|path| create(path, &here));
        sweep(run);
        assert!(dead.iter().all(|path| !path.exists()), "{dead:?}");
        assert!(!run.join("live/dead.json").exists() && run.join("live/alive.json").exists());
        assert!(alive.iter().chain(&other_files).all(|path| path.exists()), "{alive:?}");
    }
}
