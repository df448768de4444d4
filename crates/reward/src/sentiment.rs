//! Bag-of-words judges: the gold scorer of `reviews`, and a model of human preferences. The scorer is logistic regression on
//! TF-IDF of words and word pairs, calibrated by Platt's method on held-out reviews.

use crate::{Error, Result};
use duel_data::reviews::{RatedSentence, Review};
use duel_spec::seeds::Rng;
use duel_training::AdamW;
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Terms in fewer reviews are dropped.
const MIN_REVIEWS: u32 = 2;
/// Share of the gold third, at the end of each label's block, that calibrates.
const CALIBRATION: f64 = 0.15;
/// Full passes of the fit, its peak rate, and the weight of the squared penalty.
const PASSES: usize = 150;
const RATE: f64 = 0.3;
const PENALTY: f64 = 1e-6;

/// A calibrated sentiment model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sentiment {
    terms: TermWeights,
    bias: f64,
    /// Platt: the calibrated logit is `slope · raw + offset`.
    slope: f64,
    offset: f64,
}

/// Quality of the judge on held-out text.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct SentimentReport {
    /// On held-out full reviews.
    pub accuracy: f64,
    /// On their first judged words.
    pub accuracy_window: f64,
    /// Expected calibration error on the same windows, 10 bins.
    pub calibration_error: f64,
    /// Share of pairs of human-rated sentences, means at least 1 apart, that it orders as people do.
    pub human_agreement: f64,
}

/// Words of a text: runs of letters, digits and apostrophes, in lower case.
fn words(text: &str, limit: usize) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|w| !w.is_empty())
        .take(limit)
        .map(str::to_lowercase)
        .collect()
}

/// Terms of a text with their counts: words and neighbouring pairs.
fn terms(text: &str, limit: usize) -> BTreeMap<String, u32> {
    let words = words(text, limit);
    let mut counts = BTreeMap::new();
    for pair in words.windows(2) {
        *counts.entry(format!("{} {}", pair[0], pair[1])).or_insert(0) += 1;
    }
    for word in words {
        *counts.entry(word).or_insert(0) += 1;
    }
    counts
}

/// `(1 + ln count) · idf` of the known terms, scaled to length 1.
fn term_weights<K>(counts: impl Iterator<Item = (K, u32, f32)>) -> Vec<(K, f32)> {
    let mut weights: Vec<(K, f32)> = counts.map(|(k, n, idf)| (k, (1.0 + (n as f32).ln()) * idf)).collect();
    let length = weights.iter().map(|(_, x)| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    weights.iter_mut().for_each(|(_, x)| *x /= length);
    weights
}

/// Indices of terms with their weights in a text.
type SparseVector = Vec<(usize, f32)>;

/// The terms of several texts with their inverse document frequencies, and each text weighed by them.
fn weighted<'a>(texts: impl Iterator<Item = &'a str>) -> (Vec<(String, f32)>, Vec<SparseVector>) {
    let counts: Vec<BTreeMap<String, u32>> = texts.map(|text| terms(text, usize::MAX)).collect();
    let mut texts_with: BTreeMap<&str, u32> = BTreeMap::new();
    for text in &counts {
        for term in text.keys() {
            *texts_with.entry(term).or_insert(0) += 1;
        }
    }
    let n = counts.len() as f32;
    let known: Vec<(String, f32)> = texts_with
        .into_iter()
        .filter(|(_, seen)| *seen >= MIN_REVIEWS)
        .map(|(term, seen)| (term.to_owned(), ((1.0 + n) / (1.0 + seen as f32)).ln() + 1.0))
        .collect();
    let index: HashMap<&str, usize> = known.iter().enumerate().map(|(i, (term, _))| (term.as_str(), i)).collect();
    let row = |text: &BTreeMap<String, u32>| {
        term_weights(text.iter().filter_map(|(term, n)| index.get(term.as_str()).map(|&i| (i, *n, known[i].1))))
    };
    let rows = counts.iter().map(row).collect();
    (known, rows)
}

