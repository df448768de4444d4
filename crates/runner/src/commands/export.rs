//! `duel export`: a policy in the formats that other programs read.

use crate::error::{Error, Result};
use crate::plan::{Plan, Stage, StageKind};
use crate::sources;
use crate::stages::StageContext;
use crate::target::{self, ModelTarget};
use crate::task_progress::while_writing;
use crate::terminal::{print, warn};
use crate::world::{PretrainedModel, pretrained};
use burn::module::Module;
use clap::Args;
use clap::ValueEnum;
use duel_ledger::RunDir;
use duel_model::gguf::{self, Precision};
use duel_model::{
    Checkpoint, FileDType as Stored, SpecialTokens, TokenizerFiles, TransformerConfig, huggingface, peft, weights,
};
use duel_report::Run;
use duel_spec::{Experiment, REFERENCE};
use std::path::Path;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

/// What an export writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportAs {
    /// A Hugging Face directory with the adapters merged
    Merged,
    /// A PEFT directory, to be put onto the model that the run began from
    Adapter,
    /// A GGUF file
    Gguf,
}

/// The numbers of matrices that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileNumbers {
    F32,
    F16,
    Bf16,
    /// GGUF only: eight bits and a scale for 32 numbers
    Q8,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The run directory, for example runs/smollm
    pub run: PathBuf,
    /// The arm to export; `reference` is the SFT policy
    #[arg(long, required_unless_present = "reward_model")]
    pub arm: Option<String>,
    /// Export the reward model instead, as transformers' AutoModelForSequenceClassification
    #[arg(long, conflicts_with_all = ["arm", "point", "form"])]
    pub reward_model: bool,
    /// The grid point, as `duel plan` prints it [default: the arm's best on validation prompts]
    #[arg(long)]
    pub point: Option<String>,
    /// The seed [default: the experiment's first]
    #[arg(long)]
    pub seed: Option<u64>,
    /// The directory or .gguf file to write
    #[arg(long, value_name = "DIR|FILE.gguf")]
    pub to: PathBuf,
    /// What to write: all weights with the adapters merged, the adapters alone, or a GGUF file
    #[arg(long = "as", value_enum, default_value = "merged")]
    pub form: ExportAs,
    /// Number format of the weights [default: f32]
    #[arg(long, value_enum)]
    pub numbers: Option<FileNumbers>,
    /// Replace an earlier export at that path
    #[arg(long)]
    pub force: bool,
}

/// The numbers that a form is written in.
///
/// # Errors
/// Numbers that the form does not have.
pub fn numbers(numbers: Option<FileNumbers>, form: ExportAs) -> Result<FileNumbers> {
    let (name, accepted): (_, &[FileNumbers]) = match form {
        ExportAs::Merged => ("a directory", &[FileNumbers::F32, FileNumbers::F16, FileNumbers::Bf16]),
        ExportAs::Adapter => ("an adapter", &[FileNumbers::F32]),
        ExportAs::Gguf => ("a GGUF file", &[FileNumbers::F32, FileNumbers::F16, FileNumbers::Q8]),
    };
    let numbers = numbers.unwrap_or(FileNumbers::F32);
    if accepted.contains(&numbers) {
        return Ok(numbers);
    }
    let words =
        |numbers: &FileNumbers| numbers.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let accepted = accepted.iter().map(words).collect::<Vec<_>>().join(", ");
    Err(unused(&format!("--numbers {}", words(&numbers)), &format!("{name} is written in {accepted}")))
}

/// An option that says what will not be done.
pub fn unused(option: &str, reason: &str) -> Error {
    Error::Unused { option: option.into(), reason: reason.into() }
}

/// The name of the place fits what is written.
pub(super) fn check_name(to: &Path, form: ExportAs) -> Result<()> {
    let option = format!("--to {}", to.display());
    match (form, target::is_gguf(to)) {
        (ExportAs::Gguf, false) => Err(unused(&option, "the name of a GGUF file ends in .gguf, by which it is known")),
        (ExportAs::Merged | ExportAs::Adapter, true) => {
            Err(unused(&option, "a directory whose name ends in .gguf would be taken for a file; --as gguf writes one"))
        }
        _ => Ok(()),
    }
}

