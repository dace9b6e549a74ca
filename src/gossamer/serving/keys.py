"""API keys: who a caller is and what it may use. Only hashes of keys are kept.

A key is `gsm_<id>_<secret>`. The id is public and finds the entry; of the secret, 256 random bits,
a plain SHA-256 is enough: there is nothing to guess that a slow hash would protect.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Self

from pydantic import Field, field_validator, model_validator

from gossamer.errors import SettingError, UnknownNameError
from gossamer.serving.core.messages import DEFAULT_TENANT
from gossamer.serving.core.tenants import TenantLimits
from gossamer.serving.core.tuned_name import owner_of
from gossamer.settings import Settings

KEY = re.compile(rb"gsm_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_MIB = 2**20


class TenantSettings(Settings):
    """What a tenant in a key file may use."""

    adapters: tuple[str, ...] = ()
    """Names or patterns (such as `team-*`) of the adapters it sees and may name; `*` is all but the
    fine-tuned models of other tenants, which only patterns that begin with `ft:` reach. The base
    model and its own fine-tuned models are open to every tenant."""
    admin: bool = False
    """Whether its keys open what is for those who run the server, such as /metrics."""
    share: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Share of the service while several tenants want some: 2 gets twice as much as 1."""
    max_in_flight: int | None = Field(default=None, ge=1)
    """Requests that wait or run; more are refused with status 429."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Prompt and new tokens; who has used them up is refused with status 429 for a while."""
    resident_mib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """MiB of adapter weights that its running requests use together; what exceeds it waits."""

    train: bool = False
    """Whether it may upload data and start training jobs on a server that takes them; its
    administrators may in any case."""
    max_jobs: int | None = Field(default=None, ge=1)
    """Training jobs that run at a time; further ones wait."""
    max_queued_jobs: int | None = Field(default=None, ge=1)
    """Training jobs that wait or run; more are refused with status 429."""
    storage_mib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """MiB of its uploaded files; what exceeds it is refused."""
    train_minutes_per_day: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Minutes of training within 24 hours; who has used them up waits."""

    def limits(self) -> TenantLimits:
        """The part that the scheduler keeps to."""
        return TenantLimits(
            share=self.share,
            max_in_flight=self.max_in_flight,
            tokens_per_minute=self.tokens_per_minute,
            resident_bytes=None if self.resident_mib is None else int(self.resident_mib * _MIB),
        )


class KeySettings(Settings):
    """One key of a key file."""

    id: str = Field(pattern="^[0-9a-f]{8}$")
    """The part of the key that may be seen."""
    tenant: str
    """The tenant whose key it is."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """The SHA-256 of the whole key, in hexadecimal digits."""
    created: str = ""
    """Day on which it was made."""


class KeyFileSettings(Settings):
    """A key file as a whole."""

    tenants: dict[str, TenantSettings] = Field(default_factory=dict)
    """By name."""
    keys: tuple[KeySettings, ...] = ()
    """All that are valid."""

    @field_validator("tenants")
    @classmethod
    def _names_are_plain(cls, tenants: dict[str, TenantSettings]) -> dict[str, TenantSettings]:
        for name in tenants:
            if not TENANT_NAME.fullmatch(name):
                raise ValueError(f"'{name}' is no tenant's name; use letters, digits and _ . @ -")
        return tenants

    @model_validator(mode="after")
    def _keys_belong_to_tenants(self) -> Self:
        for key in self.keys:
            if key.tenant not in self.tenants:
                raise ValueError(f"key {key.id} is of tenant '{key.tenant}', who is not listed")
        if len({key.id for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same id")
        return self

    def with_key(self, tenant: str, changes: Mapping[str, object]) -> "tuple[KeyFileSettings, str]":
        """Return the content with a new key of `tenant`, whose settings change so; and the key.

        A tenant that is new is made. Raises `SettingError`.
        """
        if not TENANT_NAME.fullmatch(tenant):
            raise SettingError(
                f"'{tenant}' is no tenant's name; use up to 64 letters, digits and _ . @ -"
            )
        former = self.tenants.get(tenant)
        if former is None and changes.get("admin"):
            # Who may load any adapter under any name may use them all.
            changes = {"adapters": ["*"], **changes}
        settings = (former or TenantSettings()).updated(changes, where="tenant")
        key, key_id = new_key()
        today = datetime.now(UTC).date().isoformat()
        entry = KeySettings(id=key_id, tenant=tenant, sha256=digest(key.encode()), created=today)
        content = KeyFileSettings(
            tenants={**self.tenants, tenant: settings}, keys=(*self.keys, entry)
        )
        return content, key

    def without_key(self, key_id: str) -> "KeyFileSettings":
        """Return the content without the key of that id; raises `UnknownNameError`."""
        kept = tuple(key for key in self.keys if key.id != key_id)
        if len(kept) == len(self.keys):
            raise UnknownNameError.among("key", key_id, [key.id for key in self.keys])
        return KeyFileSettings(tenants=self.tenants, keys=kept)

    def find(self, key: bytes) -> "Caller | None":
        """Who calls with `key`; None if it is not valid. Takes the same time for wrong secrets."""
        match = KEY.fullmatch(key)
        key_id = match[1].decode() if match else ""
        entry = next((k for k in self.keys if k.id == key_id), None)
        expected = entry.sha256 if entry is not None else "0" * 64
        if not hmac.compare_digest(digest(key), expected) or entry is None:
            return None
        return self._caller(entry)

    def find_id(self, key_id: str) -> "Caller | None":
        """Who calls with the key of that id; None if there is none any more."""
        entry = next((k for k in self.keys if k.id == key_id), None)
        return None if entry is None else self._caller(entry)

    def _caller(self, entry: KeySettings) -> "Caller":
        tenant = self.tenants[entry.tenant]
        return Caller(
            tenant=entry.tenant,
            is_admin=tenant.admin,
            adapters=tenant.adapters,
            may_train=tenant.train or tenant.admin,
            key_id=entry.id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who has sent a call."""

    tenant: str = DEFAULT_TENANT
    is_admin: bool = False
    adapters: tuple[str, ...] | None = None
    """Patterns of names; None: all."""
    may_train: bool = False
    """Whether it may upload data and start training jobs."""
    granted: frozenset[str] = frozenset()
    """Names that others have let this tenant use."""
    key_id: str | None = field(default=None, compare=False)
    """The key that it has shown: its id in the key file, or the SHA-256 of one of the options."""

    def may_use(self, adapter: str, stands_for: str | None = None) -> bool:
        """Whether the adapter of that name may be used. Of a mixture, ask for each part.

        `stands_for` is the adapter whose second name it is, if of one: a second name of a
        fine-tuned model opens it to those alone who may use the model.
        """
        if stands_for is not None and owner_of(stands_for) is not None:
            return self.may_use(stands_for)
        if self.adapters is None or adapter in self.adapters or adapter in self.granted:
            return True
        owner = owner_of(adapter)
        if owner == self.tenant:
            return True
        # What a tenant has tuned on its own data is not in everybody's "all".
        is_private = owner is not None and not self.is_admin
        patterns = (p for p in self.adapters if not is_private or p.startswith("ft:"))
        return any(fnmatchcase(adapter, pattern) for pattern in patterns)


def new_key() -> tuple[str, str]:
    """A fresh key and its id."""
    key_id = secrets.token_hex(4)
    return f"gsm_{key_id}_{secrets.token_urlsafe(32)}", key_id


def digest(key: bytes) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key).hexdigest()
