//! Log-probs of held-out pairs: how the likelihoods of chosen and rejected responses change (docs/claims.md, B11).

use burn::module::Module;
use duel_data::pairs::PreferenceRow;
use duel_model::{Policy, ResponseReader};
use duel_reward::{PairBins, PairFacts};
use duel_spec::{Split, metrics, metrics::Metric};
use duel_training::{PairBatch, logprobs};

/// Pairs per split that a policy reads at each evaluation.
pub const HELD_OUT_PAIRS: usize = 256;

/// Held-out pairs of both splits with the reference's log-probabilities.
#[derive(Debug)]
pub struct HeldOut {
    reader: ResponseReader,
    splits: Vec<HeldOutSplit>,
}

/// Those of one split.
#[derive(Debug)]
struct HeldOutSplit {
    split: Split,
    pairs: PairBatch,
    facts: Vec<PairFacts>,
    /// Of the chosen, then of the rejected responses: `[2N]`.
    ref_logp: Vec<f32>,
}

/// What a policy makes of the pairs of one split.
#[derive(Debug, Clone)]
pub struct OrderedPairs {
    pub split: Split,
    pub values: [(Metric, f64); 3],
    /// Which of them its log-ratios order as labelled: those of its implicit reward, β·log π/π_ref. Rafailov et al. 2023, §4.
    pub bins: PairBins,
}

impl HeldOut {
    /// `reader` and `reference` carry no gradient.
    pub fn new(reader: ResponseReader, reference: &Policy, rows: &[PreferenceRow]) -> Self {
        let reference = reference.clone().no_grad();
        let splits = [Split::Validation, Split::Test].map(|split| {
            let split_rows: Vec<usize> =
                (0..rows.len()).filter(|&row| rows[row].split == split).take(HELD_OUT_PAIRS).collect();
            let pairs = PairBatch::new(rows, &split_rows);
            let ref_logp = logprobs::sequence_logp(&reader, &reference, &pairs.both); // [2N]
            HeldOutSplit { split, facts: PairFacts::of(rows, &pairs), pairs, ref_logp }
        });
        Self { reader, splits: splits.into() }
    }

    /// Metrics of each split's pairs under a policy without gradient.
    pub fn measure(&self, policy: &Policy) -> Vec<OrderedPairs> {
        let measure = |HeldOutSplit { split, pairs, facts, ref_logp }: &HeldOutSplit| {
            let logp = logprobs::sequence_logp(&self.reader, policy, &pairs.both); // [2N]
            let ratios: Vec<f64> =
                logp.iter().zip(ref_logp).map(|(logp, ref_logp)| f64::from(logp - ref_logp)).collect();
            let (chosen, rejected) = ratios.split_at(pairs.len());
            let n = pairs.len() as f64;
            let ordered = |(chosen, rejected): (&f64, &f64)| match chosen.total_cmp(rejected) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
            let ordered: f64 = chosen.iter().zip(rejected).map(ordered).sum();
            let values = [
                (metrics::LOG_RATIO_CHOSEN, chosen.iter().sum::<f64>() / n),
                (metrics::LOG_RATIO_REJECTED, rejected.iter().sum::<f64>() / n),
                (metrics::ORDERED_PAIRS, ordered / n),
            ];
            let margins: Vec<f64> = chosen.iter().zip(rejected).map(|(chosen, rejected)| chosen - rejected).collect();
            OrderedPairs { split: *split, values, bins: PairBins::new(facts, &margins) }
        };
        self.splits.iter().map(measure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use duel_data::World;
    use duel_data::grammar::GrammarWorld;
    use duel_model::TransformerConfig;
    use duel_spec::{PairDivision, seeds};

    /// The reference itself changes no log-prob; another policy does.
    #[test]
    fn only_other_policies_change_log_probs() {
        let world = GrammarWorld::new(0.02, 1);
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = |seed| Policy::new(&config, &mut seeds::derive(seed, "test", 0, "init"), &Device::flex());
        let prompt = world.prompts(Split::Test)[0].ids.clone();
        let row = |split, chosen: [u32; 2], rejected: [u32; 2]| PreferenceRow {
            p_label: 0.5,
            ..PreferenceRow::new(split, prompt.clone(), chosen.to_vec(), rejected.to_vec())
        };
        let (validation, test) = (row(Split::Validation, [3, 2], [4, 2]), row(Split::Test, [5, 2], [6, 2]));
        let swapped = PreferenceRow { chosen: test.rejected.clone(), rejected: test.chosen.clone(), ..test.clone() };
        let reader = ResponseReader::new(space, &Device::flex());
        let held_out =
            |test: &PreferenceRow| HeldOut::new(reader.clone(), &policy(0), &[validation.clone(), test.clone()]);
        for OrderedPairs { values, bins, .. } in held_out(&test).measure(&policy(0)) {
            assert_eq!(values.map(|(_, value)| value), [0.0, 0.0, 0.5]);
            assert_eq!(bins.by(PairDivision::Whole).iter().map(|bin| bin.accuracy).collect::<Vec<_>>(), [0.5]);
        }
        let values = |rows: &PreferenceRow| held_out(rows).measure(&policy(1))[1].values.map(|(_, value)| value);
        let ([chosen, rejected, ordered], other) = (values(&test), values(&swapped));
        assert_eq!(other, [rejected, chosen, 1.0 - ordered]);
        assert!(chosen != 0.0 && ordered == f64::from(u8::from(chosen > rejected)));
    }

    #[test]
    fn a_split_has_the_means_of_its_pairs() {
        let world = GrammarWorld::new(0.02, 1);
        let space = world.space();
        let config = TransformerConfig::small(space.vocabulary, space.context(), 1, 8, 2, true);
        let policy = |seed| Policy::new(&config, &mut seeds::derive(seed, "test", 0, "init"), &Device::flex());
        let reader = ResponseReader::new(space, &Device::flex());
        let prompt = world.prompts(Split::Test)[0].ids.clone();
        let rows: Vec<PreferenceRow> = [Split::Validation, Split::Test]
            .into_iter()
            .flat_map(|split| [([3, 2], [4, 2]), ([5, 2], [6, 2]), ([6, 2], [5, 2])].map(|pair| (split, pair)))
            .map(|(split, (chosen, rejected))| {
                PreferenceRow::new(split, prompt.clone(), chosen.to_vec(), rejected.to_vec())
            })
            .collect();
        let [logp, ref_logp] =
            [1, 0].map(|seed| logprobs::sequence_logp(&reader, &policy(seed), &PairBatch::new(&rows, &[3, 4, 5]).both));
        let ratio = |row: usize| f64::from(logp[row] - ref_logp[row]);
        // rows 2 and 3 are each other's opposite: one of them is ordered
        let ordered = (1.0 + f64::from(u8::from(ratio(0) > ratio(3)))) / 3.0;
        let expected = [[0, 1, 2], [3, 4, 5]].map(|rows| rows.map(ratio).iter().sum::<f64>() / 3.0);
        for OrderedPairs { values, bins, .. } in HeldOut::new(reader, &policy(0), &rows).measure(&policy(1)) {
            let actual = values.map(|(_, value)| value);
            let [whole] = bins.by(PairDivision::Whole) else { panic!("one bin") };
            assert_eq!((whole.pairs, whole.accuracy), (3.0, ordered));
            assert!((actual[0] - expected[0]).abs() < 1e-6 && (actual[1] - expected[1]).abs() < 1e-6, "{actual:?}");
            assert_eq!(actual[2], ordered);
            assert!(expected.iter().all(|mean| mean.abs() > 1e-3));
        }
    }
}
