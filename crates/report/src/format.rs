//! Numbers for readers: NaN is a dash, and zero has no sign.

use std::collections::BTreeSet;

/// With this many decimals, and never as −0.
pub fn fixed(x: f64, places: usize) -> String {
    if x.is_nan() {
        return "–".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "∞".into() } else { "−∞".into() };
    }
    if x.abs() >= 1e15 {
        return scientific(x, 3);
    }
    let text = format!("{x:.places$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.bytes().all(|b| matches!(b, b'0' | b'.')) => rest.into(),
        _ => text,
    }
}

/// As [`fixed`], with a sign before all but zero.
pub fn signed(x: f64, places: usize) -> String {
    let text = fixed(x, places);
    if x > 0.0 && text.bytes().any(|b| (b'1'..=b'9').contains(&b)) { format!("+{text}") } else { text }
}

/// With two digits below 10, else whole.
pub(crate) fn short(x: f64) -> String {
    match x.abs() {
        magnitude if magnitude >= 9.95 => fixed(x, 0),
        magnitude if magnitude >= 1e-3 => {
            let text = fixed(x, (1.0 - magnitude.log10().floor()).max(0.0) as usize);
            let text = text.trim_end_matches('0').trim_end_matches('.');
            text.into()
        }
        _ => scientific(x, 1),
    }
}

