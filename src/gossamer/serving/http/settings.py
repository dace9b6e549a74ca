"""Settings of the HTTP server; imports nothing of FastAPI, so that `--help` stays quick."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from gossamer.errors import cut
from gossamer.settings import Settings

ToolParserName = Literal[
    "auto", "template", "hermes", "llama3", "mistral", "qwen3-coder", "generic"
]
"""The parsers of tool calls, by name."""


class HttpSettings(Settings):
    """Where to listen, who may call, and the limits of one call."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every interface of this machine."""
    port: int = Field(8000, ge=0, le=65535)
    """Port to listen on; 0 picks a free one and says which."""
    api_keys: tuple[str, ...] = ()
    """A key that clients may use (repeatable); without any, everyone who reaches the port may call.
    The variable GOSSAMER_API_KEY does the same without showing the key in the process list."""
    keys: Path | None = None
    """File with keys, their tenants and what each may use, made by `gossamer keys`; a change counts
    from the next call on."""
    cors_origins: tuple[str, ...] = ()
    """A web origin whose pages may call from a browser (repeatable); '*' is any."""
    allowed_hosts: tuple[str, ...] = ()
    """A name under which clients may call a server without keys (repeatable), beside localhost,
    this machine's own name and numerical addresses; '*' is any. It keeps web pages out that make
    their own name point here."""
    drain_seconds: float = Field(30.0, ge=0)
    """Seconds that running requests may go on after SIGTERM or Ctrl-C."""
    max_connections: int = Field(1000, ge=1)
    """Most connections at a time, within what `ulimit -n` allows; beyond it the one whose client
    has kept the server waiting longest is closed for a new one, and if all are at work new ones
    get status 503. A few more are kept for /health."""
    header_timeout: float = Field(10.0, gt=0, allow_inf_nan=False)
    """Seconds that a client may take to send the head of a request."""
    body_timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    """Seconds that a client may take to send the body of a request."""
    keep_alive: float = Field(75.0, gt=0, allow_inf_nan=False)
    """Seconds that an idle connection is kept; longer than clients and proxies keep theirs, so that
    they close it and not we: a call sent into a connection that we are closing would be lost."""
    write_timeout: float = Field(60.0, gt=0, allow_inf_nan=False)
    """Seconds that a client may leave unread what has been sent; then its connection is closed and
    its requests are cancelled."""
    max_header_kib: int = Field(32, ge=8)
    """Largest head of a request (address and headers), in KiB."""
    max_body_mib: float = Field(8.0, gt=0)
    """Largest body of a request, in MiB."""
    max_bodies_mib: float = Field(256.0, gt=0)
    """Most MiB that the bodies of all requests take together until their prompts are encoded, and
    what /v1/responses keeps of them until it has replied; a tenant may take half. Beyond it clients
    get status 503."""
    max_choices: int = Field(128, ge=1)
    """Most sequences of one call: `n` times the number of prompts."""

    max_responses_mib: float = Field(64.0, ge=0, allow_inf_nan=False)
    """Most MiB of responses that are kept in memory, so that a call of /v1/responses can go on from
    one; a tenant may take half, the oldest go first; 0: none."""
    request_log: Path | None = None
    """File to which a line of JSON is added for every call (-: standard error): its id, route and
    status, tenant, model, tokens and times. Nothing of prompts and answers."""
    traces: str | None = None
    """Where a collector of OpenTelemetry traces listens for OTLP over HTTP, such as
    http://localhost:4318/v1/traces: it is sent a span for every call. Needs the extra otel."""
    tool_parser: ToolParserName = "auto"
    """How calls of tools are read in answers: auto (by the tokenizer's own description of answers,
    or else by the model's chat template), template (that description), hermes (JSON between
    <tool_call> tags, as Hermes and Qwen write), llama3 (JSON alone), mistral ([TOOL_CALLS]),
    qwen3-coder (tags for parameters), or generic (any of those of JSON). For adapters that were
    taught another way than their base model."""

    @field_validator("api_keys")
    @classmethod
    def _keys_are_usable(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        if any(not key or key != key.strip() for key in keys):
            raise ValueError("an API key is empty or begins or ends with a space")
        return keys

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts_are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not host or any(sign in host for sign in "/: "):
                raise ValueError(f"'{host}' is not a host's name; leave out scheme and port")
        return hosts

    @field_validator("traces")
    @classmethod
    def _traces_go_to_an_address(cls, address: str | None) -> str | None:
        if address is not None and not address.startswith(("http://", "https://")):
            raise ValueError(
                f"'{cut(address)}' is no address; give the whole of it, such as "
                "http://localhost:4318/v1/traces"
            )
        return address

    @model_validator(mode="after")
    def _a_body_has_room(self) -> Self:
        if self.max_bodies_mib < 2 * self.max_body_mib:
            raise ValueError(
                f"max_bodies_mib={self.max_bodies_mib:g} must be at least twice "
                f"max_body_mib={self.max_body_mib:g}: a tenant may take half of it"
            )
        return self

    @property
    def needs_key(self) -> bool:
        """Whether a call must carry a key."""
        return bool(self.api_keys) or self.keys is not None

    @property
    def is_public(self) -> bool:
        """Whether other machines may reach the server."""
        return self.host not in ("localhost", "::1") and not self.host.startswith("127.")

    @property
    def max_body_bytes(self) -> int:
        """Largest body of a request, in bytes."""
        return int(self.max_body_mib * 2**20)

    @property
    def max_responses_bytes(self) -> int:
        """Largest size of all stored responses together, in bytes."""
        return int(self.max_responses_mib * 2**20)

    @property
    def max_bodies_bytes(self) -> int:
        """Largest bodies of all requests together, in bytes."""
        return int(self.max_bodies_mib * 2**20)
