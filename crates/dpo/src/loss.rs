//! The loss of an arm: from the name and the parameters in its settings to a `PreferenceLoss`.

use duel_objectives::{KtoWeights, PreferenceLoss};
use duel_spec::{DpoSettings, PairLoss};

/// For each entry with a name in the experiment file: its parameters from the settings.
macro_rules! pair_losses {
    ($(
        $variant:ident $({ $($field:ident: $type:ty),* })?
        $(experiment $word:literal $entry:tt $(from { |$settings:ident| $($from:tt)* })?)?
        golden $golden:tt
        $(properties $properties:tt)?
        loss $loss:tt
    )*) => {
        /// A loss with its parameters.
        fn preference_loss_of(loss: PairLoss, settings: &DpoSettings) -> PreferenceLoss {
            match loss {
                $($(PairLoss::$variant => {
                    const _: &str = $word; // one match arm per entry with a name
                    $(let $settings = settings;)?
                    PreferenceLoss::$variant { $($($from)*)? }
                })?)*
            }
        }
    };
}
include!("../../objectives/src/pair_losses.rs");

/// The losses of the settings with their weights.
pub(crate) fn preference_losses_of(settings: &DpoSettings) -> Vec<(PreferenceLoss, f64)> {
    settings.losses().into_iter().map(|(loss, weight)| (preference_loss_of(loss, settings), weight)).collect()
}
