//! One file per command of `duel`, with its arguments.

pub mod args;
pub mod bench;
pub mod cache;
pub mod cancel;
pub mod data;
pub mod digest;
pub mod doctor;
pub mod export;
pub mod export_reward;
pub mod import;
pub mod init;
pub mod merge;
pub mod optimum;
pub mod plan;
pub mod report;
pub mod row_report;
pub mod run;
pub mod sample;
pub mod verify;
pub mod watch;
pub mod worker;
