//! The world `rows`: a person's own preference file. Prompts are split by their text, so that one prompt is never on both
//! sides; what is too long is left out and counted.

use crate::encode::Encoder;
use crate::pairs::PreferenceRow;
use crate::records::{self, Columns, Content, Record};
use crate::{Detokenize, Error, Prompt, PromptResponse, Result, World};
use duel_spec::{Split, TokenSpec, ids::hash_bytes, seeds::Rng};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// What [`prepare`] reads, and how much of it.
#[derive(Debug, Clone)]
pub struct RowSource {
    /// One file, whose prompts are split; or one each for training, validation and test.
    pub files: Vec<(Option<Split>, PathBuf)>,
    pub columns: Columns,
    /// Share of a single file's prompts for validation, and as many for test.
    pub holdout: f64,
    pub prompt_tokens: usize,
    pub response_tokens: usize,
    /// Rows kept of the training split, and of each of the others.
    pub most: [usize; 2],
}

/// Rows that are named; all others are counted.
const SHOWN: usize = 20;

/// What became of the rows that were read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareStats {
    pub read: usize,
    pub kept: usize,
    /// Of those kept, two single completions that stand together, one wanted and one not, to prompts of their own.
    #[serde(default)]
    pub unpaired: usize,
    /// Single completions of which their split has one kind alone, wanted or unwanted: no loss here learns from one kind.
    #[serde(default)]
    pub one_kind: [usize; 2],
    /// Of another shape, or refused by the template.
    pub unreadable: usize,
    pub prompts_too_long: usize,
    pub responses_too_long: usize,
    /// Both completions are the same.
    pub same: usize,
    pub duplicates: usize,
    /// Of those that are unreadable or the same, the first with file and line.
    #[serde(default, skip)]
    pub left_out: Vec<String>,
}

impl PrepareStats {
    fn record_left_out(&mut self, path: &Path, line: usize, what: &str) {
        if self.left_out.len() < SHOWN {
            self.left_out.push(format!("{}:{line}: {what}", path.display()));
        }
    }

    /// The first row that was left out, as the end of a sentence.
    pub(crate) fn first_left_out(&self) -> String {
        self.left_out.first().map_or(String::new(), |first| format!("; {first}"))
    }
}

impl std::fmt::Display for PrepareStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { read, kept, unpaired, unreadable, prompts_too_long, responses_too_long, same, duplicates, .. } =
            self;
        write!(
            f,
            "{read} rows read, {kept} pairs kept, {unpaired} of them made of completions with a label; {unreadable} unreadable, {prompts_too_long} with prompts too long, \
             {responses_too_long} with completions too long, {same} whose completions are the same, {duplicates} duplicates"
        )?;
        match self.one_kind {
            [0, 0] => Ok(()),
            [unwanted, wanted] => {
                write!(
                    f,
                    "; left out, with none of the other kind in their split: {wanted} wanted and {unwanted} unwanted completions"
                )
            }
        }
    }
}

const ROWS: &str = "rows.jsonl";
const PROMPTS: &str = "prompts.json";

/// A place in an order that depends on the text alone: the first eight bytes of its SHA-256.
pub(crate) fn key(text: &str) -> u64 {
    u64::from_str_radix(&hash_bytes(text.as_bytes())[..16], 16).unwrap_or(0)
}

/// Where a prompt stands first.
#[derive(Clone, Copy)]
struct SplitOrigin {
    split: Split,
    file: usize,
    line: usize,
}

/// What tells prompts apart once they are ids.
pub(crate) fn ids_key(ids: &[u32]) -> u64 {
    key(&format!("{ids:?}"))
}

/// What tells prompts apart.
pub fn prompt_key(prompt: &Content) -> u64 {
    match prompt {
        Content::Text(text) => key(text),
        Content::Turns(turns) => {
            key(&turns.iter().flat_map(|turn| [&*turn.role, "\0", &*turn.content, "\0"]).collect::<String>())
        }
    }
}

/// The split of a prompt by its key: validation, test, then training.
fn split_of(key: u64, holdout: f64) -> Split {
    let share = key as f64 / u64::MAX as f64;
    match share {
        _ if share < holdout => Split::Validation,
        _ if share < 2.0 * holdout => Split::Test,
        _ => Split::Train,
    }
}

