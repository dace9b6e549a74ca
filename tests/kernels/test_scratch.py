"""ScratchMemory memory grows, and what a captured graph may use stays."""

import torch

from gossamer.kernels.scratch import ScratchMemory


def test_it_grows_by_factors_of_two_and_keeps_what_was_given():
    scratch = ScratchMemory(torch.device("cpu"))
    first = scratch.take(100)
    assert first.numel() == 128
    first.fill_(7)
    assert scratch.take(3).data_ptr() == first.data_ptr()
    larger = scratch.take(129)
    assert larger.numel() == 256
    larger.fill_(0)
    assert scratch.take(1) is larger
    assert bool((first == 7).all())


def test_nothing_is_enough_for_nothing():
    assert ScratchMemory(torch.device("cpu")).take(0).numel() == 1
