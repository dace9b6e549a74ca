"""From one command to the next: prune, train an adapter on the smaller model, serve both."""

import json

import pytest
from prune_case import SETTINGS, folder_of
from runs import quiet_tune

from gossamer.errors import SettingError
from gossamer.verification.verify import VerifySettings, verify

from tiny import make_tiny_model


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "rows.jsonl"
    pairs = [{"prompt": f"{i} + 1 =", "completion": f" {i + 1}"} for i in range(4)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return path


def train(model, rows, output, **options):
    options = {"batch_size": 2, "learning_rate": 1e-2, "warmup": 0, **options}
    return quiet_tune(model, rows, output, **options)


@pytest.fixture(scope="module")
def smaller(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "smaller"
    train(folder_of("qwen2"), rows, folder, method="loraprune", max_steps=3, **SETTINGS)
    return folder


@pytest.fixture(scope="module")
def adapters(smaller, rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters")
    for name, rate in (("one", 0.05), ("two", 0.1)):
        train(smaller, rows, folder / name, method="lora", max_steps=3, learning_rate=rate)
    return folder


def test_the_server_says_what_the_smaller_model_and_its_adapters_say(smaller, adapters):
    """Against transformers, the merged models and PEFT, token for token."""
    asked = VerifySettings(prompts=("Hi", "The capital of"), new_tokens=12, memory_gib=0.05)
    verdicts = verify(smaller, sorted(adapters.iterdir()), asked, lambda line: None)
    assert [(v.adapter, v.reference) for v in verdicts] == [
        ("(base)", "transformers"), ("one", "merged"), ("one", "PEFT"),
        ("two", "merged"), ("two", "PEFT"),
    ]  # fmt: skip
    for verdict in verdicts:
        assert verdict.passed
        assert verdict.equal_tokens == verdict.tokens == 24
        assert verdict.problem is None


OURS = "import gossamer.tuners  # makes transformers know it"


@pytest.mark.parametrize(
    ("settings", "model_type"),
    [
        # 7 heads do not divide the hidden size of 48, which Llama's own config would have to do.
        ({"keep_layers": [], "head_ratio": 0.125}, "pruned_llama"),
        ({"keep_layers": [], "head_ratio": 0.25}, "llama"),
        ({"head_ratio": 0.25}, "pruned_llama"),
    ],
)
def test_the_card_imports_what_loads_the_model_that_is_there(settings, model_type, rows, tmp_path):
    base = make_tiny_model(tmp_path / "base", num_attention_heads=8, num_key_value_heads=8)
    output = tmp_path / "run"
    train(base, rows, output, method="loraprune", max_steps=1, warmup_share=0, **settings)
    assert json.loads((output / "config.json").read_text())["model_type"] == model_type
    card = (output / "README.md").read_text()
    assert (OURS in card) == (model_type == "pruned_llama")


def test_so_does_the_card_of_a_smaller_model_that_was_trained_on(rows, smaller, tmp_path):
    train(smaller, rows, tmp_path / "run", method="full", max_steps=1)
    assert OURS in (tmp_path / "run" / "README.md").read_text()


def test_accumulated_gradients_choose_what_whole_batches_choose(rows, tmp_path):
    kept = []
    for batch, pieces in ((4, 1), (2, 2)):
        output = tmp_path / f"{batch}"
        train(
            folder_of("llama"), rows, output, method="loraprune", max_steps=3, batch_size=batch,
            gradient_accumulation=pieces, **SETTINGS,
        )  # fmt: skip
        kept.append(json.loads((output / "pruned_groups.json").read_text()))
    assert kept[0] == kept[1]
    assert {len(groups) for key, groups in kept[0].items() if key.startswith("mlp")} == {70}


@pytest.mark.parametrize("method", ["prefix_tuning", "lorta"])
def test_methods_that_give_all_layers_as_many_heads_refuse(method, rows, smaller, tmp_path):
    with pytest.raises(SettingError, match="this pruned model has 2 to 4 key/value heads"):
        train(smaller, rows, tmp_path / "run", method=method, max_steps=1)
