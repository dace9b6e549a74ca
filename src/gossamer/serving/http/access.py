"""Who calls, and what it may name. Set by the check of keys; everyone may do all without one."""

from collections.abc import Iterable
from typing import cast

from starlette.requests import Request

from gossamer.errors import UnknownModelError, unknown_name_message
from gossamer.serving.http.errors import ApiError
from gossamer.serving.interface import AdapterStatus, EngineInterface
from gossamer.serving.keys import Caller

ANYONE = Caller()


def caller_of(http: Request) -> Caller:
    """Who has sent the call."""
    return cast(Caller, getattr(http.state, "caller", ANYONE))


def allowed(
    caller: Caller, adapters: Iterable[AdapterStatus], engine: EngineInterface
) -> list[AdapterStatus]:
    """Those of `adapters` that the caller may see."""
    return [a for a in adapters if caller.may_use(a.name, engine.model_name)]


def check_model(caller: Caller, model: str, engine: EngineInterface) -> None:
    """Raise `UnknownModelError` for a name that is not the caller's to use.

    What a tenant may not use does not exist for it, or names of others could be guessed.
    """
    if not caller.may_use(model, engine.model_name):
        raise unknown_model(caller, model, engine)


def unknown_model(caller: Caller, model: str, engine: EngineInterface) -> UnknownModelError:
    """The error, with suggestions among what the caller may see."""
    names = [adapter.name for adapter in allowed(caller, engine.adapters(), engine)]
    return UnknownModelError(unknown_name_message("model", model, [engine.model_name, *names]))


def require_admin(http: Request) -> None:
    """Raise `ApiError` 403 unless the caller's key is an administrator's."""
    if not caller_of(http).is_admin:
        raise ApiError(
            403,
            f"{http.url.path} needs an administrator's key; make one with "
            "'gossamer keys add NAME --admin'",
            code="admin_key_required",
        )
