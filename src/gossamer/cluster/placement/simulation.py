"""Plays traffic for many adapters on replicas that are only pretended, in seconds and no tensors.

A replica has places in its batch, loaders, and adapters in its pool and more in host memory; in
both the one unused for longest makes room. An adapter begins to be loaded when its request is among
the first that wait, as the server reads ahead; it is kept while a request uses it. Answers slow
down with the number of distinct adapters in the batch. Where rivals want more than there is, each
replica starts the request of the tenant that it has served least.
"""

import heapq
import itertools
import random
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gossamer.cluster.placement.policies import Policy, make_policy
from gossamer.cluster.placement.queues import FirstCome, LeastServed, SimulatedCall
from gossamer.cluster.placement.settings import PolicyName, SimulationSettings

Action = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedTraffic:
    """Shows what one policy has made of the traffic; of the second half of the requests."""

    policy: PolicyName
    pool: float
    """Part of the requests whose adapter was in the pool of their replica when they came;"""
    host: float
    """in its host memory only;"""
    cold: float
    """or in neither."""
    first: float
    """Part of the requests that were the first of all for their adapter: no policy can help."""
    cold_per_second: float
    """Cold loads of all replicas together."""
    imbalance: float
    """Requests of the busiest replica over those of a replica on average."""
    start_mean: float
    """Seconds from a request's arrival to its place in the batch with its adapter loaded,"""
    start_p99: float
    """and what a hundredth of them exceeds."""
    seconds: float
    """Simulated time in which they came."""
    rivals: tuple[float, ...] = ()
    """What each rival has got of the service that all rivals have got in that time."""


