"""What belongs to whom, in one place: every query of a caller passes through here.

A tenant sees rows of its own; the supervisor and administrators, who are `EVERYONE`, see all. What
is not the caller's does not exist: the error is the one for an identifier that was never given.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, TypeVar

from sqlalchemy import ColumnElement, Select, and_, or_, select
from sqlalchemy.orm import Mapped, Session

from gossamer.errors import UnknownIdError, cut
from gossamer.jobs.store.records import ListPage, record
from gossamer.jobs.store.tables import TableRow


class _Everyone:
    """The type of `EVERYONE`: a tenant's name can never be mistaken for it."""

    def __repr__(self) -> str:
        return "EVERYONE"


EVERYONE: Final = _Everyone()
Tenant = str | _Everyone
"""The one whose rows are asked for."""

Order = Literal["asc", "desc"]
R = TypeVar("R")


class _OwnedRow(Protocol):
    tenant: Mapped[str]


T = TypeVar("T", bound=TableRow)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageAsk:
    """Which part of a list is asked for."""

    limit: int = 20
    after: str | None = None
    """The identifier of the last entry of the page before; None: from the start."""
    order: Order = "desc"
    """By creation: the newest first, or the oldest."""


def owned(tenant: Tenant, table: type[T]) -> Select[T]:
    """Select the rows of `table` that belong to `tenant`."""
    query = select(table)
    if isinstance(tenant, _Everyone):
        return query
    return query.where(_tenant_column(table) == tenant)


def fetch(
    session: Session,
    tenant: Tenant,
    table: type[T],
    identifier: str,
    *,
    what: str,
    lock: bool = False,
) -> T:
    """The row with that primary key if it belongs to `tenant`; raises `UnknownIdError` otherwise.

    With `lock` no other transaction changes it before this one ends.
    """
    query = owned(tenant, table).where(_key(table) == identifier)
    row = session.scalars(query.with_for_update() if lock else query).one_or_none()
    if row is None or getattr(row, "deleted", None) is not None:
        raise absent(what, identifier)
    return row


def absent(what: str, identifier: str) -> UnknownIdError:
    """Build the error for an identifier that the caller has no row of."""
    return UnknownIdError(f"there is no {what} '{cut(identifier)}'", code=f"{what}_not_found")


def page_of(
    session: Session,
    tenant: Tenant,
    table: type[T],
    cls: type[R],
    ask: PageAsk,
    *filters: ColumnElement[bool],
    what: str,
) -> ListPage[R]:
    """One page of the rows of `tenant` that pass `filters`, by creation and then by key.

    No entry is met twice, whatever is added meanwhile. Raises `UnknownIdError` if `ask.after` is
    no row of the tenant's; one that has been deleted since will do.
    """
    query = owned(tenant, table).where(*filters)
    created, key = _created(table), _key(table)
    if ask.after is not None:
        place = owned(tenant, table).where(key == ask.after).with_only_columns(created, key)
        last = session.execute(place).one_or_none()
        if last is None:
            raise absent(what, ask.after)
        # Written out, since not every version of SQLite uses an index for pairs.
        if ask.order == "desc":
            query = query.where(or_(created < last[0], and_(created == last[0], key < last[1])))
        else:
            query = query.where(or_(created > last[0], and_(created == last[0], key > last[1])))
    columns = [created, key]
    query = query.order_by(*(c.desc() if ask.order == "desc" else c.asc() for c in columns))
    rows = list(session.scalars(query.limit(ask.limit + 1)))
    return ListPage([record(cls, row) for row in rows[: ask.limit]], len(rows) > ask.limit)


def _key(table: type[TableRow]) -> Any:
    (column,) = table.__mapper__.primary_key
    return getattr(table, column.key or "")


def _created(table: type[TableRow]) -> Any:
    return table.created  # type: ignore[attr-defined]


def _tenant_column(table: Any) -> Mapped[str]:
    owner: type[_OwnedRow] = table
    return owner.tenant
