//! A file whose pages are checked once they are decompressed. Delta-encoded text begins with lists of lengths, for which the library
//! allocates memory, and with what a text has in common with the one before it, a page expands to more than its own bytes.

use crate::Error;
use crate::limits::{MAX_PAGE, check_sizes, guarded, malformed, varint, zigzag};
use parquet::basic::Encoding;
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::Result;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use std::fs::File;

/// Texts of a delta-encoded page. Writers put some 20,000 into one.
const MAX_TEXTS: usize = 1 << 22;

/// Opens a file whose declared sizes fit its length.
///
/// # Errors
/// A file that is damaged, or that declares more than its bytes can hold.
pub fn open(file: File) -> std::result::Result<CheckedReader, Error> {
    let (length, mut pages) = (file.metadata()?.len(), file.try_clone()?);
    let reader = guarded(|| SerializedFileReader::new(file))?;
    guarded(|| check_sizes(reader.metadata(), &mut pages, length as i64))?;
    Ok(CheckedReader(reader))
}

/// A reader that refuses pages which expand to more than they may.
pub struct CheckedReader(SerializedFileReader<File>);

impl std::fmt::Debug for CheckedReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CheckedReader({} rows)", self.metadata().file_metadata().num_rows())
    }
}

impl FileReader for CheckedReader {
    fn metadata(&self) -> &ParquetMetaData {
        self.0.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.0.num_row_groups()
    }

