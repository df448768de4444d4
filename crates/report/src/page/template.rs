//! Templates of the pages, with the style and the script that they share.

use crate::charts::theme;
use crate::error::{Error, Result};
use crate::format::{fixed, signed};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};
use serde::Serialize;

/// Fills a template, with the style and script that all pages share.
pub(crate) fn fill_template(template: &str, values: minijinja::Value) -> Result<String> {
    let broken = |e: minijinja::Error| Error::Page { problem: format!("{e:#}") };
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(broken)?);
    for (name, text) in [
        ("macros.html", include_str!("macros.html")),
        ("page.html", include_str!("page.html")),
        ("compare.html", include_str!("compare.html")),
        ("sample_page.html", include_str!("sample_page.html")),
    ] {
        environment.add_template(name, text).map_err(broken)?;
    }
    environment.add_filter("fixed", fixed);
    environment.add_filter("signed", signed);
    let shared = context! {
        light => theme::css(false),
        dark => theme::css(true),
        script => include_str!("page.js"),
        style => include_str!("page.css"),
    };
    environment
        .get_template(template)
        .and_then(|template| template.render(context! { ..values, ..shared }))
        .map_err(broken)
}

/// JSON that is safe within a page's script element, whatever it contains: every `<` is escaped.
pub(crate) fn embedded<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    let json = serde_json::to_string(value).map_err(|e| Error::Page { problem: e.to_string() })?;
    Ok(json.replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `<!-- <script>` within a script element hides its end from a browser; JSON reads the number as the same character.
    #[test]
    fn the_text_of_a_response_stays_within_its_data_block() {
        let texts = ["<!-- <script>", "</script><script>alert(1)</script>", "]]>", "\u{2028}"];
        let json = embedded(&texts).expect("JSON");
        assert!(!json.contains('<'), "{json}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).expect("JSON"), texts);
    }
}
