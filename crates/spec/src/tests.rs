//! Experiment files as a whole: what is accepted, what is refused, and what is named in the error.

mod rollouts;

use crate::checks::range_of;
use crate::{ArmRef, ColumnRole, Document, Error, EvaluationSettings, Experiment, MethodSettings, Result};
use toml::Value;

fn parse(text: &str) -> Result<Experiment> {
    Experiment::from_document(&Document::parse("t.toml", text, &[])?)
}

fn first(experiment: &Experiment) -> MethodSettings {
    experiment.cells_for(&experiment.trials())[0].point.method.clone()
}

#[test]
fn a_grid_spans_its_product_and_is_paired_over_seeds() {
    let experiment = parse(
        "name = \"t\"\nseeds = 2\n[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = [0.1, 1]\nepochs = [1, 2, 3]\n",
    )
    .expect("valid");
    let cells = experiment.cells_for(&experiment.trials());
    assert_eq!(cells.len(), 12);
    assert_eq!(cells[0].point.label, "beta=0.1,epochs=1");
    assert_eq!(cells[5].point.label, "beta=1,epochs=3");
    assert_eq!(cells[5].point.method.beta(), 1.0);
    assert_eq!((cells[5].seed, cells[6].seed), (0, 1));
}

#[test]
fn mistakes_name_the_key_and_its_position() {
    let unknown = parse("name = \"t\"\n[arms.a]\nmethod = \"dpo\"\nbetta = 0.1\n").expect_err("unknown");
    assert!(matches!(&unknown, Error::UnknownKey { nearest: Some(n), .. } if n == "beta"), "{unknown:?}");
    let source = unknown.span().expect("has a span").clone();
    assert_eq!(&source.text[source.span], "betta");
    let wrong = parse("name = \"t\"\nseeds = \"six\"\n[arms.a]\nmethod = \"dpo\"\n").expect_err("type");
    let source = wrong.span().expect("has a span").clone();
    assert_eq!(&source.text[source.span], "\"six\"");
    let hint = |arm: &str| parse(&format!("[arms.a]\nmethod = \"dpo\"\n{arm}")).expect_err("type").hint();
    assert!(hint("beta = [0.1, 0.2]").contains("under [arms.a.grid]: beta = [...]"), "{}", hint("beta = [0.1, 0.2]"));
    assert!(hint("beta = \"0.1\"").contains("look for `beta`"));
    let range = parse("[stages.pairs]\nlabel_flips = 0.6\n[arms.a]\nmethod = \"dpo\"\n").expect_err("range");
    assert!(matches!(range, Error::OutOfRange { .. }), "{range:?}");
    let empty = parse("[arms.a]\nmethod = \"dpo\"\n[arms.a.grid]\nbeta = []\n").expect_err("empty");
    assert!(matches!(empty, Error::EmptyGrid { .. }), "{empty:?}");
    let choice = parse("[arms.a]\nmethod = \"ppo\"\nreward = \"rn\"\n").expect_err("choice");
    assert!(matches!(choice, Error::UnknownChoice { .. }), "{choice:?}");
    let method = parse("[arms.a]\nmethod = \"DPO\"\n").expect_err("choice");
    assert!(method.hint().starts_with("did you mean `dpo`?"), "{}", method.hint());
    assert!(matches!(parse("[arms.a]\nbeta = 0.1\n").expect_err("method"), Error::NoMethod { .. }));
    assert!(matches!(parse("seeds = 1\n").expect_err("arms"), Error::NoArms { .. }));
    assert!(matches!(
        parse("name = \"../up\"\n[arms.a]\nmethod=\"dpo\"\n").expect_err("name"),
        Error::OutOfRange { .. }
    ));
}

#[test]
fn the_command_line_overrides_the_file_and_says_so() {
    let text = "seeds = 2\n[arms.a]\nmethod = \"dpo\"\nbeta = 0.1\n";
    let document = Document::parse("t", text, &["arms.a.beta=0.3".into(), "world.kind=grammar".into()]).expect("valid");
    assert_eq!(document.origin("arms.a.beta"), crate::Origin::CommandLine);
    assert_eq!(document.origin("seeds"), crate::Origin::File);
    assert_eq!(document.origin("seed"), crate::Origin::Default);
    let experiment = Experiment::from_document(&document).expect("valid");
    assert_eq!(first(&experiment).beta(), 0.3);
    assert!(Document::parse("t", text, &["nonsense".into()]).is_err());
}

