//! Which tokens of a response carry the loss.

use serde::{Deserialize, Serialize};

/// The counted tokens of a response that also holds context, such as the turns of other roles: half-open ranges in ascending
/// order, none empty, each of one turn. Only counted tokens are in losses, log-probs, lengths, KL and entropy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<[usize; 2]>", into = "Vec<[usize; 2]>")]
pub struct LossMask(Vec<[usize; 2]>);

impl LossMask {
    /// The mask of a response of `tokens`; `None` where a single range is all of it, so that no mask is needed. Empty ranges are
    /// left out.
    pub fn new(spans: impl IntoIterator<Item = [usize; 2]>, tokens: usize) -> Option<Self> {
        let spans: Vec<_> = spans.into_iter().filter(|[start, end]| start < end).collect();
        (spans != [[0, tokens]]).then_some(Self(spans))
    }

    /// The ranges, `[start, end)`.
    pub fn spans(&self) -> &[[usize; 2]] {
        &self.0
    }

    /// How many tokens count.
    pub fn count(&self) -> usize {
        self.0.iter().map(|[start, end]| end - start).sum()
    }

    /// The counted ids of a response, range by range.
    pub fn pieces<'a>(&self, response: &'a [u32]) -> Vec<&'a [u32]> {
        self.0.iter().map(|&[start, end]| &response[start..end]).collect()
    }

    /// Whether a token counts.
    pub fn contains(&self, index: usize) -> bool {
        self.0.iter().any(|[start, end]| (*start..*end).contains(&index))
    }

    /// The mask of the first `tokens` of the response.
    #[must_use]
    pub fn truncated(&self, tokens: usize) -> Self {
        let spans = self.0.iter().filter(|[start, _]| *start < tokens);
        Self(spans.map(|[start, end]| [*start, (*end).min(tokens)]).collect())
    }
}

impl TryFrom<Vec<[usize; 2]>> for LossMask {
    type Error = String;

    fn try_from(spans: Vec<[usize; 2]>) -> Result<Self, String> {
        let is_ordered = spans.windows(2).all(|two| two[0][1] <= two[1][0]) && spans.iter().all(|[a, b]| a < b);
        if is_ordered { Ok(Self(spans)) } else { Err(format!("{spans:?} are not ascending ranges")) }
    }
}

impl From<LossMask> for Vec<[usize; 2]> {
    fn from(mask: LossMask) -> Self {
        mask.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_its_ranges() {
        let mask = LossMask::new([[1, 3], [3, 3], [4, 5]], 5).expect("not all count");
        assert_eq!((mask.spans(), mask.count()), (&[[1, 3], [4, 5]][..], 3));
        assert_eq!([0, 1, 2, 3, 4, 5].map(|index| mask.contains(index)), [false, true, true, false, true, false]);
        assert_eq!(mask.truncated(2).spans(), [[1, 2]]);
        assert_eq!(mask.truncated(4).spans(), [[1, 3]]);
        assert_eq!(LossMask::new([[0, 3]], 3), None);
        assert_eq!(LossMask::new([[0, 3]], 4).map(|mask| mask.count()), Some(3));
        assert_eq!(LossMask::new([[0, 2], [2, 3]], 3).map(|mask| mask.count()), Some(3), "two turns");
        assert_eq!(LossMask::new([], 1).map(|mask| mask.count()), Some(0));
        let text = serde_json::to_string(&mask).expect("written");
        assert_eq!((text.as_str(), serde_json::from_str(&text).ok()), ("[[1,3],[4,5]]", Some(mask)));
        for damaged in ["[[2,2]]", "[[3,1]]", "[[4,5],[1,3]]", "[[0,2],[1,3]]"] {
            assert!(serde_json::from_str::<LossMask>(damaged).is_err(), "{damaged}");
        }
    }
}