    fn get_row_group(&self, index: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        Ok(Box::new(CheckedRowGroup(self.0.get_row_group(index)?)))
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct CheckedRowGroup<'a>(Box<dyn RowGroupReader + 'a>);

impl RowGroupReader for CheckedRowGroup<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.0.metadata()
    }

    fn num_columns(&self) -> usize {
        self.0.num_columns()
    }

    fn get_column_page_reader(&self, index: usize) -> Result<Box<dyn PageReader>> {
        let column = self.0.metadata().column(index).column_descr();
        let has_levels = [column.max_rep_level() > 0, column.max_def_level() > 0];
        Ok(Box::new(CheckedPages { pages: self.0.get_column_page_reader(index)?, has_levels }))
    }

    fn get_column_bloom_filter(&self, index: usize) -> Option<&Sbbf> {
        self.0.get_column_bloom_filter(index)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

struct CheckedPages {
    pages: Box<dyn PageReader>,
    /// Whether pages begin with repetition levels, and with definition levels.
    has_levels: [bool; 2],
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.iter().try_for_each(|page| check_page(page, self.has_levels))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.pages.take_deferred_dictionary()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

/// Checks what a page of delta-encoded text expands to.
fn check_page(page: &Page, has_levels: [bool; 2]) -> Result<()> {
    let (encoding, most) = (page.encoding(), page.num_values() as usize);
    if !matches!(encoding, Encoding::DELTA_LENGTH_BYTE_ARRAY | Encoding::DELTA_BYTE_ARRAY) {
        return Ok(());
    }
    let values = match page {
        Page::DataPage { buf, def_level_encoding, rep_level_encoding, .. } => {
            let mut values: &[u8] = buf;
            let levels = has_levels.into_iter().zip([rep_level_encoding, def_level_encoding]);
            for (_, encoding) in levels.filter(|(has_levels, _)| *has_levels) {
                let rest = values.split_first_chunk().and_then(|(length, rest)| {
                    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
                    rest.get(length..).filter(|_| *encoding == Encoding::RLE)
                });
                let Some(rest) = rest else {
                    return malformed("a page of delta-encoded text without its levels".into());
                };
                values = rest;
            }
            values
        }
        Page::DataPageV2 { buf, def_levels_byte_len, rep_levels_byte_len, .. } => {
            let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
            buf.get(levels..).unwrap_or_default()
        }
        Page::DictionaryPage { .. } => return malformed("a dictionary of delta-encoded text".into()),
    };
    let mut reader = DeltaReader { bytes: values };
    let mut size = reader.sum_of_lengths(most)?;
    if encoding == Encoding::DELTA_BYTE_ARRAY {
        size += reader.sum_of_lengths(most)?;
    }
    match size {
        size if size > MAX_PAGE => malformed(format!("a page with {size} bytes of text; the limit is {MAX_PAGE}")),
        _ => Ok(()),
    }
}

/// Numbers in Parquet's encoding `DELTA_BINARY_PACKED`.
struct DeltaReader<'a> {
    bytes: &'a [u8],
}

impl DeltaReader<'_> {
    fn byte(&mut self) -> Result<u8> {
        match self.bytes.split_off_first() {
            Some(byte) => Ok(*byte),
            None => malformed("a page ends within its lengths".into()),
        }
    }

    fn varint(&mut self) -> Result<u64> {
        varint(|| self.byte())
    }

    fn zigzag(&mut self) -> Result<i64> {
        let number = zigzag(self.varint()?);
        match i32::try_from(number) {
            Ok(_) => Ok(number),
            Err(_) => malformed(format!("a length, or a difference of two, of {number}")),
        }
    }

    /// Reads a list of at most `most` lengths to its end.
    fn sum_of_lengths(&mut self, most: usize) -> Result<i64> {
        let (block, miniblocks, count) = (self.varint()?, self.varint()?, self.varint()?);
        let mut length = self.zigzag()?;
        let limit = most.min(MAX_TEXTS) as u64;
        if count > limit {
            return malformed(format!("a page of {most} values with {count} lengths; the limit is {MAX_TEXTS}"));
        }
        let per_miniblock = block.checked_div(miniblocks).unwrap_or(0);
        if per_miniblock == 0 || per_miniblock % 32 != 0 || block % miniblocks != 0 || block % 128 != 0 {
            return malformed(format!("lengths in blocks of {block} in {miniblocks} parts"));
        }
        let (mut sum, mut remaining) = (0i64, count);
        let mut add = |length: i64| match length {
            0.. => {
                sum = sum.saturating_add(length);
                Ok(())
            }
            _ => malformed(format!("a length of {length}")),
        };
        if remaining > 0 {
            add(length)?;
            remaining -= 1;
        }
        while remaining > 0 {
            let smallest = self.zigzag()?;
            let widths = (0..miniblocks).map(|_| self.byte()).collect::<Result<Vec<_>>>()?;
            for width in widths {
                let numbers = remaining.min(per_miniblock);
                if numbers == 0 {
                    break;
                }
                for delta in self.miniblock(u32::from(width), per_miniblock)?.take(numbers as usize) {
                    length = i64::from((length + smallest + delta) as i32); // as 32 bits overflow
                    add(length)?;
                }
                remaining -= numbers;
            }
        }
        Ok(sum)
    }

    /// The numbers of a miniblock, of `width` bits each.
    fn miniblock(&mut self, width: u32, count: u64) -> Result<impl Iterator<Item = i64>> {
        let size = (count / 8).checked_mul(u64::from(width)).and_then(|size| usize::try_from(size).ok());
        let Some(bytes) = size.filter(|_| width <= 32).and_then(|size| self.bytes.split_off(..size)) else {
            return malformed(format!("{count} lengths of {width} bits in {} bytes", self.bytes.len()));
        };
        let (mut bytes, mut buffer, mut bits) = (bytes.iter(), 0u64, 0);
        Ok(std::iter::repeat_with(move || {
            while bits < width {
                buffer |= u64::from(bytes.next().copied().unwrap_or(0)) << bits;
                bits += 8;
            }
            let number = buffer & ((1 << width) - 1);
            (buffer, bits) = (buffer >> width, bits - width);
            number as i64
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::basic::Compression;
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::file::properties::{WriterProperties, WriterVersion};
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    const SCHEMA: &str = "message rows { required binary text (UTF8); optional binary note (UTF8); optional group turns (LIST) { repeated group list { optional binary element (UTF8); } } }";

    fn properties(encoding: Encoding, version: WriterVersion, compression: Compression) -> WriterProperties {
        WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_encoding(encoding)
            .set_writer_version(version)
            .set_compression(compression)
            .build()
    }

    /// The texts of a column, and its definition and repetition levels.
    type ColumnValues = (Vec<ByteArray>, Option<Vec<i16>>, Option<Vec<i16>>);

    /// A file of texts, of notes for every other row, and of lists of up to three items.
    fn written(texts: &[String], properties: WriterProperties) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        let schema = Arc::new(parse_message_type(SCHEMA).expect("a schema"));
        let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(properties)).expect("a writer");
        let mut group = writer.next_row_group().expect("a row group");
        let bytes =
            |texts: Vec<&String>| texts.into_iter().map(|text| ByteArray::from(text.as_str())).collect::<Vec<_>>();
        let lists = || texts.iter().enumerate().map(|(row, text)| vec![text; row % 4]);
        let lengths = || lists().map(|list| list.len());
        let columns: [ColumnValues; 3] = [
            (bytes(texts.iter().collect()), None, None),
            (
                bytes(texts.iter().step_by(2).collect()),
                Some((0..texts.len()).map(|row| i16::from(row % 2 == 0)).collect()),
                None,
            ),
            (
                bytes(lists().flatten().collect()),
                Some(lengths().flat_map(|n| if n == 0 { vec![1] } else { vec![3; n] }).collect()),
                Some(lengths().flat_map(|n| (0..n.max(1)).map(|item| i16::from(item > 0))).collect()),
            ),
        ];
        for (values, definitions, repetitions) in columns {
            let mut column = group.next_column().expect("a column").expect("another");
            let typed = column.typed::<ByteArrayType>();
            typed.write_batch(&values, definitions.as_deref(), repetitions.as_deref()).expect("written");
            column.close().expect("closed");
        }
        group.close().expect("closed");
        writer.close().expect("closed");
        file
    }

    fn read(file: File) -> std::result::Result<Vec<String>, crate::Error> {
        let reader = crate::open(file)?;
        crate::guarded(|| reader.get_row_iter(None)?.map(|row| Ok(row?.to_string())).collect())
    }

    fn texts(count: usize) -> Vec<String> {
        (0..count).map(|row| format!("{}row {} é", "common beginning ".repeat(row % 5), row * row % 97)).collect()
    }

    /// Each encoding of text in both versions of pages, with levels and without them, is read as plain text is.
    #[test]
    fn delta_encoded_text_is_read_as_plain_text_is() {
        use WriterVersion::{PARQUET_1_0 as V1, PARQUET_2_0 as V2};
        for count in [1, 2, 33, 129, 5000] {
            let texts = texts(count);
            let expected =
                read(written(&texts, properties(Encoding::PLAIN, V1, Compression::UNCOMPRESSED))).expect("read");
            assert_eq!(expected.len(), count);
            for encoding in [Encoding::DELTA_LENGTH_BYTE_ARRAY, Encoding::DELTA_BYTE_ARRAY] {
                for (version, compression) in
                    [(V1, Compression::UNCOMPRESSED), (V2, Compression::SNAPPY), (V1, Compression::LZ4)]
                {
                    let actual = read(written(&texts, properties(encoding, version, compression)));
                    assert_eq!(actual.expect("read"), expected, "{encoding} {count}");
                }
            }
        }
    }

    /// A page of LZ4 of more bytes than its largest ratio would allow.
    #[test]
    fn a_large_page_of_lz4_is_read() {
        let mut state = 1u64;
        let mut letter = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            char::from(b' ' + (state >> 58) as u8)
        };
        let texts = vec![(0..3 << 20).map(|_| letter()).collect::<String>()];
        let lz4 = || properties(Encoding::PLAIN, WriterVersion::PARQUET_1_0, Compression::LZ4);
        assert!(written(&texts, lz4()).metadata().expect("there").len() > 2 << 20);
        let rows = read(written(&texts, lz4())).expect("read");
        assert!(rows.len() == 1 && rows[0].contains(&texts[0]));
    }

    /// A megabyte that each text repeats is a byte of the page for each.
    #[test]
    fn a_page_of_texts_that_repeat_is_no_larger_than_any() {
        let texts = |count| vec!["x".repeat(1 << 20); count];
        let repeated = |count| {
            let delta = properties(Encoding::DELTA_BYTE_ARRAY, WriterVersion::PARQUET_1_0, Compression::UNCOMPRESSED);
            read(written(&texts(count), delta))
        };
        assert_eq!(repeated(3).expect("read").len(), 3);
        let error = repeated(300).expect_err("300 MiB").to_string();
        assert!(error.contains("a page with 314572800 bytes of text; the limit is 268435456"), "{error}");
    }

    /// Lists of lengths by hand: 128 in four parts, the count, the first; then the smallest difference, four widths, the differences.
    #[test]
    fn lengths_are_summed_and_limited() {
        let sum = |bytes: &[u8], most| {
            let mut reader = DeltaReader { bytes };
            reader.sum_of_lengths(most).map(|sum| (sum, reader.bytes.len())).map_err(|e| e.to_string())
        };
        assert_eq!(sum(&[0x80, 1, 4, 0, 0, 9], 5), Ok((0, 1)));
        assert_eq!(sum(&[0x80, 1, 4, 1, 14, 9], 5), Ok((7, 1)));
        // 7, and three times 2 more than before
        assert_eq!(sum(&[0x80, 1, 4, 4, 14, 4, 0, 0, 0, 0, 9], 5), Ok((7 + 9 + 11 + 13, 1)));
        // 5, then 1 and 3 more, by two bits each in a part of 32: 0b1001 with 1 as the smallest difference
        let two_bits = [0x80, 1, 4, 3, 10, 2, 2, 0, 0, 0, 0b1000, 0, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(sum(&two_bits, 5), Ok((5 + 6 + 9, 1)));
        for (bytes, problem) in [
            (&[0x80, 1, 4, 6, 14][..], "a page of 5 values with 6 lengths"),
            (
                &[0x80, 1, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 14],
                "a page of 5 values with 18446744073709551615 lengths",
            ),
            (&[0x80, 1, 0, 1, 14], "lengths in blocks of 128 in 0 parts"),
            (&[0x80, 1, 8, 1, 14], "lengths in blocks of 128 in 8 parts"),
            (&[0x80, 1, 4, 1, 1], "a length of -1"),
            (&[0x80, 1, 4, 2, 0, 1, 0, 0, 0, 0], "a length of -1"),
            (&[0x80, 1, 4, 2, 14, 0, 33, 0, 0, 0], "32 lengths of 33 bits in 0 bytes"),
            (&[0x80, 1, 4, 2, 14, 0, 2, 0, 0, 0, 1], "32 lengths of 2 bits in 1 bytes"),
            (&[0x80, 1, 4, 2, 14, 0, 2], "a page ends within its lengths"),
        ] {
            let error = sum(bytes, 5).expect_err(problem);
            assert!(error.contains(problem), "{error}");
        }
    }
}
