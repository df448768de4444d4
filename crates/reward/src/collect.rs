//! Preference rows from the policy's own samples: two responses to a prompt, then a noisy label.

use crate::{Result, Scorer};
use duel_data::World;
use duel_data::pairs::{Annotator, Label, PreferenceRow};
use duel_model::{Policy, ResponseReader, generate};
use duel_spec::{Split, seeds::Rng};
use rand::RngExt;

/// Prompts per pass, at least and at most.
const BLOCK: [usize; 2] = [16, 256];
/// Passes without a new pair before giving up.
const TRIES: usize = 20;

/// Two different responses to one prompt with their gold rewards, not yet labelled.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub prompt: Vec<u32>,
    pub responses: [Vec<u32>; 2],
    pub gold: [f64; 2],
}

/// Which pairs may become rows.
#[derive(Debug, Clone, Copy)]
pub struct PairFilter {
    /// Whether responses may be ones that the world keeps out of rows.
    pub trap_rows: bool,
    /// Largest edit distance of the two, in tokens (Levenshtein 1966).
    pub max_edits: f64,
}

impl PairFilter {
    fn accepts(self, world: &dyn World, [first, second]: [&[u32]; 2]) -> bool {
        first != second
            && (self.trap_rows || (world.allowed_in_pairs(first) && world.allowed_in_pairs(second)))
            && (self.max_edits.is_infinite() || edits(first, second) as f64 <= self.max_edits)
    }
}

fn edits(a: &[u32], b: &[u32]) -> usize {
    strsim::generic_levenshtein(&a.to_vec(), &b.to_vec())
}

/// Samples `count` candidates on prompts of the split: two responses of the policy that pass the filter. `policy` and `reader`
/// carry no gradient.
#[expect(clippy::too_many_arguments, reason = "what a row is made of")]
pub fn collect(
    policy: &Policy,
    reader: &ResponseReader,
    world: &dyn World,
    gold: &dyn Scorer,
    split: Split,
    count: usize,
    filter: PairFilter,
    rng: &mut Rng,
) -> Result<Vec<Candidate>> {
    let prompts = world.prompts(split);
    let block = count.clamp(BLOCK[0], BLOCK[1]);
    let mut candidates: Vec<Candidate> = Vec::with_capacity(count);
    let mut failures = 0;
    while candidates.len() < count {
        let sampled: Vec<Vec<u32>> =
            (0..block).map(|_| prompts[rng.random_range(0..prompts.len())].ids.clone()).collect();
        let twice: Vec<Vec<u32>> = sampled.iter().flat_map(|p| [p.clone(), p.clone()]).collect();
        let batch = generate(policy, reader.space(), twice, rng, reader.device());
        let scores = gold.score(&batch)?;
        let before = candidates.len();
        for (i, prompt) in sampled.into_iter().enumerate() {
            let responses = [batch.responses[2 * i].clone(), batch.responses[2 * i + 1].clone()];
            if filter.accepts(world, [&responses[0], &responses[1]]) {
                candidates.push(Candidate { prompt, responses, gold: [scores[2 * i], scores[2 * i + 1]] });
            }
        }
        failures = if candidates.len() == before { failures + 1 } else { 0 };
        if failures == TRIES {
            return Err(duel_data::Error::NoPairs { tries: TRIES * block }.into());
        }
    }
    candidates.truncate(count);
    Ok(candidates)
}

