//! How text is cut into words before byte-level BPE: the ways that GGUF files name, as `tokenizer.json` describes them. The names
//! are those of llama.cpp's vocabulary; where its expression only stands in for that of the model's own tokenizer, the latter is
//! here, with the normalizer, which GGUF does not tell.

use serde_json::{Value, json};

/// A way of cutting text, under all its names.
#[derive(Debug)]
pub(crate) struct PreTokenizer {
    /// In GGUF files; the first is written.
    pub names: &'static [&'static str],
    steps: &'static [Step],
    /// Whether text is composed first (Unicode's NFC).
    pub composes: bool,
    /// Whether words that the vocabulary has are taken whole, before merges.
    pub ignores_merges: bool,
    /// Whether a text begins with BOS, unless the file says otherwise.
    pub begins: bool,
}

/// One step: what an expression finds becomes a word of its own.
#[derive(Debug, Clone, Copy)]
enum Step {
    Split(&'static str),
    /// Each digit a word.
    Digits,
    /// Runs of digits.
    Numbers,
    /// GPT-2's words, as bytes.
    Words,
    /// All as bytes.
    Bytes,
}

/// Words of Llama 3 and of cl100k: numbers of up to three digits.
const THREE_DIGITS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with each digit a word.
const ONE_DIGIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with marks among letters.
const MARKS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Words that begin anew with a capital.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with English endings and numbers of up to three digits.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Letters of alphabets with two cases, as DeepSeek's first tokenizer lists them.
const CASED: &str = "\\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u{1f7d}ᾀ-ᾴᾶ-ᾼ\u{1fbe}ῂ-ῄῆ-ῌῐ-\u{1fd3}ῖ-\u{1fdb}ῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u{2126}ℨ\u{212a}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], steps: &[Step::Words], composes: false, ignores_merges: false, begins: false };

/// All that are read; of several that cut alike, the first is written.
const PRE_TOKENIZERS: [PreTokenizer; 14] = [
    PreTokenizer {
        names: &["gpt-2", "gpt2", "default", "phi-2", "gigachat", "exaone4", "jais", "trillion", "granite-docling"],
        ..PLAIN
    },
    PreTokenizer { names: &["olmo", "mpt"], composes: true, ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"],
        steps: &[Step::Digits, Step::Words],
        ..PLAIN
    },
    PreTokenizer { names: &["command-r"], steps: &[Step::Digits, Step::Words], composes: true, ..PLAIN },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
        steps: &[Step::Split(THREE_DIGITS), Step::Bytes],
        ignores_merges: true,
        begins: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "chatglm-bpe"],
        steps: &[Step::Split(THREE_DIGITS), Step::Bytes],
        ..PLAIN
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "stablelm2", "megrez"],
        steps: &[Step::Split(ONE_DIGIT), Step::Bytes],
        composes: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["hunyuan", "solar-open", "grok-2"],
        steps: &[Step::Split(ONE_DIGIT), Step::Bytes],
        ..PLAIN
    },
    PreTokenizer { names: &["qwen35"], steps: &[Step::Split(MARKS), Step::Bytes], composes: true, ..PLAIN },
    PreTokenizer {
        names: &["tekken"],
        steps: &[Step::Split(TEKKEN), Step::Bytes],
        ignores_merges: true,
        begins: true,
        ..PLAIN
    },
    PreTokenizer { names: &["gpt-4o", "llama4", "kanana2"], steps: &[Step::Split(O200K), Step::Bytes], ..PLAIN },
    PreTokenizer {
        names: &["deepseek-llm"],
        steps: &[
            Step::Split(r"[\r\n]"),
            Step::Split(CASED),
            Step::Split(r"\s?[!-/:-~！-／：-～‘-‟　-。]+"),
            Step::Split(r"\s+$"),
            Step::Split("[一-龥ࠀ-一가-퟿]+"),
            Step::Numbers,
            Step::Bytes,
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        steps: &[
            Step::Split(r"[\r\n]"),
            Step::Split(r"\s?\p{L}+"),
            Step::Split(r"\s?\p{P}+"),
            Step::Split("[一-龥ࠀ-一가-퟿]+"),
            Step::Digits,
            Step::Bytes,
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3"],
        steps: &[Step::Split(r"\p{N}{1,3}"), Step::Split("[一-龥぀-ゟ゠-ヿ]+"), Step::Split(DEEPSEEK3), Step::Bytes],
        ..PLAIN
    },
];

impl Step {
    fn json(self) -> Value {
        let byte_level = |use_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex});
        match self {
            Self::Split(pattern) => {
                json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false})
            }
            Self::Digits => json!({"type": "Digits", "individual_digits": true}),
            Self::Numbers => json!({"type": "Digits", "individual_digits": false}),
            Self::Words => byte_level(true),
            Self::Bytes => byte_level(false),
        }
    }
}

impl PreTokenizer {
    /// By a name in a GGUF file.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        PRE_TOKENIZERS.iter().find(|known| known.names.contains(&name))
    }

    /// All names that are read.
    pub fn all_names() -> String {
        PRE_TOKENIZERS.iter().flat_map(|known| known.names.iter().copied()).collect::<Vec<_>>().join(", ")
    }

    /// The one that cuts as a `tokenizer.json` does. One that differs in its normalizer alone will do: llama.cpp has none.
    pub fn by_description(pre_tokenizer: &Value, composes: bool, ignores_merges: bool) -> Option<&'static Self> {
        let description = simplified(pre_tokenizer);
        let cuts_alike =
            |known: &&Self| known.ignores_merges == ignores_merges && simplified(&known.json()) == description;
        let all = || PRE_TOKENIZERS.iter().filter(cuts_alike);
        all().find(|known| known.composes == composes).or_else(|| all().next())
    }

    /// As `tokenizer.json` describes it.
    pub fn json(&self) -> Value {
        match self.steps {
            [step] => step.json(),
            steps => {
                let steps: Vec<Value> = steps.iter().map(|step| step.json()).collect();
                json!({"type": "Sequence", "pretokenizers": steps})
            }
        }
    }

    /// The normalizer before it.
    pub fn normalizer(&self) -> Value {
        if self.composes { json!({"type": "NFC"}) } else { Value::Null }
    }
}

/// A pre-tokenizer without what does not change the tokens, and with what is meant where nothing is said.
fn simplified(pre: &Value) -> Value {
    let mut pre = pre.clone();
    if let Some(list) = pre["pretokenizers"].as_array_mut() {
        list.iter_mut().for_each(|one| *one = simplified(one));
        if let [one] = &list[..] {
            return one.clone();
        }
    }
    if let Some(map) = pre.as_object_mut() {
        map.remove("trim_offsets");
        if map.get("type").is_some_and(|kind| kind == "ByteLevel") {
            map.entry("use_regex").or_insert(json!(true));
        }
    }
    pre
}
