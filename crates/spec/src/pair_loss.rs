//! The losses on pairs by name, with what each reads; their entries, equations included, are in
//! `objectives/src/pair_losses.rs`.

use serde::{Deserialize, Serialize};

/// An input of a loss beside the policy's log-probs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairInput {
    /// Log-probs under the reference.
    Reference,
    /// Tokens of each response.
    Lengths,
    /// Which pairs are ties.
    Ties,
    /// Log-ratios of responses to other prompts.
    Mismatched,
    /// The mean of the rewards so far.
    RewardShift,
}

/// An entry of the table of losses, without its equation as code.
#[derive(Debug, Clone, Copy)]
pub struct PairLossEntry {
    /// The name in the experiment file.
    pub word: &'static str,
    /// The equation, as text.
    pub costs: &'static str,
    pub paper: &'static str,
    /// Whether a batch's loss is more than the mean of its pairs' losses.
    pub couples_pairs: bool,
    /// Whether the two responses of a row may answer different prompts.
    pub unpaired: bool,
    pub reads: &'static [PairInput],
    /// Keys of [`DpoSettings`](crate::DpoSettings), of those that not every loss reads.
    pub settings: &'static [&'static str],
    /// Deviations from the paper.
    pub notes: &'static str,
    /// Its names in `tests/golden/preference_losses.json`; none where it is tested by hand.
    pub golden: &'static [&'static str],
}

/// For each entry with a name in the experiment file: a variant and its row of the table.
macro_rules! pair_losses {
    ($(
        $variant:ident $({ $($field:ident: $type:ty),* })?
        $(experiment $word:literal {
            costs: $costs:literal, paper: $paper:literal,
            couples_pairs: $couples:literal, unpaired: $unpaired:literal,
            reads: [$($input:ident),*], settings: [$($setting:ident),*],
            notes: $notes:literal,
        } $(from $from:tt)?)?
        golden $golden:tt
        $(properties $properties:tt)?
        loss $loss:tt
    )*) => {
        /// A loss on pairs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum PairLoss {
            $($(#[doc = $costs] #[serde(rename = $word)] $variant,)?)*
        }

        /// The names of [`PairLoss`].
        pub(crate) const PAIR_LOSSES: &[&str] = &[$($($word,)?)*];

        impl PairLoss {
            /// Its entry of the table.
            pub fn entry(self) -> &'static PairLossEntry {
                match self {
                    $($(Self::$variant => &PairLossEntry {
                        word: $word,
                        costs: $costs,
                        paper: $paper,
                        couples_pairs: $couples,
                        unpaired: $unpaired,
                        reads: &[$(PairInput::$input),*],
                        settings: &[$(stringify!($setting)),*],
                        notes: $notes,
                        golden: &$golden,
                    },)?)*
                }
            }

            /// All of them, in the order of the table.
            pub fn all() -> Vec<Self> {
                [$($((Self::$variant, $word),)?)*].into_iter().map(|(loss, _)| loss).collect()
            }
        }
    };
}
include!("../../objectives/src/pair_losses.rs");

impl PairLoss {
    /// Whether the loss reads an input.
    pub fn takes(self, input: PairInput) -> bool {
        self.entry().reads.contains(&input)
    }

    /// Whether the loss reads the reference's log-probs.
    pub fn reads_reference(self) -> bool {
        self.takes(PairInput::Reference)
    }

    /// Whether the loss reads this key of [`DpoSettings`](crate::DpoSettings). A key that no entry lists is read by every loss.
    pub(crate) fn reads(self, key: &str) -> bool {
        let lists = |loss: Self| loss.entry().settings.contains(&key);
        match key {
            "reference_free" => self.reads_reference(),
            _ => lists(self) || !Self::all().into_iter().any(lists),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DpoSettings;
    use std::fmt::Write;
    use std::path::Path;

    #[test]
    fn every_setting_of_an_entry_is_a_key_of_the_method() {
        let defaults = serde_json::to_value(DpoSettings::defaults()).expect("settings");
        for loss in PairLoss::all() {
            for setting in loss.entry().settings {
                assert!(defaults.get(setting).is_some(), "`{setting}` of {loss:?} is not a key of [method.dpo]");
            }
        }
    }

    /// The table of METHODS.md.
    fn table() -> String {
        let mut table = String::from(
            "| `loss` | a pair costs | paper, equation | reads | deviations and notes |\n| --- | --- | --- | --- | --- |\n",
        );
        for loss in PairLoss::all() {
            let PairLossEntry { word, costs, paper, reads, settings, notes, golden, .. } = loss.entry();
            let inputs = reads.iter().map(|input| match input {
                PairInput::Reference => "reference",
                PairInput::Lengths => "lengths",
                PairInput::Ties => "ties",
                PairInput::Mismatched => "mismatched responses",
                PairInput::RewardShift => "mean reward so far",
            });
            // settings that most losses read are in the text above the table
            let names = settings.iter().filter(|key| !["beta", "nll_coef"].contains(key)).map(|key| format!("`{key}`"));
            let reads: Vec<String> = inputs.map(String::from).chain(names).collect();
            let reads = if reads.is_empty() { "–".into() } else { reads.join(", ") };
            let by_hand = if golden.is_empty() { "; by hand" } else { "" };
            writeln!(table, "| `{word}` | {costs} | {paper} | {reads} | {notes}{by_hand} |").expect("text");
        }
        table
    }

    #[test]
    fn the_table_of_methods_md_is_that_of_the_entries() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../METHODS.md");
        let page = std::fs::read_to_string(&path).expect("METHODS.md");
        let start = page.find("| `loss` | a pair costs").expect("the table of losses");
        let end = start + page[start..].find("\n\n").expect("an empty line after the table") + 1;
        if std::env::var_os("DUEL_WRITE_METHODS").is_some() {
            std::fs::write(&path, format!("{}{}{}", &page[..start], table(), &page[end..])).expect("METHODS.md");
        } else {
            assert_eq!(
                &page[start..end],
                table(),
                "METHODS.md differs from pair_losses.rs: `DUEL_WRITE_METHODS=1 cargo test -p duel-spec table_of_methods` writes it"
            );
        }
    }
}