class _Clock:
    """What happens when."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()

    def after(self, seconds: float, action: Action) -> None:
        heapq.heappush(self._due, (self.now + seconds, next(self._numbers), action))

    def run(self) -> None:
        while self._due:
            self.now, _, action = heapq.heappop(self._due)
            action()

    def time(self) -> float:
        return self.now


class _Replica:
    """One engine as far as adapters are concerned."""

    def __init__(
        self,
        settings: SimulationSettings,
        clock: _Clock,
        number: int,
        loads: dict[int, int],
        ended: Callable[[SimulatedCall], None],
    ) -> None:
        """`loads` has the requests of each replica that have come and not ended; `ended` is told of
        each that has."""
        self._settings, self._clock = settings, clock
        self._number, self._loads_of_all = number, loads
        self._waiting: FirstCome | LeastServed = LeastServed() if settings.rival else FirstCome()
        self._ended = ended
        self._running: Counter[int] = Counter()
        self._num_running = 0
        self._pool: OrderedDict[int, bool] = OrderedDict()
        """Adapters in the pool or on their way (False), the one used last at the end."""
        self._users: Counter[int] = Counter()
        self._host: OrderedDict[int, None] = OrderedDict()
        self._loads: deque[tuple[int, float]] = deque()
        self._idle_loaders = settings.loaders

    def add(self, call: SimulatedCall) -> None:
        self._loads_of_all[self._number] += 1
        call.place = self._place(call.adapter)
        self._waiting.add(call)
        self._go_on()

    def _place(self, adapter: int) -> str:
        if adapter in self._pool:
            return "pool"
        return "host" if adapter in self._host else "cold"

    def _go_on(self) -> None:
        """Load for those who wait in front, and start those whose adapter is there."""
        while True:
            started = self._startable()
            if started is None:
                return
            self._waiting.start(started)
            self._start(started)

    def _startable(self) -> SimulatedCall | None:
        for call in self._waiting.first(self._settings.read_ahead):
            if not call.is_held:
                call.is_held = self._hold(call.adapter)
            is_there = call.is_held and self._pool[call.adapter]
            if is_there and self._num_running < self._settings.slots:
                return call
        return None

    def _hold(self, adapter: int) -> bool:
        """Keep an adapter in the pool for a request; it is loaded first if it is not there."""
        if adapter not in self._pool:
            if not self._has_room():
                return False
            seconds = self._settings.host_seconds
            if adapter not in self._host:
                seconds = self._settings.cold_seconds
            self._pool[adapter] = False
            self._loads.append((adapter, seconds))
            self._load_next()
        self._pool.move_to_end(adapter)
        self._remember(adapter)
        self._users[adapter] += 1
        return True

    def _has_room(self) -> bool:
        if len(self._pool) < self._settings.pool:
            return True
        idle = (adapter for adapter in self._pool if not self._users[adapter])
        found = next(idle, None)
        if found is None:
            return False
        del self._pool[found]
        return True

    def _remember(self, adapter: int) -> None:
        self._host[adapter] = None
        self._host.move_to_end(adapter)
        while len(self._host) > self._settings.host:
            self._host.popitem(last=False)

    def _load_next(self) -> None:
        if self._loads and self._idle_loaders:
            self._idle_loaders -= 1
            adapter, seconds = self._loads.popleft()
            self._clock.after(seconds, lambda: self._loaded(adapter))

    def _loaded(self, adapter: int) -> None:
        self._idle_loaders += 1
        self._pool[adapter] = True
        self._load_next()
        self._go_on()

    def _start(self, call: SimulatedCall) -> None:
        call.started = self._clock.now
        self._num_running += 1
        self._running[call.adapter] += 1
        full = len(self._running) / self._settings.slots
        self._clock.after(call.work * (1 + self._settings.slowdown * full), lambda: self._end(call))

    def _end(self, call: SimulatedCall) -> None:
        self._loads_of_all[self._number] -= 1
        self._num_running -= 1
        for counts in (self._running, self._users):
            counts[call.adapter] -= 1
            if not counts[call.adapter]:
                del counts[call.adapter]
        self._ended(call)
        self._go_on()


def simulate(settings: SimulationSettings, policy: PolicyName) -> SimulatedTraffic:
    """Play the traffic of `settings` with one policy; the same seed gives the same figures."""
    clock = _Clock()
    # One source of chance for the traffic, which all policies then meet, and one for the policy.
    chooser = make_policy(policy, settings.replicas, random.Random(settings.seed + 1), clock.time)
    return _Run(settings, policy, chooser, clock).play()


class _Run:
    """One policy on one stretch of traffic."""

    def __init__(
        self, settings: SimulationSettings, name: PolicyName, policy: Policy, clock: _Clock
    ) -> None:
        self._settings, self._name, self._policy, self._clock = settings, name, policy, clock
        self._loads = dict.fromkeys(range(settings.replicas), 0)
        self._replicas = [
            _Replica(settings, clock, number, self._loads, self._ended) for number in self._loads
        ]
        self._rivals = _Rivals(settings)
        self._open: dict[int, Counter[int]] = {}
        """The requests for each adapter that have come and not ended, by replica."""
        self._seen: set[int] = set()
        self._calls: list[SimulatedCall] = []
        self._taken: Counter[int] = Counter()
        self._from = float("inf")
        """When the first request came that counts."""
        self._has_ended = False

    def play(self) -> SimulatedTraffic:
        arrivals = self._arrivals()

        def arrive() -> None:
            call = next(arrivals, None)
            if call is None:
                self._has_ended = True
                return
            call.arrived = self._clock.now
            self._send(call)
            self._clock.after(rng.expovariate(rate), arrive)

        settings = self._settings
        rng = random.Random(settings.seed + 2)
        per_replica = settings.slots / (settings.answer_seconds * (1 + settings.slowdown))
        rate = settings.load * settings.replicas * per_replica
        self._clock.after(0.0, arrive)
        for number in range(len(settings.rival)):
            for _ in range(settings.slots * settings.replicas):
                self._send(self._rivals.call(number, self._clock.now))
        self._clock.run()
        return self._outcome()

    def _arrivals(self) -> Iterator[SimulatedCall]:
        settings = self._settings
        rng = random.Random(settings.seed)
        weights = itertools.accumulate((n + 1) ** -settings.zipf for n in range(settings.adapters))
        cumulative = list(weights)
        total = settings.requests * settings.replicas
        for begin in range(0, total, 4096):
            count = min(4096, total - begin)
            drawn = rng.choices(range(settings.adapters), cum_weights=cumulative, k=count)
            for number, adapter in enumerate(drawn, begin):
                work = rng.expovariate(1 / settings.answer_seconds)
                call = SimulatedCall(
                    adapter, f"of {adapter}", 0.0, work, first=adapter not in self._seen
                )
                self._seen.add(adapter)
                if number >= total // 2:
                    self._calls.append(call)
                yield call

    def _send(self, call: SimulatedCall) -> None:
        own = self._open.setdefault(call.adapter, Counter())
        chosen = call.replica = self._policy.choose(str(call.adapter), self._loads, own)
        own[chosen] += 1
        if self._calls and self._calls[-1] is call:
            self._taken[chosen] += 1
            if len(self._calls) == 1:
                self._from = call.arrived
        self._replicas[chosen].add(call)

    def _ended(self, call: SimulatedCall) -> None:
        """Count an answer out. A rival asks again as soon as it has one, as long as others do."""
        own = self._open[call.adapter]
        own[call.replica] -= 1
        if not own.total():
            del self._open[call.adapter]
        if call.tenant in self._rivals.tenants and not self._has_ended:
            number = self._rivals.tenants.index(call.tenant)
            self._rivals.count(number, call, self._from)
            self._send(self._rivals.call(number, self._clock.now))

    def _outcome(self) -> SimulatedTraffic:
        calls, count = self._calls, len(self._calls)
        places = Counter(call.place for call in calls)
        waits = sorted(call.started - call.arrived for call in calls)
        span = max(calls[-1].arrived - self._from, 1e-9)
        return SimulatedTraffic(
            policy=self._name,
            pool=places["pool"] / count,
            host=places["host"] / count,
            cold=places["cold"] / count,
            first=sum(call.first for call in calls) / count,
            cold_per_second=places["cold"] / span,
            imbalance=max(self._taken.values()) * self._settings.replicas / count,
            start_mean=sum(waits) / count,
            start_p99=waits[int(0.99 * (count - 1))],
            seconds=span,
            rivals=self._rivals.parts(),
        )


class _Rivals:
    """Tenants that always have more requests than there are places, and what they have got."""

    def __init__(self, settings: SimulationSettings) -> None:
        self._settings = settings
        self._rng = random.Random(settings.seed + 3)
        self.tenants = [f"rival {number}" for number in range(len(settings.rival))]
        self._got = [0.0] * len(settings.rival)

    def call(self, number: int, now: float) -> SimulatedCall:
        """Make one more request of a rival, for any of its adapters."""
        settings = self._settings
        adapter = settings.adapters + sum(settings.rival[:number])
        adapter += self._rng.randrange(settings.rival[number])
        work = self._rng.expovariate(1 / settings.answer_seconds)
        return SimulatedCall(adapter, self.tenants[number], now, work)

    def count(self, number: int, call: SimulatedCall, since: float) -> None:
        """Count an answer that has ended, if it had begun after `since`."""
        if call.started >= since:
            self._got[number] += call.work

    def parts(self) -> tuple[float, ...]:
        """Return what each has got of what all have."""
        total = sum(self._got)
        return tuple(got / total if total else 0.0 for got in self._got)
