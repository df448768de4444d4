//! What the tests of every crate share, without tensors and without any other crate of Duel. A dev-dependency only.

pub mod command_line;
pub mod fake_hub;
pub mod gguf_file;
pub mod golden;
pub mod mutated;

/// Numbers as text at and beyond the limits of integer and floating-point types: a setting or an option accepts each of them, or
/// refuses it by its name.
pub const EXTREME_NUMBERS: [&str; 22] = [
    "-1",
    "0",
    "-0.0",
    "1.5",
    "16385",
    "65536",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999",
    "1e-320",
    "1e300",
    "-1e300",
    "1e999",
    "inf",
    "-inf",
    "nan",
    "-nan",
];
