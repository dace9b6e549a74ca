"""Carries messages from rank 0 to all others: one broadcast of a fixed buffer each."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist

BUFFER = 64 * 1024
"""Bytes of the buffer; a longer message needs a second broadcast of its own length."""
_LENGTH = 8


class ControlChannel:
    """The way of messages, on a process group of its own (gloo: who waits does not spin)."""

    def __init__(self, group: Any) -> None:
        self._group = group
        self._buffer = torch.zeros(BUFFER, dtype=torch.uint8)
        self.num_bytes = 0
        """Bytes of all messages so far."""
        self.num_messages = 0

    def send(self, message: bytes) -> None:
        """Send a message to all; raises `RuntimeError` when one is gone or does not take it."""
        view = self._buffer.numpy()
        view[:_LENGTH] = np.frombuffer(len(message).to_bytes(_LENGTH, "little"), np.uint8)
        head = message[: BUFFER - _LENGTH]
        view[_LENGTH : _LENGTH + len(head)] = np.frombuffer(head, np.uint8)
        dist.broadcast(self._buffer, src=0, group=self._group)
        if len(message) > len(head):
            # A copy: torch writes no tensor that it cannot write into.
            rest = torch.frombuffer(bytearray(message[len(head) :]), dtype=torch.uint8)
            dist.broadcast(rest, src=0, group=self._group)
        self.num_bytes += len(message)
        self.num_messages += 1

    def receive(self) -> bytes:
        """Wait for the next message; raises `RuntimeError` when rank 0 is gone or silent."""
        dist.broadcast(self._buffer, src=0, group=self._group)
        view = self._buffer.numpy()
        length = int.from_bytes(view[:_LENGTH].tobytes(), "little")
        message = view[_LENGTH : _LENGTH + length].tobytes()
        if length > len(message):
            rest = torch.empty(length - len(message), dtype=torch.uint8)
            dist.broadcast(rest, src=0, group=self._group)
            message += rest.numpy().tobytes()
        return message
