//! Models of one number per token: value heads, reward models, value models.

use crate::counter::count;
use crate::host_tensor::host;
use crate::tokens::Tokens;
use crate::transformer::backbone::Backbone;
use crate::transformer::policy::Policy;
use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use duel_kernels::FrozenNumbers;
use duel_spec::ScorePooling;

/// A value head on a policy's own hidden states, which starts at zero.
#[derive(Module, Debug)]
pub struct ValueHead {
    head: Linear,
}

impl ValueHead {
    /// For states of a policy of that width.
    pub fn new(width: usize, device: &Device) -> Self {
        let mut head = LinearConfig::new(width, 1).init(device);
        head.weight = Param::from_tensor(Tensor::zeros([width, 1], device));
        head.bias = Some(Param::from_tensor(Tensor::zeros([1], device)));
        Self { head }
    }

    /// A value `[B, T]` for each state `[B, T, D]`.
    pub fn forward(&self, states: Tensor<3>) -> Tensor<2> {
        self.head.forward(states).squeeze_dim::<2>(2)
    }
}

/// A model of one number per token: reward model and value model.
#[derive(Module, Debug)]
pub struct ScalarModel {
    body: Backbone,
    head: Linear,
    /// Which of a response's numbers are its score.
    #[module(skip)]
    pub(crate) score: ScorePooling,
}

impl ScalarModel {
    /// The policy's body under a head that starts at zero.
    pub fn from_policy(policy: Policy, device: &Device) -> Self {
        let width = policy.body.tokens.dims()[1];
        let mut model = Self::with_head(policy, vec![0.0; width], device);
        model.head.bias = Some(Param::from_tensor(Tensor::zeros([1], device)));
        model
    }

    /// The policy's body under a head of the given weights `[D]` and no bias.
    pub fn with_head(policy: Policy, weights: Vec<f32>, device: &Device) -> Self {
        let width = weights.len();
        let mut head = LinearConfig::new(width, 1).with_bias(false).init(device);
        head.weight = Param::from_tensor(Tensor::from_data(TensorData::new(weights, [width, 1]), device));
        Self { body: policy.body, head, score: ScorePooling::Last }
    }

    /// The same model with this bias of its head.
    pub fn with_bias(mut self, bias: f32) -> Self {
        let device = self.head.weight.device();
        self.head.bias = Some(Param::from_tensor(Tensor::from_data(TensorData::new(vec![bias], [1]), &device)));
        self
    }

    /// The bias of its head; 0 where it has none.
    pub fn bias(&self) -> f64 {
        self.head.bias.as_ref().map_or(0.0, |bias| f64::from(host(bias.val())[0]))
    }

    /// The same model with one more row of the token embedding, of zeros.
    pub fn with_another_token(mut self) -> Self {
        self.body.tokens = self.body.tokens.in_memory();
        self.body.tokens.weight = self.body.tokens.weight.map(|rows| {
            let [_, width] = rows.dims();
            let more = Tensor::zeros([1, width], &rows.device());
            Tensor::cat(vec![rows, more], 0) // [V + 1, D]
        });
        self
    }

    /// The model with its adapters added to the weights that they stand on.
    pub fn merged(mut self) -> Self {
        self.body = self.body.merged();
        self
    }

    /// The model with the matrices of its body rounded, no longer to be trained.
    pub fn rounded(mut self, numbers: FrozenNumbers) -> Self {
        self.body = self.body.rounded(numbers);
        self
    }

    /// The same model whose score of a response is another; it is that of the last token unless said.
    pub fn scoring(self, score: ScorePooling) -> Self {
        Self { score, ..self }
    }

    /// The same model giving `(x − centre) / scale` where it gave x.
    pub fn rescaled(mut self, centre: f64, scale: f64) -> Self {
        let device = self.head.weight.device();
        self.head.weight = self.head.weight.map(|w| w / scale);
        let bias = self.head.bias.take().unwrap_or_else(|| Param::from_tensor(Tensor::zeros([1], &device)));
        self.head.bias = Some(bias.map(|b| (b - centre) / scale));
        self
    }

    /// A hash of all weights, those that are no tensors too.
    pub fn hash(&self) -> String {
        self.body.hash_of(self, None)
    }

    /// One number after each token.
    ///
    /// # Shapes
    /// `tokens`: `[B, L]`; returns `[B, L]`.
    pub fn forward(&self, tokens: impl Into<Tokens>) -> Tensor<2> {
        let states = self.body.forward(tokens.into(), None);
        let [b, l, d] = states.dims();
        count(|counted| counted.heads += (2 * d * b * l) as f64);
        self.head.forward(states).squeeze_dim::<2>(2)
    }
}
