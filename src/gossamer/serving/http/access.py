"""Who calls, and what it may name. Set by the check of keys; everyone may do all without one."""

from collections.abc import Iterable
from typing import cast

from starlette.requests import Request

from gossamer.errors import UnknownModelError, cut, unknown_name_message
from gossamer.serving.blend import adapters_in
from gossamer.serving.http.context import Context
from gossamer.serving.http.errors import ApiError
from gossamer.serving.interface import AdapterStatus
from gossamer.serving.keys import Caller

ANYONE = Caller()


def caller_of(http: Request) -> Caller:
    """Who has sent the call."""
    return cast(Caller, getattr(http.state, "caller", ANYONE))


def allowed(caller: Caller, adapters: Iterable[AdapterStatus]) -> list[AdapterStatus]:
    """Those of `adapters` that the caller may see."""
    return [adapter for adapter in adapters if caller.may_use(adapter.name)]


def may_name(caller: Caller, model: str) -> bool:
    """Whether `model`, which is not the base model's name, is the caller's to use.

    What a tenant may not use does not exist for it, or names of others could be guessed. Raises
    `RequestError` for a mixture that makes no sense.
    """
    return caller.adapters is None or all(map(caller.may_use, adapters_in(model)))


def unknown_model(
    caller: Caller, model: str, base: str, adapters: Iterable[AdapterStatus]
) -> UnknownModelError:
    """The error, with suggestions among what the caller may see; of a mixture, for the part that
    is not known."""
    names = {adapter.name for adapter in allowed(caller, adapters)}
    missing = next((part for part in adapters_in(model) if part not in names), model)
    if missing == base:
        return UnknownModelError(
            f"model '{cut(model)}': '{missing}' is the base model, to which adapters are added; "
            "leave it out"
        )
    return UnknownModelError(unknown_name_message("model", missing, [base, *names]))


def require_admin(http: Request) -> None:
    """Raise `ApiError` 403 unless the caller's key is an administrator's."""
    if not caller_of(http).is_admin:
        settings = Context.of(http).settings
        start = "" if settings.keys is not None else " and start the server with --keys keys.yaml"
        raise ApiError(
            403,
            f"{cut(http.url.path)} needs an administrator's key; make one with "
            f"'gossamer keys add NAME --admin'{start}",
            code="admin_key_required",
        )
