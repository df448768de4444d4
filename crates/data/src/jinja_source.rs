//! The text of a template as minijinja reads it with the meaning that jinja2 gives it: line ends, the escapes of string literals,
//! and the statements of transformers.

use minijinja::{Error, ErrorKind};

/// Statements that minijinja has, but not the environment of transformers.
const REFUSED: [&str; 6] = ["do", "include", "import", "from", "extends", "block"];

/// The filter that a macro with defaults applies to its arguments.
pub(crate) const ARGUMENT: &str = "argument_of_a_macro";

/// The variable that the scope of a `{% generation %}` block is told by.
pub(crate) const GENERATION: &str = "scope_of_generation";

/// A template's text for minijinja.
pub(crate) struct JinjaSource {
    pub(crate) text: String,
    /// The macros whose arguments have defaults.
    pub(crate) macros: Vec<String>,
}

/// Prepares a template.
///
/// # Errors
/// A statement that transformers refuses, or that renders otherwise here; an escape without its digits. With the line.
pub(crate) fn prepare(source: &str) -> Result<JinjaSource, Error> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut reader = SourceReader { rest: &source, line: 1, text: String::with_capacity(source.len()), macros: vec![] };
    reader.read().map_err(|problem| {
        Error::new(ErrorKind::SyntaxError, format!("{problem} (line {} of the template)", reader.line))
    })?;
    Ok(JinjaSource { text: reader.text, macros: reader.macros })
}

struct SourceReader<'a> {
    rest: &'a str,
    line: usize,
    text: String,
    macros: Vec<String>,
}

