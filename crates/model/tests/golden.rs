//! Checkpoints that transformers wrote, GPT-2, Llama and other families, and PEFT adapters on them: logits, losses,
//! gradients, greedy generation, and the way back to disk.
#![expect(clippy::unwrap_used, reason = "tests")]

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Int, Tensor, TensorData, activation::log_softmax};
use duel_model::{
    Checkpoint, FileDType, NormKind, Policy, Pretrained, TokenizerFiles, Tokens, TransformerConfig, greedy,
    huggingface, peft, weights,
};
use duel_spec::TokenSpec;
use duel_testing::golden;
use golden::{close, id_rows, items, number, numbers};
use serde_json::{Value, json};
use std::collections::HashMap;

const MODELS: [&str; 3] = ["gpt2", "llama_tied", "llama_untied"];
const ADAPTED: [(&str, &str); 2] = [("gpt2", "gpt2_lora"), ("llama_untied", "llama_untied_lora")];

/// A tensor's values.
fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.try_into_data().unwrap().iter::<f64>().collect()
}

fn checkpoint(name: &str, device: &Device) -> Checkpoint {
    Pretrained::read_checkpoint(&golden::folder().join("models").join(name), device).unwrap()
}

fn expected(name: &str) -> Value {
    golden::read(&format!("models/{name}/expected.json"))
}

/// A case's ids and padding.
fn tokens(case: &Value, device: &Device) -> Tokens {
    let ids = id_rows(&case["input_ids"]);
    let shape = [ids.len(), ids[0].len()];
    let ids: Vec<i32> = ids.concat().into_iter().map(|id| id as i32).collect();
    Tokens::with_left_padding(Tensor::from_data(TensorData::new(ids, shape), device), left(case))
}

/// Zeros of the attention mask before the first one.
fn left(case: &Value) -> Vec<usize> {
    id_rows(&case["attention_mask"]).iter().map(|row| row.iter().take_while(|m| **m == 0).count()).collect()
}

/// Log-prob of each next token, `[B, L − 1]`.
fn next_logp(policy: &Policy, tokens: &Tokens) -> Tensor<2> {
    let [_, l] = tokens.ids.dims();
    let logits = policy.logits(tokens.clone(), 0).narrow(1, 0, l - 1);
    let next: Tensor<2, Int> = tokens.ids.clone().narrow(1, 1, l - 1);
    log_softmax(logits, 2).gather(2, next.unsqueeze_dim::<3>(2)).squeeze_dim::<2>(2)
}

/// Which next tokens count: those that are real and whose predecessor is, row by row.
fn counted(case: &Value) -> Vec<f32> {
    let mask = id_rows(&case["attention_mask"]);
    mask.iter().flat_map(|row| row.windows(2).map(|w| (w[0] * w[1]) as f32)).collect()
}

/// Mean NLL over counted tokens.
fn loss(policy: &Policy, tokens: &Tokens, case: &Value) -> Tensor<1> {
    let logp = next_logp(policy, tokens);
    let counts = Tensor::<2>::from_data(TensorData::new(counted(case), logp.dims()), &tokens.ids.device());
    (logp * counts.clone()).sum().neg() / counts.sum()
}

/// The norm of the loss's gradient by parameter, under transformers' names.
fn gradient_norms(policy: &Policy, config: &TransformerConfig, loss: Tensor<1>) -> HashMap<String, f64> {
    struct Norms<'a> {
        gradients: &'a burn::tensor::Gradients,
        norms: Vec<Option<f64>>,
    }
    impl ModuleVisitor for Norms<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let norm = |g: Tensor<D>| values(g).iter().map(|x| x * x).sum::<f64>().sqrt();
            self.norms.push(param.val().grad(self.gradients).map(norm));
        }
    }
    let gradients = loss.backward();
    let mut visitor = Norms { gradients: &gradients, norms: vec![] };
    policy.visit(&mut visitor);
    let names = weights::named_params(policy).into_iter().map(|n| duel_model::hf_tensor(config, &n.name).name);
    names.zip(visitor.norms).filter_map(|(name, norm)| Some((name, norm?))).collect()
}

