"""Masks drawn from a seed."""

import hashlib
import subprocess
import sys

import pytest
import torch

from gossamer.methods.common.sparse_delta.mask import num_entries, random_entries

SHAPES = {"a.q_proj": (64, 48), "b.up_proj": (100, 48), "c.down_proj": (576, 1536)}


def mask_digest(indices):
    """Identity of the masks of named matrices; equal where all places are equal."""
    digest = hashlib.sha256()
    for name, index in sorted(indices, key=lambda pair: pair[0]):
        digest.update(f"{name}:{tuple(index.shape)}:".encode())
        digest.update(index.to("cpu", torch.int32).contiguous().numpy().astype("<i4").tobytes())
    return digest.hexdigest()


def masks(seed, density=0.01):
    return {name: random_entries(seed, name, shape, density) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("density", [0.01, 0.1, 0.4])
def test_a_mask_has_the_density_and_is_the_same_for_all(density):
    drawn = masks(3, density)
    for name, index in drawn.items():
        size = SHAPES[name][0] * SHAPES[name][1]
        share = index.shape[1] / size
        assert abs(share - density) <= 3 * (density * (1 - density) / size) ** 0.5
    digest = mask_digest(drawn.items())
    assert digest == mask_digest(masks(3, density).items())
    assert digest == mask_digest(reversed(drawn.items()))
    assert digest != mask_digest(masks(4, density).items())
    assert digest != mask_digest(masks(3, density / 2).items())


def test_another_process_draws_the_same_and_so_will_other_machines():
    code = (
        "from gossamer.methods.common.sparse_delta.mask import random_entries\n"
        "print(random_entries(1, 'x', (300, 200), 0.02).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(random_entries(1, "x", (300, 200), 0.02).tolist())
    assert random_entries(1, "x", (300, 200), 0.0001).tolist() == FIRST_PLACES


FIRST_PLACES = [[80, 132, 142, 148, 237, 251], [100, 173, 195, 8, 30, 51]]


@pytest.mark.parametrize("density", [1e-9, 0.03, 0.5, 0.51, 0.97, 1.0])
def test_places_are_sorted_inside_and_all_different(density):
    shape = (37, 23)
    rows, columns = random_entries(0, "m", shape, density).long()
    flat = rows * 23 + columns
    assert len(flat) == num_entries(shape, density) == max(1, round(density * 37 * 23))
    assert (flat[1:] > flat[:-1]).all()
    assert flat.min() >= 0
    assert flat.max() < 37 * 23


def test_layers_of_one_shape_have_masks_of_their_own():
    one, two = (random_entries(0, name, (64, 64), 0.05) for name in ("one", "two"))
    assert not torch.equal(one, two)


def test_places_are_spread_evenly():
    counts = torch.zeros(20, 20)
    for seed in range(400):
        rows, columns = random_entries(seed, "m", (20, 20), 0.1).long()
        counts[rows, columns] += 1
    # Each place is drawn 40 times of 400 on average, with a standard deviation of 6.
    assert counts.mean() == 40
    assert counts.min() > 40 - 5 * 6
    assert counts.max() < 40 + 5 * 6
    assert counts.std() == pytest.approx(6, rel=0.2)
