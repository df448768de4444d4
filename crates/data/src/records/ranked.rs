//! Pairs of ranked or scored completions, and rows of one prompt that are read together.

use super::numbered::NumberedRecord;
use crate::json::Json;
use std::iter::Peekable;

/// Completions of one prompt.
pub(super) const MAX_COMPLETIONS: usize = 256;

/// What orders the completions of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Order {
    /// As they stand, the best first.
    Position,
    /// Numbers, the largest first.
    Scores(Vec<f64>),
    /// Numbers, the smallest first.
    Ranks(Vec<f64>),
}

/// The indices of the better and the worse completion of each pair: the pair that lies furthest apart first. Completions of equal
/// scores are not paired, unless all are equal: these make one tie, of the first two.
pub(super) fn pairs(order: &Order, count: usize, most: usize) -> Vec<[usize; 2]> {
    let value = |index: usize| match order {
        Order::Position => -(index as f64),
        Order::Scores(scores) => scores[index],
        Order::Ranks(ranks) => -ranks[index],
    };
    let mut pairs: Vec<[usize; 2]> = (0..count)
        .flat_map(|one| (0..count).map(move |other| [one, other]))
        .filter(|[better, worse]| value(*better) > value(*worse))
        .collect();
    let gap = |[better, worse]: &[usize; 2]| value(*better) - value(*worse);
    pairs.sort_by(|a, b| gap(b).total_cmp(&gap(a)).then(a.cmp(b)));
    if pairs.is_empty() && count > 1 {
        pairs.push([0, 1]);
    }
    pairs.truncate(most);
    pairs
}

/// Rows with their lines.
pub(super) type RowGroup = Vec<NumberedRecord<Json>>;

/// Rows one by one, or those of one prompt that follow one another together.
pub(super) struct RowGroups<I: Iterator<Item = NumberedRecord<Json>>> {
    rows: Peekable<I>,
    /// The columns that rows of one prompt have in common; none where each row stands for itself.
    columns: Vec<String>,
}

impl<I: Iterator<Item = NumberedRecord<Json>>> RowGroups<I> {
    pub(super) fn new(rows: I, columns: Vec<String>) -> Self {
        Self { rows: rows.peekable(), columns }
    }
}

impl<I: Iterator<Item = NumberedRecord<Json>>> Iterator for RowGroups<I> {
    type Item = RowGroup;

    fn next(&mut self) -> Option<RowGroup> {
        let mut group = vec![self.rows.next()?];
        while !self.columns.is_empty() && group.len() < MAX_COMPLETIONS {
            let columns = &self.columns;
            let first = &group[0].1;
            let is_same = |(_, row): &NumberedRecord<Json>| match (first, row) {
                (Ok(first), Ok(row)) => columns.iter().all(|name| first.get(name) == row.get(name)),
                _ => false,
            };
            let Some(row) = self.rows.next_if(is_same) else { break };
            group.push(row);
        }
        Some(group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_that_lies_furthest_apart_comes_first() {
        let scores = Order::Scores(vec![3.0, 8.5, 3.0, 6.0]);
        assert_eq!(pairs(&scores, 4, 1), [[1, 0]]);
        assert_eq!(pairs(&scores, 4, 9), [[1, 0], [1, 2], [3, 0], [3, 2], [1, 3]]);
        assert_eq!(pairs(&Order::Ranks(vec![3.0, 1.0, 2.0]), 3, 2), [[1, 0], [1, 2]]);
        assert_eq!(pairs(&Order::Position, 3, 9), [[0, 2], [0, 1], [1, 2]]);
        assert_eq!(pairs(&Order::Scores(vec![5.0; 3]), 3, 9), [[0, 1]], "a tie");
        assert_eq!(pairs(&Order::Position, 1, 9), [[0, 0]; 0]);
    }
}
