"""Which tokens are edited: prompts, padding on either side, short prompts, labels, packing."""

import pytest
import torch
from reft_models import load, outputs_of_blocks, reft, tokens

from gossamer.errors import UsageError
from gossamer.methods.reft.positions import (
    edit_positions,
    first_trained_column,
    group_sizes,
    prompt_lengths,
)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(20, (7, 7)), (14, (7, 7)), (13, (6, 7)), (5, (2, 3)), (2, (1, 1)), (1, (0, 1)), (0, (0, 0))],
)
def test_group_sizes(n, expected):
    sizes = group_sizes(torch.tensor([n]), 7, 7)
    assert tuple(int(size) for size in sizes) == expected


def test_unequal_groups_shrink_by_halves_too():
    first, last = group_sizes(torch.tensor([6, 9, 10]), 1, 9)
    assert first.tolist() == [1, 1, 1]
    assert last.tolist() == [3, 5, 9]


def test_short_prompts_edit_no_token_twice():
    mask = torch.ones(1, 5, dtype=torch.long)
    found = edit_positions(mask, prompt_lengths(mask), past=0, first=7, last=7)
    assert found.first.tolist() == [0, 1]
    assert found.last.tolist() == [2, 3, 4]
    assert found.all().unique().numel() == found.all().numel()


def test_both_sides_of_padding():
    left = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    found = edit_positions(left, prompt_lengths(left), past=0, first=2, last=2)
    assert (found.first.tolist(), found.last.tolist()) == ([3, 4], [7, 8])
    right = left.flip(1)
    found = edit_positions(right, prompt_lengths(right), past=0, first=2, last=2)
    assert (found.first.tolist(), found.last.tolist()) == ([0, 1], [4, 5])


def test_the_prompt_ends_before_the_first_learnt_token():
    labels = torch.tensor([[-100, -100, 7, 8], [7, 8, 9, 1], [-100, -100, -100, -100]])
    # Nothing predicts the token in column 0, so it is never learnt.
    assert first_trained_column(labels).tolist() == [2, 1, 4]
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    assert first_trained_column(shifted, shifted=True).tolist() == [2, 1, 4]
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1]])
    assert prompt_lengths(mask, first_trained=first_trained_column(labels)).tolist() == [2, 1, 3]


def edited_columns(model, **inputs):
    """Columns of each row whose output of block 0 differs from that of the base."""
    after, _ = outputs_of_blocks(model, **inputs)
    with model.disable_adapter():
        before, _ = outputs_of_blocks(model, **inputs)
    changed = (after[0] != before[0]).any(-1)
    return [row.nonzero().flatten().tolist() for row in changed]


def test_in_training_the_prompt_is_edited_and_the_answer_not(tiny_model):
    model = reft(tiny_model, layers=[0])
    ids = tokens(rows=3)
    labels, mask = ids.clone(), torch.ones_like(ids)
    labels[0, :8] = -100
    labels[1, :10] = -100
    mask[1, :4] = 0
    labels[2, :4] = -100
    mask[2, 9:], labels[2, 9:] = 0, -100
    columns = edited_columns(model, input_ids=ids, attention_mask=mask, labels=labels)
    assert columns == [[0, 1, 5, 6, 7], [4, 5, 7, 8, 9], [0, 1, 2, 3]]
    # Labels of one call do not leak into the next.
    columns = edited_columns(model, input_ids=ids, attention_mask=mask)
    assert columns == [[0, 1, 11, 12, 13], [4, 5, 11, 12, 13], [0, 1, 6, 7, 8]]


def test_other_positions_keep_every_bit(tiny_model):
    ids = tokens()
    model = reft(tiny_model, layers=[1], first_positions=0, last_positions=2)
    after, logits = outputs_of_blocks(model, input_ids=ids)
    with model.disable_adapter():
        before, base_logits = outputs_of_blocks(model, input_ids=ids)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1][:, :12], before[1][:, :12])
    assert (after[1][:, 12:] != before[1][:, 12:]).any(-1).all()
    assert torch.equal(logits[:, :12], base_logits[:, :12])
    assert not torch.allclose(logits[:, 12:], base_logits[:, 12:], atol=1e-2)


def test_untied_groups_have_an_edit_each(tiny_model):
    model = reft(tiny_model, layers=[0], tied=False)
    ids = tokens()
    both, _ = outputs_of_blocks(model, input_ids=ids)
    with torch.no_grad():
        model.get_base_model().model.layers[0].reft_last_bias["default"] += 1
    other, _ = outputs_of_blocks(model, input_ids=ids)
    changed = (both[0] != other[0]).any(-1)
    assert [row.nonzero().flatten().tolist() for row in changed] == [[11, 12, 13]] * 2


def test_one_group_alone_is_stored_as_tied(tiny_model):
    model = reft(tiny_model, tied=False, first_positions=0)
    assert model.peft_config["default"].tied
    assert not any("reft_last" in name for name, _ in model.named_parameters())


def test_padding_changes_nothing(tiny_model):
    model = reft(tiny_model)
    ids = tokens(rows=1, length=9)
    with torch.no_grad():
        alone = model(input_ids=ids).logits
        pad = torch.full((1, 4), 2)
        mask = torch.ones(1, 13, dtype=torch.long)
        mask[:, :4] = 0
        left = model(
            input_ids=torch.cat((pad, ids), 1),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
        ).logits
        right = model(input_ids=torch.cat((ids, pad), 1), attention_mask=mask.flip(1)).logits
    assert torch.allclose(left[:, 4:], alone, atol=1e-4)
    assert torch.allclose(right[:, :9], alone, atol=1e-4)


def test_packed_rows_are_refused(tiny_model):
    model = reft(tiny_model)
    ids = tokens(rows=1, length=8)
    packed = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3]])
    with pytest.raises(UsageError, match="packing=False"):
        model(input_ids=ids, position_ids=packed)
    with pytest.raises(UsageError, match="attention mask"):
        model(input_ids=ids, attention_mask=torch.zeros(1, 1, 8, 8))


def test_hidden_states_are_those_that_the_next_block_sees(tiny_model):
    model = reft(tiny_model)
    ids = tokens()
    blocks, _ = outputs_of_blocks(model, input_ids=ids)
    recorded = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert torch.equal(recorded[1], blocks[0])
    assert torch.equal(recorded[2], blocks[1])


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_other_families(family, tmp_path):
    from tiny import make_tiny_model

    folder = make_tiny_model(tmp_path / family, model_type=family)
    model = reft(folder, layers=[0])
    ids = tokens()
    assert edited_columns(model, input_ids=ids) == [[0, 1, 11, 12, 13]] * 2
    base = load(folder).eval()
    with model.disable_adapter(), torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, base(input_ids=ids).logits)