/// Term → (inverse document frequency, weight).
type TermWeights = HashMap<String, (f32, f32)>;

fn with_weights(known: Vec<(String, f32)>, weights: &[f32]) -> TermWeights {
    known.into_iter().zip(weights).map(|((term, idf), w)| (term, (idf, *w))).collect()
}

/// The weighted sum of the known terms of a text's first words.
fn weighted_sum(known: &TermWeights, text: &str, limit: usize) -> f64 {
    let weights = terms(text, limit).into_iter().filter_map(|(term, n)| known.get(&term).map(|&(idf, w)| (w, n, idf)));
    term_weights(weights).into_iter().map(|(w, x)| f64::from(w * x)).sum()
}

/// Human preferences, learned from pairs of texts: a Bradley–Terry model on TF-IDF of words and word pairs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BagOfWordsPreference {
    terms: TermWeights,
}

/// Weight of the squared penalty of a preference model: pairs are fewer than reviews, and their labels noisier.
const PREFERENCE_PENALTY: f64 = 1e-5;

/// Raised when the same pairs give another [`BagOfWordsPreference`].
pub const PREFERENCE_VERSION: u32 = 2;

impl BagOfWordsPreference {
    /// Fits `P(first preferred) = σ(score(first) − score(second))`; `pairs` are indices of `texts` with the probability that the
    /// first is preferred.
    pub fn fit(texts: &[&str], pairs: &[(usize, usize, f32)]) -> Self {
        let (known, rows) = weighted(texts.iter().copied());
        let difference = |&(first, second, _): &(usize, usize, f32)| {
            let mut row = rows[first].clone();
            row.extend(rows[second].iter().map(|&(i, x)| (i, -x)));
            row
        };
        let differences: Vec<SparseVector> = pairs.iter().map(difference).collect();
        let labels: Vec<f32> = pairs.iter().map(|pair| pair.2).collect();
        let weights = logistic(&differences, &labels, known.len(), false, PREFERENCE_PENALTY);
        Self { terms: with_weights(known, &weights) }
    }

    /// Log-odds of the first `limit` words against an empty text.
    pub fn score(&self, text: &str, limit: usize) -> f64 {
        weighted_sum(&self.terms, text, limit)
    }

    /// Share of pairs of rated sentences, means at least 1 apart, that it orders as people do.
    pub fn agreement(&self, rated: &[RatedSentence], rng: &mut Rng) -> f64 {
        let scores: Vec<f64> = rated.iter().map(|r| self.score(&r.text, usize::MAX)).collect();
        human_agreement(&scores, rated, rng)
    }

    /// Writes it as JSON.
    pub fn save(&self, path: &Path) -> Result<()> {
        let error = |problem: String| Error::Judge { path: path.into(), problem };
        let terms: BTreeMap<_, _> = self.terms.iter().collect(); // a fixed order: the file is hashed
        let json = serde_json::to_vec(&terms).map_err(|e| error(e.to_string()))?;
        std::fs::write(path, json).map_err(|e| error(e.to_string()))
    }

    /// Reads what [`Self::save`] wrote.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |problem: String| Error::Judge { path: path.into(), problem };
        let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
        Ok(Self { terms: serde_json::from_slice(&bytes).map_err(|e| error(e.to_string()))? })
    }
}

