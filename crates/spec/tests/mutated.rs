//! Experiment files with something changed in them are read, or refused by name; never a panic, never for long.

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
    let whole: Vec<String> = files
        .iter()
        .map(|text| (*text).to_string())
        // as a run keeps it, with every value
        .chain([Document::parse("t", files[1], &[]).expect("valid").to_toml()])
        .collect();
    let whole: Vec<&[u8]> = whole.iter().map(|text| text.as_bytes()).collect();
    mutated::every("experiment", 1500, &whole, &WORDS, |_, bytes| {
        let text = String::from_utf8_lossy(bytes);
        let Ok(document) = Document::parse("t", &text, &[]) else { return };
        let experiment = match Experiment::from_document(&document) {
            Ok(experiment) => experiment,
            Err(refused) => {
                let told = format!("{refused} {} {}", refused.label(), refused.hint());
                assert!(
                    told.len() > 10 && refused.place().is_none_or(|place| place.text.get(place.span.clone()).is_some())
                );
                return;
            }
        };
        if !experiment.is_tuned() {
            assert!(experiment.cells_for(&experiment.trials()).len() <= 100_000);
        }
        // what a run keeps of it says the same
        let kept = Document::parse("kept", &document.to_toml(), &[]).expect("a run's own copy is read again");
        let again = Experiment::from_document(&kept).expect("a run's own copy is valid");
        assert_eq!(serde_json::to_string(&again).expect("plain"), serde_json::to_string(&experiment).expect("plain"));
    });
}
