"""The peers' side of `duel bench --peers`: runs one step each time a line comes in, and answers with its seconds.

torch   a lean loop on bare PyTorch: GPT-2 blocks with fused attention, the head at response positions only, fused AdamW
trl     TRL's trainers on Hugging Face's models; for `generate` and `logp` Hugging Face's models alone

Equal work on both sides, as stated in docs/performance.md: fp32 (or, where Duel keeps frozen matrices in bf16, models loaded in bf16 and
TRL's trainers with bf16=True), no dropout, random tokens, sequences of full length. A training step is
forward, backward, clipping at 1.0 and AdamW. A PPO iteration is rollouts, reward, reference and values, GAE, and 4
epochs of 4 minibatches with a value model as large as the policy.
"""
import argparse
import copy
import importlib.metadata
import json
import os
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")
ANSWERS = os.fdopen(os.dup(1), "w")  # what libraries print goes to the error stream
os.dup2(2, 1)

import torch
import torch.nn as nn
import torch.nn.functional as F

EPOCHS, MINIBATCHES = 4, 4
BETA, KL, LAM, CLIP, VALUE_WEIGHT = 0.1, 0.05, 0.95, 0.2, 0.1
RATE, PPO_RATE = 1e-4, 1e-5


# ---------------------------------------------------------------- bare PyTorch
class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, inner = shape["width"], 4 * shape["width"]
        self.heads, self.gelu = shape["heads"], shape["gelu"]
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, inner), nn.Linear(inner, d)

    def forward(self, x, cache=None, start=0):
        b, l, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, l, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0][:, :, start : start + l], cache[1][:, :, start : start + l] = k, v
            k, v = cache[0][:, :, : start + l], cache[1][:, :, : start + l]
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=l > 1)
        x = x + self.out(mixed.transpose(1, 2).reshape(b, l, d))
        up = self.up(self.norm2(x))
        return x + self.down(F.gelu(up, approximate="tanh") if self.gelu else F.relu(up).square())


class Gpt2(nn.Module):
    def __init__(self, shape, scalar=False):
        super().__init__()
        d = shape["width"]
        self.shape = shape
        self.tokens = nn.Embedding(shape["vocabulary"], d)
        self.positions = nn.Embedding(shape["prompt"] + shape["response"], d)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape["layers"]))
        self.norm = nn.LayerNorm(d)
        self.scalar = nn.Linear(d, 1, bias=False) if scalar else None
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=0.02)

    def hidden(self, ids, cache=None, start=0):
        x = self.tokens(ids) + self.positions.weight[start : start + ids.shape[1]]
        for i, block in enumerate(self.blocks):
            x = block(x, None if cache is None else cache[i], start)
        return self.norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.tokens.weight)

    def logp(self, ids):
        """Log-probs of the response tokens [B, T]; only their positions reach the head."""
        p = self.shape["prompt"]
        logp = torch.log_softmax(self.logits(self.hidden(ids)[:, p - 1 : -1]), -1)
        return logp.gather(2, ids[:, p:, None])[..., 0]

    @torch.no_grad()
    def generate(self, prompts):
        """Samples with a preallocated cache; returns tokens and their log-probs."""
        b, p = prompts.shape
        n, heads = self.shape["response"], self.shape["heads"]
        size = (b, heads, p + n, self.shape["width"] // heads)
        cache = [(torch.empty(size), torch.empty(size)) for _ in self.blocks]
        x, start, said, logps = prompts, 0, [], []
        for _ in range(n):
            hidden = self.hidden(x, cache, start)[:, -1]
            start += x.shape[1]
            logp = torch.log_softmax(self.logits(hidden), -1)
            x = torch.multinomial(logp.exp(), 1)
            said.append(x)
            logps.append(logp.gather(1, x))
        return torch.cat(said, 1), torch.cat(logps, 1)


def trained(modules, rate=RATE):
    """The parameters, and what makes one update from a loss."""
    parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, fused=True, weight_decay=0.0)

    def step(loss):
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def random_ids(shape, rows, length=None):
    return torch.randint(3, shape["vocabulary"], (rows, length or shape["prompt"] + shape["response"]))


def torch_step(case, shape):
    """A function that makes one step."""
    b, p = shape["batch"], shape["prompt"]
    ids = random_ids(shape, b)
    if case == "sft":
        model = Gpt2(shape)
        step = trained([model])
        return lambda: step(-model.logp(ids).mean())
    if case == "reward":
        model, ids = Gpt2(shape, scalar=True), random_ids(shape, 2 * b)
        step = trained([model])

        def run():
            chosen, rejected = model.scalar(model.hidden(ids)[:, -1])[:, 0].chunk(2)
            step(-F.logsigmoid(chosen - rejected).mean())

        return run
    if case in ("dpo_cached", "dpo_live"):
        model, ids = Gpt2(shape), random_ids(shape, 2 * b)
        reference = copy.deepcopy(model).requires_grad_(False)
        step = trained([model])
        read = torch.no_grad()(lambda: reference.logp(ids).sum(1))
        stored = read()

        def run():
            against = stored if case == "dpo_cached" else read()
            chosen, rejected = (model.logp(ids).sum(1) - against).chunk(2)
            step(-F.logsigmoid(BETA * (chosen - rejected)).mean())

        return run
    model = Gpt2(shape).eval()
    if case == "generate":
        prompts = random_ids(shape, shape["rollout"], p)
        return lambda: model.generate(prompts)
    if case == "logp":
        return torch.no_grad()(lambda: model.logp(ids))
    return torch_ppo(shape)


