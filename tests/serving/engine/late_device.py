"""A device that computes as late as it may, and a whole engine on it but for the model.

The next token of a sequence depends on all tokens before it as they lie in its blocks, and on its
adapter's rows as they lie in theirs. So a block that changes hands too early gives other tokens
than `expected`, which knows no blocks.
"""

import random
from hashlib import blake2b

from policy_fakes import World

from gossamer.serving.core.adapter import AdapterEntry
from gossamer.serving.core.messages import Failed, Finished, Request, SamplingParams, Tokens
from gossamer.serving.core.sequence import Sequence
from gossamer.serving.core.tickets import DoneTicket
from gossamer.serving.engine.loop import EngineLoop
from gossamer.serving.engine.output import Generation, Receiver, RequestOutput
from gossamer.serving.engine.text_stream import TextStream
from gossamer.serving.runner.sampling.sampler import SampledToken, SamplingState
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.tokenization.vocabulary import vocabulary_of

VOCABULARY, EOS = 26, 7
BLOCK = 4


def next_token(context, rows, place, counts, is_early):
    """The token that follows `context`; None: nothing finite came out."""
    text = repr((context, rows, place, sorted(counts.items())))
    number = int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
    if number % 211 == 0:
        return None
    token = number % VOCABULARY
    return token + 1 if token == EOS and is_early else token


class Letters:
    """A tokenizer whose tokens are letters."""

    all_special_ids = ()

    def convert_ids_to_tokens(self, token):
        return chr(97 + token)

    def decode(self, tokens, **options):
        return "".join(map(self.convert_ids_to_tokens, tokens))


class LateStep:
    """What a step is to do, in the order of launches; done when somebody needs it."""

    def __init__(self, device, chunks, work, states):
        self.device, self.chunks, self._work = device, chunks, work
        self._states = states
        self.tokens = {}
        self.error = None
        self.number = device.launched() + 1
        self.must_be_read = any(state.needs_counts for state in states.values())

    def compute(self):
        for part in self._work:
            part(self.tokens, self.error)

    def result(self):
        self.device.compute_up_to(self.number)
        if self.error is not None:
            raise self.error
        choices = []
        for sequence, state in self._states.items():
            token = self.tokens[sequence]
            if token is not None and state.needs_counts:
                state.counts[token] += 1
            choices.append((sequence, None if token is None else SampledToken(token)))
        return choices, (1.0, 1.0, 1.0, 1.0)

    def prompt_scores(self):
        return []