/// The logits of a file's sample of positions, within 2e-5 and a relative 1e-5.
fn same_logits(what: &str, logits: Tensor<3>, cases: &[Value]) {
    let [_, l, v] = logits.dims();
    let actual = values(logits);
    for case in cases {
        let (row, column) = (number(case, "row") as usize, number(case, "position") as usize);
        let start = (row * l + column) * v;
        for (token, (f, e)) in actual[start..start + v].iter().zip(numbers(&case["values"])).enumerate() {
            assert!(
                (f - e).abs() < 2e-5 + 1e-5 * e.abs(),
                "{what}, row {row}, column {column}, token {token}: {f}, expected {e}"
            );
        }
    }
}

/// Which positions are real, row by row.
fn real(case: &Value) -> Vec<bool> {
    numbers(&case["attention_mask"]).into_iter().map(|mask| mask == 1.0).collect()
}

/// The logits of the real positions, one after another.
fn real_logits(policy: &Policy, case: &Value, device: &Device) -> Vec<Vec<f64>> {
    let logits = policy.logits(tokens(case, device), 0);
    let vocabulary = logits.dims()[2];
    let all = values(logits);
    all.chunks(vocabulary).zip(real(case)).filter(|(_, real)| *real).map(|(row, _)| row.to_vec()).collect()
}

/// What is said of all logits of a case: their positions, normalisers and spread, and how far float32 strays.
fn all_logits(what: &str, policy: &Policy, case: &Value, device: &Device) {
    // positions are counted from the first real token on
    for (mask, expected) in id_rows(&case["attention_mask"]).iter().zip(id_rows(&case["position_ids"])) {
        let counted = mask.iter().scan(0, |sum, mask| {
            *sum += *mask;
            Some(u32::saturating_sub(*sum, 1))
        });
        assert_eq!(counted.collect::<Vec<_>>(), expected, "{what}: position_ids");
    }
    if case["logsumexp_all_positions"].is_null() {
        return; // adapters come without
    }
    let rows = real_logits(policy, case, device);
    let select = |v: &Value| {
        numbers(v).into_iter().zip(real(case)).filter(|(_, real)| *real).map(|(x, _)| x).collect::<Vec<_>>()
    };
    let normalisers: Vec<f64> = rows.iter().map(|row| row.iter().map(|x| x.exp()).sum::<f64>().ln()).collect();
    close(&format!("{what}: logsumexp"), &normalisers, &select(&case["logsumexp_all_positions"]), 1e-5);

    let logits = policy.logits(tokens(case, device), 0);
    let [_, length, vocabulary] = logits.dims();
    let actual = values(logits);
    let real: Vec<f64> = rows.concat();
    let mean = real.iter().sum::<f64>() / real.len() as f64;
    let variance = real.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (real.len() - 1) as f64;
    close(&format!("{what}: spread of the logits"), &[variance.sqrt()], &[number(case, "logits_std")], 1e-5);

    // ours are float32 too: of the order of what another library's float32 strays
    let apart = items(case, "logits").iter().flat_map(|one| {
        let start = (number(one, "row") as usize * length + number(one, "position") as usize) * vocabulary;
        let expected = numbers(&one["values"]);
        actual[start..start + vocabulary].iter().zip(expected).map(|(f, e)| (f - e).abs()).collect::<Vec<f64>>()
    });
    let apart = apart.fold(0.0, f64::max);
    assert!(apart < 4.0 * number(case, "float32_max_abs_diff"), "{what}: {apart} from float64");
}