/// A mistake of the command line shows no line of the file, whether the file has the key or not.
#[test]
fn a_mistake_of_the_command_line_is_not_blamed_on_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("e.toml");
    std::fs::write(&file, "seeds = 2\n[arms.a]\nmethod = \"dpo\"\nbeta = 0.1\n").expect("written");
    let error = |set: &[&str]| {
        let overrides: Vec<String> = set.iter().map(|text| (*text).into()).collect();
        Experiment::load(&file, &overrides).expect_err("refused")
    };
    for set in ["arms.a.beta=-1", "arms.a.betta=0.2", "arms.b.beta=0.2", "stages.rm.steps=0"] {
        let error = error(&[set]);
        assert!(error.to_string().ends_with("(caused by the command line)"), "{error}");
        assert!(error.hint().contains(&format!("change `--set {set}`")), "{}", error.hint());
        let span = error.span().expect("a span");
        assert_eq!((span.name.as_str(), span.text.as_str()), ("the command line, --set", set));
    }
    // the line that clashes is the file's, and the cause is not
    let clash = error(&["arms.a.loss=\"simpo\"", "arms.a.simpo_margin=-1"]);
    assert!(clash.hint().contains("` or `--set arms.a.simpo_margin=-1`"), "{}", clash.hint());
    std::fs::write(&file, "seeds = 0\n[arms.a]\nmethod = \"dpo\"\n").expect("written");
    assert!(matches!(error(&["name=x"]), Error::OutOfRange { .. }), "the file is wrong by itself");
}

#[test]
fn every_name_of_a_loss_is_accepted_and_settings_that_no_loss_reads_conflict() {
    for &word in crate::pair_loss::PAIR_LOSSES {
        let arm = format!("[arms.a]\nmethod = \"dpo\"\nloss = \"{word}\"\n");
        let actual = match first(&parse(&arm).expect(word)) {
            MethodSettings::Dpo(dpo) => serde_json::to_value(dpo.loss).expect("a word"),
            other => panic!("a DPO arm, not {other:?}"),
        };
        assert_eq!(actual, word);
    }
    let clash = |text: &str| matches!(parse(text), Err(Error::Clash { .. }));
    assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"ipo\"\nlabel_smoothing = 0.1\n"));
    assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"simpo\"\nreference_free = true\n"));
    assert!(clash("[arms.a]\nmethod = \"dpo\"\nloss = \"preferred_ft\"\n[arms.a.grid]\nbeta = [0.1, 1]\n"));
    assert!(clash(
        "[arms.a]\nmethod = \"dpo\"\nloss = \"kto\"\nkto_desirable = 0\n[arms.a.grid]\nkto_undesirable = [0, 1]\n"
    ));
    assert!(!clash("[arms.a]\nmethod = \"dpo\"\nloss = \"kto\"\nkto_desirable = 0\n"));
    // one of the grid's losses reads it
    assert!(!clash("[arms.a]\nmethod = \"dpo\"\nlabel_smoothing = 0.1\n[arms.a.grid]\nloss = [\"ipo\", \"robust\"]\n"));
}

