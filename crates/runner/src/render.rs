//! Errors as people see them: what failed, the line of the file, what would be accepted, a hint.

use crate::error::Error;
use crate::sysinfo;
use crate::terminal::sanitize;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use std::fmt;
use std::io::IsTerminal;

/// What an error says, and what caused it; as a terminal may show it.
#[derive(Debug)]
struct ErrorText {
    message: String,
    cause: Option<Box<ErrorText>>,
}

impl ErrorText {
    fn of(error: &dyn std::error::Error) -> Self {
        Self {
            message: sanitize(&error.to_string()).into_owned(),
            cause: error.source().map(|cause| Box::new(Self::of(cause))),
        }
    }
}

impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ErrorText {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|cause| cause as &(dyn std::error::Error + 'static))
    }
}

/// An error dressed for miette, which only the binary knows.
#[derive(Debug)]
struct ErrorReport {
    text: ErrorText,
    hint: Option<String>,
    source: Option<(NamedSource<String>, LabeledSpan)>,
}

impl fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl std::error::Error for ErrorReport {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.text.source()
    }
}

impl Diagnostic for ErrorReport {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|(code, _)| code as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.source
            .as_ref()
            .map(|(_, label)| Box::new(std::iter::once(label.clone())) as Box<dyn Iterator<Item = LabeledSpan>>)
    }
}

/// The text at the same length, with terminal control characters as question marks.
fn as_long(text: &str) -> String {
    let shown_char = |c: char| {
        if sanitize(c.encode_utf8(&mut [0; 4])).contains(c) { c.to_string() } else { "?".repeat(c.len_utf8()) }
    };
    text.chars().map(shown_char).collect()
}

/// The error as text; coloured only on a terminal that wants it.
pub fn render(error: &Error) -> String {
    let place = match error {
        Error::Spec(e) => e.span().filter(|p| !p.text.is_empty()).map(|p| (p, e.label())),
        _ => None,
    };
    let source = place.map(|(place, label)| {
        let span = (place.span.start, place.span.len());
        (NamedSource::new(sanitize(&place.name), as_long(&place.text)), LabeledSpan::new_with_span(Some(label), span))
    });
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
        || !std::io::stderr().is_terminal()
        || sysinfo::is_dumb_terminal();
    let theme = if is_plain { GraphicalTheme::unicode_nocolor() } else { GraphicalTheme::unicode() };
    let mut text = String::new();
    let hint = error.hint().map(|hint| sanitize(&hint).into_owned());
    let report = ErrorReport { text: ErrorText::of(error), hint, source };
    match GraphicalReportHandler::new_themed(theme).with_width(100).render_report(&mut text, &report) {
        Ok(()) => format!("error:\n{}", text.trim_end()),
        Err(_) => format!("error: {}", report.text),
    }
}