class LateDevice:
    """Runner and loader in one."""

    def __init__(self, *, overlaps, rng=None, failures=0.0, fences=True):
        self.overlaps = overlaps
        self.cells = {}
        """What lies in each place of the pool: tokens, or an adapter's rows."""
        self._steps = []
        self._num_done = 0
        self._rng, self._failures = rng, failures
        self._fences = fences
        self.num_unknown = self.num_launched_behind = 0

    def launched(self):
        return len(self._steps)

    def follow(self):
        pass

    def compute_up_to(self, number):
        while self._num_done < number:
            self._num_done += 1
            self._steps[self._num_done - 1].compute()

    def place(self, rows, blocks, after):
        if self._fences:
            self.compute_up_to(after)
        for block in blocks:
            self.cells[block, 0] = rows
        return DoneTicket((rows, tuple(blocks)))

    def launch(self, chunks, state_of, after=None):
        self._fail_now_and_then()
        assert after is None or self.overlaps
        self.num_launched_behind += after is not None
        states, work = {}, []
        for part in chunks:
            sequence = part.sequence
            assert part.count > 0
            if sequence.prefix_of is not None:
                continue
            assert sequence.num_left > 0, "it has all its tokens"
            begin, end = sequence.num_computed, sequence.num_computed + part.count
            tokens, blocks = list(sequence.token_ids[begin:end]), tuple(sequence.blocks)
            self.num_unknown += -1 in tokens
            adapters = [
                (entry.table, weight)
                for entry, weight in (sequence.adapter.uses if sequence.adapter else ())
            ]
            choice = None
            if part.count == sequence.num_to_compute:
                state = states[sequence] = state_of(sequence)
                is_early = state.num_chosen < state.params.min_tokens
                place = state.rng.random() if state.params.temperature else None
                choice = (place, dict(state.counts), is_early)
                state.num_chosen += 1
            work.append(self._work(sequence, begin, tokens, blocks, adapters, choice, after))
        step = LateStep(self, chunks, work, states)
        if after is not None and after.error is not None:
            step.error = after.error
        elif self._failures and self._rng.random() < self._failures:
            step.error = MemoryError("found out late")
        self._steps.append(step)
        if not self.overlaps:
            self.compute_up_to(step.number)
        self._fail_now_and_then()
        return step

    def _work(self, sequence, begin, tokens, blocks, adapters, choice, after):
        def compute(found, error):
            for place, token in enumerate(tokens, begin):
                known = after.tokens[sequence] if token == -1 and error is None else token
                content = known if error is None else "garbage"
                self.cells[blocks[place // BLOCK], place % BLOCK] = content
            if error is not None:
                return
            rows = [(self._rows(*table), weight) for table, weight in adapters]
            if choice is not None:
                length = begin + len(tokens)
                context = [self.cells[blocks[i // BLOCK], i % BLOCK] for i in range(length)]
                found[sequence] = next_token(context, rows, *choice)

        return compute

    def _rows(self, rows, blocks):
        return [self.cells[block, 0] for block in blocks]

    def _fail_now_and_then(self):
        if self._failures and self._rng.random() < self._failures:
            raise MemoryError("pretended")


class Collected:
    """The events of one request."""

    def __init__(self, sequence):
        self.sequence = sequence
        self.events = []

    @property
    def tokens(self):
        return [token for e in self.events if isinstance(e, Tokens) for token in e.token_ids]

    @property
    def text(self):
        return "".join(e.text for e in self.events if isinstance(e, Tokens))

    @property
    def finals(self):
        return [event for event in self.events if isinstance(event, Finished | Failed)]


class LateEngine:
    """Scheduler, memory, adapters and the engine's loop as they are, on a `LateDevice`.

    The thread that calls `step` is the engine's.
    """

    def __init__(self, device, num_blocks, sizes, **options):
        self.device = device
        self.world = World(num_blocks, sizes, launched=device.launched, **options)
        self.world.loader.place = device.place
        scheduler = self.world.scheduler
        self.limiter = RateLimiter(10**9, scheduler.usage)
        self.loop = EngineLoop(device, scheduler, self.limiter, _Mailbox(), _Control(self.world))
        self._letters = Letters()
        self.collected = []

    def add(self, prompt, adapter=None, **params):
        params = SamplingParams(**params)
        world = self.world
        request = Request(
            request_id=str(len(self.collected)),
            prompt_token_ids=tuple(prompt),
            adapter=adapter,
            sampling=params,
        )
        sequence = Sequence(
            request=request,
            adapter=world.store.look_up(adapter) if adapter else None,
            max_new_tokens=params.max_tokens,
            token_ids=list(prompt),
            arrived=0.0,
        )
        one = Collected(sequence)
        output = RequestOutput(
            sequence,
            TextStream(self._letters, params.stop),
            vocabulary_of(self._letters),
            Receiver(one.events.append),
        )
        generation = Generation(
            sequence=sequence,
            sampling=SamplingState(params, (EOS,)),
            end_token_ids=frozenset(() if params.ignore_eos else (EOS,)),
            output=output,
            tell=lambda output, call: call(),
        )
        self.limiter.admit(request, 0)
        self.loop.requests.add(generation)
        self.loop.enqueue(sequence)
        self.collected.append(one)
        return one

    def run(self, limit=100_000):
        """Go on until nothing is left to do."""
        for _ in range(limit):
            self.world.threads.run()
            self.world.copies.run()
            if not self.step() and not (self.world.threads.jobs or self.world.copies.jobs):
                return
        raise AssertionError(f"not done after {limit} steps")

    def step(self):
        return self.loop.step()


class _Mailbox:
    def take(self):
        return []

    def post(self, message=None):
        pass


class _Control:
    def __init__(self, world):
        self._world = world

    def advance(self):
        self._world.store.collect_loads()


def expected(one: Collected, version=0):
    """(tokens, text, reason) of a request that runs to its end; the reason "failed" for a `Failed`.

    The tokens up to the end are told, then the end; text up to a stop text.
    """
    request, params = one.sequence.request, one.sequence.request.sampling
    uses = one.sequence.adapter.uses if one.sequence.adapter else ()
    rows = [([f"{entry.name}@{version}"] * size_of(entry), weight) for entry, weight in uses]
    rng, counts, text, tokens = random.Random(params.seed), {}, "", []
    while True:
        is_early = len(tokens) < params.min_tokens
        place = rng.random() if params.temperature else None
        token = next_token([*request.prompt_token_ids, *tokens], rows, place, counts, is_early)
        if token is None:
            return tokens, None, "failed"
        tokens.append(token)
        if params.presence_penalty:
            counts[token] = counts.get(token, 0) + 1
        if token == EOS and not params.ignore_eos:
            return tokens, text, "stop"
        text += chr(97 + token)
        found = [text.find(stop) for stop in params.stop if stop in text]
        if found:
            return tokens, text[: min(found)], "stop"
        if len(tokens) == params.max_tokens:
            return tokens, text, "length"


def size_of(entry: AdapterEntry):
    return entry.num_blocks or 0
