"""Keeps responses in memory, so that others can go on from them: a bounded number of bytes.

What a tenant has stored only that tenant can see. The oldest go first; none outlives the server.
"""

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass

from gossamer.errors import cut
from gossamer.serving.core.messages import DEFAULT_TENANT
from gossamer.serving.http.errors import ApiError

SHARE_OF_TENANT = 0.5
"""The largest share of the room that one tenant may take."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response, and all items that it was made of and consists of, as JSON."""

    response_id: str
    response: bytes
    new_input: bytes
    """The items of its own call."""
    items: bytes
    """The items before it, its own, and its answer: what the next one begins with."""

    @property
    def num_bytes(self) -> int:
        """The room that it takes."""
        return len(self.response) + len(self.new_input) + len(self.items)


class ResponseStore:
    """The stored responses of one server. Any thread may ask."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[StoredResponse, int]] = OrderedDict()
        self._bytes: Counter[str] = Counter()

    def keep(self, tenant: str, stored: StoredResponse) -> bool:
        """Keep a response in place of older ones; False if it alone is larger than the room."""
        size, limit = stored.num_bytes, self._max_bytes
        own = limit if tenant == DEFAULT_TENANT else int(limit * SHARE_OF_TENANT)
        if size > own:
            return False
        with self._lock:
            self._kept[tenant, stored.response_id] = (stored, size)
            self._bytes[tenant] += size
            while self._bytes[tenant] > own:
                self._drop(next(key for key in self._kept if key[0] == tenant))
            while self._bytes.total() > limit:
                self._drop(next(iter(self._kept)))
        return True

    def find(self, tenant: str, response_id: str, param: str = "response_id") -> StoredResponse:
        """Return a response of `tenant`; raises `ApiError` 404 for an id that it has not.

        `param` is the client's name for the id.
        """
        with self._lock:
            found = self._kept.get((tenant, response_id))
        if found is None:
            raise _unknown(response_id, param)
        return found[0]

    def delete(self, tenant: str, response_id: str) -> None:
        """Forget a response of `tenant`; raises `ApiError` 404 for an id that it has not."""
        with self._lock:
            if (tenant, response_id) not in self._kept:
                raise _unknown(response_id, "response_id")
            self._drop((tenant, response_id))

    def _drop(self, key: tuple[str, str]) -> None:
        _, size = self._kept.pop(key)
        self._bytes[key[0]] -= size
        if not self._bytes[key[0]]:
            del self._bytes[key[0]]


def _unknown(response_id: str, param: str) -> ApiError:
    return ApiError(
        404,
        f"no response '{cut(response_id)}' is stored; those of calls with 'store': false are not, "
        "and old ones are forgotten when room is needed, or when the server ends",
        code="response_not_found",
        param=param,
    )
