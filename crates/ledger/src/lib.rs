//! The run directory: manifest, stages, metrics and completions as parquet, locks, atomic files.
//! Depends on no tensor library.

mod checksum;
mod digest;
mod error;
mod events;
mod files;
mod lease;
mod live;
mod lock;
mod manifest;
mod merged;
mod parts;
mod process;
mod recorder;
mod rounds;
mod run;
mod stage;
mod stage_id;
mod stage_tables;
mod sweep;
mod tables;

pub use digest::{Digest, Digests, digest, file_digests};
pub use error::{Error, Result, first_and_more};
pub use events::write_events;
pub use files::write_atomically;
pub use lease::Lease;
pub use live::{Live, Pace, Progress};
pub use lock::RunLock;
pub use manifest::{HostInfo, Manifest, PlannedStage, RunPart};
pub use merged::{RunSubset, StageTables, TableSource, merge, merge_stages};
pub use parts::{assign_stages, unite_parts};
pub use recorder::StageRecorder;
pub use rounds::{cells_of, forget_rounds, read_rounds, write_rounds};
pub use run::RunDir;
pub use stage::StageDir;
pub use stage_id::StageId;
pub use stage_tables::{MAX_DIFFERENCES, split_tables, stage_differences};
pub use sweep::sweep;
pub use tables::{
    MetricTable, Outcomes, SharedMetricRow, merge_tables, read_completions, read_metrics, read_outcomes, scan_metrics,
    write_completions, write_metrics, write_outcomes,
};