/// Logits, next-token log-probs, loss and gradient norms of a model on one case.
fn forward_and_backward(what: &str, policy: &Policy, config: &TransformerConfig, case: &Value, device: &Device) {
    let tokens = tokens(case, device);
    same_logits(what, policy.logits(tokens.clone(), 0), items(case, "logits"));
    all_logits(what, policy, case, device);

    let real = counted(case);
    let select = |all: Vec<f64>| all.iter().zip(&real).filter(|(_, m)| **m > 0.0).map(|(x, _)| *x).collect::<Vec<_>>();
    let expected = select(numbers(&case["next_token_logprob_all_positions"]));
    close(&format!("{what}: log-probs"), &select(values(next_logp(policy, &tokens))), &expected, 1e-5);

    let loss = loss(policy, &tokens, case);
    close(&format!("{what}: loss"), &values(loss.clone()), &[number(case, "loss")], 1e-5);
    let norms = gradient_norms(policy, config, loss);
    let expected = case["grad_norm_per_parameter"].as_object().unwrap();
    assert!(!expected.is_empty());
    for (name, norm) in expected {
        let actual = norms.get(name).unwrap_or_else(|| panic!("{what}: no gradient of `{name}`"));
        close(&format!("{what}: gradient of {name}"), &[*actual], &[norm.as_f64().unwrap()], 1e-4);
    }
    if let Some(total) = case["grad_norm_global"].as_f64() {
        let actual = norms.values().map(|x| x * x).sum::<f64>().sqrt();
        close(&format!("{what}: gradient"), &[actual], &[total], 1e-4);
    }
}

#[test]
fn golden_models_forward_and_backward_on_every_padding() {
    let device = Device::flex().autodiff();
    for name in MODELS {
        let Checkpoint { config, policy, .. } = checkpoint(name, &device);
        for case in items(&expected(name), "cases") {
            let needed = !case["logsumexp_all_positions"].is_null() && !case["grad_norm_global"].is_null();
            assert!(needed, "{name}: a case without what a model's has");
            forward_and_backward(&format!("{name}, {}", case["name"]), &policy, &config, case, &device);
        }
    }
}

/// The least lead of a chosen token over the next best while these are written.
fn least_margin(policy: &Policy, case: &Value, new: &[Vec<u32>], device: &Device) -> f64 {
    let prompts = id_rows(&case["input_ids"]);
    let rows = prompts.iter().zip(new).zip(left(case)).map(|((prompt, new), left)| [&prompt[left..], new].concat());
    let rows: Vec<Vec<u32>> = rows.collect();
    let width = rows.iter().map(Vec::len).max().unwrap();
    let logits = policy.logits(Tokens::pad_left(&rows, width, 0, device), 0);
    let [_, length, vocabulary] = logits.dims();
    let all = values(logits);
    let lead = |row: usize, step: usize| {
        let start = (row * length + length - new[row].len() - 1 + step) * vocabulary;
        let mut of_step = all[start..start + vocabulary].to_vec();
        of_step.sort_by(|a, b| b.total_cmp(a));
        of_step[0] - of_step[1]
    };
    let leads = (0..rows.len()).flat_map(|row| (0..new[row].len()).map(move |step| (row, step)));
    leads.map(|(row, step)| lead(row, step)).fold(f64::INFINITY, f64::min)
}

#[test]
fn golden_models_write_greedily() {
    let device = Device::flex();
    for name in MODELS {
        let Checkpoint { config, policy, .. } = checkpoint(name, &device);
        let mut seen = 0;
        for case in items(&expected(name), "cases") {
            for key in ["greedy", "greedy_with_eos"] {
                let greedily = &case[key];
                if greedily.is_null() {
                    continue;
                }
                seen += 1;
                let new = id_rows(&greedily["new_tokens"]);
                if key == "greedy" {
                    assert_eq!(greedily["float32_gives_the_same"], true, "{name}: a choice that rounding makes");
                    let margin = least_margin(&policy, case, &new, &device);
                    close(&format!("{name}: margin"), &[margin], &[number(greedily, "min_top1_top2_margin")], 1e-3);
                }
                let never = config.vocabulary as u32;
                let rows = id_rows(&case["input_ids"]);
                let space = TokenSpec {
                    vocabulary: config.vocabulary,
                    pad: 0,
                    bos: 1,
                    eos: greedily["eos_token_id"].as_u64().map_or(never, |id| id as u32),
                    other_eos: vec![],
                    prompt_tokens: rows[0].len(),
                    response_tokens: new[0].len(),
                    allowed_tokens: None,
                    force_eos: false,
                };
                let prompts = rows.iter().zip(left(case)).map(|(row, left)| row[left..].to_vec()).collect();
                let actual = greedy(&policy, &space, prompts, &device).responses;
                let end = |row: &[u32]| row.iter().position(|&id| id == space.eos).map_or(row.len(), |i| i + 1);
                let expected: Vec<Vec<u32>> = new.iter().map(|row| row[..end(row)].to_vec()).collect();
                if let Some(pad) = greedily["pad_token_id"].as_u64() {
                    let rest = new.iter().flat_map(|row| &row[end(row)..]);
                    assert!(rest.into_iter().all(|id| u64::from(*id) == pad), "{name}: what follows EOS");
                }
                assert_eq!(actual, expected, "{name}, {}, {key}", case["name"]);
            }
        }
        assert!(seen > 0, "{name} has no greedy case");
    }
}

