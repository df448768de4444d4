//! CSV and TSV.

use super::limited_file::LimitedFile;
use super::record::NumberedRecord;
use crate::json::Json;
use std::fs::File;

/// Cells between delimiters, one row per line.
pub(super) struct Csv {
    reader: csv::Reader<LimitedFile>,
    names: Vec<String>,
    is_finished: bool,
}

impl Csv {
    pub(super) fn new(file: File, delimiter: u8) -> std::result::Result<Self, String> {
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(LimitedFile::new(file));
        let names: Vec<String> = reader.headers().map_err(|e| e.to_string())?.iter().map(str::to_owned).collect();
        let mut sorted: Vec<&String> = names.iter().filter(|name| !name.is_empty()).collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|two| two[0] == two[1]) {
            Some(duplicate) => Err(format!("two columns are named `{}`", duplicate[0])),
            None => Ok(Self { reader, names, is_finished: false }),
        }
    }
}

impl Iterator for Csv {
    type Item = NumberedRecord<Json>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_finished {
            return None;
        }
        self.reader.get_ref().start_row();
        let mut record = csv::StringRecord::new();
        let line = self.reader.position().line() as usize;
        match self.reader.read_record(&mut record) {
            Ok(false) => None,
            Ok(true) => {
                let line = record.position().map_or(line, |position| position.line() as usize);
                let cell = |(name, cell): (&String, &str)| (name.clone(), cell_value(cell));
                Some((line, Ok(Json::Object(self.names.iter().zip(&record).map(cell).collect()))))
            }
            Err(e) => {
                self.is_finished = e.is_io_error();
                let line = e.position().map_or(line, |position| position.line() as usize);
                let problem = match e.kind() {
                    csv::ErrorKind::Io(e) => e.to_string(),
                    _ => e.to_string(),
                };
                Some((line, Err(problem)))
            }
        }
    }
}

/// A cell: a JSON list of turns, text, or null. Whether text is a number or a boolean depends on its column.
fn cell_value(cell: &str) -> Json {
    let text = || Json::Text(cell.into());
    match cell {
        "" => Json::Null,
        _ if cell.trim_start().starts_with('[') => serde_json::from_str(cell).unwrap_or_else(|_| text()),
        _ => text(),
    }
}
