"""The estimate of memory, by its parts."""

import pytest
import torch

from gossamer import methods
from gossamer.methods import MethodContext
from gossamer.training.memory_estimate import estimate

from tiny import SHAPE, module_shapes

VOCABULARY = 259


def estimated(folder, name="lora", *, batch_size=4, rows=100, dtype="float32", **changes):
    settings = {} if name in ("full", "meft") else {"rank": 4}
    context = MethodContext(
        model_name="m",
        base_folder=folder,
        base_fingerprint="f",
        dtype=dtype,
        device="cpu",
        seed=0,
        total_steps=1,
        **changes,
    )
    return estimate(
        methods.find(name).from_values(settings),
        context,
        batch_size=batch_size,
        longest_row=rows,
        most_trained=rows // 2,
    )


def test_parameters_and_their_state_are_exact(tiny_model):
    shapes = module_shapes(tiny_model).values()
    adapter = sum(4 * (h_out + h_in) for h_out, h_in in shapes)
    norms = SHAPE["hidden_size"] * (2 * SHAPE["num_hidden_layers"] + 1)
    base = sum(a * b for a, b in shapes) + VOCABULARY * SHAPE["hidden_size"] + norms
    lora = estimated(tiny_model)
    assert lora.trainable == adapter
    assert lora.total_parameters == base + adapter
    assert lora.weights == 4 * (base + adapter)
    assert lora.gradients == 4 * adapter
    assert lora.optimizer == 8 * adapter
    full = estimated(tiny_model, "full")
    assert full.trainable == full.total_parameters == base
    assert full.optimizer == 8 * base


def test_a_base_in_fewer_bits_weighs_less(tiny_model):
    half = estimated(tiny_model, dtype="bfloat16")
    assert estimated(tiny_model).weights / 2 < half.weights < estimated(tiny_model).weights
    pytest.importorskip("bitsandbytes")
    linear = sum(a * b for a, b in module_shapes(tiny_model).values())
    saved = estimated(tiny_model).weights - estimated(tiny_model, "qlora").weights
    assert saved == pytest.approx(linear * (4 - 0.516), rel=1e-3)


def test_activations_grow_with_rows_and_shrink_with_checkpointing(tiny_model):
    one, two = estimated(tiny_model), estimated(tiny_model, batch_size=8)
    assert two.activations == pytest.approx(2 * one.activations, rel=1e-6)
    assert estimated(tiny_model, gradient_checkpointing=True).activations < one.activations
    assert estimated(tiny_model, "dora").activations > 1.5 * one.activations
    assert one.total > one.activations + one.weights
    assert estimated(tiny_model, "meft").activations < 0.85 * one.activations


KEEPING = {
    "lora": {"rank": 1},
    "meft": {"width": 1, "reversible_layers": 2},
    "sherl": {"late_layers": 1},
    "sherl, no late layer": {"late_layers": 0, "skip": "gated", "form": "layer_norm"},
    "sherl, plain adapters": {"late_layers": 2, "form": "linear", "reduction": 2},
}


@pytest.mark.parametrize("name", KEEPING)
def test_what_the_layers_are_said_to_keep_is_what_they_keep(name, tiny_model):
    """The formula against the tensors that autograd really holds on to."""
    from gossamer.basemodel.load import load_model
    from gossamer.training.memory_estimate import _layers

    method = methods.find(name.split(",")[0]).from_values(KEEPING[name])
    context = MethodContext(
        model_name="m",
        base_folder=tiny_model,
        base_fingerprint="f",
        dtype="float32",
        device="cpu",
        seed=0,
        total_steps=1,
    )
    model = method.prepare(load_model(tiny_model, dtype=torch.float32), context).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            # Held, so that no other tensor gets the same address.
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    ids = torch.zeros(2, 128, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=ids, use_cache=False, logits_to_keep=1)
    measured = sum(size for size, _ in kept.values())
    formula = _layers(model.config, method, context, tokens=ids.numel())
    assert formula == pytest.approx(measured, rel=0.15), (formula, measured)