/// How a directory holds numbers.
pub(super) fn stored(numbers: FileNumbers) -> Stored {
    match numbers {
        FileNumbers::F16 => Stored::F16,
        FileNumbers::Bf16 => Stored::Bf16,
        FileNumbers::F32 | FileNumbers::Q8 => Stored::F32,
    }
}

/// Writes a model in one of the forms.
pub fn write(checkpoint: &Checkpoint, to: &Path, form: ExportAs, numbers: FileNumbers) -> Result<()> {
    let precision = match numbers {
        FileNumbers::F32 | FileNumbers::Bf16 => Precision::F32,
        FileNumbers::F16 => Precision::F16,
        FileNumbers::Q8 => Precision::Q8,
    };
    let write = || -> Result<()> {
        match form {
            ExportAs::Gguf => Ok(gguf::write(to, checkpoint, precision)?),
            _ => Ok(huggingface::write(to, checkpoint, stored(numbers))?),
        }
    };
    write_weights(to, weight_bytes(&checkpoint.policy, numbers), write)
}

/// Writes so many bytes of weights, about, to a path, and shows how many of them are there.
pub(super) fn write_weights<T>(to: &Path, bytes: u64, write: impl FnOnce() -> T) -> T {
    while_writing("writing the weights", to, bytes, write)
}

/// About how many bytes the weights of a model take in a file.
pub(super) fn weight_bytes<M: Module>(model: &M, numbers: FileNumbers) -> u64 {
    let weights = weights::number_count(model, false);
    let bytes_of_32 = match numbers {
        FileNumbers::F32 => 128,
        FileNumbers::F16 | FileNumbers::Bf16 => 64,
        FileNumbers::Q8 => 34,
    };
    weights as u64 * bytes_of_32 / 32
}

/// Says what llama.cpp computes otherwise than the model that was written.
pub(super) fn note_differences(config: &TransformerConfig, form: ExportAs) {
    if form == ExportAs::Gguf {
        warn(&gguf::llama_cpp_differences(config));
    }
}

/// Writes the policy that an arm has trained.
///
/// # Errors
/// An arm, point or seed that the run does not have; an adapter that the arm did not train.
pub fn export(args: &ExportArgs) -> Result<()> {
    // 1. What can be refused before anything is read.
    let numbers = numbers(args.numbers, args.form)?;
    check_name(&args.to, args.form)?;
    let arm = args.arm.as_deref().unwrap_or_default(); // clap asks for it
    if arm == REFERENCE && args.point.is_some() {
        return Err(unused("--point", "the reference is not an arm and has no points"));
    }

    // 2. Whose policy.
    let (manifest, experiment, plan) = Plan::of_run(&args.run)?;
    let run = RunDir::open(&args.run)?;
    let stages = run.stages();
    let model = experiment.is_pretrained().then(|| sources::model(Path::new(&experiment.model.from))).transpose()?;
    let mut from = vec![stages.as_path()];
    from.extend(model.as_deref());
    let target = ModelTarget::new(&args.to, &from, args.force)?;
    let seed = args.seed.unwrap_or(experiment.seed);
    let stage = stage(args, arm, &plan, seed)?;
    plan.check_finished(&run, &manifest, stage, arm != REFERENCE)?;
    let (device, stop) = (duel_model::device::open(&manifest.device)?, AtomicBool::new(false));
    let context = StageContext::new(&experiment, &plan, stage, &run, device, &stop);
    let loaded = context.load_world()?;
    let world = loaded.world.as_ref();
    let policy = if arm == REFERENCE { context.sft_policy(world)? } else { context.trained_policy(world)? };
    if args.form == ExportAs::Adapter && !policy.has_lora() {
        return Err(unused("--as adapter", "this policy has no adapters; `--as merged` writes all of its weights"));
    }

    // 3. With the words and sizes of the model that it came from.
    let (config, tokenizer_files) = match pretrained(&experiment)? {
        Some(PretrainedModel { model, .. }) => (model.config, model.tokenizer_files),
        None => (context.config(world)?, own_tokenizer(&context, world.space())?),
    };
    // 4. Beside its place, and then into it.
    let base = adapter_base(&experiment)?;
    target.write(|path| match args.form {
        ExportAs::Adapter => Ok(peft::write_adapter(path, &config, &policy, &base)?),
        form => {
            write(&Checkpoint { config: config.clone(), policy: policy.merged(), tokenizer_files }, path, form, numbers)
        }
    })?;
    note_differences(&config, args.form);
    let whose = if arm == REFERENCE { format!("{REFERENCE}, seed {seed}") } else { stage.label() };
    print(&format!("wrote {}: {whose}\n", args.to.display()));
    if args.form == ExportAs::Adapter {
        print(&match base.is_empty() {
            false => format!("its base: {base}\n"),
            true => "its base is not recorded: load it with peft onto the model that the arm started from\n".into(),
        });
    }
    Ok(())
}

