//! A model so small that a run takes seconds.

use burn::module::Module;
use burn::tensor::Device;
use duel_data::TextTokenizer;
use duel_model::{Checkpoint, FileDType, Llama, Policy, SpecialTokens, TokenizerFiles, TransformerConfig, huggingface};
use duel_spec::seeds;
use std::path::Path;

const CHATML: &str = "{% for message in messages %}{{ '<pad>' + message['role'] + '\n' + message['content'] + '<eos>' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<pad>assistant\n' }}{% endif %}";

/// Sizes that a test has time for.
#[allow(dead_code, reason = "not every test runs an experiment")]
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
#[allow(dead_code, reason = "not every test takes this template")]
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
    huggingface::write(to, &Checkpoint { config, policy, tokenizer_files }, FileDType::F32).unwrap();
}

/// A tokenizer of at most `size` tokens that is fitted to texts, with a template, and how many tokens it has.
pub fn tokenizer_files(texts: &[&str], size: usize, template: &str, to: &Path) -> (TokenizerFiles, usize) {
    std::fs::create_dir_all(to).unwrap();
    let tokenizer = TextTokenizer::train(texts.iter().copied(), size).unwrap();
    let path = to.join("trained.json");
    tokenizer.save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    let special = SpecialTokens { bos: Some(1), eos: Some(2), pad: Some(0), ..SpecialTokens::default() };
    (TokenizerFiles { special, tokenizer: Some(bytes), template: Some(template.into()) }, tokenizer.vocabulary())
}
