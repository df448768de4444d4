//! A model that is split over several files is opened by any of them, is the same as in one file, and says which part is missing
//! or of another model.

#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use duel_model::{Error, Pretrained, hash_of_files, weights};
use duel_testing::gguf_file::GgufFile;
use std::path::{Path, PathBuf};

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("m-{number:05}-of-00003.gguf"))
}

/// Says that a file is one of three, of eleven tensors.
fn number(file: &mut GgufFile, no: u16) {
    file.put("split.no", 2, no.to_le_bytes().to_vec());
    file.put("split.count", 2, 3u16.to_le_bytes().to_vec());
    file.put("split.tensors.count", 5, 11i32.to_le_bytes().to_vec());
}

/// A model of three parts: settings and a few tensors, then tensors alone.
fn parts() -> [GgufFile; 3] {
    let mut first = GgufFile::llama();
    for (index, tensor) in first.tensors.iter_mut().enumerate() {
        tensor.4 = (0..tensor.4.len() / 4).flat_map(|i| ((i * 7 + index) as f32 * 0.01).to_le_bytes()).collect();
    }
    let last = first.tensors.split_off(8);
    let middle = first.tensors.split_off(3);
    let [mut second, mut third] = [middle, last].map(|tensors| GgufFile { values: vec![], tensors });
    number(&mut first, 0);
    number(&mut second, 1);
    number(&mut third, 2);
    [first, second, third]
}

fn write(folder: &Path, parts: &[GgufFile; 3]) {
    for (part, index) in parts.iter().zip(1..) {
        std::fs::write(path(folder, index), part.bytes()).unwrap();
    }
}

#[test]
fn any_part_opens_the_whole() {
    let folder = tempfile::tempdir().unwrap();
    let parts = parts();
    write(folder.path(), &parts);
    let mut whole = parts[0].clone();
    whole.tensors.extend(parts[1..].iter().flat_map(|part| part.tensors.clone()));
    ["split.no", "split.count", "split.tensors.count"].iter().for_each(|key| whole.without(key));
    let one = folder.path().join("one.gguf");
    std::fs::write(&one, whole.bytes()).unwrap();
    let device = Device::flex();
    let expected = Pretrained::open(&one).unwrap().policy(16, &device).unwrap();
    let keys: Vec<String> = (1..=3).map(|n| hash_of_files(&path(folder.path(), n)).unwrap()).collect();
    for n in 1..=3 {
        let model = Pretrained::open(&path(folder.path(), n)).unwrap();
        assert_eq!(weights::hash(&model.policy(16, &device).unwrap()), weights::hash(&expected), "part {n}");
        assert_eq!(
            weights::hash(&model.mapped(16, None, &device).unwrap().merged()),
            weights::hash(&expected),
            "part {n}"
        );
        assert_eq!(keys[n - 1], keys[0], "the model's key is the same by whichever part it is named");
    }
    // and covers every part
    let mut other = parts.clone();
    other[2].tensors[0].4[0] ^= 1;
    write(folder.path(), &other);
    assert_ne!(hash_of_files(&path(folder.path(), 1)).unwrap(), keys[0]);
}

/// Opens what is left of the three after a change, by the part of this number.
fn refused(named: usize, change: impl FnOnce(&Path, &mut [GgufFile; 3])) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = parts();
    write(folder.path(), &parts);
    change(folder.path(), &mut parts);
    for (part, index) in parts.iter().zip(1..) {
        if path(folder.path(), index).exists() {
            std::fs::write(path(folder.path(), index), part.bytes()).unwrap();
        }
    }
    Pretrained::open(&path(folder.path(), named)).unwrap_err()
}

#[test]
fn a_part_that_is_missing_is_named() {
    for (named, removed) in [(1, 2), (3, 1), (2, 3)] {
        let error = refused(named, |folder, _| std::fs::remove_file(path(folder, removed)).unwrap());
        let (text, name) = (error.to_string(), format!("m-{removed:05}-of-00003.gguf"));
        assert!(matches!(error, Error::MissingParts { count: 3, .. }) && text.contains(&name), "{text}");
    }
}

#[test]
fn parts_that_do_not_belong_together() {
    let damaged = |error: Error, words: &str| {
        assert!(matches!(error, Error::Damaged { .. }) && error.to_string().contains(words), "{error}");
    };
    damaged(refused(1, |_, parts| number(&mut parts[1], 2)), "`split.no` is 2");
    damaged(refused(1, |_, parts| parts[1].put("split.count", 2, 4u16.to_le_bytes().to_vec())), "`split.count` is 4");
    damaged(refused(2, |_, parts| parts[2].without("split.no")), "`split.no` is missing");
    let lacks = refused(1, |_, parts| drop(parts[2].tensors.pop()));
    damaged(lacks, "`split.tensors.count` is 11, where its name and the other parts say 10");
    let twice = refused(1, |_, parts| {
        let tensor = parts[0].tensors[0].clone();
        parts[2].tensors[0] = tensor;
    });
    damaged(twice, "is in two files");
    let unread = refused(1, |_, parts| parts[2].tensors[0].2 = 16);
    assert!(matches!(unread, Error::Unsupported { ref found, .. } if found.contains("IQ2_XXS")), "{unread}");
    let huge = refused(1, |_, parts| parts[0].put("split.count", 10, u64::MAX.to_le_bytes().to_vec()));
    assert!(matches!(huge, Error::Unsupported { ref key, .. } if key == "split.count"), "{huge}");
}

#[test]
fn a_part_under_another_name_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().join("renamed.gguf");
    std::fs::write(&name, parts()[1].bytes()).unwrap();
    let error = Pretrained::open(&name).unwrap_err();
    let text = format!("{error}; {}", error.hint().unwrap_or_default());
    assert!(text.contains("part 2 of 3") && text.contains("-00002-of-00003.gguf"), "{text}");
}
