//! Every random choice comes from a generator derived here, never from global state, so that
//! resuming, reordering and parallel workers change nothing.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use std::borrow::Cow;
use std::cell::RefCell;

/// The generator type used everywhere.
pub type Rng = ChaCha8Rng;

/// Every stream of random numbers of a run. Each is drawn from in one place of the code, and no two have the same name, so that
/// none repeats another; `runner/tests/walls.rs` checks both. The comments give the iteration of each stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream<'a> {
    /// 0.
    BaseInit,
    /// The step.
    BaseWindows,
    /// 0.
    SftInit,
    /// 0.
    SftLora,
    /// 0.
    SftCorpus,
    /// 0.
    SftHeldOut,
    /// The epoch.
    SftRows,
    /// The split.
    PairResponses,
    /// The split.
    PairLabels,
    /// The epoch; the member of the ensemble.
    RmRows(usize),
    /// The member of the ensemble.
    RmLora,
    /// 0.
    RmSamples,
    /// The epoch.
    DpoRows,
    /// The step.
    DpoFilter,
    /// The iteration; the same prompts for every method on rollouts.
    Prompts,
    /// The iteration.
    Rollout,
    /// The iteration, as for all minibatches.
    PpoMinibatches,
    CriticFreeMinibatches,
    RaftMinibatches,
    OnlineDpoMinibatches,
    /// The iteration.
    OnlineDpoLabels,
    /// The iteration.
    ClippedTokens,
    /// The iteration.
    Dropout,
    /// 0.
    PolicyLora,
    /// 0.
    CriticLora,
    /// The split; the same numbers for every policy and at every point of a curve, as in all of evaluation.
    EvaluatedPolicy,
    EvaluatedReference,
    EvaluatedAgain,
    BestOfN,
    /// 0.
    Completions,
    /// 0.
    SamplerCheck,
    /// The number of the draw that the user requests.
    Sample,
    /// 0.
    HumanPairs,
    /// 0.
    RatedPairs,
    /// The number of the point; the arm.
    Search(&'a str),
    Tpe(&'a str),
    /// 0.
    PromptBootstrap,
}

impl Stream<'_> {
    /// Stage and purpose.
    fn names(self) -> (Cow<'static, str>, &'static str) {
        let (stage, purpose) = match self {
            Self::BaseInit => ("base", "init"),
            Self::BaseWindows => ("base", "windows"),
            Self::SftInit => ("sft", "init"),
            Self::SftLora => ("sft", "lora"),
            Self::SftCorpus => ("sft", "corpus"),
            Self::SftHeldOut => ("sft", "heldout"),
            Self::SftRows => ("sft", "rows"),
            Self::PairResponses => ("pairs", "responses"),
            Self::PairLabels => ("pairs", "labels"),
            Self::RmRows(0) => ("rm", "rows"),
            Self::RmRows(member) => return (format!("rm-{member}").into(), "rows"),
            Self::RmLora => ("rm", "lora"),
            Self::RmSamples => ("rm", "normalising samples"),
            Self::DpoRows => ("dpo", "rows"),
            Self::DpoFilter => ("dpo", "filter"),
            Self::Prompts => ("ppo", "prompts"),
            Self::Rollout => ("ppo", "rollout"),
            Self::PpoMinibatches => ("ppo", "minibatches"),
            Self::CriticFreeMinibatches => ("critic-free", "minibatches"),
            Self::RaftMinibatches => ("raft", "minibatches"),
            Self::OnlineDpoMinibatches => ("online-dpo", "minibatches"),
            Self::OnlineDpoLabels => ("online-dpo", "labels"),
            Self::ClippedTokens => ("clip-cov", "tokens"),
            Self::Dropout => ("dropout", "rows"),
            Self::PolicyLora => ("lora", "init"),
            Self::CriticLora => ("lora", "critic"),
            Self::EvaluatedPolicy => ("evaluation", "policy"),
            Self::EvaluatedReference => ("evaluation", "reference"),
            Self::EvaluatedAgain => ("evaluation", "policy again"),
            Self::BestOfN => ("evaluation", "best of n"),
            Self::Completions => ("evaluation", "completions"),
            Self::SamplerCheck => ("evaluation", "sampler"),
            Self::Sample => ("sample", "responses"),
            Self::HumanPairs => ("corpus", "human pairs"),
            Self::RatedPairs => ("corpus", "rated pairs"),
            Self::Search(arm) => return (arm.to_owned().into(), "search"),
            Self::Tpe(arm) => return (arm.to_owned().into(), "tpe"),
            Self::PromptBootstrap => ("report", "prompt bootstrap"),
        };
        (stage.into(), purpose)
    }
}

/// The generator of a stream at an iteration.
pub fn stream(seed: u64, stream: Stream<'_>, iteration: u64) -> Rng {
    let (stage, purpose) = stream.names();
    derive(seed, &stage, iteration, purpose)
}

/// The generator of (experiment seed, stage, iteration, purpose). A run uses [`stream`]; tests and benches choose their own names.
pub fn derive(seed: u64, stage: &str, iteration: u64, purpose: &str) -> Rng {
    TAKEN.with_borrow_mut(|taken| {
        if let Some(taken) = taken {
            taken.push(Taken { seed, stage: stage.into(), iteration, purpose: purpose.into() });
        }
    });
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    hash.update((stage.len() as u64).to_le_bytes());
    hash.update(stage);
    hash.update(iteration.to_le_bytes());
    hash.update(purpose);
    ChaCha8Rng::from_seed(hash.finalize().into())
}

/// A generator that was made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Taken {
    pub seed: u64,
    pub stage: String,
    pub iteration: u64,
    pub purpose: String,
}

thread_local! {
    static TAKEN: RefCell<Option<Vec<Taken>>> = const { RefCell::new(None) };
}

/// Runs `work` and lists the generators that it made on this thread, for tests.
pub fn taken_by<T>(work: impl FnOnce() -> T) -> (T, Vec<Taken>) {
    TAKEN.set(Some(vec![]));
    let done = work();
    (done, TAKEN.take().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngExt;

    #[test]
    fn each_coordinate_gives_its_own_stream() {
        let first =
            |seed, stage: &str, iteration, purpose: &str| derive(seed, stage, iteration, purpose).random::<u64>();
        let streams = [
            first(0, "sft", 0, "rows"),
            first(1, "sft", 0, "rows"),
            first(0, "rm", 0, "rows"),
            first(0, "sft", 1, "rows"),
            first(0, "sft", 0, "init"),
            first(0, "sf", 0, "trows"),
        ];
        let distinct: std::collections::HashSet<_> = streams.iter().collect();
        assert_eq!(distinct.len(), streams.len());
        assert_eq!(first(0, "sft", 0, "rows"), streams[0]);
    }

    #[test]
    fn generators_are_listed_while_work_runs() {
        let _ = stream(0, Stream::SftRows, 0);
        let (_, taken) = taken_by(|| stream(3, Stream::RmRows(2), 5));
        let expected = Taken { seed: 3, stage: "rm-2".into(), iteration: 5, purpose: "rows".into() };
        assert_eq!(taken, [expected]);
        assert_eq!(taken_by(|| ()).1, []);
    }
}
