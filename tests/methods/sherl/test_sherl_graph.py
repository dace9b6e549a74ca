"""What SHERL keeps for the backward pass: nothing of the early layers, the same at any depth."""

from contextlib import contextmanager

import pytest
import torch
from method_helpers import IDS, LABELS, base_model
from peft import get_peft_model
from sherl_case import sherl, side_of, slow_side, tokens
from torch.autograd.graph import saved_tensors_hooks
from transformers import BertConfig, BertModel, T5Config, T5Model

from gossamer.basemodel.versions import enable_checkpointing
from gossamer.errors import SettingError, UnsupportedAdapterError, UsageError
from gossamer.methods.sherl.model import SherlConfig

from tiny import SHAPE, make_tiny_model

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 50,
}


def blocks_of(model):
    return model.get_base_model().model.layers


@contextmanager
def saved(model):
    """Yields a list of (number of the block at work or None, tensor) of all that is saved."""
    found, at_work, hooks = [], [], []
    for number, block in enumerate(blocks_of(model)):
        block = getattr(block, "base_layer", block)
        hooks.append(block.register_forward_pre_hook(lambda *_, n=number: at_work.append(n)))
        hooks.append(block.register_forward_hook(lambda *_: at_work.clear()))
    with saved_tensors_hooks(lambda t: (found.append((at_work[-1:], t)), t)[1], lambda t: t):
        yield found
    for hook in hooks:
        hook.remove()


def kept_bytes(found, model):
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for _, tensor in found
        if tensor.untyped_storage().data_ptr() not in own
    }
    return sum(storages.values())


def leaves(tensor):
    """The leaves that the graph behind `tensor` leads to."""
    seen, todo, found = set(), [tensor.grad_fn], []
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        todo += [following for following, _ in node.next_functions]
    return found


@pytest.mark.parametrize("embeddings_require_grad", [False, True])
def test_early_layers_save_nothing_and_late_ones_do(embeddings_require_grad):
    """Also where a trainer makes the embeddings ask for gradients."""
    model = sherl(skip="gated").train()
    if embeddings_require_grad:
        model.enable_input_require_grads()
    with saved(model) as found:
        loss = model(input_ids=IDS, labels=LABELS, use_cache=False).loss
    working = {tuple(block) for block, _ in found}
    assert working == {(), (2,)}
    learning = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(leaf) for leaf in leaves(loss)} == learning
    loss.backward()
    assert {id(p) for p in model.parameters() if p.grad is not None} == learning


def test_what_is_saved_does_not_grow_with_early_depth(tmp_path):
    """Nor with the width of their MLPs; it grows with each late layer."""

    def kept(name, *, late=1, **shape):
        folder = make_tiny_model(tmp_path / name, **shape)
        model = sherl(folder=folder, late_layers=late, taps=3).train()
        with saved(model) as found:
            model.get_base_model().model(input_ids=IDS, use_cache=False)
        return kept_bytes(found, model)

    shallow = kept("shallow", num_hidden_layers=3)
    assert kept("deep", num_hidden_layers=12) == shallow
    more = [kept(f"late-{late}", num_hidden_layers=12, late=late) for late in (0, 1, 2)]
    # The first of them keeps the sines and cosines of positions, which the others share.
    rotary = 2 * IDS.shape[1] * SHAPE["head_dim"] * 4
    assert more[2] - more[1] == more[1] - more[0] - rotary > 0
    assert kept("wide", num_hidden_layers=12, late=0, intermediate_size=400) == more[0]


def test_the_whole_model_is_the_slow_version_in_its_place():
    """Logits and gradients, in float64, with rows of unlike length."""
    model = sherl(dtype=torch.float64, skip="gated", form="gated")
    mask = torch.ones_like(IDS)
    mask[1, :5] = 0
    inputs = {"input_ids": IDS, "attention_mask": mask, "labels": LABELS, "use_cache": False}
    side, block = side_of(model)
    learning = list(side.parameters())
    found = model(**inputs)
    gradients = torch.autograd.grad(found.loss, learning)
    with model.disable_adapter():
        states = model(**inputs, output_hidden_states=True).hidden_states[: block.number + 2]
    made = slow_side(side, "gated", [state.detach() for state in states])
    with model.disable_adapter():
        hook = block.base_layer.register_forward_hook(lambda *_: made)
        slow = model(**inputs)
        hook.remove()
    assert torch.allclose(slow.logits, found.logits, rtol=0, atol=1e-10)
    expected = torch.autograd.grad(slow.loss, learning)
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-11)


