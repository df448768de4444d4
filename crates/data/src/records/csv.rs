//! CSV and TSV.

use super::limited_file::LimitedFile;
use super::numbered::NumberedRecord;
use crate::json::Json;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};

/// Bytes whose line breaks are counted: the library takes the break after `\r` for part of the next row.
struct CountedLines {
    bytes: LimitedFile,
    /// Bytes read.
    position: u64,
    lines: RefCell<LineCount>,
}

/// Line breaks that were read.
#[derive(Default)]
struct LineCount {
    /// Before the end of the row.
    count: usize,
    /// Where the last of these is.
    last: Option<u64>,
    /// Those behind it, which the library has read ahead.
    ahead: VecDeque<u64>,
}

impl Read for CountedLines {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.bytes.read(buffer)?;
        let breaks = buffer[..count].iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        self.lines.borrow_mut().ahead.extend(breaks.map(|(index, _)| self.position + index as u64));
        self.position += count as u64;
        Ok(count)
    }
}

impl LineCount {
    /// The line on which a row begins that ends before the byte `end` and has `inside` line breaks in its cells.
    fn first_line(&mut self, end: u64, inside: usize) -> usize {
        while let Some(position) = self.ahead.pop_front_if(|position| *position < end) {
            self.count += 1;
            self.last = Some(position);
        }
        let ends_with_break = end > 0 && self.last == Some(end - 1);
        (self.count + usize::from(!ends_with_break)).saturating_sub(inside)
    }
}

/// Cells between delimiters, one row per line.
pub(super) struct Csv {
    reader: csv::Reader<CountedLines>,
    names: Vec<String>,
    delimiter: u8,
    is_finished: bool,
}

impl Csv {
    /// `delimiter` is the format's; where the first line has none, it is that line's own: spreadsheets write `;` in many countries,
    /// and may say so in a line `sep=;`.
    pub(super) fn new(bytes: Box<dyn Read + Send>, delimiter: u8) -> std::result::Result<Self, String> {
        let mut bytes = BufReader::with_capacity(1 << 16, bytes);
        let start = bytes.fill_buf().map_err(|e| e.to_string())?;
        let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let (delimiter, skipped) = match line.trim_ascii_end() {
            [b's', b'e', b'p', b'=', delimiter] => (*delimiter, (line.len() + 1).min(start.len())),
            names => (delimiter_of(names, delimiter), 0),
        };
        let quotes = delimiter != b'\t' || has_quoted_cells(&start[skipped..], delimiter);
        bytes.consume(skipped);
        let lines = RefCell::new(LineCount { count: usize::from(skipped > 0), ..LineCount::default() });
        let bytes = CountedLines { bytes: LimitedFile::new(Box::new(bytes)), position: 0, lines };
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).quoting(quotes).flexible(true).from_reader(bytes);
        let names: Vec<String> =
            reader.headers().map_err(|e| problem(&e))?.iter().map(|name| name.trim().into()).collect();
        let mut sorted: Vec<&String> = names.iter().filter(|name| !name.is_empty()).collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|two| two[0] == two[1]) {
            Some(duplicate) => Err(format!("two columns are named `{}`", duplicate[0])),
            None => Ok(Self { reader, names, delimiter, is_finished: false }),
        }
    }

    /// A row's cells under their names. Empty cells are null; whether text is a number, a boolean or a list of turns depends
    /// on its column.
    fn row(&self, record: &csv::ByteRecord) -> std::result::Result<Json, String> {
        if let Some(cell) = record.iter().position(|cell| self.delimiter == b'\t' && holds_rows(cell, self.names.len()))
        {
            let name = self.names.get(cell).map_or("a cell", String::as_str);
            return Err(format!(
                "`{name}` begins with a quote that is not closed in its line, and holds the rows below it"
            ));
        }
        if record.len() != self.names.len() {
            return Err(format!("it has {} cells, but there are {} columns", record.len(), self.names.len()));
        }
        let cell = |(name, cell): (&String, &[u8])| match std::str::from_utf8(cell) {
            Ok("") => Ok((name.clone(), Json::Null)),
            Ok(text) => Ok((name.clone(), Json::Text(text.into()))),
            Err(_) => Err(format!("`{name}` is not valid UTF-8: save the file as UTF-8")),
        };
        Ok(Json::Object(self.names.iter().zip(record).map(cell).collect::<std::result::Result<_, _>>()?))
    }
}

impl Iterator for Csv {
    type Item = NumberedRecord<Json>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_finished {
            return None;
        }
        self.reader.get_ref().bytes.start_row();
        let mut record = csv::ByteRecord::new();
        let row = match self.reader.read_byte_record(&mut record) {
            Ok(false) => return None,
            Ok(true) => self.row(&record),
            Err(e) => {
                self.is_finished = e.is_io_error();
                Err(problem(&e))
            }
        };
        let inside = record.as_slice().iter().filter(|byte| **byte == b'\n').count();
        let end = self.reader.position().byte();
        Some((self.reader.get_ref().lines.borrow_mut().first_line(end, inside), row))
    }
}

/// Whether a cell of tab-separated values holds a whole row of so many cells.
fn holds_rows(cell: &[u8], columns: usize) -> bool {
    let is_row = |line: &[u8]| columns > 1 && line.iter().filter(|byte| **byte == b'\t').count() == columns - 1;
    let mut lines = cell.split(|byte| *byte == b'\n');
    lines.next(); // the end of the row that it stands in
    lines.any(is_row)
}

