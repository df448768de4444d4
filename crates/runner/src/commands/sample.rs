//! `duel sample`: the responses of every arm of a run, side by side, token by token.

use crate::commands::args::OutputFormat;
use crate::error::{Error, Result};
use crate::judge_files::{judge_files, recorded_judges};
use crate::plan::{Plan, Stage, StageKind};
use crate::stages::{StageContext, learned_reward};
use crate::terminal::{is_colored, print_styled, warn};
use crate::terminal::{json, sanitize};
use clap::Args;
use duel_data::{Prompt, World};
use duel_ledger::RunDir;
use duel_model::{Policy, Responses, generate, weights::host};
use duel_objectives::{full_kl, token_logp};
use duel_report::{Run, SampledResponse, TokenSpan, fixed, signed};
use duel_reward::Scorer;
use duel_spec::seeds::{self, Stream};
use duel_spec::{JudgeKind, REFERENCE, Split, WorldKind};
use duel_training::logprobs;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

#[derive(Debug, Args)]
pub struct SampleArgs {
    /// The run directory, for example runs/article
    pub run: PathBuf,
    /// A prompt to respond to; repeatable [default: the first test prompts]
    #[arg(long)]
    pub prompt: Vec<String>,
    /// Only this arm; repeatable. `reference` is the SFT policy
    #[arg(long)]
    pub arm: Vec<String>,
    /// The grid point, as `duel plan` prints it [default: each arm's best on validation prompts]
    #[arg(long)]
    pub point: Option<String>,
    /// The seed whose policies respond [default: the experiment's first]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Number of responses from each arm
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub responses: u16,
    /// Random seed of the sampling
    #[arg(long, default_value_t = 0)]
    pub draw: u64,
    /// Let the run's judge score the responses if it is a program; this runs `judge.command` of that experiment
    #[arg(long)]
    pub judge: bool,
    /// Also write the responses to an HTML page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Output for people or for programs
    #[arg(long, value_enum, default_value = "text")]
    pub format: OutputFormat,
}

/// Number of test prompts if no prompt is given.
const PROMPTS: usize = 3;
/// Log-ratio at which a token's colour is at its strongest, nats.
const STRONGEST: f64 = 2.0;

/// Prints the responses, and writes their page.
pub fn sample(args: &SampleArgs) -> Result<()> {
    let all_responses = responses(args)?;
    if let Some(path) = &args.html {
        let name = args.run.file_name().unwrap_or_default().to_string_lossy();
        duel_ledger::write_atomically(path, duel_report::sample_page(&all_responses, &name)?.as_bytes())?;
    }
    print_styled(&match args.format {
        OutputFormat::Json => json(&all_responses),
        OutputFormat::Text => render(&all_responses, is_colored()),
    });
    Ok(())
}

/// All requested responses, prompt by prompt.
fn responses(args: &SampleArgs) -> Result<Vec<SampledResponse>> {
    // 1. The run and the policies.
    let (manifest, experiment, plan) = Plan::of_run(&args.run)?;
    let (report, run) = (Run::read(&args.run)?, RunDir::open(&args.run)?);
    warn(&report.notes());
    if args.judge && !manifest.is_of_older_format() && judge_files(&experiment)?.gold != recorded_judges(&manifest).gold
    {
        warn(&["the judge's program has changed since the run: gold is scored by the present one".into()]);
    }
    let seed = args.seed.unwrap_or(experiment.seed);
    let (device, stop) = (duel_model::device::open(&manifest.device)?, AtomicBool::new(false));
    let context = |stage| StageContext::new(&experiment, &plan, stage, &run, device.clone(), &stop);
    let mut policies = policies(args, &plan, &report, seed)?;
    // unfinished cells are left out, unless their arm was named
    let finished =
        |(arm, _, stage): &(String, String, &Stage)| plan.check_finished(&run, &manifest, stage, arm != REFERENCE);
    let missing = policies.iter().find_map(|source| finished(source).err());
    policies.retain(|source| finished(source).is_ok());
    match missing {
        Some(missing) if policies.is_empty() || !args.arm.is_empty() => return Err(missing),
        Some(missing) => warn(&[missing.to_string()]),
        None => {}
    }

    // 2. The same prompts and random numbers for all.
    let shared = context(policies[0].2);
    let loaded = shared.load_world()?;
    let world = loaded.world.as_ref();
    let prompts = match &args.prompt[..] {
        [] => world.prompts(Split::Test).iter().take(PROMPTS).cloned().collect(),
        texts => texts.iter().map(|text| Ok(world.read_prompt(text)?)).collect::<Result<Vec<_>>>()?,
    };
    let reference = shared.sft_policy(world)?;
    // the program of another person's run is executed on request only
    let runs_judge =
        args.judge || experiment.judge.kind != JudgeKind::Command || experiment.world.kind == WorldKind::Grammar;
    let (gold, proxy) = (runs_judge.then(|| loaded.gold.clone()), learned_reward(&shared, &loaded)?);

    // 3. The responses.
    let mut all_responses = vec![];
    for (arm, point, stage) in &policies {
        let policy = if *arm == REFERENCE { reference.clone() } else { context(stage).trained_policy(world)? };
        let whose = (arm.as_str(), point.as_str(), seed);
        let request = SampleRequest { context: &shared, world, reference: &reference, prompts: &prompts, args };
        all_responses.extend(request.answers(whose, &policy, gold.as_deref(), &proxy)?);
    }
    gold.iter().try_for_each(|gold| gold.finish())?;
    all_responses.sort_by_key(|(place, _)| *place); // stable: the arms' order stays
    Ok(all_responses.into_iter().map(|(_, response)| response).collect())
}

