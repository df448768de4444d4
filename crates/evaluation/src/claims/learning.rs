//! A11 and C7: trainings on the world `bandit`, with a table of logits as the policy.

use super::claim::ExactClaim;
use super::theory::{largest, normalised, sigmoid};
use crate::{ResponseDistribution, Result, WorldTables};
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use duel_data::World;
use duel_data::bandit::{PROMPTS, RESPONSES};
use duel_data::grammar::GrammarWorld;
use duel_model::weights::host;
use duel_model::{Policy, ResponseReader, TransformerConfig, generate};
use duel_objectives::{ChosenRejected, PairLogp, PolicyGradientLoss, PreferenceLoss, ResponseMask, preference_loss};
use duel_spec::{LearnerSettings, Split, seeds};
use duel_training::{Learner, logprobs};
use rand::distr::Distribution;
use rand::distr::weighted::WeightedIndex;

/// A table of logits, one row per prompt.
#[derive(Module, Debug)]
struct LogitTable {
    logits: Param<Tensor<2>>,
}

impl LogitTable {
    /// The reference itself.
    fn new(s0: &WorldTables, device: &Device) -> Self {
        let logits: Vec<f32> = s0.reference.iter().flat_map(|q| q.logp.iter().map(|l| *l as f32)).collect();
        Self { logits: Param::from_tensor(Tensor::from_data(TensorData::new(logits, [PROMPTS, RESPONSES]), device)) }
    }

    /// `log π(y|x)`, `[4, 64]`.
    fn logp(&self) -> Tensor<2> {
        log_softmax(self.logits.val(), 1)
    }

    fn distributions(&self) -> Vec<ResponseDistribution> {
        let logits = host(self.logits.val().inner());
        logits.chunks(RESPONSES).map(|row| normalised(row.iter().map(|&x| f64::from(x)).collect())).collect()
    }
}

/// The defaults, AdamW at a rate that falls linearly to zero, without warm-up. The gradients stay below the bound on their
/// norm: nothing is clipped.
fn adamw() -> LearnerSettings {
    LearnerSettings { warmup: 0.0, ..LearnerSettings::defaults() }
}

/// A11: PPO on gold with exact advantages, and DPO on all pairs, reach the optimum's objective.
pub fn both_methods_reach_the_optimum() -> Result<ExactClaim> {
    let s0 = WorldTables::bandit();
    let mut claim = ExactClaim::new(
        "A11",
        "PPO with exact advantages on gold reward reaches J(π*) within .01, and so does DPO on all pairs",
    );
    for beta in [1.0, 0.5, 0.25] {
        let best = s0.optimum(&s0.gold, beta).objective;
        let by_ppo = s0.objective(&ppo(&s0, beta)?, beta);
        let (distributions, loss) = dpo(&s0, beta)?;
        let by_dpo = s0.objective(&distributions, beta);
        claim = claim
            .near(format!("PPO's objective at β {beta}"), best, by_ppo, 0.01)
            .near(format!("DPO's objective at β {beta}"), best, by_dpo, 0.01)
            .near(format!("DPO's last loss at β {beta}"), 0.532224, loss, 1e-4)
            .at_most(format!("the better of both at β {beta}, under the optimum"), best, by_ppo.max(by_dpo), 1e-6);
    }
    Ok(claim)
}

/// 150 iterations of 512 episodes, 4 epochs of 4 minibatches, clip .2; the advantage of every response is exact.
fn ppo(s0: &WorldTables, beta: f64) -> Result<Vec<ResponseDistribution>> {
    const ITERATIONS: u64 = 150;
    const EPISODES: usize = 512;
    let device = Device::flex().autodiff();
    let mut learner = Learner::new(LogitTable::new(s0, &device), &adamw(), 0.1, ITERATIONS * 16);
    for iteration in 0..ITERATIONS {
        // 1. Roll out: one prompt and one response per episode.
        let old = learner.module().distributions();
        let mut rng = seeds::derive(0, "claims", iteration, "A11");
        let samplers: Vec<WeightedIndex<f64>> = old.iter().map(sampler).collect();
        let episodes: Vec<(usize, usize)> =
            (0..EPISODES).map(|i| (i % PROMPTS, samplers[i % PROMPTS].sample(&mut rng))).collect();
        // 2. Exact advantages: the response's reward minus the mean reward of its prompt.
        let earned = |x: usize, y: usize| s0.gold[x][y] - beta * (old[x].logp[y] - s0.reference[x].logp[y]);
        let expected: Vec<f64> =
            (0..PROMPTS).map(|x| old[x].expect(&(0..RESPONSES).map(|y| earned(x, y)).collect::<Vec<_>>())).collect();
        // 3. Update.
        for _ in 0..4 {
            for batch in 0..4 {
                let rows: Vec<(usize, usize)> = episodes.iter().copied().skip(batch).step_by(4).collect();
                let column = |f: &dyn Fn(usize, usize) -> f64| {
                    let values: Vec<f32> = rows.iter().map(|&(x, y)| f(x, y) as f32).collect();
                    Tensor::<2>::from_data(TensorData::new(values, [rows.len(), 1]), &device)
                };
                let logp = entries(learner.module().logp(), &rows).unsqueeze_dim::<2>(1); // [b, 1]
                let mask = ResponseMask::from_lengths(&vec![1; rows.len()], 1, &device);
                let advantages = column(&|x, y| earned(x, y) - expected[x]);
                let loss = PolicyGradientLoss::clipped(0.2)
                    .evaluate(logp, column(&|x, y| old[x].logp[y]), advantages, &mask)
                    .loss;
                learner.minimize(loss)?;
            }
        }
    }
    Ok(learner.module().distributions())
}

