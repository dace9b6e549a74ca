"""Every kind of adapter has a row in both tables: the one of its files, and the one of its rows."""

from gossamer.adapters.base_shape import BaseShape
from gossamer.adapters.kinds.table import KINDS
from gossamer.serving.packing.capacity import BaseSizes, PoolSizes
from gossamer.serving.packing.kinds import PACKED_KINDS, usual_costs

LINEARS = {
    f"model.layers.{layer}.{name}": (64, 48)
    for layer in range(2)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
}
SHAPE = BaseShape(linears=LINEARS, num_layers=2, hidden_size=48, num_kv_heads=2, head_dim=16)


def test_the_kinds_that_can_be_read_are_those_that_can_be_served():
    assert KINDS.keys() == PACKED_KINDS.keys()


def test_kinds_that_users_see_have_a_usual_cost():
    sizes = BaseSizes(shape=SHAPE, num_parameters=0, max_context=64)
    costs = usual_costs(PoolSizes(base=sizes, block_tokens=16, row_width=4))
    assert {name.split()[0].rstrip(":") for name in costs} == {kind.kind for kind in KINDS}
    # A, rank x 48, and B, rank x 64, of six layers; and of the four that are called q or v.
    assert costs["low-rank 8, all linear"].num_bytes == 6 * 8 * (48 + 64) * 4
    assert costs["low-rank 8, q and v"].num_bytes == 4 * 8 * (48 + 64) * 4
