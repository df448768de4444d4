//! Errors as people see them: what failed, the line of the file, what would be accepted, a hint.

use crate::Error;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use std::fmt;
use std::io::IsTerminal;

/// An error dressed for miette, which only the binary knows.
#[derive(Debug)]
struct Shown<'a> {
    error: &'a Error,
    source: Option<(NamedSource<String>, LabeledSpan)>,
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Shown<'_> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(self.error)
    }
}

impl Diagnostic for Shown<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.error.hint().map(|hint| Box::new(hint) as Box<dyn fmt::Display>)
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

/// The error as text; coloured only on a terminal that wants it.
pub fn render(error: &Error) -> String {
    let place = match error {
        Error::Spec(e) => e.place().filter(|p| !p.text.is_empty()).map(|p| (p, e.label())),
        _ => None,
    };
    let source = place.map(|(place, label)| {
        let span = (place.span.start, place.span.len());
        (NamedSource::new(&place.name, place.text.clone()), LabeledSpan::new_with_span(Some(label), span))
    });
    let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()) || !std::io::stderr().is_terminal();
    let theme = if plain { GraphicalTheme::unicode_nocolor() } else { GraphicalTheme::unicode() };
    let mut text = String::new();
    let shown = Shown { error, source };
    match GraphicalReportHandler::new_themed(theme).with_width(100).render_report(&mut text, &shown) {
        Ok(()) => format!("error:\n{}", text.trim_end()),
        Err(_) => format!("error: {error}"),
    }
}
