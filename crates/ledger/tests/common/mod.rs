//! A stage and a completion for tests.

use duel_ledger::{StageDir, StageId, write_atomically};
use duel_spec::Completion;
use std::path::Path;

pub fn id() -> StageId {
    StageId { kind: "sft".into(), hash: "0123".into() }
}

/// A finished stage of one file.
pub fn make(stages: &Path) -> StageDir {
    let key = serde_json::json!({"rate": 5e-4, "stages": {"sft": {"steps": 3}}, "seed": 1});
    StageDir::make(stages, &id(), &key, |to| write_atomically(&to.join("weights"), b"abc")).expect("a stage")
}

pub fn completion() -> Completion {
    Completion {
        arm: "ppo".into(),
        point: "beta=1".into(),
        seed: 0,
        step: 9,
        split: "test".into(),
        prompt: "praise the plot:".into(),
        completion: "very good — wow!".into(),
        gold_reward: 1.0,
        proxy_reward: f64::NAN,
        kl: 0.5,
        tokens: 4,
        ended: true,
    }
}
