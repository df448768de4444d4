//! From the user's files to ids: the one path of `duel data check`, `duel init` and a run's preparation. It encodes each row,
//! cuts what is too long where a setting says so, and decides whether the row is used.

use super::key_map::KeyMap;
use super::text_marks::{ControlTokens, odd_characters, texts};
use crate::encode::{EncodedRow, Encoder};
use crate::keys::{ids_key, ids_text, prompt_key, text_key};
use crate::records::{self, BytesRead, Columns, Content, Record};
use crate::stats::{FindingKind, RowStats};
use crate::{Error, Result};
use duel_spec::{LossMask, Overlong, Split};
use std::path::PathBuf;

/// What is read of which files, and how much of it is kept.
#[derive(Debug, Clone)]
pub struct RowSource {
    /// Files of one split, and files whose prompts are split between training and the splits that have no file.
    pub files: Vec<(Option<Split>, PathBuf)>,
    pub columns: Columns,
    /// Share of the prompts of files without a split for each split that has no file.
    pub holdout: f64,
    pub prompt_tokens: usize,
    pub response_tokens: usize,
    pub long_prompts: Overlong,
    pub long_responses: Overlong,
    /// Rows kept of the training split, and of each of the others.
    pub most: [usize; 2],
    /// Whether prompts are also kept as they stand in the file, for models with another tokenizer.
    pub conversations: bool,
}

impl RowSource {
    pub(super) fn max_rows(&self, split: Split) -> usize {
        self.most[usize::from(split != Split::Train)]
    }
}

/// How much of a row is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RowUse {
    /// Prompt and completions, in this split.
    Whole(Split),
    /// Its prompt: there are no completions, or they cannot be used.
    Prompt(Split),
    None,
}

/// A row that was read, and what becomes of it.
#[derive(Debug)]
pub(crate) struct DecidedRow {
    /// The index of its file.
    pub(crate) file: usize,
    pub(crate) line: usize,
    pub(crate) record: Record,
    /// Its ids, cut where they are too long; none without a tokenizer.
    pub(crate) encoded: EncodedRow,
    /// Tokens of the prompt and of each completion before anything is cut; words without a tokenizer.
    pub(crate) lengths: Vec<usize>,
    pub(crate) usage: RowUse,
    /// What was found in it.
    pub(crate) findings: Vec<(FindingKind, String)>,
}

/// Checks that text is the same in all files: turns for the chat template, or text as it stands.
///
/// # Errors
/// Files of which one names its columns so, and another otherwise.
fn check_alike(source: &RowSource) -> Result<()> {
    let mut first: Option<(&PathBuf, bool)> = None;
    for (_, path) in source.files.iter().filter(|_| source.files.len() > 1) {
        let Some(makes_turns) = records::plan(path, &source.columns)?.makes_turns() else { continue };
        let (other, turns) = *first.get_or_insert((path, makes_turns));
        if turns != makes_turns {
            let [turns, text] = if makes_turns { [path, other] } else { [other, path] };
            return Err(Error::Columns {
                path: path.clone(),
                problem: format!(
                    "text becomes turns for the chat template in `{}`, and is used as it stands in `{}`, by the names of their columns",
                    turns.display(),
                    text.display()
                ),
                hint: "chat = \"always\" or chat = \"never\" says the same of all files".into(),
            });
        }
    }
    Ok(())
}

