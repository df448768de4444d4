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
mod process;
mod recorder;
mod rounds;
mod run;
mod stage;
mod stage_id;
mod sweep;
mod tables;

pub use digest::{Digest, Digests, digest, file_digests};
pub use error::{Error, Result, first_and_more};
pub use events::write_events;
pub use files::write_atomically;
pub use lease::Lease;
pub use live::{Live, Progress};
pub use lock::RunLock;
pub use manifest::{HostInfo, Manifest, PlannedStage};
pub use merged::{RunSubset, TableSource, merge};
pub use recorder::StageRecorder;
pub use rounds::{cells_of, forget_rounds, read_rounds, write_rounds};
pub use run::RunDir;
pub use stage::StageDir;
pub use stage_id::StageId;
pub use sweep::sweep;
pub use tables::{
    MetricTable, Outcomes, SharedMetricRow, merge_tables, read_completions, read_metrics, read_outcomes, scan_metrics,
    write_completions, write_metrics, write_outcomes,
};
