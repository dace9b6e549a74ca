"""All keys of one server: those of its options, which open everything, and those of a key file."""

import hmac
from collections.abc import Iterable

from gossamer.serving.key_file import KeyFile
from gossamer.serving.keys import Caller, TenantSettings, digest


class KeyRing:
    """Finds who calls by a key, or by the name under which a key was recognised before."""

    def __init__(self, keys: Iterable[str] = (), file: KeyFile | None = None) -> None:
        # Digests have one length, so that a comparison tells nothing about the keys'.
        self._digests = [digest(key.encode()) for key in keys]
        self._file = file

    @property
    def needs_key(self) -> bool:
        """Tell whether there are any, so that a call must show one."""
        return bool(self._digests) or self._file is not None

    def find(self, key: bytes) -> Caller | None:
        """Return who calls with `key`; None if it is not valid. May read the file: not for the
        event loop."""
        given = digest(key)
        matches = [known for known in self._digests if hmac.compare_digest(given, known)]
        if matches:
            return _administrator(matches[0])
        return None if self._file is None else self._file.find(key)

    def find_id(self, key_id: str) -> Caller | None:
        """Return who calls with the key of that `Caller.key_id`; None if it has been revoked."""
        if key_id in self._digests:
            return _administrator(key_id)
        return None if self._file is None else self._file.find_id(key_id)

    def tenant(self, name: str) -> TenantSettings | None:
        """Return what the key file says of a tenant; None where it says nothing."""
        return None if self._file is None else self._file.tenant(name)


def _administrator(key_id: str) -> Caller:
    return Caller(is_admin=True, may_train=True, key_id=key_id)
