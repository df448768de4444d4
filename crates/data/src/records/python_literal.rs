//! Python literals as `repr` prints them: what pandas writes into the cells of a CSV file for lists and dictionaries.

use crate::json::Json;
use indexmap::IndexMap;
use serde_json::Number;

/// Nesting of lists and dictionaries.
const MAX_DEPTH: usize = 64;

/// A Python literal as JSON; tuples are lists.
///
/// # Errors
/// What was expected and where, counted in characters from 1.
pub(super) fn parse(text: &str) -> std::result::Result<Json, String> {
    let mut reader = LiteralReader { text, position: 0 };
    let value = reader.value(0)?;
    reader.skip_spaces();
    if reader.rest().is_empty() { Ok(value) } else { Err(reader.expected("the end")) }
}

struct LiteralReader<'a> {
    text: &'a str,
    /// In bytes.
    position: usize,
}

impl<'a> LiteralReader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.position..]
    }

    fn skip_spaces(&mut self) {
        self.position = self.text.len() - self.rest().trim_start().len();
    }

    /// What stands after the next word or sign, if it is that one.
    fn takes(&mut self, word: &str) -> bool {
        let is_next = self.rest().starts_with(word);
        self.position += if is_next { word.len() } else { 0 };
        is_next
    }

    fn expected(&self, what: &str) -> String {
        let position = self.text[..self.position].chars().count() + 1;
        let character = self.rest().chars().next().map_or("the end".into(), |c| format!("`{}`", c.escape_debug()));
        format!("expected {what} at character {position}, found {character}")
    }

    fn value(&mut self, depth: usize) -> std::result::Result<Json, String> {
        if depth > MAX_DEPTH {
            return Err(format!("lists and dictionaries are nested more than {MAX_DEPTH} deep"));
        }
        self.skip_spaces();
        match self.rest().as_bytes().first() {
            Some(b'[') => self.list(b']', depth),
            Some(b'(') => self.list(b')', depth),
            Some(b'{') => self.dictionary(depth),
            Some(b'\'' | b'"') => self.string().map(Json::Text),
            Some(b'-' | b'+' | b'.' | b'0'..=b'9') => self.number(),
            _ if self.takes("True") => Ok(Json::Bool(true)),
            _ if self.takes("False") => Ok(Json::Bool(false)),
            _ if self.takes("None") || self.takes("nan") => Ok(Json::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn list(&mut self, close: u8, depth: usize) -> std::result::Result<Json, String> {
        let close = char::from(close).to_string();
        self.position += 1;
        let mut items = vec![];
        loop {
            self.skip_spaces();
            if self.takes(&close) {
                return Ok(Json::List(items));
            }
            items.push(self.value(depth + 1)?);
            self.skip_spaces();
            if !self.takes(",") && !self.rest().starts_with(&close) {
                return Err(self.expected(&format!("`,` or `{close}`")));
            }
        }
    }

    fn dictionary(&mut self, depth: usize) -> std::result::Result<Json, String> {
        self.position += 1;
        let mut fields = IndexMap::new();
        loop {
            self.skip_spaces();
            if self.takes("}") {
                return Ok(Json::Object(fields));
            }
            let Json::Text(name) = self.value(depth + 1)? else { return Err(self.expected("a name that is text")) };
            self.skip_spaces();
            if !self.takes(":") {
                return Err(self.expected("`:`"));
            }
            let value = self.value(depth + 1)?;
            fields.insert(name, value);
            self.skip_spaces();
            if !self.takes(",") && !self.rest().starts_with('}') {
                return Err(self.expected("`,` or `}`"));
            }
        }
    }

    fn number(&mut self) -> std::result::Result<Json, String> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let end = self.rest().find(|c| !is_part(c)).unwrap_or(self.rest().len());
        let text = self.rest()[..end].replace('_', "");
        let number = match text.parse::<i64>() {
            Ok(n) => Some(Number::from(n)),
            Err(_) => text.parse::<f64>().ok().and_then(Number::from_f64),
        };
        let Some(number) = number else { return Err(self.expected("a number")) };
        self.position += end;
        Ok(Json::Number(number))
    }

    fn string(&mut self) -> std::result::Result<String, String> {
        let quote = if self.rest().starts_with('\'') { '\'' } else { '"' };
        self.position += 1;
        let mut text = String::new();
        loop {
            let Some(c) = self.rest().chars().next() else { return Err(self.expected(&format!("`{quote}`"))) };
            self.position += c.len_utf8();
            match c {
                _ if c == quote => return Ok(text),
                '\\' => text.extend(self.escape()?),
                _ => text.push(c),
            }
        }
    }

    /// The character of an escape; none for a line that is continued.
    fn escape(&mut self) -> std::result::Result<Option<char>, String> {
        let Some(c) = self.rest().chars().next() else { return Err(self.expected("an escape")) };
        self.position += c.len_utf8();
        Ok(Some(match c {
            '\n' => return Ok(None),
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            'x' => self.code(2, 16)?,
            'u' => self.code(4, 16)?,
            'U' => self.code(8, 16)?,
            '0'..='7' => {
                self.position -= 1;
                let digits = self.rest().bytes().take(3).take_while(|byte| (b'0'..=b'7').contains(byte)).count();
                self.code(digits, 8)?
            }
            '\\' | '\'' | '"' => c,
            _ => {
                self.position -= c.len_utf8();
                return Err(self.expected("an escape"));
            }
        }))
    }

    fn code(&mut self, digits: usize, radix: u32) -> std::result::Result<char, String> {
        let code = self.rest().get(..digits).and_then(|code| u32::from_str_radix(code, radix).ok());
        let Some(c) = code.and_then(char::from_u32) else { return Err(self.expected("the code of a character")) };
        self.position += digits;
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values as Python 3.12's `repr` prints them.
    #[test]
    fn literals_are_read_as_python_prints_them() {
        for (text, expected) in [
            (r#"[{'role': 'user', 'content': "it's"}]"#, r#"[{"role": "user", "content": "it's"}]"#),
            (r#"{'a': None, 'b': True, "c": (1, -2.5, 1e+20)}"#, r#"{"a": null, "b": true, "c": [1, -2.5, 1e20]}"#),
            (r"'a\'b\\n\n\x41\u00e9\U0001f600\t\101'", r#""a'b\\n\nAé😀\tA""#),
            ("['', \"\", '\"', (1,), {}, [ ], ]", r#"["", "", "\"", [1], {}, []]"#),
            ("[1,\n 2]", "[1, 2]"),
        ] {
            let expected: serde_json::Value = serde_json::from_str(expected).expect("JSON");
            assert_eq!(parse(text), Ok(expected.into()), "{text}");
        }
        for (text, problem) in [
            ("[{'a': 1}\n {'b': 2}]", "expected `,` or `]` at character 12, found `{`"),
            ("array([1], dtype=object)", "expected a value at character 1, found `a`"),
            ("'é", "expected `'` at character 3, found the end"),
            (r"'\q'", "expected an escape at character 3, found `q`"),
            ("[1 2]", "expected `,` or `]` at character 4, found `2`"),
            ("[] x", "expected the end at character 4, found `x`"),
            ("{1: 2}", "expected a name that is text at character 3, found `:`"),
        ] {
            assert_eq!(parse(text), Err(problem.to_owned()), "{text}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err_and(|e| e.contains("more than 64 deep")));
    }
}
