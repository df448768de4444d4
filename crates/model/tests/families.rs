//! The table of families in docs/models.md is what the code says.
#![expect(clippy::unwrap_used, reason = "tests")]

const BEGIN: &str = "<!-- families: written from the code -->\n";
const END: &str = "<!-- end -->";

#[test]
fn the_table_of_families_is_of_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/models.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut table = "| `model_type` | models | GGUF |\n| --- | --- | --- |\n".to_owned();
    for family in duel_model::families() {
        let gguf = family.gguf.map_or("no".into(), |gguf| format!("`{gguf}`"));
        table += &format!("| `{}` | {} | {gguf} |\n", family.model_type, family.models);
    }
    let expected = format!("{before}{BEGIN}{table}{END}{after}");
    if std::env::var_os("DUEL_WRITE_FAMILIES").is_some() {
        std::fs::write(path, &expected).unwrap();
    }
    let hint =
        "docs/models.md differs: `DUEL_WRITE_FAMILIES=1 cargo test -p duel-model --test families` writes its table";
    assert!(text == expected || std::env::var_os("DUEL_WRITE_FAMILIES").is_some(), "{hint}");
}
