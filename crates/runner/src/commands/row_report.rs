//! What was found in rows, as text; and rows token by token.

use crate::terminal::sanitize;
use duel_data::check::{DataReport, FileColumns, Lengths};
use duel_data::rows::{Finding, FindingKind, Problem, RowSource, RowStats, RowTokens, SequencePart, TokenView};
use duel_spec::Split;
use std::fmt::Write as _;

/// Problems listed of what should be fixed, and of what is only worth knowing.
const LISTED: [usize; 2] = [20, 3];

/// Columns of tokens.
const WIDTH: usize = 100;

/// A number with commas.
pub(super) fn with_commas(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Further lines that are named of rows with the same problem.
const LINES: usize = 8;

/// Rows with one kind of finding: their number, and each problem once, with the first of its lines.
fn finding_lines(kind: FindingKind, finding: &Finding, lines: &mut Vec<String>) {
    let most = LISTED[usize::from(!kind.is_error())];
    lines.push(format!("  {}: {}", kind.description(), with_commas(finding.rows)));
    let mut groups: Vec<(String, Vec<&Problem>)> = vec![];
    for problem in &finding.first {
        let kind = problem.kind();
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, problems)) => problems.push(problem),
            None => groups.push((kind, vec![problem])),
        }
    }
    let mut named = 0;
    for (kind, problems) in groups.iter().take(most) {
        // of problems that are not counted by kind, a single kind has all rows
        let counted = finding.kinds.get(kind).copied();
        let rows = counted.unwrap_or(if groups.len() == 1 { finding.rows } else { problems.len() });
        named += rows;
        lines.push(format!("    {}", problems[0]));
        if rows > 1 {
            lines.push(format!("      and {} more like it: {}", with_commas(rows - 1), places(problems, rows - 1)));
        }
    }
    let is_named = |kind: &&String| groups.iter().take(most).any(|(known, _)| known == *kind);
    for (kind, rows) in finding.kinds.iter().filter(|(kind, _)| !is_named(kind)) {
        named += rows;
        lines.push(format!("    {kind}: {}", with_commas(*rows)));
    }
    if finding.rows > named {
        lines.push(format!("    and {} more", with_commas(finding.rows - named)));
    }
}

/// The lines of problems after the first: `lines 4, 5, 9 and others`, with the file where it is another one.
fn places(problems: &[&Problem], rows: usize) -> String {
    let place = |problem: &&Problem| match problem.file == problems[0].file {
        true => problem.line.to_string(),
        false => format!("{}:{}", problem.file.display(), problem.line),
    };
    let named: Vec<String> = problems[1..].iter().take(LINES).map(place).collect();
    let others = if rows > named.len() { " and others" } else { "" };
    format!("line{} {}{others}", if rows == 1 { "" } else { "s" }, named.join(", "))
}

fn findings(stats: &RowStats) -> Vec<String> {
    let mut lines = vec![];
    for (is_error, title) in [(true, "to be fixed"), (false, "worth knowing")] {
        let findings = || stats.findings.iter().filter(|(kind, _)| kind.is_error() == is_error);
        if findings().next().is_some() {
            lines.push(title.into());
            findings().for_each(|(kind, finding)| finding_lines(*kind, finding, &mut lines));
        }
    }
    lines
}

/// What the columns are taken for.
fn columns(report: &DataReport) -> Vec<String> {
    let mut lines = vec![];
    for FileColumns { files, plan } in &report.columns {
        if report.columns.len() > 1 {
            let others = if files.len() > 1 { format!(" and {} more", files.len() - 1) } else { String::new() };
            lines.push(format!("{}{others}", files[0].display()));
        }
        lines.push(plan.to_string().trim_end().to_owned());
    }
    lines
}

fn lengths(report: &DataReport) -> Vec<String> {
    let mut lines = vec![format!("lengths, {:<14} median    90 %    99 %    most", report.unit)];
    for (name, lengths) in [("prompt", report.prompt), ("chosen", report.chosen), ("rejected", report.rejected)] {
        if let Some(Lengths { median, ninety, ninety_nine, most }) = lengths {
            lines.push(format!("  {name:<20} {median:>7} {ninety:>7} {ninety_nine:>7} {most:>7}"));
        }
    }
    lines
}

