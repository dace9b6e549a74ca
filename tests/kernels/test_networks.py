"""Side networks and pairs of streams, cut up in a poisoned pool, against the methods' own code."""

import pytest
import torch
from kinds_pool import BLOCK_BYTES, Pool

from gossamer.adapters.kinds.networks.side_network import SideAdapter
from gossamer.kernels.trained_parts.placed import PlacedLinear
from gossamer.kernels.trained_parts.side_network import side_feature, side_output
from gossamer.kernels.trained_parts.streams import StreamNetwork, Streams, StreamTable
from gossamer.methods.meft.adapter import StreamAdapter
from gossamer.methods.meft.config import MeftConfig
from gossamer.methods.meft.coupling import run_plainly
from gossamer.methods.meft.halves import LayerParts, couple
from gossamer.methods.sherl.side import SideNetwork
from gossamer.serving.packing.trained_parts.matrices import PlaceReader, pack_matrices
from gossamer.serving.packing.trained_parts.side_network import pack_side
from gossamer.serving.packing.vectors import VectorPart, host_empty

WIDTH, INNER, TOKENS = 50, 11, 7
"""A row of the widest matrix takes 200 bytes, and a block holds five."""


class Target:
    """What is asked of the target that networks are packed for."""

    block_bytes = BLOCK_BYTES
    empty = staticmethod(host_empty)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", ["gated", "layer_norm", "linear"])
@pytest.mark.parametrize("is_gated", [True, False])
def test_a_side_network_in_blocks_makes_what_the_trained_one_makes(form, is_gated):
    torch.manual_seed(1)
    network = SideNetwork(WIDTH, INNER, 4, form=form, gated=is_gated)
    with torch.no_grad():
        for seed, parameter in enumerate(network.parameters()):
            parameter += 0.3 * random(*parameter.shape, seed=seed)
    held = {name: value.detach() for name, value in network.named_parameters()}
    adapter = SideAdapter(
        name="a",
        digest="digest",
        layers=(0, 2, 3),
        form=form,
        stacks={name: held[name] for name in held if name.startswith(("fc", "layernorm"))},
        attend=(held["attn_weight"][0], held["attn_bias"]),
        out=(held["out_weight"], held["out_bias"]),
        gamma=held.get("gamma"),
    )
    pool = Pool()
    table = pool.place(pack_side(adapter, Target)["side"])
    linears = [
        layer for layers in table.adapters for layer in layers if isinstance(layer, PlacedLinear)
    ]
    assert max(len(layer.pieces) for layer in linears) > 1
    memory = pool.memory.view(torch.float32)
    states = [random(TOKENS, WIDTH, seed=seed) for seed in range(4)]
    features = [side_feature(state, memory, table, k) for k, state in enumerate(states)]
    found = side_output(features, states[-1], memory, table)
    with torch.no_grad():
        want = network.double()([state.double() for state in states])
    assert (found - want).abs().max() < 1e-5
    assert (found - states[-1]).abs().max() > 0.1


class Block(torch.nn.Module):
    """A decoder layer that norms before its sublayers, token by token."""

    def __init__(self):
        super().__init__()
        self.input_layernorm = torch.nn.LayerNorm(WIDTH)
        self.post_attention_layernorm = torch.nn.LayerNorm(WIDTH)
        self.mix = torch.nn.Linear(WIDTH, WIDTH)
        self.mlp = torch.nn.Sequential(torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())

    def self_attn(self, hidden_states):
        return self.mix(hidden_states), None


class Networks(VectorPart):
    """Networks in host memory, which are placed one after the other."""

    def place(self, pool, blocks):
        reader = PlaceReader(self.vectors.write(pool, blocks))
        return [
            StreamNetwork(down=reader.linear(INNER, WIDTH), up=reader.linear(WIDTH, INNER))
            for _ in range(4)
        ]


@pytest.mark.parametrize("variant", ["meft1", "meft2", "meft3"])
@pytest.mark.parametrize("residual", ["shared", "whole"])
@torch.inference_mode()
def test_streams_in_blocks_run_as_the_reversible_layers_do(variant, residual):
    torch.manual_seed(2)
    config = MeftConfig(variant=variant, residual=residual, lam=0.3, beta=0.6, activation="tanh")
    blocks = [Block() for _ in range(2)]
    linears = [(torch.nn.Linear(WIDTH, INNER), torch.nn.Linear(INNER, WIDTH)) for _ in range(4)]
    adapters = [StreamAdapter(down, up, "tanh", 0.0) for down, up in linears]
    couplings = [
        couple(LayerParts(block, *pair, {}, torch.float32), config)
        for block, pair in zip(blocks, (adapters[:2], adapters[2:]), strict=True)
    ]
    hidden = random(TOKENS, WIDTH, seed=3)
    first, second = run_plainly(couplings, hidden.double(), hidden.double())

    tensors = [part for pair in linears for layer in pair for part in (layer.weight, layer.bias)]
    pool = Pool()
    networks = pool.place(Networks(vectors=pack_matrices("a", tensors, Target)))
    table = StreamTable(
        layers=(tuple(networks[:2]), tuple(networks[2:])),
        variant=variant,
        lam=0.3,
        beta=0.6,
        keep=(0.7, 0.4) if residual == "shared" else (1.0, 1.0),
        activation="tanh",
        dtype=torch.float64,
    )
    streams = Streams(hidden, pool.memory.view(torch.float32), table)
    for block in blocks:
        read = streams.read().float()
        u = streams.after_attention(block.self_attn(block.input_layernorm(read))[0])
        normed = block.post_attention_layernorm(u.float())
        streams.after_mlp(normed, block.mlp(normed))
    want = (first + second) / 2
    assert streams.mean().dtype == torch.float64
    assert (streams.mean() - want).abs().max() < 1e-5
    assert (want - hidden).abs().max() > 0.1