def torch_ppo(shape):
    b, p, n = shape["episodes"], shape["prompt"], shape["response"]
    policy, value = Gpt2(shape), Gpt2(shape, scalar=True)
    reference, reward = Gpt2(shape).requires_grad_(False), Gpt2(shape, scalar=True).requires_grad_(False)
    step = trained([policy, value], PPO_RATE)
    values_of = lambda ids: value.scalar(value.hidden(ids)[:, p - 1 : -1])[..., 0]

    def run():
        prompts = random_ids(shape, b, p)
        responses, old = policy.generate(prompts)
        ids = torch.cat([prompts, responses], 1)
        with torch.no_grad():
            rewards = -KL * (old - reference.logp(ids))
            rewards[:, -1] += reward.scalar(reward.hidden(ids)[:, -1])[:, 0]
            values = values_of(ids)
            advantages, last = torch.zeros_like(values), torch.zeros(b)
            for t in reversed(range(n)):
                after = values[:, t + 1] if t < n - 1 else 0.0
                last = rewards[:, t] + after - values[:, t] + LAM * last
                advantages[:, t] = last
            returns = advantages + values
            advantages = (advantages - advantages.mean()) * torch.rsqrt(advantages.var() + 1e-8)
        for _ in range(EPOCHS):
            for i in torch.randperm(b).chunk(MINIBATCHES):
                ratio = (policy.logp(ids[i]) - old[i]).exp()
                clipped = ratio.clamp(1 - CLIP, 1 + CLIP)
                policy_loss = torch.max(-advantages[i] * ratio, -advantages[i] * clipped).mean()
                new = values_of(ids[i])
                near = torch.minimum(torch.maximum(new, values[i] - CLIP), values[i] + CLIP)
                value_loss = 0.5 * torch.max((new - returns[i]) ** 2, (near - returns[i]) ** 2).mean()
                step(policy_loss + VALUE_WEIGHT * value_loss)

    return run


# ---------------------------------------------------------------- TRL and Hugging Face
def hf_config(shape):
    from transformers import GPT2Config, LlamaConfig, Qwen2Config

    rotary = {"llama": LlamaConfig, "qwen2": Qwen2Config}.get(shape["family"])
    if rotary:
        return rotary(
            vocab_size=shape["vocabulary"], hidden_size=shape["width"], intermediate_size=shape["inner"],
            num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"],
            num_key_value_heads=shape["key_value_heads"], max_position_embeddings=shape["prompt"] + shape["response"],
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        )  # fmt: skip
    return GPT2Config(
        vocab_size=shape["vocabulary"], n_positions=shape["prompt"] + shape["response"], n_embd=shape["width"],
        n_layer=shape["layers"], n_head=shape["heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip


def dtype(shape):
    return torch.float32 if shape["numbers"] == "f32" else torch.bfloat16


def hf_policy(shape):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(hf_config(shape), dtype=dtype(shape))


def hf_scalar(shape):
    from transformers import AutoModelForSequenceClassification

    config = hf_config(shape)
    config.num_labels = 1
    return AutoModelForSequenceClassification.from_config(config, dtype=dtype(shape))


def lora_config(shape):
    from peft import LoraConfig

    parts = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    return LoraConfig(r=shape["lora_rank"], lora_alpha=2 * shape["lora_rank"], target_modules=parts)


def tokenizer(shape):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"t{i}": i for i in range(3, shape["vocabulary"])}}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<s>")),
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="left",
    )  # fmt: skip


def hf_step(case, shape):
    b, p, n = shape["batch"], shape["prompt"], shape["response"]
    model, ids = hf_policy(shape).eval(), random_ids(shape, b)
    if case == "generate":
        from transformers import GenerationConfig

        how = GenerationConfig(
            max_new_tokens=n, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, eos_token_id=None, pad_token_id=0
        )
        prompts = random_ids(shape, shape["rollout"], p)
        mask = torch.ones_like(prompts)

        @torch.no_grad()
        def run():
            said = model.generate(input_ids=prompts, attention_mask=mask, generation_config=how)
            assert said.shape[1] == p + n

        return run

    @torch.no_grad()
    def run():
        logits = model(input_ids=ids, logits_to_keep=n + 1).logits[:, :-1]
        torch.log_softmax(logits, -1).gather(2, ids[:, p:, None])

    return run


