//! TensorBoard event files with the same scalars.
//!
//! The format is a few protocol buffer fields, framed with lengths and checksums; a library would add a protobuf compiler.

use crate::error::Result;
use crate::files::{create_folder, write_atomically};
use crate::tables::scan_metrics;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `events/<arm>/<point>/seed-<n>/events.out.tfevents.<started>.duel` of every arm, point and seed of a run's
/// `metrics.parquet`; a tag is `<stage>/<metric>`. `started` is in seconds since 1970.
///
/// # Source
/// TensorFlow's `tensorflow/core/util/event.proto` and `tensorflow/core/lib/io/record_writer.h`.
pub fn write_events(run: &Path, started: u64) -> Result<()> {
    let mut files: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    scan_metrics(&run.join("metrics.parquet"), |row| {
        let folder = format!("{}/{}/seed-{}", row.arm, row.point.replace('/', "_"), row.seed);
        let file = files.entry(folder).or_insert_with(|| {
            let mut version = Vec::new();
            number(&mut version, 1, started as f64);
            bytes(&mut version, 3, b"brain.Event:2");
            record(&version)
        });
        let mut value = Vec::new();
        bytes(&mut value, 1, format!("{}/{}", row.stage, row.metric).as_bytes());
        value.push(2 << 3 | 5); // field 2, four bytes
        value.extend((row.value as f32).to_le_bytes());
        let mut summary = Vec::new();
        bytes(&mut summary, 1, &value);
        let mut event = Vec::new();
        number(&mut event, 1, started as f64 + row.clocks.wall_seconds);
        event.push(2 << 3); // field 2, a varint
        varint(&mut event, row.clocks.step);
        bytes(&mut event, 5, &summary);
        file.extend(record(&event));
    })?;
    let events = run.join("events");
    let _ = std::fs::remove_dir_all(&events); // of an earlier invocation; TensorBoard would show both
    for (folder, content) in files {
        let folder = events.join(folder);
        create_folder(&folder)?;
        write_atomically(&folder.join(format!("events.out.tfevents.{started}.duel")), &content)?;
    }
    Ok(())
}

/// Length, checksum, data, checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let mut record = length.to_vec();
    record.extend(masked(&length).to_le_bytes());
    record.extend(data);
    record.extend(masked(data).to_le_bytes());
    record
}

/// TensorFlow's masked CRC-32C: rotated, with an offset.
fn masked(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

/// A field of bytes.
fn bytes(to: &mut Vec<u8>, field: u8, value: &[u8]) {
    to.push(field << 3 | 2);
    varint(to, value.len() as u64);
    to.extend(value);
}

/// A field of a double.
fn number(to: &mut Vec<u8>, field: u8, value: f64) {
    to.push(field << 3 | 1);
    to.extend(value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_framed_and_checked() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283); // RFC 3720, B.4
        let record = record(b"abc");
        assert_eq!(
            (record.len(), &record[..8], &record[12..15]),
            (8 + 4 + 3 + 4, &[3u8, 0, 0, 0, 0, 0, 0, 0][..], &b"abc"[..])
        );
        let mut out = vec![];
        varint(&mut out, 300);
        assert_eq!(out, [0xac, 0x02]);
    }
}