/// What a run would train on.
fn use_of_rows(report: &DataReport, source: &RowSource) -> Vec<String> {
    let stats = &report.stats;
    let mut lines = vec![];
    if stats.has_only_prompts() {
        lines.push(
            "prompts alone: no column is known to hold completions. If two of them do, name them, with `--chosen NAME --rejected NAME`; \
             if none does, the model writes two completions to each prompt, and a judge other than \"world\" labels them"
                .into(),
        );
        lines.extend(refusal(report));
        return lines;
    }
    let [wanted, unwanted] = stats.usable_single();
    if stats.judged > 0 {
        let [wanted, unwanted] = [wanted, unwanted].map(with_commas);
        lines.push(format!(
            "{wanted} wanted and {unwanted} unwanted completions can be used, with loss = \"kto\", \"bco\" or \"aot_unpaired\""
        ));
    }
    let counts =
        Split::ALL.iter().zip(stats.kept_by_split).map(|(split, n)| format!("{} {}", with_commas(n), split.name()));
    let how = match source.files.first() {
        Some((None, _)) => format!(", by holdout = {}", source.holdout),
        _ => String::new(),
    };
    let counts = counts.collect::<Vec<_>>().join(", ");
    lines.push(format!("{} pairs can be used: {counts}{how}", with_commas(stats.kept)));
    let usable: usize =
        stats.usable.iter().map(|split| split.kept(usize::MAX)).map(|pairs| pairs.pairs + pairs.unpaired).sum();
    if usable > stats.kept {
        let [train, other] = source.most;
        lines.push(format!(
            "  of {}: at most {} for training and {} of each other split (stages.pairs.rows, holdout_rows)",
            with_commas(usable),
            with_commas(train),
            with_commas(other)
        ));
    }
    if let [unwanted, wanted] = stats.one_kind
        && unwanted + wanted > 0
    {
        lines.push(format!(
            "  {} wanted and {} unwanted completions have none of the other kind in their split, and are left out",
            with_commas(wanted),
            with_commas(unwanted)
        ));
    }
    lines.extend(refusal(report));
    lines
}

/// Why a run would refuse the rows, where the findings do not say so already.
fn refusal(report: &DataReport) -> Option<String> {
    let refusal = report.refusal.as_ref().filter(|_| report.count(FindingKind::Leaks) == 0)?;
    Some(format!("a run refuses these rows: {refusal}"))
}

/// The report for a person.
pub fn text(report: &DataReport, name: &str, source: &RowSource) -> String {
    let stats = &report.stats;
    let kinds = [
        (stats.pairs, "pairs"),
        (stats.judged, "completions with a label"),
        (stats.prompts_alone, "prompts alone"),
        (stats.malformed, "unreadable"),
    ];
    let kinds: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, kind)| format!("{} {kind}", with_commas(*n))).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(": {}", kinds.join(", ")) };
    let mut lines = vec![format!("{name}: {} rows{kinds}", with_commas(stats.read))];
    lines.extend(columns(report));
    if stats.with_margin + stats.with_scores > 0 {
        let [margin, scores] = [stats.with_margin, stats.with_scores].map(with_commas);
        lines.push(format!("  {margin} with a margin, {scores} with scores"));
    }
    lines.extend(findings(stats));
    lines.extend(lengths(report));
    if report.unit == "words" {
        lines.push("  give --model to count tokens, and to see what is too long for it".into());
    }
    lines.push(format!("{} different prompts", with_commas(stats.prompts)));
    lines.extend(use_of_rows(report, source));
    lines.join("\n") + "\n"
}

/// How a terminal shows parts of a row: beginnings and the end of a colour, empty without colours.
struct Styles {
    context: &'static str,
    trained: &'static str,
    control: &'static str,
    end: &'static str,
}

const PLAIN: Styles = Styles { context: "", trained: "", control: "", end: "" };
const COLORED: Styles = Styles { context: "\x1b[2m", trained: "\x1b[32m", control: "\x1b[33m", end: "\x1b[0m" };

/// A token with its white space visible.
fn visible(token: &TokenView) -> String {
    if token.is_control {
        return format!("⟦{}⟧", sanitize(&token.text));
    }
    let text: String = token
        .text
        .chars()
        .map(|c| match c {
            ' ' => "·".to_owned(),
            '\n' => "⏎".into(),
            '\t' => "⇥".into(),
            '\u{a0}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' => {
                format!("U+{:04X}", u32::from(c))
            }
            c => c.into(),
        })
        .collect();
    sanitize(&text).into_owned()
}

/// The tokens of a prompt or a completion: `|` before lines of context, `>` before what the loss is on. A line ends at a line
/// break, at the width, and where context and loss meet.
fn part_lines(part: &SequencePart, styles: &Styles, out: &mut String) {
    let mut name = part.name;
    let mut tokens = part.tokens.iter().peekable();
    while let Some(first) = tokens.peek() {
        let (is_trained, mut width) = (first.is_trained, 0);
        let (gutter, style) = if is_trained { ('>', styles.trained) } else { ('|', styles.context) };
        let _ = write!(out, "  {name:<10} {gutter} ");
        name = "";
        while let Some(token) = tokens.next_if(|token| token.is_trained == is_trained) {
            let text = visible(token);
            let style = if token.is_control { styles.control } else { style };
            let _ = write!(out, "{style}{text}{}│", styles.end);
            width += text.chars().count() + 1;
            if width >= WIDTH || token.text.ends_with('\n') {
                break;
            }
        }
        out.push('\n');
    }
}