/// Reads the files row by row. `on_row` is called with every row that can be read, in order, and the counts so far; `bytes` counts
/// what is read. Without an encoder nothing is too long, and rows are compared as text.
///
/// # Errors
/// A file that cannot be read; problems within it are findings.
pub(crate) fn read_rows(
    source: &RowSource,
    encoder: Option<&Encoder>,
    bytes: &BytesRead,
    mut on_row: impl FnMut(DecidedRow, &RowStats),
) -> Result<RowStats> {
    if source.files.len() > usize::from(u16::MAX) {
        return Err(Error::Unfit {
            problem: format!("rows in {} files; at most {} are read", source.files.len(), u16::MAX),
        });
    }
    check_alike(source)?;
    let control_tokens = encoder.map(ControlTokens::new).transpose()?;
    let start = encoder.map_or(Ok(vec![]), Encoder::start)?;
    let encode = |record: &Record| -> Result<(EncodedRow, Vec<(FindingKind, String)>)> {
        let mut findings = odd_characters(record);
        if let Some(control_tokens) = &control_tokens {
            findings.extend(control_tokens.findings(record)?);
        }
        Ok((encoder.map_or(Ok(EncodedRow::default()), |encoder| encoder.encode(record))?, findings))
    };
    let has_file = |split: &Split| source.files.iter().any(|(of, _)| *of == Some(*split));
    let held_out = [Split::Validation, Split::Test].into_iter().filter(|split| !has_file(split)).collect();
    let mut filter = RowFilter {
        source,
        encoder,
        held_out,
        start,
        rows: KeyMap::new(),
        unlabelled: KeyMap::new(),
        prompts: KeyMap::new(),
    };
    let mut stats = RowStats::default();
    for (file, (_, path)) in source.files.iter().enumerate() {
        for (line, row) in records::read_counted(path, &source.columns, bytes.clone(), encode)? {
            stats.read += 1;
            let records = row.unwrap_or_else(|problem| {
                stats.malformed += 1;
                stats.add_finding(FindingKind::Unreadable, path, line, problem);
                vec![]
            });
            for (record, encoded) in records {
                count_format(&mut stats, &record);
                match encoded {
                    Ok((encoded, findings)) => {
                        let row = filter.decide(file, line, record, encoded, findings)?;
                        row.findings.iter().for_each(|(kind, what)| stats.add_finding(*kind, path, line, what.clone()));
                        count_use(&mut stats, &row);
                        on_row(row, &stats);
                    }
                    Err(e) => stats.add_finding(FindingKind::Unreadable, path, line, problem_of(e)),
                }
            }
        }
    }
    stats.prompts = filter.prompts.len();
    stats.count_kept(source.most);
    Ok(stats)
}

/// What is wrong with a row, where the same template reads others.
fn problem_of(error: Error) -> String {
    match error {
        Error::Template { problem } => format!("the chat template refuses it: {problem}"),
        error => error.to_string(),
    }
}

fn count_format(stats: &mut RowStats, record: &Record) {
    match record {
        Record::Pair { margin, scores, .. } => {
            stats.pairs += 1;
            stats.with_margin += usize::from(margin.is_some());
            stats.with_scores += usize::from(scores.is_some());
        }
        Record::Judged { .. } => stats.judged += 1,
        Record::Prompt { .. } => stats.prompts_alone += 1,
    }
}

fn count_use(stats: &mut RowStats, row: &DecidedRow) {
    let (split, is_whole) = match row.usage {
        RowUse::Whole(split) => (split, true),
        RowUse::Prompt(split) => (split, false),
        RowUse::None => return,
    };
    let counts = &mut stats.usable[split as usize];
    counts.prompts += 1;
    if is_whole {
        match row.record {
            Record::Judged { desirable: true, .. } => counts.wanted += 1,
            Record::Judged { desirable: false, .. } => counts.unwanted += 1,
            _ => counts.pairs += 1,
        }
    }
}

/// The first row with a prompt, or with some completions to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RowOrigin {
    line: u32,
    file: u16,
    split: Split,
}

impl RowOrigin {
    fn new(file: usize, line: usize, split: Split) -> Self {
        Self { line: u32::try_from(line).unwrap_or(u32::MAX), file: file as u16, split }
    }

    /// In 64 bits: split, file and line, from the highest to the lowest.
    fn to_bits(self) -> u64 {
        (self.split as u64) << 48 | u64::from(self.file) << 32 | u64::from(self.line)
    }