impl<'a> SourceReader<'a> {
    /// Copies the next bytes.
    fn copy(&mut self, bytes: usize) -> &'a str {
        let text = self.skip(bytes);
        self.text.push_str(text);
        text
    }

    fn skip(&mut self, bytes: usize) -> &'a str {
        let (text, rest) = self.rest.split_at(bytes);
        self.line += text.matches('\n').count();
        self.rest = rest;
        text
    }

    fn read(&mut self) -> Result<(), String> {
        while let Some(start) = self.rest.find('{') {
            self.copy(start);
            match self.rest.as_bytes().get(1) {
                Some(b'#') => {
                    let end = self.rest[2..].find("#}").map_or(self.rest.len(), |end| end + 4);
                    self.copy(end);
                }
                Some(b'%') => self.read_statement()?,
                Some(b'{') => {
                    self.copy(2);
                    self.read_expression("}}", &mut vec![])?;
                }
                _ => {
                    self.copy(1);
                }
            }
        }
        self.copy(self.rest.len());
        Ok(())
    }

    /// A statement from its `{%` on; a raw block to its end.
    fn read_statement(&mut self) -> Result<(), String> {
        self.copy(2);
        if self.rest.starts_with(['-', '+']) {
            self.copy(1);
        }
        self.copy(self.rest.len() - self.rest.trim_start().len());
        match leading_name(self.rest) {
            // transformers' mark of what the assistant says: a scope of its own, whose text stays
            word @ ("generation" | "endgeneration") => {
                let scope = format!("with {GENERATION} = none");
                self.text.push_str(if word == "generation" { &scope } else { "endwith" });
                self.skip(word.len());
            }
            word if REFUSED.contains(&word) => return Err(format!("the statement `{word}` is not supported")),
            "raw" => return self.read_raw(),
            word @ ("with" | "macro") => {
                self.copy(word.len());
                let (start, mut marks) = (self.text.len(), vec![]);
                self.read_expression("%}", &mut marks)?;
                match word {
                    "with" => self.assign_at_once(start, &marks),
                    _ => self.default_in_body(start, &marks),
                }
                return Ok(());
            }
            _ => {}
        }
        self.read_expression("%}", &mut vec![])
    }

    /// `with a = 1, b = a`: the values are those outside of it, so it becomes `with (a, b) = (1, a)`.
    fn assign_at_once(&mut self, start: usize, marks: &[Mark]) {
        let statement = self.text.split_off(start);
        let (body, end) = statement.split_at(statement.len() - tag_end(&statement).len());
        let assignments = assignments(body, start, marks, 0);
        match assignments.iter().map(|(name, value)| Some((name, (*value)?))).collect::<Option<Vec<_>>>() {
            Some(pairs) if pairs.len() > 1 => {
                let names: Vec<&str> = pairs.iter().map(|(name, _)| **name).collect();
                let values: Vec<&str> = pairs.iter().map(|(_, value)| *value).collect();
                self.text.push_str(&format!(" ({}) = ({}) {end}", names.join(","), values.join(",")));
            }
            _ => self.text.push_str(&statement),
        }
    }

    /// `macro m(a, b=a)`: a default is evaluated in the macro, after the arguments before it, and only where there is no
    /// argument: not where one is undefined.
    fn default_in_body(&mut self, start: usize, marks: &[Mark]) {
        let statement = self.text.split_off(start);
        let end = tag_end(&statement);
        let body = &statement[..statement.len() - end.len()];
        let arguments = body.trim_end().strip_suffix(')').and_then(|body| Some((body.find('(')?, body.len())));
        let Some((open, close)) = arguments else { return self.text.push_str(&statement) };
        let arguments = assignments(&statement[open + 1..close], start + open + 1, marks, 1);
        if arguments.iter().all(|(_, default)| default.is_none()) {
            return self.text.push_str(&statement);
        }
        self.macros.push(statement[..open].trim().to_owned());
        let names: Vec<&str> = arguments.iter().map(|(name, _)| *name).collect();
        self.text.push_str(&format!("{}({}) -%}}", &statement[..open], names.join(",")));
        for (index, (name, default)) in arguments.iter().enumerate() {
            let end = if index + 1 == arguments.len() { end } else { "%}" };
            let name = name.trim();
            let value = match default {
                Some(default) => format!("({default}) if {name} is undefined else ({name} | {ARGUMENT})"),
                None => format!("{name} | {ARGUMENT}"),
            };
            self.text.push_str(&format!("{{%- set {name} = {value} {end}"));
        }
    }

    fn read_raw(&mut self) -> Result<(), String> {
        let mut from = 0;
        while let Some(start) = self.rest[from..].find("{%") {
            let start = from + start + 2;
            let tag = self.rest[start..].trim_start_matches(['-', '+']).trim_start();
            if leading_name(tag) == "endraw" {
                let end = tag.find("%}").map_or(self.rest.len(), |end| self.rest.len() - tag.len() + end + 2);
                self.copy(end);
                return Ok(());
            }
            from = start;
        }
        Err("`raw` is not closed".into())
    }

    /// An expression up to its end, which does not count within brackets.
    fn read_expression(&mut self, end: &str, marks: &mut Vec<Mark>) -> Result<(), String> {
        let mut depth = 0usize;
        while let Some(first) = self.rest.chars().next() {
            match first {
                '\'' | '"' => self.read_string(first)?,
                _ if depth == 0 && self.rest.starts_with(end) => {
                    self.copy(2);
                    return Ok(());
                }
                _ => {
                    match first {
                        '(' | '[' | '{' => depth += 1,
                        ')' | ']' | '}' => depth = depth.saturating_sub(1),
                        ',' | '=' => marks.push(Mark { sign: first, depth, at: self.text.len() }),
                        _ => {}
                    }
                    self.copy(first.len_utf8());
                }
            }
        }
        Ok(())
    }

    /// A string literal: Python's escapes, of which minijinja does not know all.
    fn read_string(&mut self, quote: char) -> Result<(), String> {
        self.copy(1);
        while let Some(first) = self.rest.chars().next() {
            match first {
                '\\' => {
                    self.skip(1);
                    if let Some(c) = self.read_escape()? {
                        self.push_escaped(c, quote);
                    }
                }
                _ => {
                    self.copy(first.len_utf8());
                    if first == quote {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn push_escaped(&mut self, c: char, quote: char) {
        match c {
            '\n' => self.text.push_str("\\n"),
            _ if c == quote || c == '\\' => self.text.extend(['\\', c]),
            _ => self.text.push(c),
        }
    }

    /// What stands after a backslash; `None` at the end of a line. An escape that Python does not know keeps its backslash.
    fn read_escape(&mut self) -> Result<Option<char>, String> {
        let Some(first) = self.rest.chars().next() else { return Ok(Some('\\')) };
        let simple = match first {
            '\n' => None,
            '\\' | '\'' | '"' => Some(first),
            'a' => Some('\x07'),
            'b' => Some('\x08'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            'x' => return self.read_digits(1, 2, 16).map(Some),
            'u' => return self.read_digits(1, 4, 16).map(Some),
            'U' => return self.read_digits(1, 8, 16).map(Some),
            '0'..='7' => {
                let digits = self.rest.bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                return self.read_digits(0, digits, 8).map(Some);
            }
            'N' => return Err("the escape `\\N` is not supported".into()),
            _ => return Ok(Some('\\')),
        };
        self.skip(1);
        Ok(simple)
    }

    fn read_digits(&mut self, prefix: usize, digits: usize, radix: u32) -> Result<char, String> {
        let text = self.rest.get(prefix..prefix + digits).filter(|text| text.chars().all(|c| c.is_digit(radix)));
        let c = text.and_then(|text| char::from_u32(u32::from_str_radix(text, radix).ok()?));
        let c = c.ok_or("an escape of a string is not a character")?;
        self.skip(prefix + digits);
        Ok(c)
    }
}

/// The name that a text starts with.
fn leading_name(text: &str) -> &str {
    &text[..text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())]
}

/// A comma or an equals sign of a statement: its depth within brackets, and where it is in the text.
struct Mark {
    sign: char,
    depth: usize,
    at: usize,
}

/// How a statement ends; empty where the source does before it.
fn tag_end(statement: &str) -> &str {
    let Some(body) = statement.strip_suffix("%}") else { return "" };
    let body = body.strip_suffix(['-', '+']).unwrap_or(body);
    &statement[body.len()..]
}

/// The parts between commas at a depth, each split at its first equals sign there. `start` is where the text begins.
fn assignments<'a>(text: &'a str, start: usize, marks: &[Mark], depth: usize) -> Vec<(&'a str, Option<&'a str>)> {
    let inside = |mark: &&Mark| mark.depth == depth && (start..start + text.len()).contains(&mark.at);
    let (mut parts, mut from, mut equals) = (vec![], 0, None);
    let mut push = |to: usize, from: usize, equals: Option<usize>| {
        let (name, value) =
            equals.map_or((&text[from..to], None), |index| (&text[from..index], Some(&text[index + 1..to])));
        if !name.trim().is_empty() || value.is_some() {
            parts.push((name, value));
        }
    };
    for mark in marks.iter().filter(inside) {
        let position = mark.at - start;
        match mark.sign {
            ',' => {
                push(position, from, equals.take());
                from = position + 1;
            }
            _ => equals = equals.or(Some(position)),
        }
    }
    push(text.len(), from, equals);
    parts
}
