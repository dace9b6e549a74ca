"""The text part of a model for pictures becomes a model that is served as it computes there."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config

from gossamer.basemodel.text_part import write_text_part
from gossamer.cli.main import main
from gossamer.errors import CorruptModelError, UnsupportedModelError, UsageError
from gossamer.llm import LLM
from gossamer.serving.core.messages import SamplingParams

from tiny import tiny_tokenizer

TEXT = {
    "vocab_size": 259, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8,
    "max_position_embeddings": 256, "query_pre_attn_scalar": 24, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14,
}  # fmt: skip
PROMPT = list(range(20, 45))


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Folder of a model for pictures and text."""
    folder = tmp_path_factory.mktemp("both") / "gemma3"
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Gemma3Config(text_config=TEXT, vision_config=VISION))
    model.float().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def copied(folder, copy):
    """A copy of a model's folder, and its weights."""
    shutil.copytree(folder, copy)
    return copy, load_file(copy / "model.safetensors")


def test_the_whole_is_refused_and_its_text_part_is_served(both, tmp_path, capsys):
    with pytest.raises(UnsupportedModelError, match="gossamer model text MODEL"):
        LLM(both, memory_gib=0.01, threads=1)
    output = tmp_path / "text"
    assert main(["model", "text", str(both), "--output", str(output)]) == 0
    assert capsys.readouterr().out.strip() == str(output)
    whole = AutoModelForCausalLM.from_pretrained(both, dtype=torch.float32).eval()
    greedy = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    with LLM(output, memory_gib=0.01, threads=1) as llm:
        (completion,) = llm.generate([PROMPT], sampling=greedy)
    text = [*PROMPT, *completion.token_ids]
    with torch.inference_mode():
        logits = whole(input_ids=torch.tensor([text])).logits[0, len(PROMPT) - 1 : -1]
    chosen = torch.tensor(completion.token_ids)[:, None]
    assert (logits.max(-1).values - logits.gather(1, chosen)[:, 0]).max() < 1e-4


def test_names_of_the_first_gemma_files(both, tmp_path):
    """Older files have the part before `model`, newer ones behind it."""
    folder, weights = copied(both, tmp_path / "old")
    renamed = {
        name.replace("language_model.model.", "model.language_model."): value
        for name, value in weights.items()
    }
    assert renamed.keys() != weights.keys()
    save_file(renamed, folder / "model.safetensors", {"format": "pt"})
    write_text_part(folder, tmp_path / "one")
    write_text_part(both, tmp_path / "other")
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "other"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_weights_that_are_not_there_are_named(both, tmp_path):
    folder, weights = copied(both, tmp_path / "cut")
    kept = {name: value for name, value in weights.items() if "layers.1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CorruptModelError, match=r"lack \d+ tensor\(s\) of the model"):
        write_text_part(folder, tmp_path / "text")
    assert not (tmp_path / "text").exists()


def test_what_cannot_be_meant_is_refused(both, tiny_model, tmp_path):
    with pytest.raises(UsageError, match="is one of text alone"):
        write_text_part(tiny_model, tmp_path / "text")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        write_text_part(both, tmp_path / "full")
