//! Tables as CSV, Markdown and LaTeX.

use crate::error::{Error, Result};

/// A table of texts.
#[derive(Debug, serde::Serialize)]
pub(crate) struct TextTable {
    pub(crate) name: &'static str,
    pub(crate) head: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// Whether a cell is numbers alone, as `-0.3 ± 0.1` or `-1.0 to 2.0`.
fn is_numbers(cell: &str) -> bool {
    cell.split([' ', '±']).filter(|part| !part.is_empty() && *part != "to").all(|part| part.parse::<f64>().is_ok())
}

/// A cell that no spreadsheet program takes for a formula: characters that would start one get an apostrophe before them.
fn escape_formula(cell: &str) -> std::borrow::Cow<'_, str> {
    if cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) && !is_numbers(cell) {
        format!("'{cell}").into()
    } else {
        cell.into()
    }
}

/// Comma-separated values.
pub(crate) fn csv(head: &[String], rows: &[Vec<String>]) -> Result<String> {
    let error = |e: String| Error::Page { problem: e };
    let mut writer = csv::Writer::from_writer(vec![]);
    for row in std::iter::once(head).chain(rows.iter().map(Vec::as_slice)) {
        let cells = row.iter().map(|cell| escape_formula(cell).into_owned());
        writer.write_record(cells).map_err(|e| error(e.to_string()))?;
    }
    let bytes = writer.into_inner().map_err(|e| error(e.to_string()))?;
    String::from_utf8(bytes).map_err(|e| error(e.to_string()))
}

/// The text on one line.
fn single_line(cell: &str) -> String {
    cell.chars().map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c }).collect()
}

/// A cell of Markdown that shows its text literally: characters that would end it, mark it up or begin HTML are escaped. An
/// underscore between letters is not among them.
fn markdown_cell(cell: &str) -> String {
    let text: Vec<char> = single_line(cell).chars().collect();
    let is_alphanumeric_at =
        |index: Option<usize>| index.and_then(|p| text.get(p)).is_some_and(|c| c.is_alphanumeric());
    let mut out = String::new();
    for (index, &c) in text.iter().enumerate() {
        let is_special = match c {
            '\\' | '|' | '`' | '*' | '[' | ']' | '<' | '>' | '&' | '~' | '$' => true,
            '_' => !(is_alphanumeric_at(index.checked_sub(1)) && is_alphanumeric_at(Some(index + 1))),
            _ => false,
        };
        out.extend(is_special.then_some('\\'));
        out.push(c);
    }
    out
}

pub(crate) fn markdown(table: &TextTable) -> String {
    let line = |cells: &[String]| {
        format!("| {} |\n", cells.iter().map(|cell| markdown_cell(cell)).collect::<Vec<_>>().join(" | "))
    };
    let rule = vec!["---".to_string(); table.head.len()];
    let rule = format!("| {} |\n", rule.join(" | "));
    line(&table.head) + &rule + &table.rows.iter().map(|row| line(row)).collect::<String>()
}

/// A cell of LaTeX: special characters are escaped, Greek letters and signs are in math mode.
fn latex_cell(cell: &str) -> String {
    let mut out = String::new();
    for c in single_line(cell).chars() {
        out += match c {
            '&' => "\\&",
            '%' => "\\%",
            '#' => "\\#",
            '_' => "\\_",
            '$' => "\\$",
            '{' => "\\{",
            '}' => "\\}",
            '\\' => "\\textbackslash{}",
            '~' => "\\textasciitilde{}",
            '^' => "\\textasciicircum{}",
            '<' => "$<$",
            '>' => "$>$",
            '|' => "$|$",
            '"' => "''",
            '[' => "{[}", // after a line break it would begin an optional argument
            'η' => "$\\eta$",
            'β' => "$\\beta$",
            'π' => "$\\pi$",
            '√' => "$\\surd$",
            '×' => "$\\times$",
            '∞' => "$\\infty$",
            '±' => "$\\pm$",
            '−' => "$-$",
            '–' => "--",
            c => {
                out.push(c);
                continue;
            }
        };
    }
    out
}

