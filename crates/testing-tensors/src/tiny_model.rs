//! Models so small that a run takes seconds.

use burn::module::Module;
use burn::tensor::Device;
use duel_data::TextTokenizer;
use duel_model::{
    Activation, Checkpoint, ClassifierCheckpoint, FileDType, Gpt2, Llama, Policy, ScalarModel, SpecialTokens,
    TokenizerFiles, TransformerConfig, classifier, huggingface,
};
use duel_spec::seeds;
use std::path::Path;

const CHATML: &str = "{% for message in messages %}{{ '<pad>' + message['role'] + '\n' + message['content'] + '<eos>' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<pad>assistant\n' }}{% endif %}";

/// Sizes that a test has time for.
pub const SMALL: [&str; 13] = [
    "stages.pairs.rows=16",
    "stages.pairs.holdout_rows=4",
    "stages.rm.steps=2",
    "stages.rm.batch_size=4",
    "stages.rm.samples=8",
    "arms.ppo.iterations=2",
    "arms.ppo.episodes=8",
    "arms.dpo.batch_size=4",
    "evaluation.prompts=4",
    "evaluation.best_of=2",
    "evaluation.curve_points=1",
    "evaluation.completions=2",
    "world.rows.response_tokens=12",
];

/// A Llama of a few thousand weights with a tokenizer and a chat template, as a directory.
pub fn model(to: &Path) {
    model_with_template(to, CHATML);
}

/// The same with another chat template.
pub fn model_with_template(to: &Path, template: &str) {
    let texts = ["is it good or bad user assistant yes no very film it was a very good film it was a very bad film"];
    let (tokenizer_files, vocabulary) = tokenizer_files(&texts, 300, template, to);
    let architecture =
        Llama { key_value_heads: 2, head_width: 8, inner: 24, rope_theta: 5000.0, epsilon: 1e-5 }.architecture();
    let config =
        TransformerConfig { vocabulary, context: 128, layers: 2, width: 16, heads: 2, tied: true, architecture };
    let policy = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &Device::flex()).no_grad();
    huggingface::write(to, &Checkpoint { config, policy, tokenizer_files }, FileDType::F32).expect("written");
}

/// A tokenizer of at most `size` tokens that is fitted to texts, with a template, and how many tokens it has.
pub fn tokenizer_files(texts: &[&str], size: usize, template: &str, to: &Path) -> (TokenizerFiles, usize) {
    std::fs::create_dir_all(to).expect("written");
    let tokenizer = TextTokenizer::train(texts.iter().copied(), size).expect("written");
    let path = to.join("trained.json");
    tokenizer.save(&path).expect("written");
    let bytes = std::fs::read(&path).expect("written");
    std::fs::remove_file(path).expect("written");
    let special = SpecialTokens { bos: Some(1), eos: Some(2), pad: Some(0), ..SpecialTokens::default() };
    (TokenizerFiles { special, tokenizer: Some(bytes), template: Some(template.into()) }, tokenizer.vocabulary())
}

/// A reward model of another family, with another tokenizer and this template.
pub fn reward_model(to: &Path, template: &str, context: usize) {
    let (tokenizer_files, vocabulary) = tokenizer_files(&["good bad is it it is"], 270, template, to);
    let architecture = Gpt2 { activation: Activation::GeluTanh, inner: 40, epsilon: 1e-5 }.architecture();
    let config = TransformerConfig { vocabulary, context, layers: 2, width: 12, heads: 3, tied: true, architecture };
    let device = Device::flex();
    let body = Policy::new(&config, &mut seeds::derive(2, "test", 0, "init"), &device).no_grad();
    let head = (0..12).map(|i| ((i * 7) % 5) as f32 / 2.0 - 1.0).collect();
    let model = ScalarModel::with_head(body, head, &device);
    let checkpoint = ClassifierCheckpoint { config, model, tokenizer_files, pad: Some(0), score: None };
    classifier::write(to, checkpoint, FileDType::F32).expect("written");
}