/// Settings of DPO that cannot be combined name both and say why; those that can are accepted.
#[test]
fn options_of_losses_on_pairs_are_combined_or_refused() {
    let error = |keys: &str| {
        parse(&format!("[arms.a]\nmethod = \"dpo\"\n{keys}\n")).err().map(|error| format!("{error}, {error:?}"))
    };
    for keys in [
        "ld_alpha = 0.5\nuse_weighting = true\nnll_coef = 0.1",
        "ld_alpha = 0.0\nloss = \"ipo_averaged\"",
        "sync_ref_model = true\nref_model_mixup_alpha = 1\nld_alpha = 0.5",
        "dynamic_beta = 0.6\ndynamic_beta_momentum = 0.5\nmargin = 0.1",
        "dynamic_beta_filter = 0.8\ndynamic_beta_momentum = 0.5\nuse_weighting = true",
        "loss_weights = { sigmoid = 0.8, bco = 0.2, preferred_ft = 1 }\nnll_coef = 1.0",
        "loss_weights = { robust = 1, kto = 2 }\nlabel_smoothing = 0.1\nkto_desirable = 0.5",
        "epochs = 0.5\ndrop_last = false",
        "max_steps = 12",
    ] {
        assert_eq!(error(keys), None, "{keys}");
    }
    for (keys, key, reason) in [
        ("loss = \"aot\"\nuse_weighting = true", "arms.a.use_weighting", "not a mean over pairs"),
        ("loss = \"kto\"\nld_alpha = 0.5", "arms.a.ld_alpha", "two responses to one prompt"),
        ("loss = \"simpo\"\nld_alpha = 0.5", "arms.a.ld_alpha", "loss = \"simpo\""),
        ("loss = \"bco\"\ndynamic_beta = 0.6", "arms.a.dynamic_beta", "a mean over pairs"),
        ("loss = \"bco\"\ndynamic_beta_filter = 0.8", "arms.a.dynamic_beta_filter", "a mean over pairs"),
        ("loss = \"simpo\"\ndynamic_beta_filter = 0.8", "arms.a.dynamic_beta_filter", "loss = \"simpo\""),
        ("dynamic_beta_filter = 0", "arms.a.dynamic_beta_filter", "from 1e-6 to 1"),
        ("loss = \"simpo\"\nsync_ref_model = true", "arms.a.sync_ref_model", "reads no reference"),
        ("reference_free = true\nsync_ref_model = true", "arms.a.sync_ref_model", "reference_free"),
        ("ref_model_sync_steps = 3", "arms.a.ref_model_sync_steps", "sync_ref_model = false"),
        ("dynamic_beta_momentum = 0.5", "arms.a.dynamic_beta_momentum", "dynamic_beta = 0"),
        ("loss = \"ipo\"\nloss_weights = { sigmoid = 1 }", "arms.a.loss", "loss_weights"),
        ("loss_weights = { sigmoid = 1 }\nsimpo_margin = 1", "arms.a.simpo_margin", "loss_weights"),
        ("loss_weights = { sigmoid = 1, ipo = 1 }\nmargin = 0.5", "arms.a.margin", "loss_weights"),
        ("loss_weights = { sigmoid = 1, sft = 1 }", "arms.a.loss_weights.sft", "sft"),
        ("loss_weights = { sigmoid = \"1\" }", "arms.a.loss_weights.sigmoid", "a number"),
        ("loss_weights = { sigmoid = 0 }", "arms.a.loss_weights.sigmoid", "above 0"),
        ("[arms.a.grid]\nloss_weights = [{ sigmoid = 1 }]", "arms.a.grid.loss_weights", "an arm for each mixture"),
        ("ref_model_mixup_alpha = 0\nsync_ref_model = true", "arms.a.ref_model_mixup_alpha", "above 0 and at most 1"),
        ("epochs = 2\nmax_steps = 12", "arms.a.epochs", "max_steps"),
        ("loss = \"kto\"\ndrop_last = false", "arms.a.drop_last", "a single pair"),
    ] {
        let error = error(keys).unwrap_or_else(|| panic!("{keys} is refused"));
        assert!(error.contains(key) && error.contains(reason), "{keys}: {error}");
    }
    let rollouts = |keys: &str| parse(&format!("[arms.a]\nmethod = {keys}\nreference = \"last\"\n"));
    assert!(rollouts("\"online_dpo\"").is_ok());
    for keys in [
        "\"ppo\"",
        "\"online_dpo\"\nxpo_alpha = 0.1",
        "\"online_dpo\"\nkl_control = \"target\"",
        "\"online_dpo\"\nreference_decay = 0.5",
    ] {
        assert!(matches!(rollouts(keys), Err(Error::Clash { .. })), "{keys}");
    }
    let accumulated = |keys: &str| parse(&format!("learner.accumulate = 2\n[arms.a]\nmethod = \"dpo\"\n{keys}\n"));
    for (keys, key) in [
        ("dynamic_beta = 0.6", "arms.a.dynamic_beta"),
        ("dynamic_beta_filter = 0.8", "arms.a.dynamic_beta_filter"),
        ("loss_weights = { sigmoid = 1, bco = 1 }", "arms.a.loss_weights"),
        ("loss = \"bco\"", "arms.a.loss"),
    ] {
        let error = accumulated(keys).expect_err(keys).to_string();
        assert!(error.contains(&format!("`{key}`")) && error.contains("cannot be split"), "{error}");
    }
    assert!(
        accumulated("loss_weights = { sigmoid = 1, ipo = 1 }\nuse_weighting = true\nsync_ref_model = true").is_ok()
    );
}

#[test]
fn steps_follow_from_epochs_or_are_given() {
    let settings = |epochs, max_steps, drop_last| {
        let batch_size = 4;
        crate::DpoSettings { epochs, max_steps, batch_size, drop_last, ..crate::DpoSettings::defaults() }
    };
    for (epochs, max_steps, drop_last, rows, steps) in [
        (3.0, 0, true, 40, 30),
        (1.1, 0, true, 40, 11), // 1.1 · 10 is 11.000000000000002
        (0.25, 0, true, 40, 3),
        (0.25, 0, true, 42, 3),
        (1.0, 0, true, 42, 10),
        (1.0, 0, false, 42, 11),
        (2.0, 0, true, 3, 2),
        (2.0, 7, false, 42, 7),
    ] {
        assert_eq!(
            settings(epochs, max_steps, drop_last).steps(rows),
            steps,
            "{epochs} {max_steps} {drop_last} {rows}"
        );
    }
}

