//! The split of each prompt, so that no training reads a prompt that its policy is evaluated on.

use crate::Result;
use crate::invariants::breach;
use duel_data::World;
use duel_spec::{Split, ids::prompt_hash};
use std::collections::HashMap;

/// The split of each prompt of a world, by the prompt's hash.
#[derive(Debug, Clone, Default)]
pub struct Splits(HashMap<u64, Split>);

impl Splits {
    /// The splits of a world's prompts.
    pub fn of(world: &dyn World) -> Self {
        let all = Split::ALL.into_iter().flat_map(|split| world.prompts(split));
        Self(all.map(|prompt| (prompt_hash(&prompt.ids), prompt.split)).collect())
    }

    /// Checks that prompts belong to a split, or to none.
    ///
    /// # Errors
    /// A violation of the invariant `name`.
    pub fn check_split(
        &self,
        name: &'static str,
        step: u64,
        split: Split,
        prompts: impl Iterator<Item = u64>,
    ) -> Result<()> {
        for hash in prompts {
            if let Some(actual) = self.0.get(&hash).filter(|actual| **actual != split) {
                let what = format!("the split of prompt {hash:016x}");
                return Err(breach(name, step, &what, actual.name().into(), split.name().into()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use duel_data::grammar::GrammarWorld;

    #[test]
    fn a_prompt_of_another_split_is_reported_by_name() {
        let world = GrammarWorld::new(0.02, 1);
        let splits = Splits::of(&world);
        let hashes = |split| world.prompts(split).iter().map(|prompt| prompt_hash(&prompt.ids)).collect::<Vec<_>>();
        let check =
            |split, prompts: Vec<u64>| splits.check_split("trains_on_train_prompts", 3, split, prompts.into_iter());
        for split in Split::ALL {
            assert!(check(split, hashes(split)).is_ok());
            for other in Split::ALL.into_iter().filter(|other| *other != split) {
                match check(split, hashes(other)) {
                    Err(Error::Invariant { name: "trains_on_train_prompts", step: 3, actual, expected, .. }) => {
                        assert_eq!([actual.as_str(), expected.as_str()], [other.name(), split.name()]);
                    }
                    result => panic!("{result:?}"),
                }
            }
        }
        assert!(check(Split::Train, vec![7]).is_ok(), "a prompt of no split passes");
    }
}