    fn from_bits(bits: u64) -> Self {
        Self {
            line: bits as u32,
            file: (bits >> 32) as u16,
            split: Split::ALL[(bits >> 48) as usize % Split::ALL.len()],
        }
    }
}

/// Decides which rows are used. Its memory grows by some bytes per row.
struct RowFilter<'a> {
    source: &'a RowSource,
    encoder: Option<&'a Encoder>,
    /// The splits without a file of their own.
    held_out: Vec<Split>,
    /// The ids that begin a text, such as BOS.
    start: Vec<u32>,
    /// Hashes of all rows, to find duplicates.
    rows: KeyMap,
    /// The bits of a [`RowOrigin`] by the hash of a prompt and its completions, whatever their label.
    unlabelled: KeyMap,
    /// The bits of a [`RowOrigin`] by the hash of a prompt's ids.
    prompts: KeyMap,
}

impl RowFilter<'_> {
    fn decide(
        &mut self,
        file: usize,
        line: usize,
        record: Record,
        mut encoded: EncodedRow,
        mut findings: Vec<(FindingKind, String)>,
    ) -> Result<DecidedRow> {
        let lengths = match self.encoder {
            Some(_) => std::iter::once(&encoded.prompt).chain(&encoded.completions).map(Vec::len).collect(),
            None => record.parts().into_iter().map(|(_, content)| word_count(content)).collect(),
        };
        findings.extend(label_findings(&record));
        if let Some(encoder) = self.encoder {
            findings.extend(encoding_findings(&record, &encoded, encoder));
        }
        let fits = self.fit_lengths(&mut encoded, &mut findings);
        let usage = match self.assign_split(file, line, &record, &encoded, &mut findings)? {
            Some(split) if fits => self.compare(RowOrigin::new(file, line, split), &record, &encoded, &mut findings)?,
            _ => RowUse::None,
        };
        Ok(DecidedRow { file, line, record, encoded, lengths, usage, findings })
    }

    /// Cuts what is too long where a setting says so; returns whether the row fits.
    fn fit_lengths(&self, encoded: &mut EncodedRow, findings: &mut Vec<(FindingKind, String)>) -> bool {
        let RowSource { prompt_tokens, response_tokens, long_prompts, long_responses, .. } = *self.source;
        let mut fits = true;
        let mut note = |kinds: [FindingKind; 2], overlong: Overlong, what: String| {
            fits &= overlong == Overlong::Cut;
            findings.push((kinds[usize::from(overlong == Overlong::Cut)], what));
        };
        if encoded.prompt.len() > prompt_tokens {
            let kinds = [FindingKind::PromptsTooLong, FindingKind::PromptsCut];
            let what = format!("`prompt` has {} tokens, more than {prompt_tokens}", encoded.prompt.len());
            note(kinds, long_prompts, what);
        }
        if let Some(longest) = encoded.completions.iter().map(Vec::len).max().filter(|most| *most > response_tokens) {
            let kinds = [FindingKind::ResponsesTooLong, FindingKind::ResponsesCut];
            note(kinds, long_responses, format!("a completion has {longest} tokens, more than {response_tokens}"));
        }
        if long_prompts == Overlong::Cut {
            cut_beginning(&mut encoded.prompt, &self.start, prompt_tokens);
        }
        if long_responses == Overlong::Cut && !encoded.truncate_completions(response_tokens) {
            let what = format!("a completion has no token that carries the loss in its first {response_tokens}");
            findings.push((FindingKind::ResponsesTooLong, what));
            return false;
        }
        fits
    }

    /// The split of a row: that of the first row with the same prompt ids, which are what a model sees. `None` where that is in
    /// the file of another split.
    fn assign_split(
        &mut self,
        file: usize,
        line: usize,
        record: &Record,
        encoded: &EncodedRow,
        findings: &mut Vec<(FindingKind, String)>,
    ) -> Result<Option<Split>> {
        let prompt_hash = prompt_key(record.prompt());
        let file_split = self.source.files[file].0;
        let split = file_split.unwrap_or_else(|| split_of(prompt_hash, self.source.holdout, &self.held_out));
        let key = if self.encoder.is_some() { ids_key(&encoded.prompt) } else { prompt_hash };
        let own = RowOrigin::new(file, line, split);
        let origin =
            self.prompts.get_or_insert(key, own.to_bits()).map_err(temporary)?.map_or(own, RowOrigin::from_bits);
        if file_split.is_some() && origin.split != split {
            let what = format!("its prompt also occurs in {}", self.place_of(origin));
            findings.push((FindingKind::Leaks, what));
            return Ok(None);
        }
        Ok(Some(origin.split))
    }

    /// Whether the completions of a row can be used: they differ, and the row is no duplicate.
    fn compare(
        &mut self,
        own: RowOrigin,
        record: &Record,
        encoded: &EncodedRow,
        findings: &mut Vec<(FindingKind, String)>,
    ) -> Result<RowUse> {
        let split = own.split;
        if matches!(record, Record::Prompt { .. }) {
            return Ok(RowUse::Prompt(split));
        }
        let is_same = match (record, encoded.completions.as_slice()) {
            (Record::Pair { .. }, [chosen, rejected]) => chosen == rejected,
            (Record::Pair { chosen, rejected, .. }, _) => chosen == rejected,
            _ => false,
        };
        if is_same {
            let of_what = if self.encoder.is_some() { "the same tokens" } else { "the same" };
            findings.push((FindingKind::Same, format!("`chosen` and `rejected` are {of_what}")));
            return Ok(RowUse::Prompt(split));
        }
        if self.rows.get_or_insert(self.row_key(record, encoded), 0).map_err(temporary)?.is_some() {
            findings.push((FindingKind::Duplicates, "a duplicate of an earlier row".into()));
            return Ok(RowUse::Prompt(split));
        }
        let key = self.unlabelled_key(record, encoded);
        if let Some(origin) = self.unlabelled.get_or_insert(key, own.to_bits()).map_err(temporary)? {
            let place = self.place_of(RowOrigin::from_bits(origin));
            findings.push((FindingKind::Contradicts, format!("the opposite is said in {place}")));
        }
        Ok(RowUse::Whole(split))
    }

    /// `FILE:LINE`.
    fn place_of(&self, origin: RowOrigin) -> String {
        format!("{}:{}", self.source.files[usize::from(origin.file)].1.display(), origin.line)
    }

    /// Identifies a row: by what a model sees of it and its label.
    fn row_key(&self, record: &Record, encoded: &EncodedRow) -> u64 {
        let label = if let Record::Judged { desirable, .. } = record { Some(*desirable) } else { None };
        match self.encoder {
            Some(_) => {
                let completions: String = encoded.completions.iter().map(|ids| ids_text(ids)).collect();
                text_key(&format!("{} {completions} {label:?}", ids_text(&encoded.prompt)))
            }
            None => text_key(&format!("{:?} {label:?}", record.parts())),
        }
    }

    /// Identifies a row by what a model sees of it, whichever of its completions is preferred or whether its only one is wanted.
    fn unlabelled_key(&self, record: &Record, encoded: &EncodedRow) -> u64 {
        let [prompt, mut completions] = match self.encoder {
            Some(_) => [vec![ids_text(&encoded.prompt)], encoded.completions.iter().map(|ids| ids_text(ids)).collect()],
            None => {
                let texts = |parts: Vec<&Content>| parts.into_iter().map(|content| format!("{content:?}")).collect();
                [texts(vec![record.prompt()]), texts(record.completions().into_iter().map(|(_, text)| text).collect())]
            }
        };
        completions.sort_unstable();
        text_key(&format!("{prompt:?} {completions:?}"))
    }
}

