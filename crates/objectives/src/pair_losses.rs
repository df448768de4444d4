// The losses on pairs of responses, one entry each; METHODS.md prints them as a table.
//
// Letters: `Δw`, `Δl` log-ratios of chosen and rejected (policy over reference, summed over tokens), `u = β(Δw − Δl)`,
// `e` label smoothing, `|y|` counted tokens. Log-probs in nats; `β` is reward per nat. What `pair` has: `PairLossInputs`.
//
//     Name { parameter: type }
//     experiment "word of `loss` in the experiment file; an entry without one is not offered there" {
//         costs          what a pair costs, and the paper
//         couples_pairs  whether a batch's loss is more than the mean of its pairs' losses
//         unpaired       whether the two responses of a row may answer different prompts
//         reads          inputs beside the policy's log-probs: Reference, Lengths, Ties, Mismatched, RewardShift
//         settings       keys of the arm that it reads, of those that not every loss reads
//         notes          deviations from the paper
//     }
//     from { |s| the parameters from the arm's settings }
//     golden [its names in tests/golden/preference_losses.json; none: tested by hand]
//     properties { |beta| properties that differ from `LossProperties::USUAL` }
//     loss { |pair| the loss of each pair, [N] }
//
// Four readers define the macro and include this file: `preference.rs` beside it (enum and equations), `spec/src/pair_loss.rs`
// (words and checks, without tensors), `dpo/src/loss.rs` (settings to parameters) and `tests/golden.rs`.

