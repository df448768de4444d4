//! A model so small that a run takes seconds.

use burn::module::Module;
use burn::tensor::Device;
use duel_data::TextTokenizer;
use duel_model::{Checkpoint, FileDType, Llama, Policy, SpecialTokens, TokenizerFiles, TransformerConfig, huggingface};
use duel_spec::seeds;
use std::path::Path;

const CHATML: &str = "{% for message in messages %}{{ '<pad>' + message['role'] + '\n' + message['content'] + '<eos>' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<pad>assistant\n' }}{% endif %}";

/// A Llama of a few thousand weights with a tokenizer and a chat template, as a directory.
pub fn model(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    let texts = ["is it good or bad user assistant yes no very film it was a very good film it was a very bad film"];
    let tokenizer = TextTokenizer::train(texts.into_iter(), 300).unwrap();
    let vocabulary = tokenizer.vocabulary();
    let trained = to.join("words.json");
    tokenizer.save(&trained).unwrap();
    let words = TokenizerFiles {
        special: SpecialTokens { bos: Some(1), eos: Some(2), other_eos: vec![], pad: Some(0) },
        tokenizer: Some(std::fs::read(trained).unwrap()),
        template: Some(CHATML.into()),
    };
    let architecture =
        Llama { key_value_heads: 2, head_width: 8, inner: 24, rope_theta: 5000.0, epsilon: 1e-5 }.architecture();
    let config =
        TransformerConfig { vocabulary, context: 128, layers: 2, width: 16, heads: 2, tied: true, architecture };
    let policy = Policy::new(&config, &mut seeds::derive(1, "test", 0, "init"), &Device::flex()).no_grad();
    huggingface::write(to, &Checkpoint { config, policy, words }, FileDType::F32).unwrap();
}