/// 600 steps on the loss over all ordered pairs at their population weights; and that loss before the last of them.
fn dpo(s0: &WorldTables, beta: f64) -> Result<(Vec<ResponseDistribution>, f64)> {
    let device = Device::flex().autodiff();
    let distinct = || (0..RESPONSES).flat_map(|a| (0..RESPONSES).map(move |b| (a, b))).filter(|(a, b)| a != b);
    let rows = |pick: fn((usize, usize)) -> usize| -> Vec<(usize, usize)> {
        (0..PROMPTS).flat_map(|x| distinct().map(move |pair| (x, pick(pair)))).collect()
    };
    let (chosen, rejected) = (rows(|p| p.0), rows(|p| p.1));
    let column = |f: &dyn Fn(usize) -> f64| {
        let values: Vec<f32> = (0..chosen.len()).map(|i| f(i) as f32).collect();
        Tensor::<1>::from_data(TensorData::new(values, [chosen.len()]), &device)
    };
    let reference = |rows: &[(usize, usize)]| column(&|i| s0.reference[rows[i].0].logp[rows[i].1]);
    let chance = |i: usize| {
        let ((x, a), (_, b)) = (chosen[i], rejected[i]);
        (s0.reference[x].logp[a] + s0.reference[x].logp[b]).exp() * sigmoid(s0.gold[x][a] - s0.gold[x][b])
    };
    let total: f64 = (0..chosen.len()).map(chance).sum();
    let weights = column(&|i| chance(i) / total);
    let ones = weights.ones_like();
    let mut learner = Learner::new(LogitTable::new(s0, &device), &adamw(), 0.1, 600);
    let mut loss = f64::NAN;
    for _ in 0..600 {
        let logp = learner.module().logp();
        let pairs = PairLogp::new(
            ChosenRejected { chosen: entries(logp.clone(), &chosen), rejected: entries(logp, &rejected) },
            ChosenRejected { chosen: reference(&chosen), rejected: reference(&rejected) },
            ChosenRejected { chosen: ones.clone(), rejected: ones.clone() },
        );
        let outcome = preference_loss(&PreferenceLoss::Sigmoid { label_smoothing: 0.0 }, &pairs, beta);
        loss = learner.minimize((outcome.losses * weights.clone()).sum())?.loss;
    }
    Ok((learner.module().distributions(), loss))
}

/// C7: PPO learns from its own responses, and follows the reward.
pub fn ppo_learns_from_its_own_completions() -> Result<ExactClaim> {
    // the stored log-probs are those of the model
    let device = Device::flex();
    let world = GrammarWorld::new(0.02, 1);
    let space = world.space();
    let config = TransformerConfig::small(space.vocabulary, space.context(), 2, 32, 4, true);
    let policy = Policy::new(&config, &mut seeds::derive(0, "claims", 0, "C7"), &device);
    let prompts: Vec<Vec<u32>> = world.prompts(Split::Train).iter().cycle().take(240).map(|p| p.ids.clone()).collect();
    let batch = generate(&policy, space, prompts, &mut seeds::derive(0, "claims", 1, "C7"), &device);
    let reread = host(logprobs::response_logp(&ResponseReader::new(space, &device), &policy, &batch));
    let distances = batch.logp.iter().enumerate().flat_map(|(row, logp)| {
        let reread = &reread[row * space.response_tokens..];
        logp.iter().zip(reread).map(|(stored, reread)| f64::from((stored - reread).abs()))
    });
    let mut claim = ExactClaim::new(
        "C7",
        "PPO learns from its own completions: their stored log-probs are the policy's, and its loss follows the reward",
    )
    .near("largest distance of a stored log-prob to the recomputed one", 0.0, largest(distances), 1e-5);

    // One update on one action, of probability p = .05544: AdamW's first step moves its logit by ±.01 and the others by ∓.01,
    // and its log-prob by ±.01 − log(p exp(±.01) + (1 − p) exp(∓.01)).
    let s0 = WorldTables::bandit();
    for (advantage, word, expected) in [(1.0f32, "rewarded", 0.018881), (-1.0, "punished", -0.018902)] {
        let device = Device::flex().autodiff();
        let mut learner = Learner::new(LogitTable::new(&s0, &device), &adamw(), 0.01, 10);
        let row = [(1usize, 6usize)];
        let logp = entries(learner.module().logp(), &row).unsqueeze_dim::<2>(1); // [1, 1]
        let before = f64::from(host(logp.clone().inner())[0]);
        let mask = ResponseMask::from_lengths(&[1], 1, &device);
        let advantages = Tensor::from_data([[advantage]], &device);
        let loss = PolicyGradientLoss::clipped(0.2).evaluate(logp.clone(), logp.detach(), advantages, &mask).loss;
        learner.minimize(loss)?;
        let after = f64::from(host(entries(learner.module().logp(), &row).inner())[0]);
        let change = after - before;
        claim = claim.near(format!("change of the log-prob of the {word} action by a step"), expected, change, 1e-5);
    }
    Ok(claim)
}

/// Entries of a table, `[n]`.
fn entries(table: Tensor<2>, cells: &[(usize, usize)]) -> Tensor<1> {
    let index: Vec<i32> = cells.iter().map(|&(x, y)| (x * RESPONSES + y) as i32).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [cells.len()]), &table.device());
    table.reshape([PROMPTS * RESPONSES]).select(0, index)
}

/// Draws responses of a distribution.
fn sampler(policy: &ResponseDistribution) -> WeightedIndex<f64> {
    WeightedIndex::new(&policy.p).expect("probabilities are finite and sum to 1")
}
