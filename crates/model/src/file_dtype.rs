//! The number formats of weight files: safetensors' floats and ggml's blocks.

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
    Q4K,
    Q6K,
}

impl FileDType {
    /// By ggml's number.
    pub fn from_ggml(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4K,
            14 => Self::Q6K,
            30 => Self::Bf16,
            _ => return None,
        })
    }

    /// ggml's number.
    pub fn ggml(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q6K => 14,
            Self::Bf16 => 30,
        }
    }

    /// What the files call it that are written in it.
    pub fn name(self) -> String {
        ggml_name(self.ggml())
    }

    /// The kinds that are read, as GGUF calls them.
    pub fn all_names() -> String {
        (0..64).filter(|code| Self::from_ggml(*code).is_some()).map(ggml_name).collect::<Vec<_>>().join(", ")
    }

    /// Numbers of a block, and its bytes.
    pub(crate) fn block(self) -> [usize; 2] {
        match self {
            Self::F32 => [1, 4],
            Self::F16 | Self::Bf16 => [1, 2],
            Self::Q4_0 => [32, 18],
            Self::Q4_1 => [32, 20],
            Self::Q5_0 => [32, 22],
            Self::Q5_1 => [32, 24],
            Self::Q8_0 => [32, 34],
            Self::Q4K => [256, 144],
            Self::Q6K => [256, 210],
        }
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
        let half = |at: usize| f16::from_le_bytes([b[at], b[at + 1]]).to_f32();
        let bits = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let d = half(0);
        match self {
            Self::F32 => to.push(f32::from_bits(bits(0))),
            Self::F16 => to.push(d),
            Self::Bf16 => to.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q4_0 => nibbles(&b[2..], 0, to, |q| (q as f32 - 8.0) * d),
            Self::Q4_1 => {
                let least = half(2);
                nibbles(&b[4..], 0, to, |q| q as f32 * d + least);
            }
            Self::Q5_0 => nibbles(&b[6..], bits(2), to, |q| (q as f32 - 16.0) * d),
            Self::Q5_1 => {
                let least = half(2);
                nibbles(&b[8..], bits(4), to, |q| q as f32 * d + least);
            }
            Self::Q8_0 => to.extend(b[2..].iter().map(|q| f32::from(*q as i8) * d)),
            Self::Q4K => {
                let (least, scales) = (half(2), &b[4..16]);
                let scale = |j: usize| match j {
                    0..4 => [scales[j] & 63, scales[j + 4] & 63],
                    _ => [scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4],
                };
                for (j, q) in b[16..].chunks_exact(32).enumerate() {
                    let of = |part: usize| scale(2 * j + part).map(f32::from);
                    let ([s1, m1], [s2, m2]) = (of(0), of(1));
                    to.extend(q.iter().map(|q| d * s1 * f32::from(q & 15) - least * m1));
                    to.extend(q.iter().map(|q| d * s2 * f32::from(q >> 4) - least * m2));
                }
            }
            Self::Q6K => {
                let (d, scales) = (half(208), &b[192..208]);
                for n in 0..2 {
                    let (low, high, scales) = (&b[64 * n..][..64], &b[128 + 32 * n..][..32], &scales[8 * n..][..8]);
                    for quarter in 0..4 {
                        to.extend((0..32).map(|l| {
                            let byte = low[l + 32 * (quarter % 2)];
                            let four = if quarter < 2 { byte & 15 } else { byte >> 4 };
                            let q = i32::from(four | (high[l] >> (2 * quarter) & 3) << 4) - 32;
                            d * f32::from(scales[l / 16 + 2 * quarter] as i8) * q as f32
                        }));
                    }
                }
            }
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
            let (found, accepted) = (format!("{most:e}, which {} cannot hold", self.name()), "f32".to_owned());
            return Err(Error::Unsupported { path: path.into(), key: name.into(), found, accepted });
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

/// Sixteen bytes of two numbers each: low halves, then high halves, with a fifth bit where there is one.
fn nibbles(b: &[u8], fifth: u32, to: &mut Vec<f32>, of: impl Fn(u32) -> f32) {
    to.extend(b[..16].iter().enumerate().map(|(j, q)| of(u32::from(q & 15) | (fifth >> j & 1) << 4)));
    to.extend(b[..16].iter().enumerate().map(|(j, q)| of(u32::from(q >> 4) | (fifth >> (j + 16) & 1) << 4)));
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