def test_only_the_side_network_changes():
    """With momentum and decoupled weight decay, bit by bit."""
    model = sherl(skip="gated").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.1
    )
    for _ in range(5):
        model(input_ids=IDS, labels=LABELS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == ("sherl_side" not in name), name


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_leaves_early_layers_out(reentrant):
    """Late layers are computed twice, early ones once, and the gradients are the same."""
    model = sherl(skip="gated").train()
    runs = dict.fromkeys(range(3), 0)

    def count(number):
        runs[number] += 1

    for number, block in enumerate(blocks_of(model)):
        norm = block.input_layernorm
        norm.register_forward_hook(lambda *_, n=number: count(n))
    model(input_ids=IDS, labels=LABELS, use_cache=False).loss.backward()
    plain = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    enable_checkpointing(model.get_base_model(), {"use_reentrant": reentrant})
    model(input_ids=IDS, labels=LABELS, use_cache=False).loss.backward()
    assert runs == {0: 2, 1: 2, 2: 3}
    again = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, again, strict=True))


def test_early_layers_drop_nothing_while_late_ones_do(tmp_path):
    folder = make_tiny_model(tmp_path / "model", attention_dropout=0.5)
    model = sherl(folder=folder)
    inputs = {"input_ids": tokens(), "output_hidden_states": True}
    expected = model(**inputs).hidden_states
    model.train()
    torch.manual_seed(0)
    found = model(**inputs).hidden_states
    assert torch.equal(found[1], expected[1])
    assert not torch.allclose(found[-1], expected[-1], atol=1e-3)
    assert [block.base_layer.training for block in blocks_of(model)[:2]] == [False, False]
    # Without the adapter the base trains as it would.
    with model.disable_adapter():
        assert not torch.allclose(model(**inputs).hidden_states[1], expected[1], atol=1e-3)
    assert all(block.base_layer.training for block in blocks_of(model)[:2])
    model(**inputs)
    plain = model.unload()
    assert all(module.training for module in plain.model.layers.modules())


def test_a_block_that_is_computed_alone_is_refused():
    model = sherl()
    captured = {}
    block = blocks_of(model)[1]
    hook = block.register_forward_pre_hook(
        lambda module, args, kwargs: captured.update(args=args, kwargs=kwargs), with_kwargs=True
    )
    model(input_ids=tokens(), use_cache=False)
    hook.remove()
    with pytest.raises(UsageError, match="reached with 1 of 3 states; call the whole model"):
        block(*captured["args"], **captured["kwargs"])


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings")
@pytest.mark.parametrize("name", ["embed_tokens", "mlp", "layers.1.self_attn.q_proj"])
def test_modules_that_gradients_never_reach_cannot_learn_besides(name, tiny_model):
    config = SherlConfig(late_layers=1, modules_to_save=[name])
    with pytest.raises(SettingError, match=rf"modules_to_save: '{name}' means .*late modules only"):
        get_peft_model(base_model(tiny_model), config)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BertModel(BertConfig(**SMALL)), "BertModel has no list of decoder blocks, which"),
        (lambda: T5Model(T5Config(d_kv=8, d_ff=16, **SMALL)), "T5Model has an encoder beside"),
    ],
    ids=["encoder", "encoder and decoder"],
)
def test_other_models_than_decoders_are_refused(make, message):
    with pytest.raises(UnsupportedAdapterError, match=message):
        get_peft_model(make(), SherlConfig())


def test_late_modules_can_learn_besides(tiny_model):
    config = SherlConfig(late_layers=1, modules_to_save=["layers.2.mlp"])
    model = get_peft_model(base_model(tiny_model), config)
    model(input_ids=IDS, labels=LABELS).loss.backward()
    saved_too = [p for n, p in model.named_parameters() if "modules_to_save" in n]
    assert saved_too
    assert all(p.grad.abs().sum() > 0 for p in saved_too)
