"""On a quantised base too, adapters of every kind in one batch say what each says alone in PEFT."""

import json

import pytest
import torch
from kinds_case import PREFIX, SMT, Kinds, answers
from peft import PeftModel
from torch.nn import functional

from gossamer.basemodel.load import load_served_model
from gossamer.errors import SettingError, UnsupportedModelError
from gossamer.llm import LLM

# PEFT's SHiRA makes sparse tensors without saying whether they shall be checked.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*lora_bias=True:Warning"),
]

WAYS = [
    "bnb-4bit",
    pytest.param("bnb-4bit-single", marks=pytest.mark.slow),
    "bnb-8bit",
    "int8",
]
LIBRARIES = {"bnb": "bitsandbytes", "int": "torchao"}


def need(way):
    """Skip the test where the library of `way` is not installed."""
    library = LIBRARIES[way[:3]]
    pytest.importorskip(library, reason=f"quantised as {way}: needs {library}")


class QuantizedKinds(Kinds):
    """Adapters made on the model in full, judged by PEFT on the model quantised as `way` says."""

    def __init__(self, folder, way, model_type):
        super().__init__(folder, model_type)
        self.way = way
        self.base = load_served_model(self.model, way, dtype=self.base.dtype)
        self.base.requires_grad_(False)

    def _reference(self, name):
        # A model each: PEFT replaces its layers, and 8-bit weights do not survive a deep copy.
        model = load_served_model(self.model, self.way, dtype=self.base.dtype)
        if name in SMT:
            return _with_blocks_beside(model, self._tensors(name))
        return model if name is None else PeftModel.from_pretrained(model, self.adapters / name)


def _with_blocks_beside(model, tensors):
    """The blocks as a matrix beside the layer, whose own weights cannot be added to."""
    for key, places in tensors.items():
        if not key.endswith("smt_blocks"):
            continue
        values = tensors[key.replace("smt_blocks", "smt_values")]
        layer = model.get_submodule(key.removeprefix(PREFIX).removesuffix(".smt_blocks"))
        change = values.new_zeros(layer.out_features, layer.in_features)
        low = 0
        for row, column, height, width in places.tolist():
            block = values[low : low + height * width].view(height, width)
            change[row : row + height, column : column + width] += block
            low += height * width
        layer.register_forward_hook(
            lambda layer, inputs, output, change=change: (
                output + functional.linear(inputs[0], change)
            )
        )
    return model


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Adapters on bases of each way, made when first asked for."""
    made = {}

    def on(way):
        need(way)
        if way not in made:
            # qwen2 has biases, which DoRA leaves alone and IA3 scales.
            made[way] = QuantizedKinds(tmp_path_factory.mktemp(way), way, "qwen2")
        return made[way]

    return on


def served(model, adapters=None, **settings):
    options = {"memory_gib": 0.05, "threads": 1, **settings}
    return LLM(model, adapters=adapters, **options)


@pytest.mark.parametrize("way", WAYS)
def test_one_batch_of_all_kinds_says_what_peft_says_on_the_same_quantised_base(kinds, way):
    case = kinds(way)
    with served(case.model, case.adapters, quantization=way) as llm:
        completions = answers(llm, case.requests)
    case.check_all(completions)


def test_the_quantised_base_is_another_than_the_whole_one(kinds):
    case = kinds("bnb-4bit")
    with served(case.model) as llm:
        whole = answers(llm, case.requests[:1])
    with pytest.raises(AssertionError):
        case.check(whole[0])


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"max_batch_tokens": 7}, {"backend": "reference"}], ids=str)
def test_other_chunk_sizes_and_kernels_change_no_answer(kinds, settings):
    case = kinds("bnb-4bit")
    with served(case.model, case.adapters, quantization="bnb-4bit", **settings) as llm:
        case.check_all(answers(llm, case.requests))


@pytest.mark.slow
def test_layers_that_multiply_by_their_librarys_kernels_say_the_same(kinds):
    """What a GPU does, in Triton's interpreter."""
    case = kinds("bnb-4bit")
    with served(case.model, case.adapters, quantization="bnb-4bit", backend="triton") as llm:
        asked = [(prompt[:20], name) for prompt, name in case.requests[:16]]
        completions = answers(llm, asked)
    for completion in completions:
        case.check(completion)


@pytest.mark.parametrize("way", WAYS)
def test_base_only_requests_do_not_feel_the_adapters(kinds, way):
    """The same log-probabilities, bit for bit, as without any adapter."""
    case = kinds(way)
    base = [(prompt[:9], None) for prompt, name in case.requests if name is None]
    mixed = [(prompt[:9], name) for prompt, name in case.requests]
    with served(case.model, quantization=way) as llm:
        want = answers(llm, base)
    with served(case.model, case.adapters, quantization=way) as llm:
        got = [answer for answer in answers(llm, mixed) if answer.adapter is None]
    assert [answer.token_ids for answer in got] == [answer.token_ids for answer in want]
    assert [answer.logprobs for answer in got] == [answer.logprobs for answer in want]


@pytest.mark.parametrize("way", ["bnb-4bit", "bnb-8bit", "int8"])
def test_a_model_that_is_saved_quantised_is_served_so_without_a_setting(kinds, way, tmp_path):
    case = kinds(way)
    load_served_model(case.model, way, dtype=torch.float32).save_pretrained(tmp_path / "saved")
    for path in case.model.glob("*token*"):
        (tmp_path / "saved" / path.name).write_bytes(path.read_bytes())
    base = [request for request in case.requests if request[1] is None]
    with served(case.model, quantization=way) as llm:
        want = answers(llm, base)
    for settings in ({}, {"quantization": way}):
        with served(tmp_path / "saved", **settings) as llm:
            got = answers(llm, base)
        assert [answer.logprobs for answer in got] == [answer.logprobs for answer in want]
    other = "bnb-4bit-single" if way == "bnb-4bit" else "bnb-4bit"
    with pytest.raises(SettingError, match=rf"quantization' {other}: .* already \({way}\)"):
        served(tmp_path / "saved", quantization=other)


def test_hot_adapters_are_not_merged_into_quantised_weights(kinds):
    case = kinds("bnb-4bit")
    with pytest.raises(SettingError, match=r"merge_hot.*quantised \(bnb-4bit\)"):
        served(case.model, quantization="bnb-4bit", merge_hot=True)


def test_a_way_that_is_not_served_is_refused_by_name(tiny_model, tmp_path):
    for path in tiny_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match=r"by gptq cannot be served; served are bits"):
        served(tmp_path)
    with pytest.raises(SettingError, match="quantization"):
        served(tiny_model, quantization="gptq")