/// Arm, point, and the stage of each; the reference's is any that needs the reward model.
fn policies<'a>(
    args: &SampleArgs,
    plan: &'a Plan,
    report: &Run,
    seed: u64,
) -> Result<Vec<(String, String, &'a Stage)>> {
    let is_requested = |arm: &str| args.arm.is_empty() || args.arm.iter().any(|a| a.eq_ignore_ascii_case(arm));
    let arms = report.arms();
    let known = || arms.iter().copied().chain([REFERENCE]).collect::<Vec<_>>().join(", ");
    if let Some(arm) = args.arm.iter().find(|a| !arms.iter().chain([&REFERENCE]).any(|k| k.eq_ignore_ascii_case(a))) {
        return Err(Error::NoSuch { what: "arm", name: arm.clone(), accepted: known() });
    }
    let cells: Vec<&Stage> = plan.stages.iter().filter(|s| s.kind == StageKind::Cell && s.seed == seed).collect();
    let Some(first) = cells.first() else { return Err(Error::NoSeed { path: args.run.clone(), seed }) };
    let mut selected = vec![];
    if is_requested(REFERENCE) {
        selected.push((REFERENCE.to_string(), "sft".to_string(), *first));
    }
    for arm in arms.iter().copied().filter(|arm| is_requested(arm)) {
        let label = match &args.point {
            Some(label) => Some(label.clone()),
            // where none is finished, the first
            None => report.featured(arm).map(|point| point.label.clone()).or_else(|| {
                let of_arm = |stage: &&Stage| {
                    stage.cell.as_ref().filter(|cell| cell.arm == arm).map(|cell| cell.point.label.clone())
                };
                cells.iter().find_map(of_arm)
            }),
        };
        let is_it =
            |s: &&&Stage| s.cell.as_ref().is_some_and(|c| c.arm == arm && Some(&c.point.label) == label.as_ref());
        match cells.iter().find(is_it) {
            Some(stage) => selected.push((arm.to_string(), label.unwrap_or_default(), *stage)),
            None => {
                let of_arm = cells.iter().filter_map(|s| s.cell.as_ref()).filter(|c| c.arm == arm);
                let accepted = of_arm.map(|c| c.point.label.clone()).collect::<Vec<_>>().join(" | ");
                return Err(Error::NoSuch { what: "point", name: label.unwrap_or_default(), accepted });
            }
        }
    }
    Ok(selected)
}

/// The prompts and settings of every arm.
struct SampleRequest<'a> {
    context: &'a StageContext<'a>,
    world: &'a dyn World,
    reference: &'a Policy,
    prompts: &'a [Prompt],
    args: &'a SampleArgs,
}

impl SampleRequest<'_> {
    /// One arm's responses, each with the index of its prompt.
    fn answers(
        &self,
        (arm, point, seed): (&str, &str, u64),
        policy: &Policy,
        gold: Option<&dyn Scorer>,
        proxy: &dyn Scorer,
    ) -> Result<Vec<(usize, SampledResponse)>> {
        let (reader, times) = (self.context.reader(self.world), usize::from(self.args.responses));
        let places: Vec<usize> = (0..self.prompts.len()).flat_map(|place| std::iter::repeat_n(place, times)).collect();
        let ids = places.iter().map(|&place| self.prompts[place].ids.clone()).collect();
        let mut rng = seeds::stream(seed, Stream::Sample, self.args.draw);
        let batch: Responses = generate(policy, reader.space(), ids, &mut rng, reader.device());
        let golds = gold.map(|gold| gold.score(&batch)).transpose()?;
        let proxies = proxy.score(&batch)?;

        let tokens = reader.tokens(&batch);
        let mask = logprobs::mask(&reader, &batch);
        let [logits, ref_logits] = [policy, self.reference].map(|policy| reader.logits(policy, &tokens)); // [B, T, V]
        let targets = reader.targets(&tokens);
        let ratios = token_logp(logits.clone(), targets.clone()) - token_logp(ref_logits.clone(), targets); // [B, T]
        let width = reader.space().response_tokens;
        let kls = host(mask.row_sums(full_kl(logits, ref_logits)));
        let ratios = host(ratios);

        let mut all_responses = vec![];
        for (row, &place) in places.iter().enumerate() {
            let (prompt, response) = (&self.prompts[place], &batch.responses[row]);
            let log_ratios: Vec<f64> = ratios[row * width..][..response.len()].iter().map(|&x| f64::from(x)).collect();
            let (mut pieces, mut written) = (vec![], String::new());
            for (end, &log_ratio) in log_ratios.iter().enumerate() {
                let ends = reader.space().ends_response(response[end]);
                let full_text = if ends { written.clone() } else { self.world.render(prompt, &response[..=end])? };
                // a letter of several tokens is written with its last
                let text = full_text.strip_prefix(&written).map_or(full_text.clone(), String::from);
                pieces.push(TokenSpan { text: if ends { " ∎".into() } else { text }, log_ratio });
                written = full_text;
            }
            let response = SampledResponse {
                prompt: prompt.text.clone(),
                arm: arm.into(),
                point: point.into(),
                seed,
                pieces,
                gold_reward: golds.as_ref().map(|golds| golds[row]),
                proxy_reward: proxies[row],
                kl: f64::from(kls[row]),
                log_ratio: log_ratios.iter().sum(),
                ended: batch.ended(row, reader.space()),
            };
            all_responses.push((place, response));
        }
        Ok(all_responses)
    }
}