/// Whether quotes around cells mean something at the start of a file: not where one that a cell begins with is not closed at the end
/// of the cell, or only beyond whole rows. Many programs write tabs between cells and leave quotes as they are.
fn has_quoted_cells(start: &[u8], delimiter: u8) -> bool {
    let columns = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let columns = 1 + columns.iter().filter(|byte| **byte == delimiter).count();
    let ends_cell = |at: usize| {
        let rest = &start[at..];
        rest.is_empty() || rest[0] == delimiter || rest[0] == b'\n' || rest.starts_with(b"\r\n")
    };
    let mut at = 0;
    while at < start.len() {
        let begins_cell = at == 0 || start[at - 1] == delimiter || start[at - 1] == b'\n';
        if !(begins_cell && start[at] == b'"') {
            at += 1;
            continue;
        }
        let mut end = at + 1;
        while end < start.len() && start[end] != b'"' || start[end.min(start.len())..].starts_with(b"\"\"") {
            end += if start[end] == b'"' { 2 } else { 1 };
        }
        let is_cut_off = end >= start.len();
        if holds_rows(&start[at..end.min(start.len())], columns) || (!is_cut_off && !ends_cell(end + 1)) {
            return false;
        }
        at = end + 1;
    }
    true
}

/// What stands between the names of columns.
fn delimiter_of(names: &[u8], usual: u8) -> u8 {
    let mut is_quoted = false;
    let outside = |byte: &&u8| {
        is_quoted ^= **byte == b'"';
        !is_quoted
    };
    let outside: Vec<u8> = names.iter().filter(outside).copied().collect();
    let count = |delimiter: u8| outside.iter().filter(|byte| **byte == delimiter).count();
    let most = [b';', b'\t', b',', b'|'].into_iter().max_by_key(|delimiter| count(*delimiter));
    most.filter(|most| count(usual) == 0 && count(*most) > 0).unwrap_or(usual)
}

fn problem(e: &csv::Error) -> String {
    match e.kind() {
        csv::ErrorKind::Io(e) => e.to_string(),
        csv::ErrorKind::Utf8 { .. } => "the names of the columns are not valid UTF-8".into(),
        _ => e.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Line breaks of every kind, inside cells, between rows and at the end.
    #[test]
    fn lines_are_those_of_the_file() {
        let lines = |text: &'static str| {
            let csv = Csv::new(Box::new(text.as_bytes()), b',').expect("names");
            csv.map(|(line, row)| if row.is_ok() { line as i64 } else { -(line as i64) }).collect::<Vec<_>>()
        };
        assert_eq!(lines("a,b\n1,2\n3,4\n"), [2, 3]);
        assert_eq!(lines("a,b\r\n1,2\r\n3\r\n5,6"), [2, -3, 4]);
        assert_eq!(lines("a,b\r\n1,\"x\r\ny\r\n\"\r\n\r\n\r\n3,4\r\n5,6\r\n"), [2, 7, 8]);
        assert_eq!(lines("a,b\n\n1,\"x\n\ny\"\n\n3,4"), [3, 7]);
        assert_eq!(lines("\"a\nb\",c\n1,2\n3,4"), [3, 4]);
        assert_eq!(lines("sep=;\r\na;b\r\n1;2\r\n3\r\n"), [3, -4]);
    }

    /// Cells of the last column, or the problem of their row.
    fn last_cells(text: &'static str) -> Vec<String> {
        let csv = Csv::new(Box::new(text.as_bytes()), b'\t').expect("names");
        let cell = |row: std::result::Result<Json, String>| match row {
            Ok(row) => row.get("b").and_then(Json::as_str).unwrap_or_default().to_owned(),
            Err(problem) => format!("error: {problem}"),
        };
        csv.map(|(_, row)| cell(row)).collect()
    }

    #[test]
    fn quotes_of_tab_separated_values_are_text_where_they_are_not_closed() {
        assert_eq!(last_cells("a\tb\n1\t\"x\n2\ty\n3\t\"z\n"), ["\"x", "y", "\"z"]);
        assert_eq!(last_cells("a\tb\n1\t\"Yes\" he said.\n2\ty\n"), ["\"Yes\" he said.", "y"]);
        // as pandas writes them: doubled within, and around tabs and line breaks
        assert_eq!(
            last_cells("a\tb\n1\t\"say \"\"yes\"\"\"\r\n2\t\"two\nlines\"\n3\t\"a\ttab\"\n"),
            ["say \"yes\"", "two\nlines", "a\ttab"]
        );
        // beyond the start, where quotes have been those of cells, it is an error of its row
        let long: &'static str =
            Box::leak(format!("a\tb\n0\t\"q\"\n{}1\t\"x\n2\ty\n3\tz\n", "9\tn\n".repeat(20_000)).into());
        let cells = last_cells(long);
        assert!(cells[20_001].starts_with("error: `b` begins with a quote"), "{}", cells[20_001]);
    }

    #[test]
    fn the_first_line_tells_what_separates_cells() {
        for (names, usual, expected) in [
            ("prompt,chosen", b',', b','),
            ("prompt;chosen;rejected", b',', b';'),
            ("prompt\tchosen", b',', b'\t'),
            ("prompt,chosen", b'\t', b','),
            ("prompt|chosen", b',', b'|'),
            ("a;b,c", b',', b','),
            ("\"a;b\"", b',', b','),
            ("\"a,b\";c", b',', b';'),
            ("prompt", b',', b','),
            ("", b'\t', b'\t'),
        ] {
            assert_eq!(delimiter_of(names.as_bytes(), usual), expected, "{names}");
        }
    }
}