pair_losses! {
    Sigmoid { label_smoothing: f64 }
    experiment "sigmoid" {
        costs: "−(1−e) log σ(u) − e log σ(−u)",
        paper: "Rafailov et al. 2023, eq. 7; e > 0: Mitchell 2023 (cDPO)",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, label_smoothing, margin],
        notes: "none",
    }
    from { |s| label_smoothing: s.label_smoothing }
    golden ["sigmoid", "cdpo", "rpo_batch_nll", "rpo_sequence_nll"]
    loss { |pair| smoothed(pair.u(), label_smoothing) }

    SigmoidAveraged
    experiment "sigmoid_averaged" {
        costs: "the same on log-ratios per token",
        paper: "trl `sigmoid_norm`",
        couples_pairs: false, unpaired: false,
        reads: [Reference, Lengths], settings: [beta, nll_coef],
        notes: "none",
    }
    golden ["sigmoid_norm"]
    loss { |pair| log_sigmoid(pair.averaged_log_ratios().difference() * pair.beta).neg() }

    Robust { label_smoothing: f64 }
    experiment "robust" {
        costs: "(−(1−e) log σ(u) + e log σ(−u)) / (1−2e)",
        paper: "Chowdhury et al. 2024, eq. 12",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, label_smoothing, margin],
        notes: "none",
    }
    from { |s| label_smoothing: s.label_smoothing }
    golden ["robust"]
    loss { |pair|
        let e = label_smoothing;
        (log_sigmoid(pair.u().neg()) * e - log_sigmoid(pair.u()) * (1.0 - e)) / (1.0 - 2.0 * e)
    }

    Hinge
    experiment "hinge" {
        costs: "max(0, 1 − u)",
        paper: "Zhao et al. 2023 (SLiC)",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, margin],
        notes: "log-ratios, as in trl; the paper has log-probs",
    }
    golden ["hinge"]
    properties { |_| at_reference: Some(1.0), }
    loss { |pair| relu(pair.u().neg() + 1.0) }

    Ipo
    experiment "ipo" {
        costs: "(Δw − Δl − 1/(2β))²",
        paper: "Azar et al. 2023, eq. 17",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "none; β is the paper's τ",
    }
    golden ["ipo_summed"]
    properties { |beta| at_reference: Some((0.5 / beta).powi(2)), is_square: true, }
    loss { |pair| (pair.ratios.difference() - 0.5 / pair.beta).square() }

    IpoAveraged
    experiment "ipo_averaged" {
        costs: "the same on log-ratios per token",
        paper: "trl `ipo`",
        couples_pairs: false, unpaired: false,
        reads: [Reference, Lengths], settings: [beta, nll_coef],
        notes: "none",
    }
    golden ["ipo"]
    properties { |beta| at_reference: Some((0.5 / beta).powi(2)), is_square: true, }
    loss { |pair| (pair.averaged_log_ratios().difference() - 0.5 / pair.beta).square() }

    RaoKupper { alpha: f64 }
    experiment "rao_kupper" {
        costs: "−log σ(u − α); of a tie −log σ(u − α) − log σ(−u − α)",
        paper: "Rao & Kupper 1967; Chen et al. 2024 (DPO-RK)",
        couples_pairs: false, unpaired: false,
        reads: [Reference, Ties], settings: [beta, nll_coef, tie_margin],
        notes: "α is `tie_margin`. The other losses take the chosen response of a tie from a coin flip",
    }
    from { |s| alpha: s.tie_margin }
    golden []
    properties { |_| at_reference: Some((1.0 + alpha.exp()).ln()), doubles_on_ties: true, }
    loss { |pair| rao_kupper(pair.u(), pair.logp.tied.clone(), alpha) }

    Exo { label_smoothing: f64 }
    experiment "exo" {
        costs: "reverse KL between the policy's and the labels' distribution over the pair",
        paper: "Ji et al. 2024, eq. 16",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, label_smoothing],
        notes: "e = 0 counts as 1e-3, as in trl",
    }
    from { |s| label_smoothing: s.label_smoothing }
    golden ["exo_pair"]
    properties { |_|
        at_reference: {
            let e = exo_smoothing(label_smoothing);
            Some(-LN_2 - 0.5 * ((1.0 - e).ln() + e.ln()))
        },
    }
    loss { |pair|
        let (u, e) = (|| pair.u(), exo_smoothing(label_smoothing));
        sigmoid(u()) * (log_sigmoid(u()) - (1.0 - e).ln()) + sigmoid(u().neg()) * (log_sigmoid(u().neg()) - e.ln())
    }

    Nca
    experiment "nca" {
        costs: "−log σ(βΔw) − ½ log σ(−βΔw) − ½ log σ(−βΔl)",
        paper: "Chen et al. 2024",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "none",
    }
    golden ["nca_pair"]
    properties { |_| at_reference: Some(2.0 * LN_2), }
    loss { |pair|
        let ChosenRejected { chosen, rejected } = pair.rewards;
        (log_sigmoid(chosen.clone()) + (log_sigmoid(chosen.neg()) + log_sigmoid(rejected.neg())) * 0.5).neg()
    }

    Bco
    experiment "bco" {
        costs: "−log σ(βΔw − δ) − log σ(δ − βΔl), δ the mean reward so far",
        paper: "Jung et al. 2024",
        couples_pairs: true, unpaired: true,
        reads: [Reference, RewardShift], settings: [beta, nll_coef],
        notes: "δ is the mean, over the batches so far and this one, of the mean reward of both sides, without gradient: the running mean \
                of trl 0.11 (trl 1.16's `bco_pair` has δ = 0). No weights for prompts that differ between the sides (underlying \
                distribution matching). The validation loss takes δ from the validation rows",
    }
    golden ["bco_pair", "bco_pair_with_delta"]
    properties { |_| at_reference: Some(2.0 * LN_2), }
    loss { |pair|
        let ChosenRejected { chosen, rejected } = match pair.logp.reward_shift.clone() {
            Some(shift) => pair.rewards.map(|reward| reward - shift.clone()),
            None => pair.rewards,
        };
        (log_sigmoid(chosen) + log_sigmoid(rejected.neg())).neg()
    }

    Sppo
    experiment "sppo" {
        costs: "(Δw − 1/(2β))² + (Δl + 1/(2β))²",
        paper: "Wu et al. 2024",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "hard labels, one pass",
    }
    golden ["sppo_hard"]
    properties { |beta| at_reference: Some(2.0 * (0.5 / beta).powi(2)), is_square: true, }
    loss { |pair|
        let (ChosenRejected { chosen, rejected }, beta) = (pair.ratios, pair.beta);
        (chosen - 0.5 / beta).square() + (rejected + 0.5 / beta).square()
    }

    ApoZero
    experiment "apo_zero" {
        costs: "1 − σ(βΔw) + σ(βΔl)",
        paper: "D'Oosterlinck et al. 2024, eq. 7",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "none",
    }
    golden ["apo_zero"]
    properties { |_| at_reference: Some(1.0), }
    loss { |pair|
        let ChosenRejected { chosen, rejected } = pair.ratios;
        sigmoid(rejected * pair.beta) - sigmoid(chosen * pair.beta) + 1.0
    }

    ApoDown
    experiment "apo_down" {
        costs: "σ(βΔw) + 1 − σ(β(Δw − Δl))",
        paper: "D'Oosterlinck et al. 2024, eq. 8",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "pushes both down: unbounded on a policy that starts well",
    }
    golden ["apo_down"]
    properties { |_| at_reference: Some(1.0), ignores_ties: false, }
    loss { |pair| sigmoid(pair.ratios.chosen.clone() * pair.beta) - sigmoid(pair.u()) + 1.0 }

    Aot { label_smoothing: f64 }
    experiment "aot" {
        costs: "sigmoid on the sorted margins of policy and of reference",
        paper: "Melnyk et al. 2024",
        couples_pairs: true, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, label_smoothing],
        notes: "sorted within the minibatch",
    }
    from { |s| label_smoothing: s.label_smoothing }
    golden ["aot"]
    loss { |pair|
        let policy = pair.logp.policy.clone().difference().sort(0);
        let reference = pair.logp.reference.clone().difference().sort(0);
        smoothed((policy - reference) * pair.beta, label_smoothing)
    }

    AotUnpaired { label_smoothing: f64 }
    experiment "aot_unpaired" {
        costs: "sigmoid on the sorted log-ratios of chosen and of rejected",
        paper: "Melnyk et al. 2024",
        couples_pairs: true, unpaired: true,
        reads: [Reference], settings: [beta, nll_coef, label_smoothing],
        notes: "sorted within the minibatch",
    }
    from { |s| label_smoothing: s.label_smoothing }
    golden ["aot_unpaired"]
    loss { |pair|
        let ChosenRejected { chosen, rejected } = pair.ratios;
        smoothed((chosen.sort(0) - rejected.sort(0)) * pair.beta, label_smoothing)
    }

    DiscoPop { tau: f64 }
    experiment "discopop" {
        costs: "logistic and exponential, blended by σ(u/τ)",
        paper: "Lu et al. 2024",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, discopop_tau],
        notes: "none; at the reference its slope points the wrong way for τ < .5, as published",
    }
    from { |s| tau: s.discopop_tau }
    golden ["discopop"]
    // around the reference it rises again
    properties { |_| at_reference: Some(0.5 * LN_2 + 0.5), falls_towards_the_chosen: false, }
    loss { |pair|
        let (u, blend) = (|| pair.u(), pair.u() / tau); // [N]
        // exp(−u) σ(u/τ) as one exponential: apart, one overflows where the other is 0
        log_sigmoid(u()).neg() * (sigmoid(blend.clone()).neg() + 1.0) + (log_sigmoid(blend) - u()).exp()
    }

    ForwardKl
    experiment "forward_kl" {
        costs: "−log σ(β(f(Δw) − f(Δl))), f(Δ) = −exp(−Δ): forward KL in place of reverse",
        paper: "Wang et al. 2024 (f-DPO)",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "none",
    }
    golden ["sigmoid_forward_kl"]
    loss { |pair| smoothed(pair.ratios.map(|x| x.neg().exp().neg()).difference() * pair.beta, 0.0) }

    AlphaDivergence { alpha: f64 }
    experiment "alpha_divergence" {
        costs: "the same, f(Δ) = (exp((α−1)Δ) − 1)/(α−1)",
        paper: "Wang et al. 2024 (f-DPO)",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, alpha],
        notes: "the exponent is at most 80",
    }
    from { |s| alpha: s.alpha }
    golden ["sigmoid_alpha_divergence"]
    loss { |pair|
        let score = |x: Tensor<1>| ((x * (alpha - 1.0)).clamp_max(80.0).exp() - 1.0) / (alpha - 1.0);
        smoothed(pair.ratios.map(score).difference() * pair.beta, 0.0)
    }

    JsDivergence
    experiment "js_divergence" {
        costs: "the same, f(Δ) = Δ − softplus(Δ): Jensen–Shannon",
        paper: "Wang et al. 2024 (f-DPO)",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "none",
    }
    golden ["sigmoid_js_divergence"]
    loss { |pair| smoothed(pair.ratios.map(|x| x.clone() - softplus(x, 1.0)).difference() * pair.beta, 0.0) }

    SimPo { gamma: f64 }
    experiment "simpo" {
        costs: "−log σ(β(log π(y_w)/abs(y_w) − log π(y_l)/abs(y_l)) − γ)",
        paper: "Meng et al. 2024, eq. 6",
        couples_pairs: false, unpaired: false,
        reads: [Lengths], settings: [beta, nll_coef, simpo_margin],
        notes: "none; γ is `simpo_margin`; no reference",
    }
    from { |s| gamma: s.simpo_margin }
    golden ["simpo"]
    properties { |_| at_reference: None, }
    loss { |pair|
        let rewards = pair.averaged_policy().map(|x| x * pair.beta);
        PairLossOutput { losses: log_sigmoid(rewards.clone().difference() - gamma).neg(), rewards: Some(rewards), extra: None }
    }

    Orpo
    experiment "orpo" {
        costs: "NLL − β log σ(log odds ratio), of log-probs per token",
        paper: "Hong et al. 2024, eq. 6–7",
        couples_pairs: true, unpaired: false,
        reads: [Lengths], settings: [beta],
        notes: "starts from SFT like every arm; no reference",
    }
    golden ["orpo"]
    properties { |_| at_reference: None, ignores_ties: false, }
    loss { |pair|
        let averaged = pair.averaged_policy();
        let rewards = averaged.clone().map(|x| x * pair.beta);
        // 1 − p is 0 in f32 where p is nearly 1, and its logarithm infinite
        let rest = |x: Tensor<1>| (x.exp().neg() + 1.0).clamp_min(f64::from(f32::EPSILON) / 2.0).log();
        let log_odds = averaged.map(|x| x.clone() - rest(x)).difference();
        PairLossOutput { losses: log_sigmoid(log_odds) * -pair.beta, rewards: Some(rewards), extra: Some(chosen_nll(pair.logp)) }
    }

    Kto { weights: KtoWeights }
    experiment "kto" {
        costs: "w_D (1 − σ(β(Δw − z))) and w_U (1 − σ(β(z − Δl))), each response alone",
        paper: "Ethayarajh et al. 2024, eq. 7–8",
        couples_pairs: true, unpaired: true,
        reads: [Reference, Mismatched], settings: [beta, nll_coef, kto_desirable, kto_undesirable],
        notes: "z is the mean log-ratio, at least 0, of all responses of the batch, desirable and undesirable, each as the answer to \
                the prompt after its own: trl 1.16's (`_get_kl_completion_ids`), which pairs them once, in the order of the \
                file, where this does so in every shuffled batch. The paper shifts within a microbatch too (§4.1). Rows give \
                one response of each kind: of completions with a label, those of the rarer kind are repeated, and there must be \
                both kinds; a batch has at least two rows; tested by hand: `crates/dpo/src/dpo.rs`",
    }
    from { |s| weights: KtoWeights { desirable: s.kto_desirable, undesirable: s.kto_undesirable } }
    golden ["kto"]
    properties { |_|
        at_reference: Some(0.25 * (weights.desirable + weights.undesirable)),
        ignores_ties: weights.desirable == weights.undesirable,
        falls_towards_the_chosen: weights.desirable > 0.0 || weights.undesirable > 0.0,
    }
    loss { |pair|
        let ratios = pair.ratios;
        let zero = || Tensor::zeros([1], &ratios.chosen.device());
        let kl = pair.logp.mismatched.clone().map_or_else(zero, Tensor::mean);
        kto_loss(ratios, kl, weights, pair.beta).losses
    }

    KtoPair
    experiment "kto_pair" {
        costs: "each response against the other side's mean log-ratio, at least 0",
        paper: "Ethayarajh et al. 2024",
        couples_pairs: true, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef],
        notes: "batch form of pairs",
    }
    golden ["kto_pair"]
    properties { |_| at_reference: Some(0.5), }
    loss { |pair|
        let (ChosenRejected { chosen, rejected }, beta) = (pair.ratios.clone(), pair.beta);
        let kl = pair.ratios.map(|x| x.mean().clamp_min(0.0)); // [1] each
        let wins = sigmoid((chosen - kl.rejected) * beta);
        Tensor::cat(vec![wins, sigmoid((kl.chosen - rejected) * beta)], 0).neg() + 1.0 // [2N]
    }

    Positive { lambda: f64 }
    experiment "positive" {
        costs: "−log σ(u − βλ max(0, −Δw))",
        paper: "Pal et al. 2024, eq. 3 (times β)",
        couples_pairs: false, unpaired: false,
        reads: [Reference], settings: [beta, nll_coef, positive_lambda],
        notes: "λ = 0 is `sigmoid`",
    }
    from { |s| lambda: s.positive_lambda }
    golden []
    loss { |pair| log_sigmoid(pair.u() - relu(pair.ratios.chosen.clone().neg()) * (pair.beta * lambda)).neg() }

    PreferredFt
    experiment "preferred_ft" {
        costs: "−log π(y_w)",
        paper: "Rafailov et al. 2023, §6",
        couples_pairs: false, unpaired: false,
        reads: [], settings: [],
        notes: "no reference, no β",
    }
    golden []
    properties { |_| at_reference: None, ignores_ties: false, }
    loss { |pair| pair.logp.policy.chosen.clone().neg() }

    Unlikelihood { alpha: f64 }
    experiment "unlikelihood" {
        costs: "−log π(y_w) + α log π(y_l)",
        paper: "Welleck et al. 2020; Rafailov et al. 2023, §6",
        couples_pairs: false, unpaired: false,
        reads: [], settings: [unlikelihood_alpha],
        notes: "of whole responses; no reference, no β",
    }
    from { |s| alpha: s.unlikelihood_alpha }
    golden []
    properties { |_| at_reference: None, ignores_ties: alpha == 1.0, }
    loss { |pair| pair.logp.policy.rejected.clone() * alpha - pair.logp.policy.chosen.clone() }
}