/// The responses in lines.
fn render(all_responses: &[SampledResponse], in_colour: bool) -> String {
    let mut text = String::new();
    let mut last = "";
    for response in all_responses {
        if response.prompt != last {
            let _ = writeln!(text, "{}{}", if last.is_empty() { "" } else { "\n" }, sanitize(&response.prompt));
            last = &response.prompt;
        }
        let name = if response.arm == REFERENCE {
            response.arm.clone()
        } else {
            sanitize(&format!("{} {}", response.arm, response.point)).into_owned()
        };
        let pieces = response
            .pieces
            .iter()
            .map(|piece| if in_colour { coloured(piece) } else { sanitize(&piece.text).into_owned() });
        let _ = writeln!(text, "  {name:<20} {}{}", pieces.collect::<String>(), if response.ended { "" } else { "…" });
        let gold = response.gold_reward.map_or("not scored (--judge)".into(), |gold| signed(gold, 2));
        let [proxy, ratio] = [response.proxy_reward, response.log_ratio].map(|x| signed(x, 2));
        let _ =
            writeln!(text, "  {:<20} gold {gold}, proxy {proxy}, KL {}, log-ratio {ratio}", "", fixed(response.kl, 2));
    }
    text
}

/// Blue where a token is more likely than under the reference, orange where less; stronger for a larger difference.
fn coloured(piece: &TokenSpan) -> String {
    let strength = (piece.log_ratio.abs() / STRONGEST).min(1.0);
    let text = sanitize(&piece.text);
    if strength < 0.05 {
        return text.into_owned();
    }
    let full = if piece.log_ratio > 0.0 { [0.0, 90.0, 150.0] } else { [165.0, 70.0, 0.0] };
    let [r, g, b] = full.map(|part: f64| (part * strength + 40.0 * (1.0 - strength)).round() as u8);
    format!("\x1b[38;2;255;255;255;48;2;{r};{g};{b}m{text}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_coloured_by_its_log_ratio() {
        let piece = |log_ratio| TokenSpan { text: "good".into(), log_ratio };
        assert_eq!(coloured(&piece(0.01)), "good");
        assert!(coloured(&piece(5.0)).contains("48;2;0;90;150") && coloured(&piece(-5.0)).contains("48;2;165;70;0"));
        assert!(coloured(&piece(1.0)).contains("48;2;20;65;95"));
    }

    /// The only escapes are those that colour a token.
    #[test]
    fn a_response_moves_no_cursor() {
        let piece = |log_ratio| TokenSpan { text: "\x1b[2J\u{9b}H".into(), log_ratio };
        let response = SampledResponse {
            prompt: "p\x1b[A".into(),
            arm: "a".into(),
            point: "b\x07".into(),
            seed: 1,
            pieces: vec![piece(5.0), piece(0.0)],
            gold_reward: Some(-0.0),
            proxy_reward: f64::NAN,
            kl: -1e-9,
            log_ratio: 1.0,
            ended: true,
        };
        let plain = render(std::slice::from_ref(&response), false);
        assert!(!plain.contains(|c: char| c.is_control() && c != '\n'), "{plain:?}");
        assert!(plain.ends_with("gold 0.00, proxy –, KL 0.00, log-ratio +1.00\n"), "{plain:?}");
        let unasked = SampledResponse { gold_reward: None, ..response.clone() };
        assert!(render(&[unasked], false).contains("gold not scored (--judge), proxy"));
        let coloured = render(&[response], true);
        assert_eq!((coloured.matches('\x1b').count(), coloured.contains("\x1b[2J")), (2, false), "{coloured:?}");
    }
}
