//! `duel export` and `duel import`: models to the formats that others read, and from them.

use crate::cli::{ExportArgs, ExportAs, ImportArgs, Numbers};
use crate::plan::{Kind, Plan, Stage};
use crate::work::Desk;
use crate::{Error, Result, print, warn};
use duel_ledger::RunDir;
use duel_model::gguf::{self, Precision};
use duel_model::huggingface::{self, Checkpoint, Special, Words};
use duel_model::{Kind as Stored, Pretrained, TransformerConfig};
use duel_report::Run;
use duel_spec::REFERENCE;
use std::path::Path;
use std::sync::atomic::AtomicBool;

fn make(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|source| Error::Io { action: "create", path: folder.into(), source })
}

impl Numbers {
    fn stored(self) -> Stored {
        match self {
            Self::F16 => Stored::F16,
            Self::Bf16 => Stored::Bf16,
            Self::F32 | Self::Q8 => Stored::F32,
        }
    }

    fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::F16 | Self::Bf16 => Precision::F16,
            Self::Q8 => Precision::Q8,
        }
    }
}

/// Writes a model in one of the forms.
fn write(checkpoint: &Checkpoint, to: &Path, form: ExportAs, numbers: Numbers) -> Result<()> {
    match form {
        ExportAs::Gguf => {
            if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                make(folder)?;
            }
            Ok(gguf::write(to, checkpoint, numbers.precision())?)
        }
        _ => {
            make(to)?;
            Ok(huggingface::write(to, checkpoint, numbers.stored())?)
        }
    }
}

/// Writes the policy that an arm has trained.
///
/// # Errors
/// An arm, point or seed that the run does not have; an adapter that the arm did not train.
pub fn export(args: &ExportArgs) -> Result<()> {
    // 1. Whose policy.
    let (manifest, experiment, plan) = Plan::of_run(&args.run)?;
    let run = RunDir::open(&args.run)?;
    let seed = args.seed.unwrap_or(experiment.seed);
    let stage = stage(args, &plan, seed)?;
    plan.check_finished(&run, &manifest, stage, args.arm != REFERENCE)?;
    let (device, stop) = (duel_model::device::open(&manifest.device)?, AtomicBool::new(false));
    let desk = Desk::new(&experiment, &plan, stage, &run, device, &stop);
    let scene = desk.scene()?;
    let world = scene.world.as_ref();
    let policy = if args.arm == REFERENCE { desk.sft_policy(world)? } else { desk.trained_policy(world)? };

    // 2. With the words and sizes of the model that it came from.
    let (config, words) = match experiment.is_pretrained() {
        true => {
            let model = Pretrained::open(Path::new(&experiment.model.from))?;
            (model.config, model.words)
        }
        false => (desk.config(world)?, own_words(&desk, world.space())?),
    };
    if args.form == ExportAs::Adapter {
        make(&args.to)?;
        // beneath it lies the model itself, or what SFT made of it
        let base = if experiment.stages.sft.steps == 0 { experiment.model.from.clone() } else { String::new() };
        huggingface::write_adapter(&args.to, &config, &policy, &base)?;
    } else {
        let checkpoint = Checkpoint { config, policy: policy.merged(), words };
        write(&checkpoint, &args.to, args.form, args.numbers)?;
    }
    let whose = if args.arm == REFERENCE { format!("{REFERENCE}, seed {seed}") } else { stage.label() };
    print(&format!("wrote {}: {whose}\n", args.to.display()));
    Ok(())
}

/// The tokenizer of a world of text, and the ids that mean something in any world.
fn own_words(desk: &Desk<'_>, space: &duel_spec::Space) -> Result<Words> {
    let tokenizer = match desk.plan.needed(desk.stage, Kind::Corpus) {
        Some(corpus) => std::fs::read(desk.folder(corpus)?.file("tokenizer.json")).ok(),
        None => None,
    };
    let special = Special { bos: Some(space.bos), eos: Some(space.eos), pad: Some(space.pad) };
    Ok(Words { special, tokenizer, template: None })
}

/// The stage of the wanted arm, point and seed; the reference's is any that needs it.
fn stage<'a>(args: &ExportArgs, plan: &'a Plan, seed: u64) -> Result<&'a Stage> {
    let cells: Vec<&Stage> = plan.stages.iter().filter(|s| s.kind == Kind::Cell && s.seed == seed).collect();
    let Some(first) = cells.first() else { return Err(Error::NoSeed { path: args.run.clone(), seed }) };
    if args.arm == REFERENCE {
        return Ok(first);
    }
    let of = |stage: &&&Stage| stage.cell.as_ref().is_some_and(|cell| cell.arm == args.arm);
    let own: Vec<&&Stage> = cells.iter().filter(of).collect();
    let label = match &args.point {
        Some(label) => Some(label.clone()),
        // where none is finished, the first
        None => {
            let report = Run::read(&args.run)?;
            warn(&report.notes());
            let first = || own.first()?.cell.as_ref().map(|cell| cell.point.label.clone());
            report.featured(&args.arm).map(|point| point.label.clone()).or_else(first)
        }
    };
    let names = |what: &'static str, found: String, accepted: Vec<String>| Error::NoSuch {
        what,
        found,
        accepted: accepted.join(", "),
    };
    if own.is_empty() {
        let mut arms: Vec<String> = cells.iter().filter_map(|s| s.cell.as_ref()).map(|cell| cell.arm.clone()).collect();
        arms.sort();
        arms.dedup();
        arms.push(REFERENCE.into());
        return Err(names("arm", args.arm.clone(), arms));
    }
    let point = |stage: &Stage| stage.cell.as_ref().map(|cell| cell.point.label.clone());
    let found = own.iter().find(|stage| point(stage) == label);
    found.map(|stage| **stage).ok_or_else(|| {
        names("point", label.clone().unwrap_or_default(), own.iter().filter_map(|stage| point(stage)).collect())
    })
}

/// Reads a model of one form and writes it in another.
///
/// # Errors
/// A model that cannot be read.
pub fn import(args: &ImportArgs) -> Result<()> {
    let model = Pretrained::open(&args.from)?;
    let device = duel_model::device::open("flex")?;
    // rotary positions are no weights: few of them do
    let policy = model.policy(model.config.context.min(64), &device)?;
    let parameters: usize =
        duel_model::weights::shapes(&policy).iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let TransformerConfig { layers, width, heads, vocabulary, context, .. } = model.config;
    print(&format!(
        "{}: {layers} layers of width {width}, {heads} heads, {vocabulary} tokens, context {context}, {parameters} parameters{}{}\n",
        args.from.display(),
        if model.words.tokenizer.is_some() { ", with its tokenizer" } else { ", without a tokenizer" },
        if model.words.template.is_some() { " and chat template" } else { "" },
    ));
    let Some(to) = &args.to else { return Ok(()) };
    let form = if to.extension().is_some_and(|e| e == "gguf") { ExportAs::Gguf } else { ExportAs::Merged };
    write(&Checkpoint { config: model.config, policy, words: model.words }, to, form, args.numbers)?;
    print(&format!("wrote {}\n", to.display()));
    Ok(())
}
