//! Blocks of quantised numbers, against what the Python package gguf 0.19 makes of the same bytes (`quantised.json`).

#![allow(clippy::unwrap_used)]

use duel_model::FileDType;
use serde_json::Value;

fn bytes_of(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().unwrap();
    (0..hex.len()).step_by(2).map(|index| u8::from_str_radix(&hex[index..index + 2], 16).unwrap()).collect()
}

/// Bits of a number; those of all that are none are the same.
fn bits(x: f32) -> u32 {
    if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() }
}

#[test]
fn blocks_are_decoded_as_gguf_decodes_them() {
    let cases: Value = serde_json::from_str(include_str!("quantised.json")).unwrap();
    let mut names = vec!["F32".to_owned()]; // which needs no reference
    for (name, case) in cases.as_object().unwrap() {
        let kind = FileDType::from_ggml(u32::try_from(case["code"].as_u64().unwrap()).unwrap()).unwrap();
        assert_eq!(kind.name(), *name);
        let bytes = bytes_of(&case["bytes"]);
        let expected: Vec<u32> =
            bytes_of(&case["values"]).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(kind.bytes(&[expected.len()]), Some(bytes.len()), "{name}");
        let actual: Vec<u32> = kind.decode(&bytes).into_iter().map(bits).collect();
        assert_eq!(actual.len(), expected.len(), "{name}");
        let apart = actual.iter().zip(&expected).position(|(actual, expected)| actual != expected);
        assert_eq!(apart, None, "{name}: the first number that differs");
        names.push(name.clone());
    }
    let all = FileDType::all_names();
    assert!(
        all.split(", ").all(|name| names.contains(&name.to_owned())),
        "each kind that is read has a reference: {all}"
    );
}

#[test]
fn other_kinds_have_names_and_are_not_read() {
    let unread =
        [(9, "Q8_1"), (15, "Q8_K"), (16, "IQ2_XXS"), (19, "IQ1_S"), (21, "IQ3_S"), (34, "TQ1_0"), (39, "MXFP4")];
    for (code, name) in unread {
        assert_eq!(FileDType::from_ggml(code), None, "{name}");
    }
}

#[test]
fn eight_bits_keep_a_number_to_half_a_step() {
    let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 10.0).collect();
    let actual = FileDType::Q8_0.decode(&FileDType::Q8_0.encode(&values));
    let step = 3.2 / 127.0;
    assert!(actual.iter().zip(&values).all(|(a, b)| (a - b).abs() <= 0.51 * step));
    assert_eq!(FileDType::Q8_0.decode(&FileDType::Q8_0.encode(&[0.0; 32])), [0.0; 32]);
}