#[test]
fn golden_adapters_before_and_after_merging() {
    let device = Device::flex().autodiff();
    for (base, adapted) in ADAPTED {
        let Checkpoint { config, policy, .. } = checkpoint(base, &device);
        let folder = golden::folder().join("models").join(adapted);
        let plain = policy.clone();
        let policy = peft::read_adapter(&folder, &config, policy, &device).unwrap();
        let file = expected(adapted);
        assert_eq!(file["base"], base);
        let scaling =
            file["scaling"].as_str().unwrap().strip_prefix("lora_alpha / r = ").unwrap().parse::<f64>().unwrap();
        let mut scales = vec![];
        let _ = policy.clone().map_projections(|_, projection| {
            scales.extend(projection.lora.as_ref().map(|lora| lora.scale));
            projection
        });
        assert!(!scales.is_empty() && scales.iter().all(|scale| *scale == scaling), "{adapted}: {scales:?}");
        for case in items(&file, "cases") {
            let [with, without] = [&policy, &plain].map(|policy| real_logits(policy, case, &device).concat());
            let apart = with.iter().zip(without).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let expected = number(case, "adapter_changes_logits_by");
            close(&format!("{adapted}: what the adapter changes"), &[apart], &[expected], 1e-5);
        }
        for case in items(&file, "cases") {
            forward_and_backward(&format!("{adapted}, {}", case["name"]), &policy, &config, case, &device);
        }
        let merged = policy.merged();
        for case in items(&file, "cases") {
            let what = format!("{adapted}, merged, {}", case["name"]);
            same_logits(&what, merged.logits(tokens(case, &device), 0), items(case, "logits_after_merge"));
        }
        let norms = file["merged_parameter_norms"].as_object().unwrap();
        let parameters = weights::named_params(&merged);
        assert_eq!(norms.len(), parameters.len(), "{adapted}: no adapter is left");
        for n in parameters {
            let name = duel_model::hf_tensor(&config, &n.name).name;
            let norm = n.values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            close(&format!("{adapted}, merged {name}"), &[norm], &[norms[&name].as_f64().unwrap()], 1e-5);
        }
    }
}