/// The error of a temporary file.
fn temporary(source: std::io::Error) -> Error {
    Error::Write { path: std::env::temp_dir(), source }
}

/// What scores and margins say of the order of two completions.
fn label_findings(record: &Record) -> Option<(FindingKind, String)> {
    let Record::Pair { margin, scores, .. } = record else { return None };
    let (log_odds, what) = match (margin, scores) {
        (Some(margin), _) => (*margin, format!("`margin` is {margin}")),
        (None, Some([chosen, rejected])) => {
            (chosen - rejected, format!("`score_chosen` is {chosen}, `score_rejected` {rejected}"))
        }
        (None, None) => return None,
    };
    match log_odds {
        x if x < 0.0 => Some((FindingKind::ScoresAgainstOrder, what)),
        0.0 => Some((FindingKind::Ties, what)),
        _ => None,
    }
}

/// What encoding changed or left.
fn encoding_findings(record: &Record, encoded: &EncodedRow, encoder: &Encoder) -> Vec<(FindingKind, String)> {
    let names = record.parts();
    let mut findings = vec![];
    if encoded.is_cut {
        findings.push((FindingKind::Cut, "a completion continues after its first end token, where it is cut".into()));
    }
    let is_empty = |(ids, mask): (&Vec<u32>, &Option<LossMask>)| {
        let pieces = mask.as_ref().map_or_else(|| vec![ids.as_slice()], |mask| mask.pieces(ids));
        pieces.into_iter().flatten().all(|id| encoder.ends().contains(id))
    };
    let empty = encoded.completions.iter().zip(&encoded.masks).position(is_empty);
    if let Some(index) = empty {
        let name = names[index + 1].0;
        findings.push((FindingKind::Empty, format!("`{name}` is empty: only its end token is learned")));
    }
    if encoded.is_merged {
        let what = "a token holds the end of `prompt` and the beginning of a completion";
        findings.push((FindingKind::Merged, what.into()));
    }
    if encoded.is_shortened {
        findings.push((FindingKind::Shortened, "a completion changes the text of `prompt`".into()));
    }
    findings
}