/// What an adapter is put onto, for peft: the model itself, or the repository that a GGUF file names. Empty where that is not known, or
/// where what lies beneath is what SFT made.
fn adapter_base(experiment: &Experiment) -> Result<String> {
    if experiment.stages.sft.steps != 0 {
        return Ok(String::new());
    }
    let from = sources::model(Path::new(&experiment.model.from))?;
    if target::is_gguf(&from) {
        return Ok(gguf::repository(&from)?.unwrap_or_default());
    }
    Ok(sources::public_name(&experiment.model.from))
}

/// The tokenizer of a world of text, and the ids that mean something in any world.
pub(super) fn own_tokenizer(context: &StageContext<'_>, space: &duel_spec::TokenSpec) -> Result<TokenizerFiles> {
    let tokenizer = match context.plan.needed(context.stage, StageKind::Corpus) {
        Some(corpus) => std::fs::read(context.folder(corpus)?.file("tokenizer.json")).ok(),
        None => None,
    };
    let special = SpecialTokens {
        bos: Some(space.bos),
        eos: Some(space.eos),
        other_eos: space.other_eos.clone(),
        pad: Some(space.pad),
    };
    Ok(TokenizerFiles { special, tokenizer, template: None })
}

/// The stage of the requested arm, point and seed; for the reference, any that needs it.
fn stage<'a>(args: &ExportArgs, arm: &str, plan: &'a Plan, seed: u64) -> Result<&'a Stage> {
    let cells: Vec<&Stage> = plan.stages.iter().filter(|s| s.kind == StageKind::Cell && s.seed == seed).collect();
    let Some(first) = cells.first() else { return Err(Error::NoSeed { path: args.run.clone(), seed }) };
    if arm == REFERENCE {
        return Ok(first);
    }
    let is_of_arm = |stage: &&&Stage| stage.cell.as_ref().is_some_and(|cell| cell.arm == arm);
    let of_arm: Vec<&&Stage> = cells.iter().filter(is_of_arm).collect();
    let label = match &args.point {
        Some(label) => Some(label.clone()),
        // where none is finished, the first
        None => {
            let report = Run::read(&args.run)?;
            warn(&report.notes());
            let first = || of_arm.first()?.cell.as_ref().map(|cell| cell.point.label.clone());
            report.featured(arm).map(|point| point.label.clone()).or_else(first)
        }
    };
    let names = |what: &'static str, name: String, accepted: Vec<String>| Error::NoSuch {
        what,
        name,
        accepted: accepted.join(", "),
    };
    if of_arm.is_empty() {
        let mut arms: Vec<String> = cells.iter().filter_map(|s| s.cell.as_ref()).map(|cell| cell.arm.clone()).collect();
        arms.sort();
        arms.dedup();
        arms.push(REFERENCE.into());
        return Err(names("arm", arm.into(), arms));
    }
    let point = |stage: &Stage| stage.cell.as_ref().map(|cell| cell.point.label.clone());
    let stage = of_arm.iter().find(|stage| point(stage) == label);
    stage.map(|stage| **stage).ok_or_else(|| {
        names("point", label.clone().unwrap_or_default(), of_arm.iter().filter_map(|stage| point(stage)).collect())
    })
}