#[test]
fn golden_models_go_to_disk_and_back_unchanged() {
    let device = Device::flex();
    for name in MODELS {
        let source = golden::folder().join("models").join(name);
        // the directories come without a tokenizer; whatever it is, it is passed on byte by byte
        let tokenizer = Some(b"{\"version\": \"1.0\",\n \"model\": {}}".to_vec());
        let mut before = checkpoint(name, &device);
        before.tokenizer_files =
            TokenizerFiles { tokenizer, template: Some("{{ messages }}".into()), ..before.tokenizer_files };
        let folder = std::env::temp_dir().join(format!("duel-golden-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        huggingface::write(&folder, &before, FileDType::F32).unwrap();
        let again = Pretrained::read_checkpoint(&folder, &device).unwrap();
        assert_eq!((again.config, again.tokenizer_files), (before.config, before.tokenizer_files));
        assert_eq!(weights::hash(&again.policy), weights::hash(&before.policy));
        let tensors = |folder: &std::path::Path| weights::to_host(&folder.join("model.safetensors")).unwrap();
        assert_eq!(tensors(&folder), tensors(&source), "{name}: the same tensors under the same names");
        let json = |folder: &std::path::Path| -> Value {
            serde_json::from_str(&std::fs::read_to_string(folder.join("config.json")).unwrap()).unwrap()
        };
        let (ours, theirs) = (json(&folder), json(&source));
        for (key, value) in ours.as_object().unwrap() {
            // they leave `n_inner` empty where it is four times the width, and write theta once
            if !["n_inner", "rope_theta"].contains(&key.as_str()) {
                assert_eq!(*value, theirs[key], "{name}: {key}");
            }
        }
        std::fs::write(folder.join("tokenizer.json"), "{").unwrap();
        assert!(matches!(Pretrained::read_checkpoint(&folder, &device), Err(duel_model::Error::Damaged { .. })));
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// Folders of `families` that hold language models, each with an adapter on it.
fn families() -> Vec<String> {
    let folders = std::fs::read_dir(golden::folder().join("families")).unwrap();
    let mut names: Vec<String> = folders.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with("_reward"));
    names.sort();
    assert!(!names.is_empty());
    names
}

/// A family's case in the words of the others.
fn family_inputs(case: &Value) -> Value {
    json!({"input_ids": case["ids"], "attention_mask": case["mask"]})
}

/// The logits of all real positions.
fn same_family_logits(what: &str, policy: &Policy, inputs: &Value, expected: &Value, device: &Device) {
    let rows = expected.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
    let expected = rows.zip(real(inputs)).filter(|(_, real)| *real).flat_map(|(logits, _)| numbers(logits));
    let actual = real_logits(policy, inputs, device).concat();
    golden::close_within(what, &actual, &expected.collect::<Vec<_>>(), 1e-5, 4e-5);
}

#[test]
fn golden_families_forward_and_backward_with_and_without_adapters() {
    let device = Device::flex().autodiff();
    for name in families() {
        let folder = golden::folder().join("families").join(&name);
        let Checkpoint { config, policy, .. } = Pretrained::read_checkpoint(&folder, &device).unwrap();
        let settings = golden::read(&format!("families/{name}/config.json"));
        assert_eq!(config.architecture.family, settings["model_type"], "{name}");
        let file = golden::read(&format!("families/{name}/expected.json"));
        assert_eq!(config.vocabulary as f64, number(&file, "vocabulary"));
        let head = duel_model::hf_tensor(&config, "head.weight").name;
        let cases = items(&file, "cases");
        for case in cases {
            let (what, inputs) = (format!("{name}, {}", case["name"]), family_inputs(case));
            same_family_logits(&what, &policy, &inputs, &case["logits"], &device);
            let loss = loss(&policy, &tokens(&inputs, &device), &inputs);
            close(&format!("{what}: loss"), &values(loss.clone()), &[number(case, "loss")], 1e-5);
            let norms = gradient_norms(&policy, &config, loss);
            let expected = case["grad_norms"].as_object().unwrap();
            assert_eq!(norms.len(), expected.len(), "{what}: parameters");
            // a bias of keys without rotary positions has no gradient but rounding
            let zero = 1e-6 * expected.values().filter_map(Value::as_f64).fold(0.0, f64::max);
            for (parameter, norm) in expected {
                let what = format!("{what}: gradient of {parameter}");
                // transformers calls it so in memory, whatever its name in the file
                let parameter = if parameter == "lm_head.weight" { &head } else { parameter };
                let actual = norms.get(parameter).unwrap_or_else(|| panic!("{what}: none among {:?}", norms.keys()));
                golden::close_within(&what, &[*actual], &[norm.as_f64().unwrap()], 1e-4, zero);
            }
        }
        let inputs = family_inputs(&cases[0]);
        let adapted = peft::read_adapter(&folder.join("adapter"), &config, policy, &device).unwrap();
        assert!(adapted.has_lora());
        for (what, policy) in [("adapted", adapted.clone()), ("merged", adapted.merged())] {
            same_family_logits(&format!("{name}, {what}"), &policy, &inputs, &file["adapter"]["logits"], &device);
        }
    }
}

#[test]
fn golden_families_write_greedily_with_the_log_probs_that_reading_gives() {
    let device = Device::flex();
    for name in families() {
        let folder = golden::folder().join("families").join(&name);
        let Checkpoint { config, policy, .. } = Pretrained::read_checkpoint(&folder, &device).unwrap();
        assert!(policy.decoder().is_some(), "{name} is decoded by the kernels");
        let file = golden::read(&format!("families/{name}/expected.json"));
        let (prompt, expected) = (golden::ids(&file["greedy"]["prompt"]), golden::ids(&file["greedy"]["tokens"]));
        let space = TokenSpec {
            vocabulary: config.vocabulary,
            pad: 0,
            bos: 1,
            eos: config.vocabulary as u32,
            other_eos: vec![],
            prompt_tokens: prompt.len(),
            response_tokens: expected.len(),
            allowed_tokens: None,
            force_eos: false,
        };
        let adapted = peft::read_adapter(&folder.join("adapter"), &config, policy.clone(), &device).unwrap();
        for (policy, expected) in [(policy, Some(&expected)), (adapted, None)] {
            let prompts = vec![prompt.clone(), prompt[2..].to_vec()];
            let batch = greedy(&policy, &space, prompts, &device);
            assert!(expected.is_none_or(|expected| batch.responses[0] == *expected), "{name}: {:?}", batch.responses);
            let rows: Vec<Vec<u32>> = batch
                .prompts
                .iter()
                .zip(&batch.responses)
                .map(|(prompt, response)| [&prompt[..], response].concat())
                .collect();
            let read = next_logp(&policy, &Tokens::pad_left(&rows, rows[0].len(), 0, &device));
            let [_, columns] = read.dims();
            let read: Vec<f64> =
                values(read).chunks(columns).flat_map(|row| row[prompt.len() - 1..].to_vec()).collect();
            let written: Vec<f64> = batch.logp.concat().into_iter().map(f64::from).collect();
            golden::close_within(&format!("{name}: log-probs"), &written, &read, 0.0, 1e-5);
        }
    }
}

#[test]
fn golden_families_go_to_disk_and_back_unchanged() {
    let device = Device::flex();
    for name in families() {
        let folder = golden::folder().join("families").join(&name);
        let before = Pretrained::read_checkpoint(&folder, &device).unwrap();
        let to = std::env::temp_dir().join(format!("duel-golden-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&to).unwrap();
        huggingface::write(&to, &before, FileDType::F32).unwrap();
        let file = to.join("m.gguf");
        let written = duel_model::gguf::write(&file, &before, duel_model::gguf::Precision::F32);
        let family = duel_model::families().find(|family| family.model_type == before.config.architecture.family);
        let has_gguf = family.unwrap().gguf.is_some();
        assert_eq!(written.is_ok(), has_gguf, "{name}: {written:?}");
        let expected = golden::read(&format!("families/{name}/expected.json"));
        let case = &items(&expected, "cases")[1];
        let inputs = family_inputs(case);
        for path in [&to, &file].into_iter().take(1 + usize::from(has_gguf)) {
            let mut after = Pretrained::open(path).unwrap();
            let context = after.config.context;
            // GGUF holds numbers as f32
            let scales = [&after.config, &before.config].map(|config| config.architecture.attention.scale);
            if let [Some(scale), Some(expected)] = scales {
                assert!((scale - expected).abs() < 1e-7 * expected, "{name}: {scale}, expected {expected}");
                after.config.architecture.attention.scale = Some(expected);
            }
            assert_eq!(after.config, TransformerConfig { context, ..before.config.clone() }, "{}", path.display());
            let policy = after.policy(context, &device).unwrap();
            // GGUF holds 1 + w of Gemma's gains, which rounds w
            let is_rounded = path == &file && before.config.architecture.norm.kind == NormKind::RmsOnePlus;
            if is_rounded {
                same_family_logits(&format!("{name}, GGUF"), &policy, &inputs, &case["logits"], &device);
                continue;
            }
            assert_eq!(weights::hash(&policy), weights::hash(&before.policy), "{}", path.display());
            match after.mapped(context, None, &device) {
                Ok(mapped) => {
                    assert_eq!(mapped.hash(), weights::hash(&before.policy), "{}", path.display());
                    same_family_logits(&format!("{name}, mapped"), &mapped, &inputs, &case["logits"], &device);
                }
                // whose files hold matrices as [in, out]
                Err(error) => {
                    let is_gpt2 = before.config.architecture.family == "gpt2" && path == &to;
                    assert!(is_gpt2 && error.to_string().contains("model.mapped"), "{name}: {error}");
                }
            }
        }
        std::fs::remove_dir_all(to).unwrap();
    }
}
