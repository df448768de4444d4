//! Text on its way to a terminal. Names, statements, responses, what a judge or a worker says: whatever came from outside moves no
//! cursor, sets no colour and turns no line around. Colours are put on by the binary itself, on text that has passed here.

use crate::sysinfo::is_dumb_terminal;
use serde::Serialize;
use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::Mutex;

/// Whether a terminal would obey it in place of showing it: control characters but the line's end and the tab, and what turns the
/// direction of text (Unicode's embeddings, overrides and isolates).
fn is_obeyed(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The text with a picture or the number in place of every character that a terminal would obey.
pub fn sanitize(text: &str) -> Cow<'_, str> {
    if !text.contains(is_obeyed) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if !is_obeyed(c) => out.push(c),
            '\u{7f}' => out.push('␡'),
            c if c < ' ' => out.extend(char::from_u32(0x2400 + u32::from(c))),
            c => out.extend(c.escape_unicode()),
        }
    }
    out.into()
}

/// A value as JSON that says the same and holds nothing that a terminal would obey.
pub fn json(value: &impl Serialize) -> String {
    let text = serde_json::to_string_pretty(value).expect("plain data");
    // all of these stand within strings: JSON escapes the others itself
    let escaped = |c: char| if is_obeyed(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    let text = if text.contains(is_obeyed) { text.chars().map(escaped).collect() } else { text };
    text + "\n"
}

/// Writes warnings about an answer to standard error.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        let _ = writeln!(std::io::stderr(), "warning: {}", sanitize(warning));
    }
}

/// Whether standard output is a terminal that shows colours.
pub fn is_colored() -> bool {
    std::io::stdout().is_terminal()
        && !is_dumb_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// Writes to standard output. A closed pipe is no error; any other failure is kept for [`take_unprinted`].
pub fn print(text: &str) {
    print_styled(&sanitize(text));
}

/// As [`print`], for text with colours of our own, whose outside parts have passed [`sanitize`].
pub fn print_styled(text: &str) {
    let mut out = std::io::stdout().lock();
    note_unprinted(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// The first error of standard output, unless its reader has closed it.
static UNPRINTED: Mutex<Option<std::io::Error>> = Mutex::new(None);

/// Keeps the error of a write to standard output.
pub fn note_unprinted(written: std::io::Result<()>) {
    if let (Err(error), Ok(mut unprinted)) = (written, UNPRINTED.lock())
        && error.kind() != ErrorKind::BrokenPipe
    {
        unprinted.get_or_insert(error);
    }
}

/// The error that kept an answer from being printed, if any.
pub fn take_unprinted() -> Option<std::io::Error> {
    UNPRINTED.lock().ok().and_then(|mut unprinted| unprinted.take())
}

/// Seconds for people.
pub fn format_seconds(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.1} s"),
        s if s < 5970.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

/// Bytes for people.
pub fn format_bytes(bytes: f64) -> String {
    if bytes < 995e3 {
        format!("{:.0} kB", bytes / 1e3)
    } else if bytes < 995e6 {
        format!("{:.0} MB", bytes / 1e6)
    } else {
        format!("{:.1} GB", bytes / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_shows_what_it_would_obey() {
        assert!(matches!(sanitize("plain\ttext, ü 漢 ∎\n"), Cow::Borrowed("plain\ttext, ü 漢 ∎\n")));
        assert_eq!(sanitize("\u{1b}[2J\u{1b}]0;x\u{7}a\rb\u{0}\u{8}"), "␛[2J␛]0;x␇a␍b␀␈");
        assert_eq!(sanitize("\u{9b}31m\u{7f}\u{202e}abc\u{2066}"), "\\u{9b}31m␡\\u{202e}abc\\u{2066}");
    }

    #[test]
    fn json_says_the_same_without_what_a_terminal_obeys() {
        let text = "\u{1b}[1m\u{9b}\u{7f}\u{202e}\"\n";
        let output = json(&[text]);
        assert!(!output.contains(is_obeyed), "{output}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&output).expect("JSON"), [text]);
    }
}
