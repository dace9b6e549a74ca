"""Chooses a replica for each call inside Ray Serve: `Homes`, and what Serve needs around them.

Serve's interface of routers is in alpha, so the release of Ray is pinned. What was learnt of it:
requests must be matched to the replica that was chosen for them (its FIFO mixin hands it to the
oldest instead); its own count of queues goes stale, so calls are counted here, from the moment of
choosing; and a request whose `should_backoff` is unset is tried again without a pause.
"""

import time
from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from gossamer.cluster.placement.homes import Homes
from gossamer.cluster.replicas.wire import ReplicaCall

CHOSEN_SECONDS = 10.0
"""A call that was not sent for so long after its replica was chosen was given up."""


class AdapterRouter(RequestRouter):
    """Sends each call to a home of its adapter; calls that are no `ReplicaCall` anywhere."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Begin with no calls; Serve calls it once."""
        self._homes = Homes()
        self._chosen: dict[str, tuple[ReplicaID, float]] = {}
        """Calls that are about to be sent, by their id within Serve."""
        self._sent: dict[str, ReplicaID] = {}
        self._keys: dict[str, str | None] = {}
        """The adapters by which the replicas of both were chosen."""
        # This class may be a copy that Serve has sent; the module that is imported here is none.
        from gossamer.cluster.replicas.reports import register

        register(self)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Order the replicas, best first: one that refuses is followed by the next."""
        if pending_request is None:
            return [list(candidate_replicas)]
        pending_request.routing_context.should_backoff = True
        by_rank, others = _by_rank(candidate_replicas)
        key, tried = _of_call(pending_request)
        loads, own = self._loads(), self._loads(key)
        self._homes.set_members(by_rank)
        ranks: list[int] = []
        if by_rank:
            by_member = {rank: loads[each.replica_id] for rank, each in by_rank.items()}
            own_by_member = {rank: own[each.replica_id] for rank, each in by_rank.items()}
            ranks = list(self._homes.order(key, by_member, own_by_member))
        ranks = [rank for rank in ranks if rank not in tried] + [r for r in ranks if r in tried]
        # Those that have not told their rank yet have just come, and nothing is at home there.
        others.sort(key=lambda each: loads[each.replica_id])
        order = [*(by_rank[rank] for rank in ranks), *others]
        if order:
            chosen = (order[0].replica_id, time.monotonic())
            call_id = pending_request.metadata.internal_request_id
            self._chosen[call_id], self._keys[call_id] = chosen, key
        return [[each] for each in order]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Note which replica has taken the call; Serve calls it."""
        call_id = pending_request.metadata.internal_request_id
        self._chosen.pop(call_id, None)
        self._sent[call_id] = replica_id

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Note that a call has ended; Serve calls it."""
        self._chosen.pop(internal_request_id, None)
        self._sent.pop(internal_request_id, None)
        self._keys.pop(internal_request_id, None)

    def figures(self) -> list[dict[str, Any]]:
        """Return what each replica has reported last, and the calls that it has from here."""
        loads = self._loads()
        replicas = list(self.curr_replicas.values())
        return [
            {**each.routing_stats, "calls_from_here": loads[each.replica_id]}
            for each in replicas
            if "rank" in each.routing_stats
        ]

    def _loads(self, key: str | None = None) -> Counter[ReplicaID]:
        """The calls that each replica has; with `key` those for that adapter."""
        late = time.monotonic() - CHOSEN_SECONDS
        for call_id, (_, at) in list(self._chosen.items()):
            if at < late:
                del self._chosen[call_id]
                if call_id not in self._sent:
                    self._keys.pop(call_id, None)
        sent, chosen = list(self._sent.items()), list(self._chosen.items())
        calls = [*sent, *((call_id, replica) for call_id, (replica, _) in chosen)]
        if key is not None:
            calls = [each for each in calls if self._keys.get(each[0]) == key]
        return Counter(replica for _, replica in calls)


def _by_rank(
    replicas: list[RunningReplica],
) -> tuple[dict[int, RunningReplica], list[RunningReplica]]:
    """The replicas by rank, and those that have not told theirs or have one that is taken."""
    by_rank: dict[int, RunningReplica] = {}
    others: list[RunningReplica] = []
    for each in replicas:
        rank = each.routing_stats.get("rank")
        if rank is None or rank in by_rank:
            others.append(each)
        else:
            by_rank[rank] = each
    return by_rank, others


def _of_call(pending_request: PendingRequest) -> tuple[str | None, tuple[int, ...]]:
    for argument in pending_request.args:
        if isinstance(argument, ReplicaCall):
            return argument.home_of, argument.tried
    return None, ()
