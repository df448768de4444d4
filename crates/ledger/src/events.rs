//! TensorBoard event files with the same scalars, also under TRL's tags.
//!
//! The format is a few protocol buffer fields, framed with lengths and checksums; a library would add a protobuf compiler.

use crate::error::Result;
use crate::files::{create_folder, write_atomically};
use crate::tables::scan_metrics;
use duel_spec::metrics;
use std::collections::BTreeMap;
use std::path::Path;

/// Writes `events/<arm>/<point>/seed-<n>/events.out.tfevents.<started>.duel` of every arm, point and seed of a run's
/// `metrics.parquet`. A tag is `<stage>/<metric>`; the value also has the metric's TRL tags ([`metrics::Metric::trl`]). `started` is
/// in seconds since 1970.
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
        let mut event = Vec::new();
        number(&mut event, 1, started as f64 + row.clocks.wall_seconds);
        event.push(2 << 3); // field 2, a varint
        varint(&mut event, row.clocks.step);
        bytes(&mut event, 5, &summary(&row.stage, &row.metric, row.value as f32));
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

/// The value under the tag `<stage>/<metric>`, and under each of TRL's.
fn summary(stage: &str, metric: &str, value: f32) -> Vec<u8> {
    let trl = metrics::find(metric).map_or(&[][..], |metric| metric.trl);
    let tags = std::iter::once(format!("{stage}/{metric}")).chain(trl.iter().map(|&tag| tag.to_owned()));
    let mut summary = Vec::new();
    for tag in tags {
        let mut tagged = Vec::new();
        bytes(&mut tagged, 1, tag.as_bytes());
        tagged.push(2 << 3 | 5); // field 2, four bytes
        tagged.extend(value.to_le_bytes());
        bytes(&mut summary, 1, &tagged);
    }
    summary
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

    /// Tags and values of a summary whose lengths fit into a byte.
    fn decode(mut summary: &[u8]) -> Vec<(&str, f32)> {
        let mut values = vec![];
        while let [0x0a, length, rest @ ..] = summary {
            let (value, next) = rest.split_at(usize::from(*length));
            let (tag, number) = value[2..].split_at(usize::from(value[1]));
            assert_eq!((value[0], number[0]), (0x0a, 0x15));
            let tag = std::str::from_utf8(tag).expect("UTF-8");
            values.push((tag, f32::from_le_bytes(number[1..].try_into().expect("four bytes"))));
            summary = next;
        }
        assert!(summary.is_empty());
        values
    }

    #[test]
    fn a_value_has_the_tags_of_trl_too() {
        let margin = summary("train", "dpo_margin", 1.5);
        assert_eq!(decode(&margin), [("train/dpo_margin", 1.5), ("train/rewards/margins", 1.5)]);
        let clip = summary("train", "clip_share", 0.25);
        let tags: Vec<&str> = decode(&clip).into_iter().map(|(tag, _)| tag).collect();
        assert_eq!(tags, ["train/clip_share", "train/policy/clipfrac_avg", "train/clip_ratio/region_mean"]);
        assert_eq!(decode(&summary("train", "loss", 2.0)), [("train/loss", 2.0)]); // TRL's tag as it is
        assert_eq!(decode(&summary("train", "unknown", 2.0)), [("train/unknown", 2.0)]);
    }
}