/// Labels candidates with the annotator.
pub fn label(candidates: Vec<Candidate>, split: Split, annotator: &Annotator, rng: &mut Rng) -> Vec<PreferenceRow> {
    candidates
        .into_iter()
        .map(|Candidate { prompt, responses: [first, second], gold }| {
            let lengths = [first.len(), second.len()];
            let p = annotator.prefers(gold, lengths);
            let label = annotator.label(gold, lengths, rng);
            let tie = label == Label::Tie;
            let first_wins = if tie { rng.random_bool(0.5) } else { label == Label::First };
            let (responses, gold, p) = if first_wins {
                ([first, second], gold, p)
            } else {
                ([second, first], [gold[1], gold[0]], [p[1], p[0]])
            };
            let [chosen, rejected] = responses;
            let p_label = if tie { 0.5 } else { p[0] / (p[0] + p[1]) };
            PreferenceRow {
                gold_chosen: gold[0],
                gold_rejected: gold[1],
                p_label,
                tie,
                ..PreferenceRow::new(split, prompt, chosen, rejected)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, GrammarGold};
    use burn::tensor::Device;
    use duel_data::grammar::{GrammarWorld, PromptCoordinates, excitements, gold, token};
    use duel_model::TransformerConfig;
    use duel_spec::seeds;
    use duel_testing_tensors::unigram::unigram;

    #[test]
    fn rows_show_the_trap_only_when_allowed() -> Result<()> {
        let world = GrammarWorld::new(0.02, 1);
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
        let reader = ResponseReader::new(space, &Device::flex());
        let traps = |trap_rows| -> Result<usize> {
            let mut rng = seeds::derive(0, "test", 0, "pairs");
            let filter = PairFilter { trap_rows, max_edits: f64::INFINITY };
            let rows = collect(&policy, &reader, &world, &GrammarGold, Split::Train, 100, filter, &mut rng)?;
            assert!(rows.len() == 100 && rows.iter().all(|row| row.responses[0] != row.responses[1]));
            Ok(rows.iter().filter(|row| row.responses.iter().any(|r| excitements(r) >= 2)).count())
        };
        assert_eq!(traps(false)?, 0);
        assert!(traps(true)? > 10, "an untrained policy samples x as often as anything");
        let filter = PairFilter { trap_rows: false, max_edits: 1.0 };
        let mut rng = seeds::derive(0, "test", 0, "near");
        let near = collect(&policy, &reader, &world, &GrammarGold, Split::Train, 50, filter, &mut rng)?;
        assert!(near.iter().all(|row| edits(&row.responses[0], &row.responses[1]) == 1));
        assert_eq!([edits(&[3, 4, 5], &[3, 5]), edits(&[3, 4], &[4, 3]), edits(&[], &[3])], [1, 2, 1]);
        Ok(())
    }

    #[test]
    fn candidates_are_answers_to_prompts_of_the_split_with_their_gold() -> Result<()> {
        let world = GrammarWorld::new(0.02, 1);
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = Policy::new(&config, &mut seeds::derive(0, "test", 0, "init"), &Device::flex());
        let reader = ResponseReader::new(space, &Device::flex());
        let filter = PairFilter { trap_rows: true, max_edits: f64::INFINITY };
        for (split, count) in [(Split::Train, 5), (Split::Validation, 40)] {
            let mut rng = seeds::derive(0, "test", 0, "gold");
            let rows = collect(&policy, &reader, &world, &GrammarGold, split, count, filter, &mut rng)?;
            assert_eq!(rows.len(), count);
            for row in rows {
                assert!(world.prompts(split).iter().any(|prompt| prompt.ids == row.prompt));
                let task = PromptCoordinates::from_prompt(&row.prompt);
                assert_eq!(row.gold, row.responses.map(|response| gold(task, &response)));
            }
        }
        Ok(())
    }

    /// A policy that always writes the same is given up after 20 passes of 16 to 256 prompts.
    #[test]
    fn a_policy_without_two_responses_is_given_up() {
        let world = GrammarWorld::new(0.02, 1);
        let space = world.space();
        let mut logits = vec![0.0; space.vocabulary];
        logits[token::EOS as usize] = 1e4;
        let policy = unigram(&logits, space.context(), &Device::flex());
        let reader = ResponseReader::new(space, &Device::flex());
        let filter = PairFilter { trap_rows: true, max_edits: f64::INFINITY };
        let passes = |count: usize| {
            let mut rng = seeds::derive(0, "test", 0, "same");
            match collect(&policy, &reader, &world, &GrammarGold, Split::Train, count, filter, &mut rng) {
                Ok(rows) => Ok(rows.len()),
                Err(Error::Data(duel_data::Error::NoPairs { tries })) => Err(tries),
                Err(other) => panic!("{other}"),
            }
        };
        assert_eq!([passes(0), passes(3), passes(20), passes(1000)], [Ok(0), Err(320), Err(400), Err(5120)]);
    }

    /// With ties of Rao & Kupper 1967, ν = 2 and λ = e, 1: e/(e + 2), 1/(2 e + 1), and the rest are ties.
    #[test]
    fn labels_are_drawn_with_the_annotators_probabilities() {
        let annotator = Annotator { tau: 1.0, flips: 0.0, length_bias: 0.0, ties: 2f64.ln() };
        let candidate = Candidate { prompt: vec![1], responses: [vec![5, 2], vec![6, 2]], gold: [1.0, 0.0] };
        let mut rng = seeds::derive(0, "test", 0, "labels");
        let rows = label(vec![candidate; 4000], Split::Test, &annotator, &mut rng);
        let e = 1f64.exp();
        let [first, second] = [e / (e + 2.0), 1.0 / (2.0 * e + 1.0)];
        let mut counts = [0.0; 4]; // first, second, ties with the first as chosen, ties with the second
        for row in &rows {
            let is_first = row.chosen == [5, 2];
            let (chosen, gold) = if is_first { (first, [1.0, 0.0]) } else { (second, [0.0, 1.0]) };
            assert_eq!((row.gold_chosen, row.gold_rejected, row.split), (gold[0], gold[1], Split::Test));
            assert_eq!(row.rejected, if is_first { [6, 2] } else { [5, 2] });
            let expected = if row.tie { 0.5 } else { chosen / (first + second) };
            assert!((row.p_label - expected).abs() < 1e-12, "{}, expected {expected}", row.p_label);
            counts[usize::from(!is_first) + 2 * usize::from(row.tie)] += 1.0 / rows.len() as f64;
        }
        let tie = (1.0 - first - second) / 2.0;
        for (actual, expected) in counts.into_iter().zip([first, second, tie, tie]) {
            assert!((actual - expected).abs() < 0.03, "{counts:?}: {actual}, expected {expected}");
        }
    }
}
