"""Adapters of every kind on a tiny model, and what plain PEFT, or the paper's equation, says."""

import copy
import json
import warnings
from functools import cached_property, partial

import torch
from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    ShiraConfig,
    TrainableTokensConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from gossamer.serving.core.messages import SamplingParams
from gossamer.tuners import BottleneckConfig, MeftConfig, SherlConfig

from tiny import make_tiny_model, module_shapes

GREEDY = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, logprobs=0)
# Differences this small in a logit are rounding; the order of sums decides then.
TOLERANCE = 1e-3
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CAUSAL = {"task_type": "CAUSAL_LM"}
PEFT_CONFIGS = {
    "lora": LoraConfig(r=8, target_modules=ALL, **CAUSAL),
    "lora-qv": LoraConfig(r=3, lora_alpha=7, target_modules=["q_proj", "v_proj"], **CAUSAL),
    "dora": LoraConfig(r=4, lora_alpha=6, target_modules=ALL, use_dora=True, **CAUSAL),
    "dora-qk": LoraConfig(
        r=2, use_rslora=True, target_modules=["q_proj", "k_proj"], use_dora=True, **CAUSAL
    ),
    "ia3": IA3Config(
        target_modules=["k_proj", "v_proj", "down_proj"],
        feedforward_modules=["down_proj"],
        **CAUSAL,
    ),
    "shira": ShiraConfig(r=4, target_modules=ALL, **CAUSAL),
    "shira-v": ShiraConfig(r=1, target_modules=["v_proj"], random_seed=3, **CAUSAL),
    "norms": LNTuningConfig(target_modules=["input_layernorm", "norm"], **CAUSAL),
    "biases": LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["q_proj", "down_proj"],
        bias="all",
        lora_bias=True,
        modules_to_save=["post_attention_layernorm"],
        **CAUSAL,
    ),
    "tables": LoraConfig(
        r=2, target_modules=["v_proj"], modules_to_save=["embed_tokens", "lm_head"], **CAUSAL
    ),
    "tokens": TrainableTokensConfig(
        token_indices=[200, 5, 31, *range(12, 22), *range(100, 130)], **CAUSAL
    ),
    "houlsby": BottleneckConfig(
        target_modules=["o_proj", "down_proj"], width=70, activation="gelu", scale=0.7, **CAUSAL
    ),
    "sherl": SherlConfig(late_layers=1, **CAUSAL),
    "sherl-gated": SherlConfig(late_layers=0, layers=[1], skip="gated", form="linear", **CAUSAL),
    "sherl-norms": SherlConfig(late_layers=2, reduction=3, form="layer_norm", **CAUSAL),
    "meft": MeftConfig(reversible_layers=2, **CAUSAL),
    "meft2": MeftConfig(variant="meft2", reversible_layers=3, width=5, activation="tanh", **CAUSAL),
    "meft3": MeftConfig(
        variant="meft3", reversible_layers=1, residual="whole", stream_dtype="float32", **CAUSAL
    ),
    "prompt": PromptTuningConfig(num_virtual_tokens=5, **CAUSAL),
    "p-tuning": PromptEncoderConfig(num_virtual_tokens=18, encoder_hidden_size=16, **CAUSAL),
    "prefix": PrefixTuningConfig(num_virtual_tokens=16, **CAUSAL),
    "prefix-21": PrefixTuningConfig(num_virtual_tokens=21, prefix_projection=True, **CAUSAL),
}
REFT = {
    "loreft": {"variant": "loreft", "first_positions": 3, "last_positions": 4, "tied": True},
    "nodireft": {"variant": "nodireft", "first_positions": 2, "last_positions": 0, "tied": True},
    "direft": {"variant": "direft", "first_positions": 7, "last_positions": 7, "tied": False},
}
SMT = {"smt": 5}
TABLE_CONFIGS = {
    "table-factors": LoraConfig(
        r=3, lora_alpha=5, target_modules=["q_proj", "embed_tokens", "lm_head"], **CAUSAL
    ),
    "head-factors": LoraConfig(r=2, target_modules=["lm_head"], **CAUSAL),
}
NAMES = [*PEFT_CONFIGS, *REFT, *SMT, *TABLE_CONFIGS]
PREFIX = "base_model.model."


