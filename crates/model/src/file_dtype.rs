//! The number formats of weight files: safetensors' floats and ggml's blocks.

use crate::quantised_block as block;
use crate::{Error, Result};
use half::{bf16, f16};
use std::path::Path;

/// How numbers are kept in a file. The quantised kinds are ggml's blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileDType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
}

/// Each kind with ggml's number, the numbers of a block, and its bytes.
const KINDS: [(FileDType, u32, [usize; 2]); 15] = [
    (FileDType::F32, 0, [1, 4]),
    (FileDType::F16, 1, [1, 2]),
    (FileDType::Q4_0, 2, [32, 18]),
    (FileDType::Q4_1, 3, [32, 20]),
    (FileDType::Q5_0, 6, [32, 22]),
    (FileDType::Q5_1, 7, [32, 24]),
    (FileDType::Q8_0, 8, [32, 34]),
    (FileDType::Q2K, 10, [256, 84]),
    (FileDType::Q3K, 11, [256, 110]),
    (FileDType::Q4K, 12, [256, 144]),
    (FileDType::Q5K, 13, [256, 176]),
    (FileDType::Q6K, 14, [256, 210]),
    (FileDType::Iq4Nl, 20, [32, 18]),
    (FileDType::Iq4Xs, 23, [256, 136]),
    (FileDType::Bf16, 30, [1, 2]),
];

impl FileDType {
    /// By ggml's number.
    pub fn from_ggml(code: u32) -> Option<Self> {
        KINDS.iter().find(|(_, known, _)| *known == code).map(|(kind, ..)| *kind)
    }

    /// ggml's number and the size of a block.
    fn kind(self) -> (u32, [usize; 2]) {
        let (_, code, block) = KINDS[KINDS.iter().position(|(kind, ..)| *kind == self).unwrap_or_default()];
        (code, block)
    }

    /// ggml's number.
    pub fn ggml(self) -> u32 {
        self.kind().0
    }

    /// What the files call it that are written in it.
    pub fn name(self) -> String {
        ggml_name(self.ggml())
    }

    /// The kinds that are read, as GGUF calls them.
    pub fn all_names() -> String {
        KINDS.iter().map(|(_, code, _)| ggml_name(*code)).collect::<Vec<_>>().join(", ")
    }

    /// Numbers of a block, and its bytes.
    pub(crate) fn block(self) -> [usize; 2] {
        self.kind().1
    }

    /// Bytes of a tensor; `None` where its rows are not whole blocks, or where the number is too large to say.
    pub fn bytes(self, shape: &[usize]) -> Option<usize> {
        let [numbers, bytes] = self.block();
        if !shape.last().copied().unwrap_or(1).is_multiple_of(numbers) {
            return None;
        }
        let count = shape.iter().try_fold(1usize, |count, n| count.checked_mul(*n))?;
        (count / numbers).checked_mul(bytes)
    }

    /// The numbers of whole blocks.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        let [numbers, size] = self.block();
        let mut values = Vec::with_capacity(bytes.len() / size * numbers);
        for block in bytes.chunks_exact(size) {
            self.decode_block(block, &mut values);
        }
        values
    }

    pub(crate) fn decode_block(self, b: &[u8], to: &mut Vec<f32>) {
        match self {
            Self::F32 => to.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => to.push(block::half_at(b, 0)),
            Self::Bf16 => to.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q4_0 => block::q4_0(b, to),
            Self::Q4_1 => block::q4_1(b, to),
            Self::Q5_0 => block::q5_0(b, to),
            Self::Q5_1 => block::q5_1(b, to),
            Self::Q8_0 => block::q8_0(b, to),
            Self::Q2K => block::q2_k(b, to),
            Self::Q3K => block::q3_k(b, to),
            Self::Q4K => block::q4_k(b, to),
            Self::Q5K => block::q5_k(b, to),
            Self::Q6K => block::q6_k(b, to),
            Self::Iq4Nl => block::iq4_nl(b, to),
            Self::Iq4Xs => block::iq4_xs(b, to),
        }
    }

    /// A tensor's numbers as [`Self::encode`] writes them.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where one is too large for it: as infinity it would spoil every logit.
    pub(crate) fn encode_all(self, path: &Path, name: &str, values: &[f32]) -> Result<Vec<u8>> {
        let most = values.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(0f32, f32::max);
        let fits = match self {
            Self::F16 => f16::from_f32(most).is_finite(),
            Self::Bf16 => bf16::from_f32(most).is_finite(),
            Self::Q8_0 => f16::from_f32(most / 127.0).is_finite(),
            _ => true,
        };
        if !fits {
            let (value, accepted) = (format!("{most:e}, which {} cannot hold", self.name()), "f32".to_owned());
            return Err(Error::Unsupported { path: path.into(), key: name.into(), found: value, accepted });
        }
        Ok(self.encode(values))
    }

    /// Numbers as bytes of f32, f16, bf16 or Q8_0, which are what is written.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        match self {
            Self::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
            Self::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
            Self::Q8_0 => values.chunks_exact(32).flat_map(q8_block).collect(),
            _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }
}

/// ggml's name of a kind of numbers.
pub(crate) fn ggml_name(code: u32) -> String {
    const NAMES: [&str; 41] = [
        "F32",
        "F16",
        "Q4_0",
        "Q4_1",
        "Q4_2",
        "Q4_3",
        "Q5_0",
        "Q5_1",
        "Q8_0",
        "Q8_1",
        "Q2_K",
        "Q3_K",
        "Q4_K",
        "Q5_K",
        "Q6_K",
        "Q8_K",
        "IQ2_XXS",
        "IQ2_XS",
        "IQ3_XXS",
        "IQ1_S",
        "IQ4_NL",
        "IQ3_S",
        "IQ2_S",
        "IQ4_XS",
        "I8",
        "I16",
        "I32",
        "I64",
        "F64",
        "IQ1_M",
        "BF16",
        "Q4_0_4_4",
        "Q4_0_4_8",
        "Q4_0_8_8",
        "TQ1_0",
        "TQ2_0",
        "IQ4_NL_4_4",
        "IQ4_NL_4_8",
        "IQ4_NL_8_8",
        "MXFP4",
        "NVFP4",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("number {code}"), |name| (*name).to_owned())
}

/// 32 numbers as eight bits each and a scale.
fn q8_block(x: &[f32]) -> [u8; 34] {
    let d = x.iter().fold(0f32, |most, x| most.max(x.abs())) / 127.0;
    let per = if d > 0.0 { 1.0 / d } else { 0.0 };
    let mut block = [0; 34];
    block[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    block[2..].iter_mut().zip(x).for_each(|(q, x)| *q = (x * per).round() as i8 as u8);
    block
}
