"""Differential privacy as Flower has it: its strategies around ours, its mods before our clients.

What is clipped is the change of all tensors of a client in a round, as one vector; the noise of the
server is for clients that all count the same, as they then do. Neither the mean loss nor the rows
that clients tell are covered.
"""

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)
from flwr.serverapp.strategy.dp_fixed_clipping import DifferentialPrivacyFixedClippingBase

from gossamer.federated.flower.strategy import RoundsStrategy
from gossamer.federated.settings import FederatedSettings


def client_mods(settings: FederatedSettings) -> list[Any]:
    """Return the mods that change what a client sends."""
    if settings.privacy == "client":
        return [fixedclipping_mod]
    if settings.privacy == "local":
        # Two changes of that length differ by twice as much at most.
        reach = 2 * settings.privacy_clip
        clip, epsilon, delta = (
            settings.privacy_clip,
            settings.privacy_epsilon,
            settings.privacy_delta,
        )
        return [LocalDpMod(clip, reach, epsilon, delta)]
    return []


def private_strategy(
    rounds: RoundsStrategy, settings: FederatedSettings, *, clients: int
) -> Strategy:
    """Return the strategy with what the privacy of `settings` adds; `clients` learn in a round."""
    wrappers: dict[str, type[DifferentialPrivacyFixedClippingBase]] = {
        "server": DifferentialPrivacyServerSideFixedClipping,
        "client": DifferentialPrivacyClientSideFixedClipping,
    }
    if settings.privacy not in wrappers:
        return rounds
    noise, clip = settings.privacy_noise, settings.privacy_clip
    return _OfAnswers(rounds, wrappers[settings.privacy](rounds, noise, clip, clients))


class _OfAnswers(Strategy):
    """Hands Flower's strategy the replies of clients that have learnt, and how many these are.

    It would drop the whole round for one client that failed. The mean of fewer clients differs more
    by each of them, and gets as much more noise.
    """

    def __init__(
        self, rounds: RoundsStrategy, private: DifferentialPrivacyFixedClippingBase
    ) -> None:
        self._rounds = rounds
        self._private = private

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._private.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        answers = self._rounds.answers(replies)
        # With no answer at all, the rounds end the run.
        self._private.num_sampled_clients = max(1, len(answers))
        return self._private.aggregate_train(server_round, answers)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return self._private.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        return self._private.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        self._private.summary()
