//! The reward model's loss on pairs.

use crate::ChosenRejected;
use burn::tensor::{Tensor, activation::log_sigmoid};

/// What [`bradley_terry_loss`] says of a batch.
#[derive(Debug, Clone)]
pub struct BradleyTerry {
    /// Mean over pairs, `[1]`, nats.
    pub loss: Tensor<1>,
    /// Per pair, without the centring term, `[N]`, nats.
    pub losses: Tensor<1>,
    /// Score of chosen minus rejected, `[N]`.
    pub margins: Tensor<1>,
}

/// `−log σ(r(x, y_w) − r(x, y_l) − m) + c (r(x, y_w) + r(x, y_l))²`: at m = c = 0, ln 2 on a tie and blind to a
/// constant added to both scores.
///
/// # Shapes
/// `strengths` m: `[N]`, how much better the chosen response is said to be; `centring` c pulls scores to 0.
/// # Source
/// Bradley & Terry 1952; Stiennon et al. 2020, eq. 1; margin: Touvron et al. 2023, eq. 2; centring: Eisenstein
/// et al. 2023.
pub fn bradley_terry_loss(scores: ChosenRejected, strengths: Option<Tensor<1>>, centring: f64) -> BradleyTerry {
    let margins = scores.clone().difference(); // [N]
    let surplus = match strengths {
        Some(strengths) => margins.clone() - strengths,
        None => margins.clone(),
    };
    let losses = log_sigmoid(surplus).neg();
    let mut loss = losses.clone().mean();
    if centring != 0.0 {
        loss = loss + (scores.chosen + scores.rejected).square().mean() * centring;
    }
    BradleyTerry { loss, losses, margins }
}