const SPACE: &str = "[tuning]\nconfigurations = 4\n[arms.d]\nmethod = \"dpo\"\nsearch = \"random\"\n[arms.d.space]\n";

#[test]
fn a_space_is_drawn_from_and_its_conditions_hold() {
    let text = format!(
        "{SPACE}beta = {{ low = 1, high = 2 }}\nepochs = {{ low = 1, high = 3 }}\nloss = {{ choices = [\"ipo\", \"robust\"] }}\nlabel_smoothing = {{ low = 0.1, high = 0.2, when = {{ loss = [\"robust\"] }} }}\n"
    );
    let experiment = parse(&text).expect("valid");
    let arm = &experiment.arms["d"];
    assert_eq!(arm.point(&arm.draw(|_, _| 0.4)).label, "beta=1.4,epochs=2,loss=ipo");
    let robust = arm.point(&arm.draw(|name, _| if name == "loss" { 0.9 } else { 0.0 }));
    assert_eq!(robust.label, "beta=1.0,epochs=1,label_smoothing=0.1,loss=robust");
    assert_eq!(arm.representative_points().len(), 2 * 2 * (1 + 2));
}

#[test]
fn claims_are_read_and_must_name_existing_arms() {
    let arms = "[arms.a]\nmethod = \"dpo\"\n[arms.b]\nmethod = \"ppo\"\n";
    let claim = |claim: &str| parse(&format!("{arms}[[claims]]\n{claim}\n"));
    let all = claim("id = \"B1\"\narms = [\"a\", \"b\"]\nkl = [2.0]").expect("valid").claims;
    assert_eq!((all.len(), &all[0].kl[..], all[0].smallest), (1, &[2.0][..], 0.05));
    let other = claim("id = \"B9\"\narms = [\"a@few-rows\", \"b\"]\nmetric = \"peak\"").expect("valid").claims;
    assert_eq!(other[0].arms[0], ArmRef { arm: "a".into(), run: Some("few-rows".into()) });
    assert!(claim("id = \"B6\"\narms = [\"a\"]\nmetric = \"drop\"\nkl = [0.5, 1]\nat_least = 1").is_ok());
    for refused in [
        "arms = [\"a\", \"b\"]",
        "id = \"B1\"",
        "id = \"B1\"\narms = [\"a\"]",
        "id = \"B1\"\narms = [\"a\", \"a\"]",
        "id = \"B1\"\narms = [\"a\", \"c\"]",
        "id = \"B1\"\narms = [\"a\", \"b\"]\nmetric = \"eta\"",
        "id = \"B1\"\narms = [\"a\", \"b\"]\nkl = [-1.0]",
        "id = \"B1\"\narms = [\"a\", \"b\"]\nkl = [1.0, 1.0]",
        "id = \"B1\"\narms = [\"a\", \"b\"]\nkl = []",
        "id = \"B1\"\narms = [\"a\", \"b\"]\nat_least = 2",
        "id = \"B1\"\narms = [\"a\", \"b\"]\nsmallest = inf",
        "id = \"B1\"\narms = [\"a\", \"b\"]\nkll = 1.0",
        "id = \"B1\"\narms = [\"a\", \"b\"]\n[[claims]]\nid = \"B1\"\narms = [\"a\", \"b\"]",
    ] {
        assert!(claim(refused).is_err(), "{refused}");
    }
}

