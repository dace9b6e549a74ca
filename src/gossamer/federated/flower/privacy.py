"""Differential privacy as Flower has it: its strategies around ours, its mods before our clients.

What is clipped is the change of all tensors of a client in a round, as one vector; the noise of the
server is for clients that all count the same, as they then do. Neither the mean loss nor the rows
that clients tell are covered.
"""

from typing import Any

from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)

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


def private_strategy(strategy: Strategy, settings: FederatedSettings, *, clients: int) -> Strategy:
    """Return the strategy with what the privacy of `settings` adds; `clients` learn in a round."""
    wrappers = {
        "server": DifferentialPrivacyServerSideFixedClipping,
        "client": DifferentialPrivacyClientSideFixedClipping,
    }
    if settings.privacy not in wrappers:
        return strategy
    wrapped: Strategy = wrappers[settings.privacy](
        strategy, settings.privacy_noise, settings.privacy_clip, clients
    )
    return wrapped
