//! Worlds that can be enumerated, as tables: one row per prompt, one column per response.

use crate::{ResponseDistribution, optimum};
use duel_data::grammar::{
    GrammarWorld, PromptCoordinates, all_responses, excited_proxy, excitements, gold, reference_decisions,
    response_logp,
};
use duel_data::{World, bandit};
use duel_spec::Split;
use serde::Serialize;

/// Reference, rewards and trap of a world.
#[derive(Debug, Clone)]
pub struct WorldTables {
    pub reference: Vec<ResponseDistribution>,
    pub gold: Vec<Vec<f64>>,
    /// The reward of a model misled by pairs that never show the trap.
    pub proxy: Vec<Vec<f64>>,
    /// 1 where a response is in the trap.
    pub trap: Vec<f64>,
}

/// The optimum at one β, means over prompts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Optimum {
    pub beta: f64,
    pub reference_gold: f64,
    /// Mean gold reward of the optimum of the optimised reward.
    pub gold: f64,
    /// Mean KL to the reference, nats.
    pub kl: f64,
    /// `gold − β kl`
    pub objective: f64,
    /// Mass on the trap.
    pub p_trap: f64,
}

impl WorldTables {
    /// The world `bandit`; the proxy is the shared-feature one.
    pub fn bandit() -> Self {
        let table = |f: fn(usize, usize) -> f64| {
            (0..bandit::PROMPTS).map(|x| (0..bandit::RESPONSES).map(|y| f(x, y)).collect()).collect()
        };
        Self {
            reference: vec![ResponseDistribution::new(bandit::reference_logp()); bandit::PROMPTS],
            gold: table(bandit::gold),
            proxy: table(bandit::shared_feature_proxy),
            trap: (0..bandit::RESPONSES).map(|y| f64::from(bandit::is_trap(y))).collect(),
        }
    }

    /// The world `grammar` on the prompts of a split, with the grammar itself as the reference; the proxy is gold with 1.5 for
    /// every excitement.
    pub fn grammar(world: &GrammarWorld, split: Split) -> Self {
        let reference = |prompts: &[Vec<u32>]| {
            let distribution = |p: &Vec<u32>| {
                ResponseDistribution::new(response_logp(&reference_decisions(
                    PromptCoordinates::from_prompt(p).stance,
                    world.rho(),
                )))
            };
            prompts.iter().map(distribution).collect()
        };
        Self::grammar_with(world, split, reference)
    }

    /// The same with another reference, given as a function of the prompts.
    pub fn grammar_with(
        world: &GrammarWorld,
        split: Split,
        reference: impl FnOnce(&[Vec<u32>]) -> Vec<ResponseDistribution>,
    ) -> Self {
        let all = all_responses();
        let prompts: Vec<Vec<u32>> = world.prompts(split).iter().map(|p| p.ids.clone()).collect();
        let judged = |judge: fn(PromptCoordinates, &[u32]) -> f64| {
            prompts.iter().map(|p| all.iter().map(|r| judge(PromptCoordinates::from_prompt(p), r)).collect()).collect()
        };
        Self {
            reference: reference(&prompts),
            gold: judged(gold),
            proxy: judged(excited_proxy),
            trap: all.iter().map(|r| f64::from(excitements(r) >= 2)).collect(),
        }
    }

    /// The optimum of `rewards` (gold or the proxy) at one β, evaluated by gold.
    pub fn optimum(&self, rewards: &[Vec<f64>], beta: f64) -> Optimum {
        let mean = |f: &dyn Fn(usize) -> f64| (0..self.gold.len()).map(f).sum::<f64>() / self.gold.len() as f64;
        let best: Vec<ResponseDistribution> =
            self.reference.iter().zip(rewards).map(|(distribution, r)| optimum(distribution, r, beta)).collect();
        let gold = mean(&|x| best[x].expect(&self.gold[x]));
        let kl = mean(&|x| best[x].kl(&self.reference[x]));
        Optimum {
            beta,
            reference_gold: mean(&|x| self.reference[x].expect(&self.gold[x])),
            gold,
            kl,
            objective: gold - beta * kl,
            p_trap: mean(&|x| best[x].expect(&self.trap)),
        }
    }

    /// `E gold − β KL` of a policy, one distribution per prompt.
    pub fn objective(&self, policy: &[ResponseDistribution], beta: f64) -> f64 {
        let terms = policy.iter().zip(&self.reference).zip(&self.gold);
        terms
            .map(|((distribution, reference), gold)| distribution.expect(gold) - beta * distribution.kl(reference))
            .sum::<f64>()
            / policy.len() as f64
    }
}