/// Cuts the beginning of a prompt, but not what begins every text.
///
/// # Source
/// `truncation_mode = "keep_end"` of trl, which cuts BOS too.
fn cut_beginning(prompt: &mut Vec<u32>, start: &[u32], most: usize) {
    if prompt.len() > most {
        let fixed = if prompt.starts_with(start) && start.len() < most { start.len() } else { 0 };
        prompt.drain(fixed..prompt.len() - (most - fixed));
    }
}

/// The split of a prompt by its hash: a share `holdout` for each of the splits that are held out, the rest for training.
fn split_of(prompt_hash: u64, holdout: f64, held_out: &[Split]) -> Split {
    let share = prompt_hash as f64 / u64::MAX as f64;
    held_out.iter().zip(1..).find(|(_, n)| share < f64::from(*n) * holdout).map_or(Split::Train, |(split, _)| *split)
}

fn word_count(content: &Content) -> usize {
    texts(content).iter().map(|text| text.split_whitespace().count()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_its_bits_say() {
        for split in Split::ALL {
            let origin = RowOrigin { line: 4_000_000_007, file: u16::MAX, split };
            assert_eq!(RowOrigin::from_bits(origin.to_bits()), origin);
        }
    }

    #[test]
    fn a_prompts_beginning_is_cut_but_not_bos() {
        for (prompt, start, most, expected) in [
            (&[1, 5, 6, 7][..], &[1][..], 3, &[1, 6, 7][..]),
            (&[1, 5, 6, 7], &[1], 4, &[1, 5, 6, 7]),
            (&[5, 6, 7], &[1], 2, &[6, 7]),
            (&[5, 6, 7], &[], 2, &[6, 7]),
            (&[1, 5, 6], &[1], 1, &[6]),
        ] {
            let mut cut = prompt.to_vec();
            cut_beginning(&mut cut, start, most);
            assert_eq!(cut, expected);
        }
    }
}
