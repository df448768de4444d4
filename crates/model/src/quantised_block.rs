//! ggml's blocks of quantised numbers: each function appends the numbers of one block `b` to a list. Scales are multiplied in
//! ggml's order, so that the numbers are its own to the bit.

use half::f16;

/// What the sixteen values of four bits stand for in the non-linear kinds.
const NON_LINEAR: [f32; 16] =
    [-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0];

pub(crate) fn half_at(b: &[u8], index: usize) -> f32 {
    f16::from_le_bytes([b[index], b[index + 1]]).to_f32()
}

fn bits_at(b: &[u8], index: usize) -> u32 {
    u32::from_le_bytes([b[index], b[index + 1], b[index + 2], b[index + 3]])
}

pub(crate) fn q4_0(b: &[u8], to: &mut Vec<f32>) {
    let d = half_at(b, 0);
    nibbles(&b[2..], 0, to, |q| (q as f32 - 8.0) * d);
}

pub(crate) fn q4_1(b: &[u8], to: &mut Vec<f32>) {
    let (d, least) = (half_at(b, 0), half_at(b, 2));
    nibbles(&b[4..], 0, to, |q| q as f32 * d + least);
}

pub(crate) fn q5_0(b: &[u8], to: &mut Vec<f32>) {
    let d = half_at(b, 0);
    nibbles(&b[6..], bits_at(b, 2), to, |q| (q as f32 - 16.0) * d);
}

pub(crate) fn q5_1(b: &[u8], to: &mut Vec<f32>) {
    let (d, least) = (half_at(b, 0), half_at(b, 2));
    nibbles(&b[8..], bits_at(b, 4), to, |q| q as f32 * d + least);
}

pub(crate) fn q8_0(b: &[u8], to: &mut Vec<f32>) {
    let d = half_at(b, 0);
    to.extend(b[2..].iter().map(|q| f32::from(*q as i8) * d));
}

pub(crate) fn iq4_nl(b: &[u8], to: &mut Vec<f32>) {
    let d = half_at(b, 0);
    nibbles(&b[2..], 0, to, |q| d * NON_LINEAR[q as usize]);
}

/// Sixteen parts of sixteen numbers of two bits, each with a scale and a least value of four bits.
pub(crate) fn q2_k(b: &[u8], to: &mut Vec<f32>) {
    let (scales, quants, d, least) = (&b[..16], &b[16..80], half_at(b, 80), half_at(b, 82));
    for (part, scale) in scales.iter().enumerate() {
        let (factor, offset) = (d * f32::from(scale & 15), least * f32::from(scale >> 4));
        let (from, shift) = (32 * (part / 8) + 16 * (part % 2), 2 * (part % 8 / 2));
        to.extend(quants[from..from + 16].iter().map(|q| factor * f32::from(q >> shift & 3) - offset));
    }
}

/// Sixteen parts of sixteen numbers of three bits, whose third stands apart, each with a scale of six bits.
pub(crate) fn q3_k(b: &[u8], to: &mut Vec<f32>) {
    let (third, quants, scales, d) = (&b[..32], &b[32..96], &b[96..108], half_at(b, 108));
    for part in 0..16 {
        let low = scales[part % 8] >> (4 * (part / 8)) & 15;
        let high = scales[8 + part % 4] >> (2 * (part / 4)) & 3;
        let factor = d * (f32::from(low | high << 4) - 32.0);
        let (from, shift) = (32 * (part / 8) + 16 * (part % 2), 2 * (part % 8 / 2));
        to.extend((0..16).map(|l| {
            let has_third = third[16 * (part % 2) + l] >> (part / 2) & 1 == 1;
            let q = f32::from(quants[from + l] >> shift & 3) - if has_third { 0.0 } else { 4.0 };
            factor * q
        }));
    }
}

/// Scale and least value, six bits each, of eight parts of a block.
fn scales_of_six_bits(scales: &[u8]) -> [[f32; 2]; 8] {
    std::array::from_fn(|j| {
        let pair = match j {
            0..4 => [scales[j] & 63, scales[j + 4] & 63],
            _ => [scales[j + 4] & 15 | scales[j - 4] >> 6 << 4, scales[j + 4] >> 4 | scales[j] >> 6 << 4],
        };
        pair.map(f32::from)
    })
}

/// Eight parts of 32 numbers of four bits.
pub(crate) fn q4_k(b: &[u8], to: &mut Vec<f32>) {
    let (d, least) = (half_at(b, 0), half_at(b, 2));
    for (part, [scale, offset]) in scales_of_six_bits(&b[4..16]).into_iter().enumerate() {
        let (factor, offset, shift) = (d * scale, least * offset, 4 * (part % 2));
        to.extend(b[16 + 32 * (part / 2)..][..32].iter().map(|q| factor * f32::from(q >> shift & 15) - offset));
    }
}

/// Eight parts of 32 numbers of five bits, whose fifth stands apart.
pub(crate) fn q5_k(b: &[u8], to: &mut Vec<f32>) {
    let (d, least, fifth) = (half_at(b, 0), half_at(b, 2), &b[16..48]);
    for (part, [scale, offset]) in scales_of_six_bits(&b[4..16]).into_iter().enumerate() {
        let (factor, offset, shift) = (d * scale, least * offset, 4 * (part % 2));
        let quants = b[48 + 32 * (part / 2)..][..32].iter().zip(fifth);
        to.extend(quants.map(|(q, high)| {
            let q = q >> shift & 15 | (high >> part & 1) << 4;
            factor * f32::from(q) - offset
        }));
    }
}

/// Sixteen parts of sixteen numbers of six bits, whose two highest stand apart, each with a scale of eight.
pub(crate) fn q6_k(b: &[u8], to: &mut Vec<f32>) {
    let (d, scales) = (half_at(b, 208), &b[192..208]);
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

/// Eight parts of 32 numbers, each with a scale of six bits.
pub(crate) fn iq4_xs(b: &[u8], to: &mut Vec<f32>) {
    let (d, high) = (half_at(b, 0), u16::from_le_bytes([b[2], b[3]]));
    for part in 0..8 {
        let low = b[4 + part / 2] >> (4 * (part % 2)) & 15;
        let scale = u16::from(low) | (high >> (2 * part) & 3) << 4;
        let factor = d * (f32::from(scale) - 32.0);
        nibbles(&b[8 + 16 * part..][..16], 0, to, |q| factor * NON_LINEAR[q as usize]);
    }
}

/// Sixteen bytes of two numbers each: low halves, then high halves, with a fifth bit where there is one.
fn nibbles(b: &[u8], fifth: u32, to: &mut Vec<f32>, of: impl Fn(u32) -> f32) {
    to.extend(b[..16].iter().enumerate().map(|(j, q)| of(u32::from(q & 15) | (fifth >> j & 1) << 4)));
    to.extend(b[..16].iter().enumerate().map(|(j, q)| of(u32::from(q >> 4) | (fifth >> (j + 16) & 1) << 4)));
}
