"""The token without which a Ray that this process starts obeys no call. Never imports Ray."""

import os
import secrets
import sys

from gossamer.errors import SettingError


def require_ray_token() -> None:
    """Have the Ray that this process starts obey only calls that carry a token.

    A call can run code, and not all of Ray's ports can be kept to the loopback. The token is drawn
    here and handed to Ray's processes by the environment alone; where RAY_AUTH_MODE is token
    already, that which Ray then looks for stays. RAY_AUTH_MODE=disabled does not count: nothing but
    this process and its children has to reach that Ray. Call it before Ray is loaded, which reads
    the mode once. Raises `SettingError` if Ray was loaded without it.
    """
    if os.environ.get("RAY_AUTH_MODE") == "token":
        return
    if "ray" in sys.modules:
        raise SettingError(
            "Ray was loaded by this process without RAY_AUTH_MODE=token, and could obey calls that "
            "carry no token; take a new process, or set that and RAY_AUTH_TOKEN before Ray is "
            "loaded"
        )
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