/// Reads the files row by row and writes, under `to`, the rows and prompts as ids. Of more rows than are wanted those with the
/// smallest hashes stay, whatever their order in the file.
///
/// Prompts alone, of all splits, are a world without rows: completions are for the policy to write.
///
/// # Errors
/// A file that cannot be read; a split without rows; a prompt that stands in the files of two splits.
pub fn prepare(source: &RowSource, encoder: &Encoder, to: &Path) -> Result<PrepareStats> {
    let mut tally = PrepareStats::default();
    let mut kept: [BTreeMap<(u64, u64), PreferenceRow>; 3] = Default::default();
    let mut single: [[BTreeMap<u64, PromptResponse>; 2]; 3] = Default::default(); // unwanted, wanted
    let mut prompts: [BTreeMap<u64, Vec<u32>>; 3] = Default::default();
    let mut seen: HashSet<u64> = HashSet::new();
    let mut labelled = [0, 0]; // unwanted, wanted
    let mut only_prompts = true;
    let mut homes: HashMap<u64, SplitOrigin> = HashMap::new();
    let (mut shared, mut shared_lines) = (0, vec![]);
    for (file, (split, path)) in source.files.iter().enumerate() {
        for (line, row) in records::read(path, &source.columns, |record| encoder.encode(record))? {
            tally.read += 1;
            let (record, encoded) =
                match row.and_then(|(record, encoded)| Ok((record, encoded.map_err(|e| e.to_string())?))) {
                    Ok(read) => read,
                    Err(what) => {
                        tally.unreadable += 1;
                        tally.record_left_out(path, line, &what);
                        continue;
                    }
                };
            let (Record::Pair { prompt, .. } | Record::Judged { prompt, .. } | Record::Prompt { prompt }) = &record;
            only_prompts &= matches!(record, Record::Prompt { .. });
            let of_prompt = prompt_key(prompt);
            // prompts of other words may have the same ids, which are what a model sees
            let own = split.unwrap_or_else(|| split_of(of_prompt, source.holdout));
            let home = *homes.entry(ids_key(&encoded.prompt)).or_insert(SplitOrigin { split: own, file, line });
            if split.is_some() && home.split != own {
                shared += 1;
                if shared_lines.len() < SHOWN {
                    let other = source.files[home.file].1.display();
                    shared_lines.push(format!(
                        "{}:{line}: its prompt stands in {other}:{} too",
                        path.display(),
                        home.line
                    ));
                }
                continue;
            }
            let split = home.split;
            if encoded.prompt.len() > source.prompt_tokens {
                tally.prompts_too_long += 1;
                continue;
            }
            if encoded.completions.iter().any(|ids| ids.len() > source.response_tokens) {
                tally.responses_too_long += 1;
                continue;
            }
            let most = source.most[usize::from(split != Split::Train)];
            keep_smallest(&mut prompts[split as usize], of_prompt, encoded.prompt.clone(), most);
            if let (Record::Judged { wanted, .. }, [completion]) = (&record, encoded.completions.as_slice()) {
                let of_row = key(&format!("{of_prompt} {completion:?} {wanted}"));
                if !seen.insert(of_row) {
                    tally.duplicates += 1;
                    continue;
                }
                let row = PromptResponse { prompt: encoded.prompt, response: completion.clone() };
                labelled[usize::from(*wanted)] += 1;
                keep_smallest(&mut single[split as usize][usize::from(*wanted)], of_row, row, most);
                continue;
            }
            let (Record::Pair { margin, scores, .. }, [chosen, rejected]) = (&record, encoded.completions.as_slice())
            else {
                continue;
            };
            if chosen == rejected {
                tally.same += 1;
                tally.record_left_out(path, line, "`chosen` and `rejected` are the same tokens");
                continue;
            }
            let of_row = key(&format!("{of_prompt} {chosen:?} {rejected:?}"));
            if !seen.insert(of_row) {
                tally.duplicates += 1;
                continue;
            }
            let row = preference(split, encoded.prompt, chosen, rejected, *margin, *scores);
            keep_smallest(&mut kept[split as usize], (of_row, tally.read as u64), row, most);
        }
    }
    if shared > 0 {
        let hint = "a prompt may stand in one of the files of training, validation and test only: take these rows out of one of them";
        return Err(Error::BadRows { count: shared, lines: shared_lines, hint: hint.into() });
    }
    for split in [Split::Train, Split::Validation, Split::Test] {
        let (rows, most) = (&mut kept[split as usize], source.most[usize::from(split != Split::Train)]);
        let before = rows.len();
        let [unwanted, wanted]: [Vec<PromptResponse>; 2] =
            std::mem::take(&mut single[split as usize]).map(|rows| rows.into_values().collect());
        if unwanted.is_empty() || wanted.is_empty() {
            tally.one_kind[0] += unwanted.len();
            tally.one_kind[1] += wanted.len();
        }
        for (place, row) in pair_unpaired(split, wanted, unwanted).into_iter().take(most - before).enumerate() {
            rows.insert((u64::MAX, place as u64), row); // after the pairs of the file
        }
        tally.unpaired += rows.len() - before;
    }
    tally.kept = kept.iter().map(BTreeMap::len).sum();
    let [unwanted, wanted] = labelled;
    if tally.kept == 0 && (unwanted == 0) != (wanted == 0) {
        return Err(Error::OneKind { wanted, unwanted });
    }
    only_prompts &= prompts.iter().all(|prompts| !prompts.is_empty());
    if !only_prompts && kept.iter().any(BTreeMap::is_empty) {
        let of = |split: Split| format!("{} of {}", kept[split as usize].len(), split.name());
        let found = [Split::Train, Split::Validation, Split::Test].map(of).join(", ");
        return Err(Error::FewRows { found: format!("{found}, out of {}", tally.read), tally: Box::new(tally) });
    }
    let lines = kept.into_iter().flat_map(BTreeMap::into_values).map(|row| {
        serde_json::to_string(&row).map(|line| line + "\n").map_err(|e| Error::Tokenizer { problem: e.to_string() })
    });
    write(&to.join(ROWS), lines.collect::<Result<String>>()?.as_bytes())?;
    let prompts: [Vec<Vec<u32>>; 3] = prompts.map(|prompts| prompts.into_values().collect());
    let json = serde_json::to_vec(&prompts).map_err(|e| Error::Tokenizer { problem: e.to_string() })?;
    write(&to.join(PROMPTS), &json)?;
    Ok(tally)
}

