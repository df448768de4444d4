//! `duel import`: what the files of a model hold, and the model in another format.

use crate::commands::export::{
    ExportAs, FileNumbers, note_differences, numbers, stored, unused, weight_bytes, write, write_weights,
};
use crate::error::Result;
use crate::sources;
use crate::target::{self, ModelTarget};
use crate::terminal::print;
use crate::world;
use clap::Args;
use duel_data::TextTokenizer;
use duel_model::{Checkpoint, Classifier, ClassifierCheckpoint, Pretrained, TransformerConfig};
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A Hugging Face directory, a .gguf file, or a model's name on the hub: org/name, org/name@revision or
    /// org/name/FILE.gguf
    pub from: PathBuf,
    /// The directory or .gguf file to write
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub to: Option<PathBuf>,
    /// Number format of the weights [default: f32]
    #[arg(long, value_enum)]
    pub numbers: Option<FileNumbers>,
    /// Replace an earlier export at that path
    #[arg(long)]
    pub force: bool,
}

/// Where a model is written, and how.
type ImportTarget<'a> = (&'a PathBuf, ExportAs, FileNumbers, ModelTarget);

/// Reads a model of one form and writes it in another.
///
/// # Errors
/// A model that cannot be read; options that say what will not be done.
pub fn import(args: &ImportArgs) -> Result<()> {
    let from = sources::model(&args.from)?;
    let target: Option<ImportTarget<'_>> = match &args.to {
        Some(to) => {
            let form = if target::is_gguf(to) { ExportAs::Gguf } else { ExportAs::Merged };
            Some((to, form, numbers(args.numbers, form)?, ModelTarget::new(to, &[&from], args.force)?))
        }
        None if args.numbers.is_some() => return Err(unused("--numbers", "nothing is written without --to")),
        None if args.force => return Err(unused("--force", "nothing is written without --to")),
        None => None,
    };
    if Classifier::is_at(&from) {
        return import_classifier(&from, target);
    }
    let mut model = Pretrained::open(&from)?;
    // a tokenizer that cannot be read is an error
    let tokenizer = world::tokenizer(&from, &model)?;
    if let Some(tokenizer) = &tokenizer {
        world::add_turn_ends(&from, &mut model, tokenizer)?;
    }
    let device = duel_model::device::open("flex")?;
    // rotary positions are no weights: few of them do
    let policy = model.policy(model.config.context.min(64), &device)?;
    let parameters = duel_model::weights::number_count(&policy, false);
    let what = format!("{}: {}, {parameters} parameters", args.from.display(), sizes(&model.config));
    describe(&from, &what, "", &model, tokenizer.as_ref())?;
    let Some((to, form, numbers, target)) = target else { return Ok(()) };
    let checkpoint = Checkpoint { config: model.config, policy, tokenizer_files: model.tokenizer_files };
    target.write(|made| write(&checkpoint, made, form, numbers))?;
    note_differences(&checkpoint.config, form);
    print(&format!("wrote {}\n", to.display()));
    Ok(())
}

fn sizes(config: &TransformerConfig) -> String {
    let TransformerConfig { layers, width, heads, vocabulary, context, .. } = config;
    format!("{layers} layers of width {width}, {heads} heads, {vocabulary} tokens, context {context}")
}

/// Prints what a model is, with its tokenizer, and which of its settings are not used; `score` says where a reward model has its score.
fn describe(from: &Path, what: &str, score: &str, model: &Pretrained, tokenizer: Option<&TextTokenizer>) -> Result<()> {
    let files = &model.tokenizer_files;
    print(&format!(
        "{what}{}{}{score}\n",
        if files.tokenizer.is_some() { ", with its tokenizer" } else { ", without a tokenizer" },
        if files.template.is_some() { " and chat template" } else { "" },
    ));
    print(&format!("  family: {}; numbers: {}\n", model.config.architecture.family, model.dtypes().join(", ")));
    for line in tokenizer.iter().flat_map(|tokenizer| world::tokenizer_summary(model, tokenizer)) {
        print(&format!("  {line}\n"));
    }
    if let Some(problem) =
        tokenizer.map(|tokenizer| world::template_problem(from, model, tokenizer)).transpose()?.flatten()
    {
        print(&format!("  {problem}\n"));
    }
    for setting in &model.ignored {
        print(&format!("  not used: {setting}\n"));
    }
    Ok(())
}

/// The same of a sequence classifier.
fn import_classifier(from: &Path, target: Option<ImportTarget<'_>>) -> Result<()> {
    let classifier = Classifier::open(from)?;
    let tokenizer = world::tokenizer(from, &classifier.model)?;
    let model = classifier.scalar_model(classifier.model.config.context.min(64), &duel_model::device::open("flex")?)?;
    let (name, sizes) = (from.display(), sizes(&classifier.model.config));
    let what = format!("{name}: a reward model (a sequence classifier with one label): {sizes}");
    let last = classifier.pad.map_or(String::new(), |pad| format!(" that is not {pad}"));
    let score = format!("; its score is on the last token{last}");
    describe(from, &what, &score, &classifier.model, tokenizer.as_ref())?;
    let Some((to, form, numbers, target)) = target else { return Ok(()) };
    if form == ExportAs::Gguf {
        return Err(unused(&format!("--to {}", to.display()), "GGUF files hold no head of a classifier"));
    }
    let Classifier { model: Pretrained { config, tokenizer_files, .. }, pad, .. } = classifier;
    let bytes = weight_bytes(&model, numbers);
    let checkpoint = ClassifierCheckpoint { config, model, tokenizer_files, pad, score: None };
    target.write(|made| {
        let write = || Ok(duel_model::classifier::write(made, checkpoint, stored(numbers))?);
        write_weights(made, bytes, write)
    })?;
    print(&format!("wrote {}\n", to.display()));
    Ok(())
}
