//! Blocks of quantised numbers, against what the Python package gguf 0.19 makes of the same bytes (`quantised.json`).

#![allow(clippy::unwrap_used)]

use duel_model::FileDType;
use serde_json::Value;

#[test]
fn blocks_are_decoded_as_gguf_decodes_them() {
    let cases: Value = serde_json::from_str(include_str!("quantised.json")).unwrap();
    let kinds = [
        ("F16", 1),
        ("Q4_0", 2),
        ("Q4_1", 3),
        ("Q5_0", 6),
        ("Q5_1", 7),
        ("Q8_0", 8),
        ("Q4_K", 12),
        ("Q6_K", 14),
        ("BF16", 30),
    ];
    assert_eq!(cases.as_object().unwrap().len(), kinds.len());
    for (name, code) in kinds {
        let hex = cases[name]["bytes"].as_str().unwrap();
        let bytes: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        let expected: Vec<f64> =
            cases[name]["values"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        let kind = FileDType::from_ggml(code).unwrap();
        assert_eq!(kind.bytes(&[expected.len()]), Some(bytes.len()), "{name}");
        let found = kind.decode(&bytes);
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (f64::from(*found) - expected).abs() <= 1e-6 * expected.abs().max(1.0),
                "{name}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn eight_bits_keep_a_number_to_half_a_step() {
    let values: Vec<f32> = (0..64).map(|i| ((i * 37 % 64) as f32 - 31.5) / 10.0).collect();
    let found = FileDType::Q8_0.decode(&FileDType::Q8_0.encode(&values));
    let step = 3.2 / 127.0;
    assert!(found.iter().zip(&values).all(|(a, b)| (a - b).abs() <= 0.51 * step));
    assert_eq!(FileDType::Q8_0.decode(&FileDType::Q8_0.encode(&[0.0; 32])), [0.0; 32]);
}
