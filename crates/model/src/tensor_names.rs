//! Names of parameters: those of our modules, and those of files.

/// A parameter's name without what our fields and variants say twice: `blocks.3.attention.q.weight`.
pub(crate) fn canonical_name(ours: &str) -> String {
    const SILENT: [&str; 14] = [
        "body",
        "linear",
        "Layer",
        "Rms",
        "RmsOnePlus",
        "Learned",
        "SquaredRelu",
        "GeluTanh",
        "Gelu",
        "Relu",
        "Silu",
        "Gated",
        "JointGated",
        "Apart",
    ];
    let ours = ours.replace("inputs.Joint", "qkv").replace("inputs.Apart", "Apart");
    let mut parts: Vec<&str> = ours.split('.').filter(|part| !SILENT.contains(part)).collect();
    if let Some(last) = parts.last_mut() {
        *last = match *last {
            "gamma" => "weight",
            "beta" => "bias",
            other => other,
        };
    }
    parts.join(".")
}

/// Whether a canonical name without its last part (`blocks.0.attention.q`) is that of a projection.
pub(crate) fn is_projection(stem: &str) -> bool {
    stem.starts_with("blocks.") && !stem.contains("norm")
}

/// Whether a parameter, by the two parts of its canonical name, is a matrix that maps states: of a projection, or the head.
pub(crate) fn is_linear_weight(stem: &str, kind: &str) -> bool {
    kind == "weight" && !["tokens", "positions"].contains(&stem) && !stem.contains("norm")
}

/// Canonical names without their last part and those of a file; `#` is the number of a layer.
pub(crate) type TensorNames = &'static [(&'static str, &'static str)];

/// The name in a file, by the first table that has it; one that all lack is left as it is.
pub(crate) fn translate(tables: &[TensorNames], stem: &str) -> String {
    let (pattern, layer) = match stem.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) => (format!("blocks.#.{part}"), layer),
        None => (stem.to_owned(), ""),
    };
    let name = tables.iter().flat_map(|names| names.iter()).find(|(ours, _)| *ours == pattern);
    name.map_or_else(|| stem.to_owned(), |(_, theirs)| theirs.replace('#', layer))
}

/// GGUF's names, which most architectures share.
pub(crate) const GGUF: TensorNames = &[
    ("tokens", "token_embd"),
    ("positions", "position_embd"),
    ("norm", "output_norm"),
    ("head", "output"),
    ("blocks.#.norm_attention", "blk.#.attn_norm"),
    ("blocks.#.norm_mlp", "blk.#.ffn_norm"),
    ("blocks.#.norm_attention_out", "blk.#.post_attention_norm"),
    ("blocks.#.norm_mlp_out", "blk.#.post_ffw_norm"),
    ("blocks.#.attention.q_norm", "blk.#.attn_q_norm"),
    ("blocks.#.attention.k_norm", "blk.#.attn_k_norm"),
    ("blocks.#.attention.qkv", "blk.#.attn_qkv"),
    ("blocks.#.attention.q", "blk.#.attn_q"),
    ("blocks.#.attention.k", "blk.#.attn_k"),
    ("blocks.#.attention.v", "blk.#.attn_v"),
    ("blocks.#.attention.out", "blk.#.attn_output"),
    ("blocks.#.mlp.gate", "blk.#.ffn_gate"),
    ("blocks.#.mlp.gate_up", "blk.#.ffn_up"),
    ("blocks.#.mlp.up", "blk.#.ffn_up"),
    ("blocks.#.mlp.down", "blk.#.ffn_down"),
];