/// Rows token by token.
pub fn examples(rows: &[RowTokens], is_colored: bool) -> String {
    let styles = if is_colored { COLORED } else { PLAIN };
    let mut out = String::new();
    if !rows.is_empty() {
        out += "\ntokens: │ ends each, ⟦ ⟧ is a control token, · a space, ⏎ a line break, ⇥ a tab\n";
        out += "        | context, which is read without loss; > what the loss is on\n";
    }
    for row in rows {
        let counts = row.parts.iter().map(|part| format!("{} of {} tokens", part.name, part.tokens.len()));
        let heading =
            format!("{}:{}, {}: {}", row.file.display(), row.line, row.split, counts.collect::<Vec<_>>().join(", "));
        let _ = writeln!(out, "{}", sanitize(&heading).replace('\n', "⏎"));
        row.notes.iter().for_each(|note| {
            let _ = writeln!(out, "  {}", sanitize(note).replace('\n', "⏎"));
        });
        row.parts.iter().for_each(|part| part_lines(part, &styles, &mut out));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// What the texts of rows hold moves no cursor, and boundaries, white space and loss are visible without colours.
    #[test]
    fn tokens_are_visible_on_any_terminal() {
        let token = |text: &str, is_control, is_trained| TokenView { id: 5, text: text.into(), is_control, is_trained };
        let row = RowTokens {
            file: PathBuf::from("a\u{1b}[2J.jsonl"),
            line: 3,
            split: "train",
            notes: vec!["a\nb\u{1b}".into()],
            parts: vec![
                SequencePart {
                    name: "prompt",
                    tokens: vec![
                        token("<\u{1b}|user|>", true, false),
                        token(" a\tb", false, false),
                        token("\n", false, false),
                    ],
                },
                // a turn of the user within a completion
                SequencePart {
                    name: "chosen",
                    tokens: vec![
                        token(" y", false, true),
                        token("u\u{200b}", false, false),
                        token("<eos>", true, true),
                    ],
                },
            ],
        };
        let plain = examples(std::slice::from_ref(&row), false);
        let lines: Vec<&str> = plain.lines().skip(3).collect();
        let expected = [
            "a␛[2J.jsonl:3, train: prompt of 3 tokens, chosen of 3 tokens",
            "  a⏎b␛",
            "  prompt     | ⟦<␛|user|>⟧│·a⇥b│⏎│",
            "  chosen     > ·y│",
            "             | uU+200B│",
            "             > ⟦<eos>⟧│",
        ];
        assert_eq!(lines, expected);
        let colored = examples(&[row], true);
        let stripped =
            ["\x1b[2m", "\x1b[32m", "\x1b[33m", "\x1b[0m"].iter().fold(colored, |text, code| text.replace(code, ""));
        assert_eq!(stripped, plain, "colours change nothing else");
        assert_eq!(examples(&[], true), "");
    }

    #[test]
    fn a_problem_of_many_rows_is_said_once() {
        let problem = |file: &str, line: usize, what: &str| Problem { file: file.into(), line, what: what.into() };
        let first = vec![
            problem("a.jsonl", 3, "no `chosen` (column 12)"),
            problem("a.jsonl", 4, "no `chosen` (column 7)"),
            problem("a.jsonl", 7, "an empty line"),
            problem("b.jsonl", 1, "no `chosen` (column 1)"),
        ];
        let kinds = [("no `chosen`", 30), ("an empty line", 1), ("not JSON", 2)].map(|(kind, n)| (kind.to_owned(), n));
        let finding = Finding { rows: 33, first: first.clone(), kinds: kinds.into() };
        let mut lines = vec![];
        finding_lines(FindingKind::Unreadable, &finding, &mut lines);
        let expected = [
            "  cannot be read or trained on, left out: 33",
            "    a.jsonl:3: no `chosen` (column 12)",
            "      and 29 more like it: lines 4, b.jsonl:1 and others",
            "    a.jsonl:7: an empty line",
            "    not JSON: 2",
        ];
        assert_eq!(lines, expected);
        // of a kind that is not counted by message
        let finding = Finding { rows: 2, first: first[..2].to_vec(), kinds: Default::default() };
        lines.clear();
        finding_lines(FindingKind::Ties, &finding, &mut lines);
        assert_eq!(lines[2], "      and 1 more like it: line 4");
    }

    #[test]
    fn long_parts_break_between_tokens() {
        let token = TokenView { id: 5, text: "word".into(), is_control: false, is_trained: true };
        let part = SequencePart { name: "chosen", tokens: vec![token; 50] };
        let mut out = String::new();
        part_lines(&part, &PLAIN, &mut out);
        assert_eq!(out.matches("word│").count(), 50);
        assert!(out.lines().count() == 3 && out.lines().all(|line| line.chars().count() <= WIDTH + 20), "{out}");
    }
}