/// Share of pairs of sentences, means at least 1 apart, that scores order as people do; a tie is half.
fn human_agreement(scores: &[f64], rated: &[RatedSentence], rng: &mut Rng) -> f64 {
    let (mut agree, mut pairs) = (0.0, 0.0);
    while pairs < 100_000.0 {
        let (a, b) = (rng.random_range(0..rated.len()), rng.random_range(0..rated.len()));
        let difference = rated[a].mean - rated[b].mean;
        if difference >= 1.0 {
            pairs += 1.0;
            agree += if scores[a] == scores[b] { 0.5 } else { f64::from(scores[a] > scores[b]) };
        }
    }
    agree / pairs
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

impl Sentiment {
    /// Fits and calibrates on the gold third; `judged_words` is the window it will read.
    pub fn train(gold: &[Review], judged_words: usize) -> Self {
        let (fit, calibration) = split(gold);
        let mut model = Self::fit(&fit);
        let raw: Vec<f64> = calibration.iter().map(|r| model.raw(&r.text, judged_words)).collect();
        let labels: Vec<bool> = calibration.iter().map(|r| r.positive).collect();
        (model.slope, model.offset) = platt(&raw, &labels);
        model
    }

    fn fit(reviews: &[&Review]) -> Self {
        let (known, rows) = weighted(reviews.iter().map(|review| review.text.as_str()));
        let labels: Vec<f32> = reviews.iter().map(|r| f32::from(r.positive)).collect();
        let weights = logistic(&rows, &labels, known.len(), true, PENALTY);
        let bias = f64::from(weights[known.len()]);
        Self { terms: with_weights(known, &weights), bias, slope: 1.0, offset: 0.0 }
    }

    fn raw(&self, text: &str, limit: usize) -> f64 {
        self.bias + weighted_sum(&self.terms, text, limit)
    }

    /// Calibrated log-odds that the first `limit` words of the text are positive.
    pub fn logit(&self, text: &str, limit: usize) -> f64 {
        self.slope * self.raw(text, limit) + self.offset
    }

    /// Measures the judge on reviews and rated sentences it was not fitted to.
    pub fn report(
        &self,
        heldout: &[Review],
        rated: &[RatedSentence],
        judged_words: usize,
        rng: &mut Rng,
    ) -> SentimentReport {
        let right = |limit| {
            let hits = heldout.iter().filter(|r| (self.raw(&r.text, limit) > 0.0) == r.positive).count();
            hits as f64 / heldout.len() as f64
        };
        let windows: Vec<(f64, bool)> =
            heldout.iter().map(|r| (sigmoid(self.logit(&r.text, judged_words)), r.positive)).collect();
        let window_hits = windows.iter().filter(|(p, positive)| (*p > 0.5) == *positive).count();
        let scores: Vec<f64> = rated.iter().map(|r| self.logit(&r.text, judged_words)).collect();
        SentimentReport {
            accuracy: right(usize::MAX),
            accuracy_window: window_hits as f64 / heldout.len() as f64,
            calibration_error: calibration_error(&windows),
            human_agreement: human_agreement(&scores, rated, rng),
        }
    }

    /// Writes the judge as JSON.
    pub fn save(&self, path: &Path) -> Result<()> {
        let error = |problem: String| Error::Judge { path: path.into(), problem };
        let terms: BTreeMap<_, _> = self.terms.iter().collect(); // a fixed order: the file is hashed
        let value = (terms, self.bias, self.slope, self.offset);
        let json = serde_json::to_vec(&value).map_err(|e| error(e.to_string()))?;
        std::fs::write(path, json).map_err(|e| error(e.to_string()))
    }

    /// Reads what [`Self::save`] wrote.
    pub fn open(path: &Path) -> Result<Self> {
        let error = |problem: String| Error::Judge { path: path.into(), problem };
        let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
        let (terms, bias, slope, offset) = serde_json::from_slice(&bytes).map_err(|e| error(e.to_string()))?;
        Ok(Self { terms, bias, slope, offset })
    }
}

/// The gold third without and with the end of each label's block.
fn split(gold: &[Review]) -> (Vec<&Review>, Vec<&Review>) {
    let (mut fit, mut calibration) = (vec![], vec![]);
    for positive in [false, true] {
        let block: Vec<&Review> = gold.iter().filter(|r| r.positive == positive).collect();
        let (head, tail) = block.split_at((block.len() as f64 * (1.0 - CALIBRATION)) as usize);
        fit.extend(head);
        calibration.extend(tail);
    }
    (fit, calibration)
}

/// Logistic regression on sparse rows by full-batch AdamW; a label is the probability of being positive, the last weight is the bias
/// (0 without one).
fn logistic(rows: &[SparseVector], labels: &[f32], features: usize, has_bias: bool, penalty: f64) -> Vec<f32> {
    let mut weights = vec![0f32; features + 1];
    let mut optimizer = AdamW::new(0.9, 0.999, 1e-8, weights.len());
    let decay = vec![0.0; weights.len()];
    for pass in 0..PASSES {
        let mut gradient: Vec<f32> = weights.iter().map(|w| penalty as f32 * w).collect();
        for (row, &label) in rows.iter().zip(labels) {
            let logit = weights[features] + row.iter().map(|&(i, x)| weights[i] * x).sum::<f32>();
            let error = (1.0 / (1.0 + (-logit).exp()) - label) / rows.len() as f32;
            row.iter().for_each(|&(i, x)| gradient[i] += error * x);
            gradient[features] += if has_bias { error } else { 0.0 };
        }
        let cosine = 0.5 * (1.0 + (std::f64::consts::PI * pass as f64 / PASSES as f64).cos());
        optimizer.step(&mut weights, &gradient, 1.0, &decay, RATE * cosine);
    }
    weights
}

/// Slope and offset of the logistic curve through (raw score, label), by Newton's method (Platt 1999).
fn platt(raw: &[f64], labels: &[bool]) -> (f64, f64) {
    let (mut a, mut b) = (1.0, 0.0);
    for _ in 0..50 {
        let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for (&x, &positive) in raw.iter().zip(labels) {
            let p = sigmoid(a * x + b);
            let (error, weight) = (p - f64::from(positive), p * (1.0 - p));
            ga += error * x;
            gb += error;
            haa += weight * x * x;
            hab += weight * x;
            hbb += weight;
        }
        let determinant = haa * hbb - hab * hab;
        a -= (hbb * ga - hab * gb) / determinant;
        b -= (haa * gb - hab * ga) / determinant;
    }
    (a, b)
}

/// Mean over 10 equal bins of |share of positives − mean probability|, weighted by size.
fn calibration_error(judged: &[(f64, bool)]) -> f64 {
    let mut bins = [(0.0, 0.0); 10];
    for &(p, positive) in judged {
        let bin = &mut bins[((p * 10.0) as usize).min(9)];
        bin.0 += p;
        bin.1 += f64::from(positive);
    }
    bins.iter().map(|(p, positives)| (p - positives).abs()).sum::<f64>() / judged.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_learns_words_and_pairs_and_reads_only_the_window() {
        let review = |text: &str, positive| Review { text: text.into(), positive };
        let corpus: Vec<Review> = (0..40)
            .flat_map(|i| {
                [
                    review(&format!("a good film number {i}"), true),
                    review(&format!("not good at all number {i}"), false),
                    review(&format!("a bad film number {i}"), false),
                ]
            })
            .collect();
        let judge = Sentiment::train(&corpus, 48);
        assert!(judge.logit("a good film", 48) > 0.0);
        assert!(judge.logit("not good at all", 48) < 0.0);
        assert_eq!(judge.logit("a good film", 3), judge.logit("a good film not good at all", 3));
    }

    #[test]
    fn preferences_are_learned_from_pairs() {
        let texts = ["a fine film", "a dull film", "fine acting", "dull acting", "an old film"];
        let pairs = [(0, 1, 0.9), (2, 3, 0.9), (0, 4, 0.7), (4, 1, 0.7), (3, 2, 0.1)];
        let preference = BagOfWordsPreference::fit(&texts, &pairs);
        let score = |text| preference.score(text, 48);
        assert!(score("fine") > score("old") && score("film") > score("dull"));
        assert_eq!(score("never seen"), 0.0);
        assert_eq!(preference.score("fine dull", 1), score("fine"));
    }

    #[test]
    fn platt_recovers_a_known_curve() {
        // labels in exact proportion to sigmoid(2x - 1)
        let (mut raw, mut labels) = (vec![], vec![]);
        for x in [-1.0, 0.0, 0.5, 1.0, 2.0] {
            let positives = (sigmoid(2.0 * x - 1.0) * 1e5) as usize;
            for i in 0..100_000 {
                raw.push(x);
                labels.push(i < positives);
            }
        }
        let (a, b) = platt(&raw, &labels);
        assert!((a - 2.0).abs() < 1e-3 && (b + 1.0).abs() < 1e-3, "{a} {b}");
    }

    /// The curve goes through the shares of positives at two scores, 3/4 and 7/8, whose log-odds are log 3 and log 7.
    #[test]
    fn platt_goes_through_two_shares() {
        let raw = [[2.0; 4].as_slice(), &[3.0; 8]].concat();
        let labels: Vec<bool> = (0..12).map(|i| i != 0 && i != 4).collect();
        let (slope, offset) = platt(&raw, &labels);
        let expected = 7f64.ln() - 3f64.ln();
        assert!(
            (slope - expected).abs() < 1e-9 && (offset - (3f64.ln() - 2.0 * expected)).abs() < 1e-9,
            "{slope}, {offset}"
        );
    }

    #[test]
    fn calibration_error_by_hand() {
        // one bin, mean probability .75, half positive
        assert!((calibration_error(&[(0.75, true), (0.75, false)]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn terms_are_words_and_neighbouring_pairs() {
        let of = |text: &str, limit| {
            terms(text, limit).into_iter().map(|(term, n)| format!("{term}={n}")).collect::<Vec<_>>().join(",")
        };
        assert_eq!(
            of("Don't -- stop, don't stop2", 9),
            "don't=2,don't stop=1,don't stop2=1,stop=1,stop don't=1,stop2=1"
        );
        assert_eq!(of("a b a", 2), "a=1,a b=1,b=1");
    }

    /// (1 + ln n) · (ln((1 + N)/(1 + d)) + 1), scaled to length 1; terms of fewer than two texts are dropped.
    #[test]
    fn weights_of_terms_by_hand() {
        let (known, rows) = weighted(["x x y", "y z", "x", "z y q"].into_iter());
        let idf = |texts: f32| (5.0 / (1.0 + texts)).ln() + 1.0;
        let expected = [("x", idf(2.0)), ("y", idf(3.0)), ("z", idf(2.0))];
        assert_eq!(known.len(), 3, "{known:?}");
        for ((term, actual), (name, expected)) in known.iter().zip(expected) {
            assert!(term == name && (actual - expected).abs() < 1e-6, "{term}: {actual}, expected {expected}");
        }
        let (x, y) = ((1.0 + 2f32.ln()) * idf(2.0), idf(3.0));
        let length = (x * x + y * y).sqrt();
        assert_eq!(rows[0].iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1]);
        assert!((rows[0][0].1 - x / length).abs() < 1e-6 && (rows[0][1].1 - y / length).abs() < 1e-6, "{rows:?}");
        assert!(rows[2].len() == 1 && (rows[2][0].1 - 1.0).abs() < 1e-6, "a text of one term");
        // a judge's score is the sum of weights times the same values
        let terms = with_weights(known, &[2.0, -3.0, 0.5]);
        let expected = f64::from((2.0 * x - 3.0 * y) / length);
        assert!((weighted_sum(&terms, "x x y x", 3) - expected).abs() < 1e-6);
    }

    /// At the minimum of the mean log-loss with the penalty λ/2 |w|² (of the bias too) its gradient vanishes.
    #[test]
    fn logistic_regression_finds_its_minimum() {
        let rows: [SparseVector; 4] = [vec![(0, 1.0)], vec![(0, 0.5), (1, -1.0)], vec![(1, 2.0)], vec![]];
        let labels = [0.9, 0.3, 0.6, 0.2];
        for penalty in [0.0, 0.05] {
            let w: Vec<f64> = logistic(&rows, &labels, 2, true, penalty).into_iter().map(f64::from).collect();
            let mut gradient: Vec<f64> = w.iter().map(|w| penalty * w).collect();
            for (row, label) in rows.iter().zip(labels) {
                let logit = w[2] + row.iter().map(|&(i, x)| w[i] * f64::from(x)).sum::<f64>();
                let error = (sigmoid(logit) - f64::from(label)) / 4.0;
                row.iter().for_each(|&(i, x)| gradient[i] += error * f64::from(x));
                gradient[2] += error;
            }
            assert!(gradient.iter().all(|g| g.abs() < 1e-3), "penalty {penalty}: {gradient:?} at {w:?}");
        }
    }

    #[test]
    fn the_last_reviews_of_each_label_calibrate() {
        let reviews: Vec<Review> = (0..60).map(|i| Review { text: i.to_string(), positive: i >= 20 }).collect();
        let (fit, calibration) = split(&reviews);
        let of = |part: &[&Review]| part.iter().map(|r| r.text.parse().expect("a number")).collect::<Vec<u32>>();
        assert_eq!(of(&fit), (0..17).chain(20..54).collect::<Vec<_>>());
        assert_eq!(of(&calibration), (17..20).chain(54..60).collect::<Vec<_>>());
    }

    /// Only pairs whose means are at least 1 apart count, and equal scores as half.
    #[test]
    fn agreement_with_people_by_hand() {
        let rated = [0.0, 1.0, 1.5].map(|mean| RatedSentence { text: String::new(), mean });
        let agreement =
            |scores: [f64; 3]| human_agreement(&scores, &rated, &mut duel_spec::seeds::derive(0, "test", 0, "pairs"));
        // the pairs are (1, 0) and (1.5, 0), each as likely
        assert_eq!([agreement([0.0, 2.0, 1.0]), agreement([3.0, 2.0, 1.0]), agreement([1.0; 3])], [1.0, 0.0, 0.5]);
        let half = agreement([1.0, 2.0, 0.0]);
        assert!((half - 0.5).abs() < 0.01 && (half * 1e5 - (half * 1e5).round()).abs() < 1e-6, "{half} of 100,000");
        assert!((agreement([1.0, 1.0, 2.0]) - 0.75).abs() < 0.01);
    }

    #[test]
    fn errors_of_calibration_are_weighted_by_bins() {
        // two in the bin from .1 with mean .15 and none positive, one in the last bin, at its end
        let error = calibration_error(&[(0.11, false), (0.19, false), (1.0, true), (0.95, false)]);
        assert!((error - (0.3 + 0.95) / 4.0).abs() < 1e-12, "{error}");
    }

    /// A judge that reads one word: its measures counted by hand.
    #[test]
    fn a_report_by_hand() {
        let terms = [("good", 3.0), ("bad", -3.0), ("meh", -0.5), ("so", 0.25)]
            .map(|(term, weight)| (term.to_owned(), (1.0, weight)));
        let judge = Sentiment { terms: terms.into_iter().collect(), bias: 0.5, slope: 2.0, offset: -1.5 };
        let logit = |text: &str, expected: f64| {
            let actual = judge.logit(text, 2);
            assert!((actual - expected).abs() < 1e-6, "{text}: {actual}, expected {expected}");
        };
        logit("good", 5.5);
        logit("bad", -6.5);
        logit("film good", 5.5);
        logit("", -0.5);
        let review = |text: &str, positive| Review { text: text.into(), positive };
        let heldout = [
            review("good", true),
            review("bad", false),
            review("film", true),                // raw .5, calibrated −.5
            review("a film that is bad", false), // read in full only
            review("good", false),
            review("meh", true), // raw 0, which is not positive
            review("so", true),  // raw .75, calibrated 0, which is not positive
        ];
        let rated = [("good", 2.0), ("bad", -2.0)].map(|(text, mean)| RatedSentence { text: text.into(), mean });
        let report = judge.report(&heldout, &rated, 2, &mut duel_spec::seeds::derive(0, "test", 0, "pairs"));
        assert_eq!([report.accuracy, report.accuracy_window, report.human_agreement], [5.0 / 7.0, 3.0 / 7.0, 1.0]);
        let [high, middle, low] = [5.5, -0.5, -6.5].map(sigmoid);
        let expected = ((2.0 * high - 1.0) + (1.0 - 2.0 * middle) + low + (1.0 - sigmoid(-1.5)) + 0.5) / 7.0;
        assert!(
            (report.calibration_error - expected).abs() < 1e-6,
            "{}, expected {expected}",
            report.calibration_error
        );
    }

    #[test]
    fn judges_are_read_as_they_were_written() -> Result<()> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("judge.json");
        let texts = ["fine film", "dull film", "fine", "dull"];
        let preference = BagOfWordsPreference::fit(&texts, &[(0, 1, 0.9), (3, 2, 0.2)]);
        preference.save(&path)?;
        let again = BagOfWordsPreference::open(&path)?;
        assert!(texts.iter().all(|text| again.score(text, 9) == preference.score(text, 9)));
        for (means, expected) in [([1.0, -1.0], 1.0), ([-1.0, 1.0], 0.0)] {
            let rated =
                [("fine", means[0]), ("dull", means[1])].map(|(text, mean)| RatedSentence { text: text.into(), mean });
            let mut rng = duel_spec::seeds::derive(0, "test", 0, "pairs");
            assert_eq!(again.agreement(&rated, &mut rng), expected);
        }
        let terms = [("good".to_owned(), (1.5, 3.0))];
        let judge = Sentiment { terms: terms.into_iter().collect(), bias: 0.5, slope: 2.0, offset: -1.5 };
        judge.save(&path)?;
        let again = Sentiment::open(&path)?;
        assert_eq!(again.logit("good", 1), judge.logit("good", 1));
        assert_eq!(again.logit("", 1), -0.5);
        assert!(matches!(BagOfWordsPreference::open(&path), Err(Error::Judge { path: of, .. }) if of == path));
        Ok(())
    }

    /// The texts alone explain preferences: pairs whose better text always stands first order texts as those in both orders do.
    #[test]
    fn which_text_of_a_pair_stands_first_says_nothing() {
        let texts = ["fine", "dull", "fine", "dull"];
        let one_sided = BagOfWordsPreference::fit(&texts, &[(0, 1, 0.9), (2, 3, 0.8)]);
        let turned = BagOfWordsPreference::fit(&texts, &[(0, 1, 0.9), (3, 2, 0.2)]);
        assert!(one_sided.score("fine", 1) > one_sided.score("dull", 1) + 0.5);
        for text in ["fine", "dull"] {
            assert!((one_sided.score(text, 1) - turned.score(text, 1)).abs() < 1e-4, "{text}");
        }
    }

    /// Under a gradient that hardly changes, each of Adam's steps is as long as its rate: they add up to .3 · ½ Σ (1 + cos(πt/150))
    /// = .3 · 75.5.
    #[test]
    fn the_rate_falls_along_a_cosine() {
        let x = 1e-4;
        let weights = logistic(&[vec![(0, x)], vec![(0, -x)]], &[1.0, 0.0], 1, true, 0.0);
        assert!((weights[0] - 0.3 * 75.5).abs() < 0.05 && weights[1].abs() < 1e-3, "{weights:?}");
    }
}