/// Booktabs.
pub(crate) fn latex(table: &TextTable) -> String {
    let line = |row: &Vec<String>| row.iter().map(|cell| latex_cell(cell)).collect::<Vec<_>>().join(" & ") + " \\\\\n";
    let columns = "l".repeat(table.head.len());
    let body: String = table.rows.iter().map(line).collect();
    format!(
        "\\begin{{tabular}}{{{columns}}}\n\\toprule\n{}\\midrule\n{body}\\bottomrule\n\\end{{tabular}}\n",
        line(&table.head)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of arms, settings and claims are literal text in every format.
    #[test]
    fn cells_are_escaped_in_every_format() {
        for (cell, csv_cell, markdown, latex) in [
            ("=HYPERLINK(1)", "'=HYPERLINK(1)", "=HYPERLINK(1)", "=HYPERLINK(1)"),
            ("@SUM(A1)", "'@SUM(A1)", "@SUM(A1)", "@SUM(A1)"),
            ("-1+cmd|' /C'!A0", "'-1+cmd|' /C'!A0", "-1+cmd\\|' /C'!A0", "-1+cmd$|$' /C'!A0"),
            ("+x", "'+x", "+x", "+x"),
            ("-0.3 ± 0.1", "-0.3 ± 0.1", "-0.3 ± 0.1", "-0.3 $\\pm$ 0.1"),
            ("-1.000 to 2.000", "-1.000 to 2.000", "-1.000 to 2.000", "-1.000 to 2.000"),
            ("a|b", "a|b", "a\\|b", "a$|$b"),
            ("a,\"b\"", "\"a,\"\"b\"\"\"", "a,\"b\"", "a,''b''"),
            ("a\r\n\r\nb", "\"a\r\n\r\nb\"", "a    b", "a    b"),
            ("\tx", "'\tx", " x", " x"),
            ("\\input{x}", "\\input{x}", "\\\\input{x}", "\\textbackslash{}input\\{x\\}"),
            ("^~#%", "^~#%", "^\\~#%", "\\textasciicircum{}\\textasciitilde{}\\#\\%"),
            ("[2] x", "[2] x", "\\[2\\] x", "{[}2] x"),
            ("<b>&amp;", "<b>&amp;", "\\<b\\>\\&amp;", "$<$b$>$\\&amp;"),
            (
                "_a_ b_c *d* `e` $f$",
                "_a_ b_c *d* `e` $f$",
                "\\_a\\_ b_c \\*d\\* \\`e\\` \\$f\\$",
                "\\_a\\_ b\\_c *d* `e` \\$f\\$",
            ),
        ] {
            let row = vec![cell.to_string(), "1".into()];
            assert_eq!(
                csv(&["a".into(), "b".into()], std::slice::from_ref(&row)).expect("csv"),
                format!("a,b\n{csv_cell},1\n")
            );
            assert_eq!((markdown_cell(cell), latex_cell(cell)), (markdown.to_string(), latex.to_string()));
        }
    }

    #[test]
    fn the_three_formats_have_the_same_content() {
        let table = TextTable {
            name: "t",
            head: vec!["arm".into(), "η".into()],
            rows: vec![vec!["ppo_1".into(), "0.8 ± 0.1".into()]],
        };
        assert_eq!(csv(&table.head, &table.rows).expect("csv"), "arm,η\nppo_1,0.8 ± 0.1\n");
        assert_eq!(markdown(&table), "| arm | η |\n| --- | --- |\n| ppo_1 | 0.8 ± 0.1 |\n");
        assert_eq!(
            latex(&table),
            "\\begin{tabular}{ll}\n\\toprule\narm & $\\eta$ \\\\\n\\midrule\nppo\\_1 & 0.8 $\\pm$ 0.1 \\\\\n\\bottomrule\n\\end{tabular}\n"
        );
    }
}
