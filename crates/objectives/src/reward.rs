//! The reward model's loss on pairs.

use crate::ChosenRejected;
use burn::tensor::{Tensor, activation::log_sigmoid};

/// What [`bradley_terry_loss`] says of a batch.
#[derive(Debug, Clone)]
pub struct BradleyTerry {
    /// Mean over pairs, `[1]`, nats.
    pub loss: Tensor<1>,
    /// Score of chosen minus rejected, `[N]`.
    pub margins: Tensor<1>,
}

/// `−log σ(r(x, y_w) − r(x, y_l))`: ln 2 on a tie, blind to a constant added to both scores.
///
/// # Source
/// Bradley & Terry 1952; Stiennon et al. 2020, eq. 1.
pub fn bradley_terry_loss(scores: ChosenRejected) -> BradleyTerry {
    let margins = scores.chosen - scores.rejected; // [N]
    BradleyTerry { loss: log_sigmoid(margins.clone()).neg().mean(), margins }
}
