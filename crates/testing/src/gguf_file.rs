//! GGUF files made byte by byte, so that they can be wrong.

/// Name, dimensions (innermost first), type, place, bytes.
type GgufTensor = (String, Vec<u64>, u32, Option<u64>, Vec<u8>);

/// A file that can be changed before it is written.
#[derive(Debug, Clone)]
pub struct GgufFile {
    pub values: Vec<(String, u32, Vec<u8>)>,
    pub tensors: Vec<GgufTensor>,
}

/// A text as a value.
pub fn text(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().to_vec(), text.as_bytes().to_vec()].concat()
}

/// A list of values of one type.
pub fn list(of: u32, items: &[Vec<u8>]) -> Vec<u8> {
    [of.to_le_bytes().to_vec(), (items.len() as u64).to_le_bytes().to_vec(), items.concat()].concat()
}

impl GgufFile {
    /// A Llama of one layer, width 8, two heads and one of keys and values, of 8 tokens.
    pub fn llama() -> Self {
        let mut file = Self { values: vec![], tensors: vec![] };
        file.text("general.architecture", "llama");
        for (key, size) in [
            ("context_length", 16),
            ("embedding_length", 8),
            ("block_count", 1),
            ("feed_forward_length", 8),
            ("attention.head_count", 2),
            ("attention.head_count_kv", 1),
            ("rope.dimension_count", 4),
            ("attention.key_length", 4),
            ("attention.value_length", 4),
            ("vocab_size", 8),
        ] {
            file.size(&format!("llama.{key}"), size);
        }
        file.real("llama.attention.layer_norm_rms_epsilon", 1e-5);
        file.real("llama.rope.freq_base", 1e4);
        file.text("tokenizer.ggml.model", "gpt2");
        file.text("tokenizer.ggml.pre", "gpt-2");
        file.put("tokenizer.ggml.tokens", 9, list(8, &["<s>", "a", "b", "ab"].map(text)));
        file.put("tokenizer.ggml.token_type", 9, list(5, &[3i32, 1, 1, 1].map(|kind| kind.to_le_bytes().to_vec())));
        file.put("tokenizer.ggml.merges", 9, list(8, &[text("a b")]));
        file.size("tokenizer.ggml.bos_token_id", 0);
        file.size("tokenizer.ggml.eos_token_id", 0);
        for (name, shape) in [
            ("token_embd", vec![8, 8]),
            ("output_norm", vec![8]),
            ("blk.0.attn_norm", vec![8]),
            ("blk.0.attn_q", vec![8, 8]),
            ("blk.0.attn_k", vec![8, 4]),
            ("blk.0.attn_v", vec![8, 4]),
            ("blk.0.attn_output", vec![8, 8]),
            ("blk.0.ffn_norm", vec![8]),
            ("blk.0.ffn_gate", vec![8, 8]),
            ("blk.0.ffn_up", vec![8, 8]),
            ("blk.0.ffn_down", vec![8, 8]),
        ] {
            file.tensor(&format!("{name}.weight"), shape);
        }
        file
    }

    /// Sets a value of a type.
    pub fn put(&mut self, key: &str, of: u32, bytes: Vec<u8>) {
        self.values.retain(|(known, ..)| known != key);
        self.values.push((key.into(), of, bytes));
    }

    /// Sets a text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.put(key, 8, text(value));
    }

    /// Sets a whole number.
    pub fn size(&mut self, key: &str, value: u32) {
        self.put(key, 4, value.to_le_bytes().to_vec());
    }

    /// Sets a real number.
    pub fn real(&mut self, key: &str, value: f32) {
        self.put(key, 6, value.to_le_bytes().to_vec());
    }

    /// Adds a tensor of zeros.
    pub fn tensor(&mut self, name: &str, shape: Vec<u64>) {
        let bytes = vec![0; 4 * shape.iter().product::<u64>() as usize];
        self.tensors.push((name.into(), shape, 0, None, bytes));
    }

    /// Takes a value out.
    pub fn without(&mut self, key: &str) {
        self.values.retain(|(known, ..)| known != key);
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [b"GGUF".to_vec(), 3u32.to_le_bytes().to_vec()].concat();
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.values.len() as u64).to_le_bytes());
        for (key, of, value) in &self.values {
            bytes.extend(text(key));
            bytes.extend(of.to_le_bytes());
            bytes.extend(value);
        }
        let mut data: Vec<u8> = vec![];
        for (name, shape, kind, place, numbers) in &self.tensors {
            bytes.extend(text(name));
            bytes.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|size| bytes.extend(size.to_le_bytes()));
            bytes.extend(kind.to_le_bytes());
            data.resize(data.len().next_multiple_of(32), 0);
            bytes.extend(place.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(numbers);
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        bytes.extend(data);
        bytes
    }
}