/// Keeps something among those with the smallest keys, `most` at most.
fn keep_smallest<K: Ord, V>(among: &mut BTreeMap<K, V>, key: K, value: V, most: usize) {
    among.insert(key, value);
    if among.len() > most {
        among.pop_last();
    }
}

/// Single completions in twos, each to its own prompt: as many as there are of the more frequent kind, where those of the other
/// come round again. Their order is that of hashes, so that who stands beside whom is by chance.
fn pair_unpaired(split: Split, wanted: Vec<PromptResponse>, unwanted: Vec<PromptResponse>) -> Vec<PreferenceRow> {
    if wanted.is_empty() || unwanted.is_empty() {
        return vec![];
    }
    let count = wanted.len().max(unwanted.len());
    let twos = wanted.iter().cycle().zip(unwanted.iter().cycle()).take(count);
    let row = |(wanted, unwanted): (&PromptResponse, &PromptResponse)| PreferenceRow {
        rejected_prompt: (wanted.prompt != unwanted.prompt).then(|| unwanted.prompt.clone()),
        ..preference(split, wanted.prompt.clone(), &wanted.response, &unwanted.response, None, None)
    };
    twos.map(row).collect()
}

/// A row whose annotator was as sure as it says: its margin, else the gap of its scores, as log-odds; else sure.
fn preference(
    split: Split,
    prompt: Vec<u32>,
    chosen: &[u32],
    rejected: &[u32],
    margin: Option<f64>,
    scores: Option<[f64; 2]>,
) -> PreferenceRow {
    let odds = margin.or(scores.map(|[chosen, rejected]| chosen - rejected));
    PreferenceRow {
        split,
        prompt,
        chosen: chosen.to_vec(),
        rejected: rejected.to_vec(),
        rejected_prompt: None,
        gold_chosen: 0.0,
        gold_rejected: 0.0,
        p_label: odds.map_or(1.0, |odds| 1.0 / (1.0 + (-odds).exp())),
        tie: odds == Some(0.0),
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|source| Error::Write { path: path.into(), source })
}

