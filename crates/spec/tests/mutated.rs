//! Mutated experiment files are read, or refused with an error; no panic, no hang.

use duel_spec::{Document, Experiment};
use duel_testing::mutated;

const WORDS: [&str; 24] = [
    "[arms.a]\nmethod = \"dpo\"\n",
    "[arms.",
    "[[claims]]\n",
    ".grid]\n",
    ".space]\n",
    "beta = [",
    "epochs = { low = 1, high = 9223372036854775807 }\n",
    "loss = { choices = [\"ipo\", \"kto\"], when = { beta = [0.1] } }\n",
    "search = \"tpe\"\n",
    "[tuning]\nconfigurations = 12\n",
    "rules = [{ rule = \"length\", words = 1e308, per = 0.0 }]\n",
    "kl = [inf, nan]\n",
    "inf",
    "nan",
    "1979-05-27T07:32:00Z",
    "\"\"\"",
    "'''",
    "{a.b.c = ",
    "[[[[[[[[",
    "\u{feff}",
    "\r",
    "arms",
    "default",
    "rows = 9223372036854775807\n",
];

#[test]
fn damaged_experiments_are_read_or_refused() {
    let files = [
        include_str!("../../../experiments/smoke.toml"),
        include_str!("../../../experiments/search.toml"),
        include_str!("../../../experiments/every-option.toml"),
        include_str!("../../../experiments/own-data.toml"),
        include_str!("../../../experiments/reviews.toml"),
    ];
    let texts: Vec<String> = files
        .iter()
        .map(|text| (*text).to_string())
        // the copy that a run keeps, with every value
        .chain([Document::parse("t", files[1], &[]).expect("valid").to_toml()])
        .collect();
    let files: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    mutated::every("experiment", 1500, &files, &WORDS, |_, bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(document) = Document::parse("t", &text, &[]) else { return };
        let experiment = match Experiment::from_document(&document) {
            Ok(experiment) => experiment,
            Err(error) => {
                let message = format!("{error} {} {}", error.label(), error.hint());
                let is_in_text = error.span().is_none_or(|source| source.text.get(source.span.clone()).is_some());
                assert!(message.len() > 10 && is_in_text);
                return;
            }
        };
        if !experiment.is_tuned() {
            assert!(experiment.cells_for(&experiment.trials()).len() <= 100_000);
        }
        // the copy that a run keeps gives the same experiment
        let copy = Document::parse("copy", &document.to_toml(), &[]).expect("a run's own copy is read again");
        let again = Experiment::from_document(&copy).expect("a run's own copy is valid");
        let json = |experiment: &Experiment| serde_json::to_string(experiment).expect("plain data");
        assert_eq!(json(&again), json(&experiment));
    });
}
