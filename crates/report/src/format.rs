//! Numbers as people read them.

/// With an SI suffix and up to three digits: `1.2 M`.
pub(crate) fn si(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return format!("{x:.0}");
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
    let number = format!("{scaled:.places$}");
    let number = if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { &number };
    if suffix.is_empty() { number.to_string() } else { format!("{number} {suffix}") }
}

/// A tick with as many digits as its step needs.
pub(crate) fn tick(x: f64, step: f64) -> String {
    if x.abs() >= 10_000.0 {
        return si(x);
    }
    let places = (0..6).find(|p| (step * 10f64.powi(*p) - (step * 10f64.powi(*p)).round()).abs() < 1e-6).unwrap_or(6);
    let zero = if x.abs() < step * 1e-6 { 0.0 } else { x };
    format!("{zero:.0$}", places as usize)
}

/// Seconds as people say them: `8.4 s`, `3 min 05 s`.
pub(crate) fn seconds(s: f64) -> String {
    if s < 0.095 {
        format!("{:.0} ms", s * 1e3)
    } else if s < 120.0 {
        format!("{s:.1} s")
    } else {
        format!("{} min {:02} s", s as u64 / 60, s as u64 % 60)
    }
}

/// A distance in words: `1 nat`, `0.5 nats`.
pub(crate) fn nats(kl: f64) -> String {
    format!("{kl} nat{}", if kl == 1.0 { "" } else { "s" })
}

/// A share in percent.
pub(crate) fn percent(x: f64) -> String {
    format!("{:.0}%", x * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let si_pairs = [
            (0.0, "0"),
            (1234.0, "1.23 k"),
            (999.9, "1 k"),
            (1e6, "1 M"),
            (2.5e12, "2.5 T"),
            (42.0, "42"),
            (0.031, "0.031"),
        ];
        for (x, words) in si_pairs {
            assert_eq!(si(x), words);
        }
        assert_eq!([tick(0.5, 0.5), tick(2.0, 1.0), tick(-1e-12, 0.25)], ["0.5", "2", "0.00"]);
        assert_eq!([seconds(0.04), seconds(8.42), seconds(185.0)], ["40 ms", "8.4 s", "3 min 05 s"]);
    }
}