/// The prepared world.
#[derive(Debug)]
pub struct RowsWorld {
    space: TokenSpec,
    encoder: Encoder,
    rows: Vec<PreferenceRow>,
    splits: [Vec<Prompt>; 3],
}

impl RowsWorld {
    /// Opens what [`prepare`] wrote.
    ///
    /// # Errors
    /// A file that is missing or damaged.
    pub fn open(folder: &Path, encoder: Encoder, space: TokenSpec) -> Result<Self> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|source| Error::Read { path, source })
        };
        let damaged = |name: &str, e: serde_json::Error| Error::Row {
            path: folder.join(name),
            row: e.line(),
            problem: e.to_string(),
        };
        let rows = serde_json::Deserializer::from_slice(&read(ROWS)?)
            .into_iter()
            .collect::<std::result::Result<_, _>>()
            .map_err(|e| damaged(ROWS, e))?;
        let prompts: [Vec<Vec<u32>>; 3] = serde_json::from_slice(&read(PROMPTS)?).map_err(|e| damaged(PROMPTS, e))?;
        let mut splits = [vec![], vec![], vec![]];
        let mut index = 0;
        for (split, prompts) in [Split::Train, Split::Validation, Split::Test].into_iter().zip(prompts) {
            for ids in prompts {
                let text = encoder.tokenizer().decode(&ids)?;
                splits[split as usize].push(Prompt { index, split, ids, text });
                index += 1;
            }
        }
        Ok(Self { space, encoder, rows, splits })
    }

    /// The preference rows of all splits.
    pub fn rows(&self) -> &[PreferenceRow] {
        &self.rows
    }

    fn chosen(&self, is_wanted: impl Fn(Split) -> bool) -> Vec<PromptResponse> {
        let wanted = self.rows.iter().filter(|row| is_wanted(row.split));
        wanted.map(|row| PromptResponse { prompt: row.prompt.clone(), response: row.chosen.clone() }).collect()
    }
}

impl Detokenize for RowsWorld {
    fn text(&self, ids: &[u32]) -> Result<String> {
        self.encoder.tokenizer().decode(ids)
    }
}

impl World for RowsWorld {
    fn space(&self) -> &TokenSpec {
        &self.space
    }

    fn prompts(&self, split: Split) -> &[Prompt] {
        &self.splits[split as usize]
    }

    /// What was preferred, on training prompts.
    fn sft_rows(&self, rng: &mut Rng) -> Vec<PromptResponse> {
        let mut rows = self.chosen(|split| split == Split::Train);
        rows.shuffle(rng);
        rows
    }

    fn heldout_rows(&self, _: &mut Rng) -> Vec<PromptResponse> {
        self.chosen(|split| split == Split::Validation)
    }

    fn allowed_in_pairs(&self, _: &[u32]) -> bool {
        true
    }

    /// What a person asks, as a conversation of one turn where the model has a template.
    fn read_prompt(&self, text: &str) -> Result<Prompt> {
        let turn = || Content::Turns(vec![crate::chat::Message { role: "user".into(), content: text.into() }]);
        let ids = match self.encoder.prompt(&turn()) {
            Ok(ids) => ids,
            Err(_) => self.encoder.prompt(&Content::Text(text.into()))?,
        };
        if ids.is_empty() || ids.len() > self.space.prompt_tokens {
            return Err(Error::NoPrompt {
                text: text.into(),
                found: format!("it has {} tokens", ids.len()),
                accepted: format!("prompts here have 1 to {} tokens", self.space.prompt_tokens),
            });
        }
        Ok(Prompt { index: usize::MAX, split: Split::Test, ids, text: text.into() })
    }

    fn render(&self, _: &Prompt, response: &[u32]) -> Result<String> {
        self.text(response)
    }
}
