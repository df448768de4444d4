//! The loss of an arm: the word and the parameters in its settings as a `PreferenceLoss`.

use duel_objectives::{KtoWeights, PreferenceLoss};
use duel_spec::{DpoSettings, PairLoss};

/// Of each entry that has a word: its parameters from the settings.
macro_rules! pair_losses {
    ($(
        $variant:ident $({ $($field:ident: $type:ty),* })?
        $(experiment $word:literal $entry:tt $(from { |$settings:ident| $($from:tt)* })?)?
        golden $golden:tt
        $(properties $properties:tt)?
        loss $loss:tt
    )*) => {
        /// The settings' loss with the parameters that it has.
        pub(crate) fn preference_loss_of(settings: &DpoSettings) -> PreferenceLoss {
            match settings.loss {
                $($(PairLoss::$variant => {
                    const _: &str = $word; // an arm per entry that has a word
                    $(let $settings = settings;)?
                    PreferenceLoss::$variant { $($($from)*)? }
                })?)*
            }
        }
    };
}
include!("../../objectives/src/pair_losses.rs");
