//! Templates of the pages, with the style and the script that they share.

use crate::charts::theme;
use crate::error::{Error, Result};
use crate::format::{fixed, signed};
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, context};
use serde::Serialize;

/// A template filled, with the look that all pages share.
pub(crate) fn fill_template(template: &str, of: minijinja::Value) -> Result<String> {
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
    let look = context! {
        light => theme::css(false),
        dark => theme::css(true),
        script => include_str!("page.js"),
        style => include_str!("page.css"),
    };
    environment.get_template(template).and_then(|template| template.render(context! { ..of, ..look })).map_err(broken)
}

/// JSON that may stand within a page's script element, whatever it says: no `<` ends or begins anything there.
pub(crate) fn embedded<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    let json = serde_json::to_string(value).map_err(|e| Error::Page { problem: e.to_string() })?;
    Ok(json.replace('<', "\\u003c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `<!-- <script>` within a script element hides its end from a browser; JSON reads the number as the same character.
    #[test]
    fn what_a_response_says_stays_within_its_data_block() {
        let said = ["<!-- <script>", "</script><script>alert(1)</script>", "]]>", "\u{2028}"];
        let found = embedded(&said).expect("JSON");
        assert!(!found.contains('<'), "{found}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&found).expect("JSON"), said);
    }
}
