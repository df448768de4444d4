//! `duel export --reward-model`: the reward model of a run as a sequence classifier of transformers.

use crate::commands::export::{
    ExportArgs, check_name, numbers, own_tokenizer, stored, unused, weight_bytes, write_weights,
};
use crate::error::{Error, Result};
use crate::plan::{Plan, StageKind};
use crate::sources;
use crate::stages::{StageContext, learned_reward};
use crate::target::ModelTarget;
use crate::terminal::print;
use crate::world::{PretrainedModel, pretrained};
use duel_data::World;
use duel_ledger::RunDir;
use duel_model::{ClassifierCheckpoint, TokenizerFiles, TransformerConfig, classifier};
use duel_reward::RewardNetwork;
use duel_spec::{Experiment, RmModel, ScorePooling};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

/// Writes the reward model of a seed.
///
/// # Errors
/// A reward model that is no single classifier; a seed that the run does not have.
pub fn export_reward_model(args: &ExportArgs) -> Result<()> {
    // 1. What can be refused before any model is read.
    let numbers = numbers(args.numbers, args.form)?;
    check_name(&args.to, args.form)?;
    let (manifest, experiment, plan) = Plan::of_run(&args.run)?;
    check(&experiment)?;
    let run = RunDir::open(&args.run)?;
    let stages = run.stages();
    let named = [&experiment.model.from, &experiment.stages.rm.from].into_iter().filter(|from| !from.is_empty());
    let models = named.map(|from| sources::model(Path::new(from))).collect::<Result<Vec<_>>>()?;
    let from: Vec<&Path> = std::iter::once(stages.as_path()).chain(models.iter().map(PathBuf::as_path)).collect();
    let target = ModelTarget::new(&args.to, &from, args.force)?;
    let seed = args.seed.unwrap_or(experiment.seed);
    let cell = plan.stages.iter().find(|stage| stage.kind == StageKind::Cell && stage.seed == seed);
    let Some(cell) = cell else { return Err(Error::NoSeed { path: args.run.clone(), seed }) };
    let rm = plan.needed(cell, StageKind::Rm).expect("every cell needs the reward model");
    plan.check_finished(&run, &manifest, rm, true)?;

    // 2. The network, and the words and sizes of the model that it came from.
    let (device, stop) = (duel_model::device::open(&manifest.device)?, AtomicBool::new(false));
    let context = StageContext::new(&experiment, &plan, cell, &run, device, &stop);
    let loaded = context.load_world()?;
    let reward = learned_reward(&context, &loaded)?;
    let [(RewardNetwork::Network(model), centre)] = reward.judges() else {
        return Err(no_classifier("it is not one network"));
    };
    let (config, tokenizer_files, pad) = sources_of(&context, loaded.world.as_ref())?;
    let score = Some([centre + reward.centre, reward.scale]);

    // 3. Beside its place, and then into it.
    let bytes = weight_bytes(model, numbers);
    let checkpoint = ClassifierCheckpoint { config, model: model.clone(), tokenizer_files, pad, score };
    target.write(|path| {
        let write = || Ok(classifier::write(path, checkpoint, stored(numbers))?);
        write_weights(path, bytes, write)
    })?;
    print(&format!(
        "wrote {}: {}; the run's score is (logit - centre) / scale, see duel_score in config.json\n",
        args.to.display(),
        rm.label()
    ));
    Ok(())
}

fn no_classifier(reason: &str) -> Error {
    unused("--reward-model", reason)
}

/// The reward model is one that transformers can compute.
fn check(experiment: &Experiment) -> Result<()> {
    let settings = &experiment.stages.rm;
    match (settings.model, settings.score, settings.ensemble) {
        (RmModel::Linear, ..) => Err(no_classifier("the linear reward model is not a network")),
        (_, ScorePooling::Mean, _) => {
            Err(no_classifier("it scores the mean over a response's tokens, transformers' classifiers the last one"))
        }
        (.., 2..) => Err(no_classifier("an ensemble is not a single classifier")),
        _ => Ok(()),
    }
}

/// Sizes, words and padding of the reward model.
fn sources_of(
    context: &StageContext<'_>,
    world: &dyn World,
) -> Result<(TransformerConfig, TokenizerFiles, Option<u32>)> {
    if let Some(start) = context.reward_start()? {
        let classifier = &start.model.classifier;
        return Ok((classifier.model.config.clone(), classifier.model.tokenizer_files.clone(), classifier.pad));
    }
    let (config, tokenizer_files) = match pretrained(context.experiment)? {
        Some(PretrainedModel { mut model, tokenizer, .. }) => {
            let ends: Vec<String> =
                model.tokenizer_files.special.eos_ids().into_iter().filter_map(|id| tokenizer.token(id)).collect();
            model.tokenizer_files.template =
                model.tokenizer_files.template.map(|template| ending_in_eos(&template, &ends));
            (model.config, model.tokenizer_files)
        }
        None => (context.config(world)?, own_tokenizer(context, world.space())?),
    };
    let space = world.space();
    Ok((config, tokenizer_files, Some(space.pad).filter(|pad| !space.ends_response(*pad))))
}

/// The template of a reward model that scores EOS, the last token of every response: without what a template writes after a
/// turn's EOS, such as a line break, on which transformers would look for the score.
fn ending_in_eos(template: &str, ends: &[String]) -> String {
    let template = template.strip_suffix('\n').unwrap_or(template);
    let is_ended = |end: &String| format!("rendered_turns.rstrip().endswith({})", serde_json::json!(end));
    let is_ended = ends.iter().map(is_ended).collect::<Vec<_>>().join(" or ");
    format!(
        "{{% set rendered_turns %}}{template}{{% endset %}}{{% if add_generation_prompt %}}{{{{ rendered_turns }}}}{{% else %}}\
         {{{{ rendered_turns.rstrip() }}}}{{% if not ({is_ended}) %}}{{{{ eos_token }}}}{{% endif %}}\
         {{% endif %}}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use duel_data::Json;
    use duel_data::chat::{ChatTemplate, Message};

    #[test]
    fn a_rendered_conversation_ends_with_eos() {
        let turns = "{% for m in messages %}{{ '<s>' + m['content'] + '</s>' }}\n{% endfor %}";
        let prompt = "{% if add_generation_prompt %}<a>\n{% endif %}\n";
        let messages = [Message::new("user", "Hi ")];
        let render = |source: &str, answer| {
            let template = ChatTemplate::new(source).expect("valid");
            let template = template.with_variables([("eos_token".to_owned(), Json::Text("</s>".into()))]);
            template.render(&messages, None, answer).expect("renders")
        };
        let source = format!("{turns}{prompt}");
        assert_eq!(render(&source, false), "<s>Hi </s>\n");
        let ends = ["</s>".to_owned(), "<end>".to_owned()];
        let wrapped = ending_in_eos(&source, &ends);
        assert_eq!(render(&wrapped, false), "<s>Hi </s>");
        assert_eq!(render(&wrapped, true), render(&source, true));
        assert_eq!(render(&ending_in_eos("{{ messages[0].content }}", &ends), false), "Hi</s>");
        assert_eq!(render(&ending_in_eos("{{ messages[0].content }}<end>\n", &ends), false), "Hi <end>", "another end");
    }
}