/// Each is named by its number, with its own line.
#[test]
fn mistakes_in_claims_are_found_at_their_claim() {
    let arms = "[arms.dpo]\nmethod = \"dpo\"\n[arms.ppo]\nmethod = \"ppo\"\n";
    let first = "[[claims]]\nid = \"a\"\narms = [\"dpo\", \"ppo\"]\n";
    for (line, key, says) in [
        ("metric = \"gainn\"", "claims.2.metric", "unknown value, `gainn`"),
        ("rule = \"above\"", "claims.2.rule", "unknown value, `above`"),
        ("arms = [\"dpo\", \"pppo\"]", "claims.2.arms", "`pppo` in claim b"),
        ("arms = []", "claims.2.arms", "[]"),
        ("kl = [2.0, 1.0]", "claims.2.kl", "[2.0, 1.0] in claim b"),
        ("smalest = 1", "claims.2.smalest", "unknown key"),
        ("metric = 3", "claims.2.metric", "a string"),
    ] {
        let arms_of_claim = if line.starts_with("arms") { "" } else { "arms = [\"dpo\", \"ppo\"]\n" };
        let error = parse(&format!("{arms}{first}[[claims]]\nid = \"b\"\n{arms_of_claim}{line}\n")).expect_err(line);
        let (message, span) = (error.to_string(), error.span().expect("a position"));
        assert!(message.contains(key) && message.contains(says), "{line}: {message}");
        let value = line.split_once(" = ").map_or(line, |(_, value)| value);
        assert!(
            [value, "smalest"].contains(&&span.text[span.span.clone()]),
            "{line}: {:?}",
            &span.text[span.span.clone()]
        );
    }
}

#[test]
fn searches_that_cannot_be_run_are_refused() {
    let axis = |axis: &str| parse(&format!("{SPACE}{axis}\n"));
    assert!(axis("beta = { low = 0.1, high = 1.0, log = true }").is_ok());
    for refused in [
        "beta = { low = 1.0, high = 0.1 }",
        "beta = { low = -1.0, high = 0.1 }",
        "beta = { low = 0.0, high = 0.1, log = true }",
        "beta = { low = 0.1 }",
        "beta = { choices = [0.1] }",
        "beta = { choices = [0.1, 0.1] }",
        "beta = { choices = [0.1, 0.2], low = 0.1 }",
        "beta = { low = \"a\", high = \"b\" }",
        "beta = 0.1",
        "betta = { low = 0.1, high = 0.2 }",
        "loss = { choices = [\"ipo\", \"ipx\"] }",
        "label_smoothing = { low = 0.1, high = 0.6 }",
        "label_smoothing = { low = 0.1, high = 0.2, when = { beta = [\"x\"] } }",
    ] {
        assert!(axis(refused).is_err(), "{refused}");
    }
    let clash = |text: &str| matches!(parse(text), Err(Error::Clash { .. }));
    let beta = "beta = { low = 0.1, high = 1.0 }\n";
    assert!(clash(&format!("seed = 99\n{SPACE}{beta}")), "tuning seeds are compared on");
    assert!(clash(&format!("{}{beta}", SPACE.replace("4", "0"))), "no number of points");
    assert!(clash(&format!("{}{beta}", SPACE.replace("random", "grid"))), "a grid with a space");
    assert!(clash("[tuning]\nconfigurations = 4\n[arms.d]\nmethod = \"dpo\"\ngrid.beta = [0.1, 0.2]\n"), "budgets");
    assert!(clash(&format!("{}{beta}", SPACE.replace("random", "halving").replace("4", "4\nseeds = 1"))));
    // read only by a loss that is never drawn
    assert!(clash(&format!(
        "{SPACE}label_smoothing = {{ low = 0.1, high = 0.2, when = {{ loss = [\"ipo\"] }} }}\nloss = {{ choices = [\"ipo\", \"hinge\"] }}\n"
    )));
}

/// Whether a file with one arm is accepted; the error's text where it is not.
fn refusal(arm: &str) -> Option<String> {
    parse(&format!("[arms.a]\n{arm}\n")).err().map(|e| e.to_string())
}

#[test]
fn minibatches_divide_the_episodes() {
    let accepted = [
        "method = \"ppo\"\nepisodes = 12\nminibatches = 4",
        "method = \"grpo\"\nepisodes = 12\nminibatches = 4\ngroup = 6", // groups may be divided between minibatches
        "method = \"online_dpo\"\nepisodes = 12\nminibatches = 3",
        "method = \"raft\"\nepisodes = 12\nminibatches = 3\ngroup = 4",
    ];
    for arm in accepted {
        assert_eq!(refusal(arm), None, "{arm}");
    }
    let refused = [
        ("method = \"ppo\"\nepisodes = 12\nminibatches = 5", "5 does not divide 12 episodes"),
        ("method = \"online_dpo\"\nepisodes = 3\nminibatches = 1", "odd number"),
        ("method = \"online_dpo\"\nepisodes = 12\nminibatches = 4", "4 does not divide 6 pairs of 2 episodes"),
        ("method = \"online_dpo\"\nepisodes = 6\nminibatches = 6", "6 does not divide 3 pairs"), // no pair would be left
        ("method = \"raft\"\nepisodes = 12\nminibatches = 4\ngroup = 4", "4 does not divide 3 groups"),
        ("method = \"rloo\"\nepisodes = 12\nminibatches = 3\ngroup = 5", "5 does not divide 12 episodes"),
        ("method = \"ppo\"\n[arms.a.grid]\nminibatches = [4, 3]\nepisodes = [256]", "3 does not divide 256"),
    ];
    for (arm, says) in refused {
        let message = refusal(arm).expect(arm);
        assert!(message.contains(says), "{arm}: {message}");
    }
    let range = format!("{}minibatches = {{ low = 1, high = 4 }}\n", SPACE.replace("dpo", "ppo"));
    assert!(matches!(parse(&range), Err(Error::OutOfRange { .. })), "3 of 1 to 4 does not divide 256");
    let choices = format!("{}minibatches = {{ choices = [1, 4] }}\n", SPACE.replace("dpo", "ppo"));
    assert!(parse(&choices).is_ok());
    assert!(refusal("method = \"dpo\"\nloss = \"kto\"\nbatch_size = 1").expect("no neighbour").contains("batch_size"));
}