def serve_trl(case, shape, answer):
    """Runs a trainer that pauses at the end of every step until `answer` requests the next."""
    from datasets import Dataset
    from transformers import TrainerCallback
    from transformers.utils import logging

    logging.set_verbosity_error()
    b, p, n = shape["episodes" if case == "ppo" else "batch"], shape["prompt"], shape["response"]
    rows, steps = 16 * b, 1 << 20

    class Stand(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if not answer():
                raise SystemExit

    def settings(of, folder, **more):
        return of(
            output_dir=folder, per_device_train_batch_size=b, learning_rate=RATE, lr_scheduler_type="constant",
            weight_decay=0.0, logging_steps=steps, save_strategy="no", report_to="none", use_cpu=True, bf16=shape["numbers"] != "f32",
            gradient_checkpointing=False, disable_tqdm=True, **more,
        )  # fmt: skip

    def supervised(of, folder, **more):
        return settings(
            of, folder, max_steps=steps, max_length=None, fp16=False, remove_unused_columns=False,
            dataloader_pin_memory=False, **more,
        )  # fmt: skip

    def lists(count, length=None):
        return [row.tolist() for row in random_ids(shape, count, length)]

    def trainer(folder):
        rest = dict(processing_class=tokenizer(shape), callbacks=[Stand()])
        if case == "sft":
            from trl import SFTConfig, SFTTrainer

            mask = [0] * p + [1] * n
            data = Dataset.from_list([dict(input_ids=ids, completion_mask=mask) for ids in lists(rows)])
            how = supervised(SFTConfig, folder, completion_only_loss=True, packing=False)
            return SFTTrainer(model=hf_policy(shape), args=how, train_dataset=data, **rest)
        if case == "reward":
            from trl import RewardConfig, RewardTrainer

            pairs = zip(lists(rows), lists(rows))
            data = Dataset.from_list([dict(chosen_ids=chosen, rejected_ids=rejected) for chosen, rejected in pairs])
            how = supervised(RewardConfig, folder)
            return RewardTrainer(model=hf_scalar(shape), args=how, train_dataset=data, **rest)
        if case in ("dpo_cached", "dpo_live", "dpo_lora"):
            from trl import DPOConfig, DPOTrainer

            class Tokenized(DPOTrainer):
                def _prepare_dataset(self, dataset, *args, **kwargs):
                    return dataset

            triples = zip(lists(rows, p), lists(rows, n), lists(rows, n))
            data = Dataset.from_list([dict(prompt_ids=x, chosen_ids=y, rejected_ids=z) for x, y, z in triples])
            more = {} if case == "dpo_live" else dict(precompute_ref_log_probs=True, precompute_ref_batch_size=b)
            how = supervised(DPOConfig, folder, beta=BETA, **more)
            model = hf_policy(shape)
            if case == "dpo_lora":
                return Tokenized(model=model, args=how, train_dataset=data, peft_config=lora_config(shape), **rest)
            reference = copy.deepcopy(model)
            return Tokenized(model=model, args=how, train_dataset=data, ref_model=reference, **rest)
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        data = Dataset.from_dict(dict(input_ids=lists(rows, p)))
        how = settings(
            PPOConfig, folder, gradient_accumulation_steps=1, num_mini_batches=MINIBATCHES, num_ppo_epochs=EPOCHS,
            total_episodes=b * 1000, local_rollout_forward_batch_size=b, response_length=n, temperature=1.0,
            kl_coef=KL, num_sample_generations=0,
        )  # fmt: skip
        model, value = hf_policy(shape), hf_scalar(shape)
        if shape["lora_rank"]:
            from peft import inject_adapter_in_model

            # the value model is adapted too, and the reference is the policy without its adapters
            value = inject_adapter_in_model(lora_config(shape), value)
            value.score.requires_grad_(True)
            rest["peft_config"] = lora_config(shape)
        reference = None if shape["lora_rank"] else copy.deepcopy(model)
        return PPOTrainer(
            args=how, model=model, ref_model=reference, reward_model=hf_scalar(shape), value_model=value,
            train_dataset=data, **rest,
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        trainer(folder).train()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--case", required=True)
    options.add_argument("--impl", choices=["torch", "trl"], required=True)
    options.add_argument("--threads", type=int, required=True)
    options.add_argument("--shape", type=json.loads, required=True)
    options = options.parse_args()
    case, shape = options.case, options.shape
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)

    started = None

    def say(**what):
        print(json.dumps(what), file=ANSWERS, flush=True)

    def answer():
        """The end of a step: reports how long it took, and waits for the next request; false if there will be none."""
        nonlocal started
        if started is not None:
            say(seconds=time.perf_counter() - started)
        else:
            names = ["torch"] if options.impl == "torch" else ["torch", "transformers", "trl"]
            say(ready=True, versions={name: importlib.metadata.version(name) for name in names})
        asked = sys.stdin.readline() != ""
        started = time.perf_counter()
        return asked

    if options.impl == "trl" and case not in ("generate", "logp"):
        return serve_trl(case, shape, answer)  # its first step, which is not timed, ends with "ready"
    run = torch_step(case, shape) if options.impl == "torch" else hf_step(case, shape)
    run()
    while answer():
        run()


if __name__ == "__main__":
    main()