/// With an SI suffix and up to three digits: `1.2 M`.
pub(crate) fn si(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return fixed(x, 0);
    }
    if x.abs() < 5e-4 || x.abs() >= 1e18 {
        return scientific(x, 2);
    }
    const SUFFIXES: [(f64, &str); 6] = [(1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")];
    let (unit, suffix) = SUFFIXES.into_iter().find(|(unit, _)| x.abs() >= *unit * 0.9995).unwrap_or((1.0, ""));
    let scaled = x / unit;
    let places = match scaled.abs() {
        s if s >= 99.95 => 0,
        s if s >= 9.995 => 1,
        s if s >= 0.0995 => 2,
        _ => 3,
    };
    let number = fixed(scaled, places);
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    if suffix.is_empty() { number.to_string() } else { format!("{number} {suffix}") }
}

/// The labels of an axis' ticks, in rising order, with as many digits as make them distinct.
pub(crate) fn ticks(values: &[f64]) -> Vec<String> {
    let step = values.windows(2).map(|w| (w[1] - w[0]).abs()).fold(f64::INFINITY, f64::min);
    let largest = values.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
    // zero up to rounding
    let clean = |x: f64| if x.abs() < 1e-9 * largest { 0.0 } else { x };
    let are_distinct = |labels: &[String]| labels.iter().collect::<BTreeSet<_>>().len() == labels.len();
    if largest >= 10_000.0 {
        let labels: Vec<String> =
            values.iter().map(|&x| if x.abs() >= 10_000.0 { si(clean(x)) } else { number(clean(x)) }).collect();
        if are_distinct(&labels) {
            return labels;
        }
    }
    // as many decimals as the step has, or the values where there is no step
    let is_whole = |x: f64, places: i32| (x * 10f64.powi(places) - (x * 10f64.powi(places)).round()).abs() < 1e-6;
    let unit = if step.is_finite() { step } else { largest };
    if let Some(places) = (0..=6).find(|&places| is_whole(unit, places))
        && largest < 1e15
    {
        let labels: Vec<String> = values.iter().map(|&x| fixed(clean(x), places as usize)).collect();
        if are_distinct(&labels) {
            return labels;
        }
    }
    let all = (2..=16).map(|digits| values.iter().map(|&x| scientific(clean(x), digits)).collect::<Vec<_>>());
    all.into_iter().find(|labels| are_distinct(labels)).unwrap_or_else(|| values.iter().map(f64::to_string).collect())
}

/// The labels of a logarithmic axis' ticks.
pub(crate) fn log_ticks(values: &[f64]) -> Vec<String> {
    let labels: Vec<String> = values.iter().map(|&x| si(x)).collect();
    let are_distinct = labels.iter().collect::<BTreeSet<_>>().len() == labels.len();
    if are_distinct { labels } else { ticks(values) }
}

/// Values with two decimals, or with as many as make them distinct.
pub(crate) fn distinct(values: &[f64]) -> Vec<String> {
    let all = (2..=9).map(|places| values.iter().map(|&x| fixed(x, places)).collect::<Vec<_>>());
    let are_distinct = |labels: &Vec<String>| labels.iter().collect::<BTreeSet<_>>().len() == labels.len();
    all.into_iter().find(are_distinct).unwrap_or_else(|| ticks(values))
}

/// In its shortest form.
fn number(x: f64) -> String {
    if x == 0.0 { "0".into() } else { x.to_string() }
}

/// `1.25e-9`, with at most this many digits after the point.
fn scientific(x: f64, digits: usize) -> String {
    let text = format!("{x:.digits$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
    if exponent == "0" { mantissa.into() } else { format!("{mantissa}e{exponent}") }
}

/// Seconds in readable units: `8.4 s`, `3 min 05 s`.
pub(crate) fn seconds(s: f64) -> String {
    if !s.is_finite() {
        fixed(s, 0)
    } else if s < 0.095 {
        format!("{} ms", fixed(s * 1e3, 0))
    } else if s < 120.0 {
        format!("{s:.1} s")
    } else {
        format!("{} min {:02} s", s as u64 / 60, s as u64 % 60)
    }
}

/// A KL with its unit: `1 nat`, `0.5 nats`.
pub(crate) fn nats(kl: f64) -> String {
    format!("{kl} nat{}", if kl == 1.0 { "" } else { "s" })
}

/// `a, b and c`.
pub(crate) fn and_list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// A share in percent.
pub(crate) fn percent(x: f64) -> String {
    if x.is_finite() { format!("{}%", fixed(x * 100.0, 0)) } else { fixed(x, 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let si_pairs = [
            (0.0, "0"),
            (1234.0, "1.23 k"),
            (999.9, "1 k"),
            (1e6, "1 M"),
            (2.5e12, "2.5 T"),
            (42.0, "42"),
            (0.031, "0.031"),
            (3e-5, "3e-5"),
            (-1.234e-7, "-1.23e-7"),
        ];
        for (x, label) in si_pairs {
            assert_eq!(si(x), label);
        }
        assert_eq!([seconds(0.04), seconds(8.42), seconds(185.0)], ["40 ms", "8.4 s", "3 min 05 s"]);
    }

    #[test]
    fn zero_has_no_sign_and_nan_is_a_dash() {
        let formatted = |x: f64| [si(x), seconds(x), percent(x), fixed(x, 2)];
        assert_eq!(formatted(-0.0), ["0", "0 ms", "0%", "0.00"]);
        assert_eq!([fixed(1e300, 3), fixed(-1.23456e17, 0)], ["1e300", "-1.235e17"]);
        assert_eq!([fixed(-0.004, 2), fixed(-0.006, 2), fixed(-0.4, 0)], ["0.00", "-0.01", "0"]);
        assert_eq!([percent(-0.001), seconds(-1e-5)], ["0%", "0 ms"]);
        assert_eq!(
            [signed(0.25, 1), signed(-0.25, 2), signed(0.001, 2), signed(-0.0, 1)],
            ["+0.2", "-0.25", "0.00", "0.0"]
        );
        assert_eq!(
            [short(1.234), short(0.0456), short(2.0), short(42.4), short(3.21e-5)],
            ["1.2", "0.046", "2", "42", "3.2e-5"]
        );
        assert_eq!(formatted(f64::NAN), ["–"; 4]);
        assert_eq!(formatted(f64::INFINITY), ["∞"; 4]);
        assert_eq!(formatted(f64::NEG_INFINITY), ["−∞"; 4]);
    }

    #[test]
    fn tick_labels_are_distinct() {
        assert_eq!(distinct(&[0.5, 0.501]), ["0.500", "0.501"]);
        assert_eq!(distinct(&[0.1, 0.2, 0.3]), ["0.10", "0.20", "0.30"]);
        for (values, labels) in [
            (&[0.0, 0.5, 1.0][..], &["0.0", "0.5", "1.0"][..]),
            (&[1.0, 2.0, 3.0], &["1", "2", "3"]),
            (&[-0.25, -1e-17, 0.25], &["-0.25", "0.00", "0.25"]),
            (&[0.0, 10_000.0, 20_000.0], &["0", "10 k", "20 k"]),
            (&[12_301.0, 12_302.0, 12_303.0], &["12301", "12302", "12303"]),
            (&[12_300.5, 12_301.0], &["12300.5", "12301.0"]),
            (&[1e-10, 2e-10], &["1e-10", "2e-10"]),
            (&[0.0, 5e-8, 1e-7], &["0", "5e-8", "1e-7"]),
            (&[1e20, 1.001e20], &["1e20", "1.001e20"]),
            (&[0.5], &["0.5"]),
            (&[3e6], &["3 M"]),
            (&[], &[]),
        ] {
            assert_eq!(ticks(values), labels);
        }
    }
}