class Kinds:
    """A model with an adapter of every kind in one folder; a tiny one of a family if none is given.

    `size` is that of the adapters' changes; `rounding` what log-probabilities may differ by.
    """

    def __init__(self, folder, model_type="llama", *, model=None, size=1.0, rounding=TOLERANCE):
        self.model = model or make_tiny_model(
            folder / "model", model_type=model_type, tie_word_embeddings=False
        )
        self.size = size
        self.rounding = rounding
        self.adapters = folder / "adapters"
        self._references = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._give_biases()
            for seed, (name, config) in enumerate((PEFT_CONFIGS | TABLE_CONFIGS).items()):
                self._save_with_peft(name, config, seed)
        for seed, (name, fields) in enumerate(REFT.items()):
            self._save_reft(name, fields, seed)
        for name, seed in SMT.items():
            self._save_smt(name, seed)

    @cached_property
    def base(self):
        return AutoModelForCausalLM.from_pretrained(self.model, dtype=torch.float32).eval()

    def _give_biases(self):
        """A new model's biases are zero, which would hide what is done to them."""
        biased = [p for name, p in self.base.named_parameters() if name.endswith("proj.bias")]
        if biased:
            generator = torch.Generator().manual_seed(1)
            for bias in biased:
                bias.data.normal_(0, 0.5, generator=generator)
            self.base.save_pretrained(self.model)

    def _save_with_peft(self, name, config, seed):
        torch.manual_seed(seed)
        model = get_peft_model(copy.deepcopy(self.base), copy.deepcopy(config))
        for key, weight in model.named_parameters():
            if not weight.requires_grad:
                continue
            if "sherl_" in key:
                inner = 1.0 if "out_weight" in key else weight.shape[-1] ** -0.5
                weight.data += 0.3 * self.size * inner * torch.randn_like(weight)
            elif "meft_" in key:
                weight.data += 0.2 * self.size * torch.randn_like(weight)
            elif "magnitude" in key or "ia3_l" in key:
                weight.data *= 1 + 0.4 * self.size * torch.randn_like(weight)
            elif "lora_B" in key:
                weight.data.normal_(0, 0.3 * self.size)
            elif "shira" in key:
                weight.data.normal_(0, 0.25 * self.size)
            elif "bottleneck_up" in key:
                weight.data.normal_(0, 0.05 * self.size)
            elif "norm" in key:
                weight.data *= 1 + 0.3 * self.size * torch.randn_like(weight)
            elif any(part in key for part in ("bias", "embed_tokens", "lm_head")):
                weight.data += 0.04 * self.size * torch.randn_like(weight)
            elif "prompt_encoder" in key:
                weight.data.normal_(0, self.size * (1 if name.startswith("prefix") else 0.3))
        model.save_pretrained(self.adapters / name)

    def _save_reft(self, name, fields, seed):
        generator = torch.Generator().manual_seed(100 + seed)
        rank, layers = 3 + seed, [0, 2]
        tensors = {}
        width = self.base.config.hidden_size
        for layer in layers:
            for group in ("", "last_") if not fields["tied"] else ("",):
                rotate = torch.linalg.qr(torch.randn(width, rank, generator=generator))[0].T
                path = f"{PREFIX}model.layers.{layer}.reft_{group}"
                tensors[path + "rotate"] = rotate.contiguous()
                weight = torch.randn(rank, width, generator=generator) * self.size / 4
                tensors[path + "weight"] = weight
                tensors[path + "bias"] = torch.randn(rank, generator=generator) * self.size
        config = {"peft_type": "GOSSAMER_REFT", "rank": rank, "layers": layers, **fields}
        self._save(name, config, tensors)

    def _save_smt(self, name, seed):
        generator = torch.Generator().manual_seed(seed)
        tensors = {}
        for path, (h_out, h_in) in module_shapes(self.model).items():
            places = [[0, 0, 16, 16], [h_out - 9, h_in - 17, 9, 17], [3, 20, 1, 5]]
            if "v_proj" in path or "down_proj" in path:
                size = sum(height * width for _, _, height, width in places)
                tensors[f"{PREFIX}{path}.smt_blocks"] = torch.tensor(places, dtype=torch.int32)
                values = torch.randn(size, generator=generator) * 0.3 * self.size
                tensors[f"{PREFIX}{path}.smt_values"] = values
        self._save(name, {"peft_type": "GOSSAMER_SMT", "block": 16}, tensors)

    def _save(self, name, config, tensors):
        folder = self.adapters / name
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, folder / "adapter_model.safetensors")

    @cached_property
    def requests(self):
        """(prompt, adapter) of each: every adapter twice, base-only ones, unlike lengths."""
        generator = torch.Generator().manual_seed(5)
        lengths = (1, 3, 40, 9, 75, 16, 31, 2, 23, 5, 64, 13)
        names = [None, *NAMES, None, *NAMES[::-1]]
        return [
            (torch.randint(3, 259, (lengths[i % 12],), generator=generator).tolist(), name)
            for i, name in enumerate(names)
        ]

    def logits(self, name, prompt, answer):
        """What the reference says after each token from the last of the prompt on."""
        return self._run(name, [*prompt, *answer], len(prompt))[-len(answer) - 1 : -1]

    @torch.inference_mode()
    def prompt_logprobs(self, name, prompt):
        """The reference's log-probabilities [n - 1, vocabulary] in the place of each token of a
        prompt but the first."""
        return self._run(name, prompt, len(prompt))[-len(prompt) : -1].log_softmax(-1)

    def _run(self, name, tokens, num_prompt):
        ids = torch.tensor([tokens])
        if name in REFT:
            return self._run_reft(name, ids, num_prompt)[0]
        if name not in self._references:
            self._references[name] = self._reference(name)
        return self._references[name](input_ids=ids).logits[0]

    def _reference(self, name):
        model = copy.deepcopy(self.base)
        if name in SMT:
            return _with_blocks(model, self._tensors(name))
        if name is None:
            return model
        with warnings.catch_warnings():
            # Such as that a bias of B cannot be merged into a layer without one.
            warnings.simplefilter("ignore")
            return PeftModel.from_pretrained(model, self.adapters / name)

    def _run_reft(self, name, ids, num_prompt):
        """The base model with its hidden states edited by the paper's equations."""
        fields, tensors = REFT[name], self._tensors(name)
        first, last = fields["first_positions"], fields["last_positions"]
        if num_prompt < first + last:
            first, last = min(first, num_prompt // 2), min(last, (num_prompt + 1) // 2)
        groups = {"": range(first)}
        groups["" if fields["tied"] else "last_"] = range(num_prompt - last, num_prompt)
        if fields["tied"]:
            groups = {"": [*range(first), *range(num_prompt - last, num_prompt)]}

        def edit(layer, block, inputs, output):
            hidden = output.clone()
            for group, positions in groups.items():
                path = f"{PREFIX}model.layers.{layer}.reft_{group}"
                r, w, b = (tensors[path + part] for part in ("rotate", "weight", "bias"))
                for position in positions:
                    h = output[0, position]
                    change = w @ h + b - (r @ h if fields["variant"] == "loreft" else 0)
                    hidden[0, position] = h + r.T @ change
            return hidden

        hooks = [
            self.base.model.layers[layer].register_forward_hook(partial(edit, layer))
            for layer in (0, 2)
        ]
        out = self.base(input_ids=ids).logits
        for hook in hooks:
            hook.remove()
        return out

    def _tensors(self, name):
        return load_file(self.adapters / name / "adapter_model.safetensors")

    @torch.inference_mode()
    def check(self, completion, name=None):
        """Assert that `completion` is what the reference, run alone, would say greedily."""
        name = name or completion.adapter
        prompt, answer = completion.prompt_token_ids, completion.token_ids
        assert len(answer) == GREEDY.max_tokens
        logits = self.logits(name, prompt, answer)
        chosen = torch.tensor(answer)
        gap = logits.max(-1).values - logits.gather(1, chosen[:, None])[:, 0]
        assert gap.max() < TOLERANCE, f"{name}: token {int(gap.argmax())} differs"
        want = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0]
        got = torch.tensor([each.logprob for each in completion.logprobs])
        assert (got - want).abs().max() < self.rounding, name

    def check_all(self, completions):
        """Check every one, and that adapters made a difference."""
        assert len(completions) == len(self.requests)
        for completion in completions:
            self.check(completion)
        assert len({c.token_ids for c in completions}) > 0.8 * len(completions)


def _with_blocks(model, tensors):
    for key, places in tensors.items():
        if key.endswith("smt_blocks"):
            path = key.removeprefix(PREFIX).removesuffix(".smt_blocks")
            values = tensors[key.replace("smt_blocks", "smt_values")]
            low = 0
            for row, column, height, width in places.tolist():
                block = values[low : low + height * width].view(height, width)
                weight = model.get_submodule(path).weight.data
                weight[row : row + height, column : column + width] += block
                low += height * width
    return model


def answers(llm, requests):
    """Greedy answers to (prompt, adapter) pairs, all submitted at once."""
    prompts, names = zip(*requests, strict=True)
    return llm.generate(list(prompts), adapter=list(names), sampling=GREEDY)