#[test]
fn a_horizon_is_no_shorter_than_a_rollout() {
    let horizon =
        |h: f64| refusal(&format!("method = \"ppo\"\nkl_control = \"adaptive\"\nepisodes = 64\nkl_horizon = {h:?}"));
    assert_eq!(horizon(64.0), None);
    assert!(horizon(63.0).expect("too short").contains("kl_horizon"));
}

#[test]
fn every_numeric_default_has_a_range() {
    let document = Document::parse("t", "[arms.p]\nmethod=\"ppo\"\n[arms.d]\nmethod=\"dpo\"\n", &[]).expect("valid");
    for (key, value, _) in document.resolved() {
        if matches!(value, Value::Integer(_) | Value::Float(_)) {
            assert!(range_of(&key).is_some(), "{key} has no range");
        }
    }
}

/// What goes into keys and digests of a world with one EOS is what it was before there could be several.
#[test]
fn a_single_eos_is_written_as_before() {
    let space = crate::TokenSpec {
        vocabulary: 9,
        pad: 0,
        bos: 1,
        eos: 2,
        other_eos: vec![],
        prompt_tokens: 3,
        response_tokens: 4,
        allowed_tokens: None,
        force_eos: false,
    };
    let json = |space: &crate::TokenSpec| serde_json::to_string(space).expect("it is plain");
    let single = r#"{"vocabulary":9,"pad":0,"bos":1,"eos":2,"prompt_tokens":3,"response_tokens":4,"allowed_tokens":null,"force_eos":false}"#;
    assert_eq!(json(&space), single);
    assert_eq!(serde_json::from_str::<crate::TokenSpec>(single).expect("it reads"), space);
    let several = crate::TokenSpec { other_eos: vec![7, 5], ..space };
    assert!(json(&several).contains(r#""other_eos":[7,5]"#));
    assert_eq!((0..9).filter(|id| several.ends_response(*id)).collect::<Vec<_>>(), [2, 5, 7]);
}

#[test]
fn variables_of_a_chat_template_may_have_any_name_and_value() {
    let arm = "[arms.a]\nmethod = \"dpo\"\n";
    let rows = |kwargs: &str| parse(&format!("[world.rows]\ntemplate_kwargs = {kwargs}\n{arm}"));
    let experiment = rows(
        "{ enable_thinking = false, day = 2024-02-29, effort = \"low\", n = 3, x = 0.5, list = [1, { a = true }] }",
    );
    let variables: Vec<_> = experiment.expect("valid").world.rows.template_variables().collect();
    let expected = serde_json::json!({
        "day": "2024-02-29", "effort": "low", "enable_thinking": false, "list": [1, {"a": true}], "n": 3, "x": 0.5
    });
    assert_eq!(serde_json::Value::from_iter(variables), expected);
    let set = ["world.rows.template_kwargs.enable_thinking=true".to_owned()];
    let document = Document::parse("t.toml", arm, &set).expect("valid");
    let experiment = Experiment::from_document(&document).expect("valid");
    assert_eq!(experiment.world.rows.template_kwargs["enable_thinking"], Value::Boolean(true));
    // what is written for a worker is read again
    let again = Document::parse("again.toml", &document.to_toml(), &[]).expect("valid");
    assert_eq!(again.differences(&document), Vec::<String>::new());
    for (kwargs, key) in [
        ("{ messages = [] }", "world.rows.template_kwargs.messages"),
        ("{ add_generation_prompt = true }", "world.rows.template_kwargs.add_generation_prompt"),
        ("{ x = [nan] }", "world.rows.template_kwargs.x"),
        ("3", "world.rows.template_kwargs"),
    ] {
        let error = rows(kwargs).expect_err(kwargs).to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn rows_may_be_in_several_files_and_under_any_names() {
    let arm = "[arms.a]\nmethod = \"dpo\"\n";
    let rows = |settings: &str| parse(&format!("[world.rows]\n{settings}\n{arm}"));
    let experiment = rows("train = [\"a.jsonl\", \"b/*.csv\"]\nprompt = \"query\"\nsystem = \"none\"").expect("valid");
    let settings = experiment.world.rows;
    assert_eq!(settings.train.iter().collect::<Vec<_>>(), ["a.jsonl", "b/*.csv"]);
    assert_eq!(settings.train.to_string(), "a.jsonl, b/*.csv");
    let names = ColumnRole::all().filter_map(|role| Some((role.key(), settings.column(role)?))).collect::<Vec<_>>();
    assert_eq!(names, [("prompt", "query"), ("system", "none")]);
    // as it was with a field for each column: the keys of stages are hashes of it
    let text = serde_json::to_string(&settings).expect("JSON");
    let columns = ColumnRole::all().map(|role| format!("\"{role}\":\"{}\"", settings.column(role).unwrap_or_default()));
    let expected = format!("\"holdout\":0.1,{},\"pairs_per_prompt\":1,", columns.collect::<Vec<_>>().join(","));
    assert!(text.contains(&expected), "{text}");
    for (settings, problem) in [
        ("train = [\"a.jsonl\", \"hub:org/name\"]", "world.rows.train"),
        ("train = []", "world.rows.train"),
        ("train = [1]", "world.rows.train"),
        ("date = [\"2024-07-26\"]", "world.rows.date"),
        ("prompt = \"x\"\nchosen = \"x\"", "both name the column `x`"),
        ("chosen = \"none\"", "one without the other has no meaning"),
        ("chat = \"yes\"", "world.rows.chat"),
        ("pairs_per_prompt = 0", "world.rows.pairs_per_prompt"),
    ] {
        let error = rows(settings).expect_err(settings).to_string();
        assert!(error.contains(problem), "{settings}: {error}");
    }
}

/// What a setting of an arm is refused with.
fn message_of(arm: &str) -> String {
    let error = parse(&format!("[arms.a]\n{arm}")).map(|_| ()).expect_err(arm);
    format!("{error} {} {}", error.label(), error.hint())
}

#[test]
fn without_a_kl_penalty_its_settings_are_refused() {
    for method in ["ppo", "reinforce", "rloo", "grpo", "raft"] {
        assert!(parse(&format!("[arms.a]\nmethod = \"{method}\"\nbeta = 0\n")).is_ok(), "{method}");
    }
    for (arm, says) in [
        ("method = \"dpo\"\nbeta = 0\n", "a number above 0"),
        ("method = \"online_dpo\"\nbeta = 0.0\n", "a number above 0"),
        ("method = \"ppo\"\nbeta = -1\n", "at least 0"),
        ("method = \"ppo\"\nbeta = 0\nkl_control = \"adaptive\"\n", "stays 0"),
        ("method = \"rloo\"\nbeta = 0\nreference = \"ema\"\n", "no reference is read"),
        ("method = \"rloo\"\nkl_control = \"target\"\ngrid.beta = [0.1, 0.0]\n", "stays 0"),
        ("method = \"grpo\"\nbeta = 0\nkl = \"reward\"\n", "not used"),
        ("method = \"ppo\"\nbeta = 0\nkl_estimator = \"full\"\n", "not used"),
    ] {
        let message = message_of(arm);
        assert!(message.contains(says), "{arm}: {message}");
    }
}

#[test]
fn only_a_command_is_told_where_tokens_end() {
    let judge = |kind: &str| {
        let text =
            format!("[world]\nkind = \"reviews\"\n[judge]\ntoken_ends = true\n{kind}\n[arms.a]\nmethod = \"ppo\"\n");
        parse(&text).map(|experiment| serde_json::to_value(&experiment.judge).expect("JSON"))
    };
    let told = judge("kind = \"command\"\ncommand = [\"./judge\"]").expect("valid");
    assert_eq!(told["token_ends"], true);
    let error = judge("kind = \"sentiment\"").expect_err("not read");
    assert!(error.to_string().contains("reads lines"), "{error}");
    let plain = parse("[arms.a]\nmethod = \"ppo\"\n").expect("valid").judge;
    let plain = serde_json::to_value(&plain).expect("JSON");
    assert!(plain.get("token_ends").is_none(), "the keys of stages without it are as before");
}

#[test]
fn a_budget_takes_the_place_of_lengths() {
    let arms = "[arms.p]\nmethod = \"ppo\"\n[arms.d]\nmethod = \"dpo\"\n";
    let with = |budget: &str, more: &str| parse(&format!("[budget]\n{budget}\n{arms}{more}"));
    let flops = "unit = \"flops\"\namount = 1e12";
    let budget = with(flops, "").expect("valid").budget;
    assert_eq!((budget.unit, budget.amount), (crate::BudgetUnit::Flops, 1e12));
    assert!(parse(arms).is_ok_and(|experiment| !experiment.budget.is_set()));
    for (budget, more, says) in [
        ("amount = 5", "", "`budget.amount` conflicts with `budget.unit = \"none\"`"),
        ("unit = \"flops\"", "", "`budget.amount` is out of range: 0"),
        ("unit = \"flops\"\namount = -1", "", "`budget.amount` is out of range: -1"),
        ("unit = \"steps\"\namount = 10.5", "", "`budget.amount` is out of range: 10.5"),
        ("unit = \"epochs\"\namount = 10", "", "`budget.unit` has an unknown value, `epochs`"),
        (flops, "epochs = 2\n", "`arms.d.epochs` conflicts with `budget.unit = \"flops\"`"),
        (flops, "max_steps = 9\n", "`arms.d.max_steps` conflicts"),
        (flops, "[arms.d.grid]\nepochs = [1, 2]\n", "`arms.d.grid.epochs` conflicts"),
        (flops, "[arms.r]\nmethod = \"rloo\"\niterations = 8\n", "`arms.r.iterations` conflicts"),
    ] {
        let error = with(budget, more).expect_err(says);
        assert!(error.to_string().contains(says), "{error}");
    }
    // passes over a rollout are no length of a training
    assert!(with(flops, "[arms.r]\nmethod = \"rloo\"\nepochs = 2\n").is_ok());
}

#[test]
fn short_batches_of_the_shared_stages_are_settings_too() {
    let arm = "[arms.d]\nmethod = \"dpo\"\n";
    let experiment =
        parse(&format!("[stages.sft]\ndrop_last = false\n[stages.rm]\ndrop_last = false\n{arm}")).expect("valid");
    assert!(!experiment.stages.sft.drop_last && !experiment.stages.rm.drop_last);
    let error = parse(&format!("[stages.rm]\nmodel = \"linear\"\ndrop_last = false\n{arm}")).expect_err("unused");
    assert!(error.to_string().contains("`stages.rm.drop_last` conflicts with `model = \"linear\"`"), "{error}");
    // stages that drop it are called as they were before the setting
    let json = serde_json::to_value(&parse(arm).expect("valid").stages).expect("plain data");
    assert!(json["sft"].get("drop_last").is_none() && json["rm"].get("drop_last").is_none(), "{json}");
}

/// Samples of best-of-N have no effect where it is exact or not measured, and are at least those of one prompt.
#[test]
fn samples_of_best_of_n_are_refused_where_nothing_reads_them() {
    let refused = |world: &str, evaluation: &str| {
        let text =
            format!("name = 't'\n[world]\nkind = '{world}'\n[evaluation]\n{evaluation}\n[arms.a]\nmethod = 'dpo'\n");
        parse(&text).err().map(|error| format!("{error}: {}; {}", error.label(), error.hint()))
    };
    for (world, evaluation) in
        [("grammar", "best_of = 512"), ("reviews", "best_of = 512"), ("reviews", "best_of_samples = 256")]
    {
        assert_eq!(refused(world, evaluation), None, "{world}, {evaluation}");
    }
    for (world, evaluation, says) in [
        ("grammar", "best_of_samples = 64", "grammar"),
        ("reviews", "best_of = 1\nbest_of_samples = 64", "best_of = 1"),
        ("reviews", "best_of_samples = 255", "at least evaluation.best_of, 256"),
        ("reviews", "best_of_samples = 0", "from 1 to"),
    ] {
        let message = refused(world, evaluation).expect(evaluation);
        assert!(message.contains("best_of_samples") && message.contains(says), "{message}");
    }
    let settings =
        |best_of, best_of_samples| EvaluationSettings { best_of, best_of_samples, ..EvaluationSettings::defaults() };
    let prompts = [(256, 8192), (255, 8192), (16, 8192), (16, 1 << 20), (256, 256)];
    assert_eq!(prompts.map(|(n, samples)| settings(n, samples).best_of_prompts()), [32, 64, 512, 512, 1]);
}
