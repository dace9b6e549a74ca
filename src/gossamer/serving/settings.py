"""What the engine and a plan of its pool are told. Imports nothing heavy."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from gossamer.adapters.reading.limits import AdapterLimits
from gossamer.basemodel.quantize import Quantization
from gossamer.settings import Settings

AdapterSharding = Literal["replicated", "full"]


class ServeSettings(Settings):
    """The base model, its adapters, and the engine's limits."""

    model: str
    """Base model: an alias such as smollm2-135m, a folder, or a hub id."""
    adapters: tuple[Path, ...] = ()
    """Folder whose sub-folders are adapters, served under their names (repeatable); adapters are
    loaded from nowhere else."""
    memory_gib: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """GiB for keys, values and adapter weights together; unset: on a CPU a quarter of what is free
    (of the container's limit, where there is one), at most 4; on a GPU nine tenths of what the
    weights leave."""
    host_cache_gib: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """GiB for weights of adapters that are not in the pool, so that they come back without being
    read from disk; unset: as much as the pool, at most 1; 0: none."""
    prefix_cache: bool = True
    """Keep keys and values of prompts until the memory is needed, and use them again for
    prompts that begin alike."""
    share_prefixes: bool = False
    """Let tenants use keys and values of each other's prompts. It saves work where many send the
    same long beginning, and lets each find out whether another has sent a text that it guesses."""
    special_tokens: Literal["template", "prompts", "everywhere"] = "prompts"
    """Where the text of a special token (such as <|im_end|>) stands for the token: in the chat
    template only; also in plain prompts (of /v1/completions), which are all that the model gets; or
    everywhere, in the messages of a chat too, whose writers can then end their turn and open
    another's."""
    max_context: int | None = Field(default=None, ge=2)
    """Prompt and new tokens of a request at most; unset: what the model was made for."""
    max_running: int | None = Field(default=None, ge=1)
    """Requests computed at a time; unset: 64 on a CPU, 256 on a GPU."""
    max_waiting: int = Field(default=1024, ge=1)
    """Requests that may queue; more are refused with status 429."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """The most tokens of a step; longer prompts are computed in chunks; unset: 512 on a CPU, 2048
    on a GPU."""
    first_token_slo: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Seconds from a request's arrival to its first token that are promised: requests that cannot
    have it in time are refused with status 429; unset: everyone waits."""
    adapter_cluster: int = Field(default=0, ge=0)
    """From this many distinct adapters in the batch on, waiting requests for one of them go before
    others of the same tenant: fewer adapters are read per step, some wait longer; 0: never."""
    prefetch: int = Field(default=8, ge=0)
    """The number of waiting requests whose adapters are copied into free memory ahead of time."""
    expected_new_tokens: int = Field(default=256, ge=1)
    """The new tokens that a request is assumed to produce at most when its memory is judged at
    admission."""
    block_tokens: int = Field(default=16, ge=1)
    """Tokens whose keys and values share a block."""
    adapter_rows: Literal["auto", "as-saved", "base", "int8"] = "auto"
    """How low-rank adapter weights rest in memory: as-saved (bfloat16 stays, others become float32;
    exact), base (in the base model's number format), or int8 (a quarter of float32 and faster;
    answers may differ from the trained model's); auto: base where that is bfloat16, else
    as-saved."""
    adapter_limits: AdapterLimits = AdapterLimits()
    """What is read of an adapter at most."""
    merge_hot: bool = False
    """Merge a low-rank adapter that owns nine tenths of recent tokens into a copy of the base
    weights, so that its tokens need no work of their own. Costs as much memory again as the linear
    layers it adapts, beside memory_gib; and answers, base-only ones too, then equal those without
    it up to rounding, no longer bit for bit."""
    quantization: Quantization = "none"
    """Quantise the base model's linear layers when it is loaded: bnb-4bit (NF4 with quantised
    scales, what `qlora` trains on), bnb-4bit-single (scales left whole), bnb-8bit, or int8 (by
    torchao). It saves memory, and time only where the library's kernels are fast. A model that is
    saved quantised is served so without it."""
    overlap_steps: bool | None = None
    """Plan and launch a step before the tokens of the one before are read; unset: where the device
    computes beside the host, which a processor does not. Answers are the same."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights, keys and values; auto: float32 on a CPU; on a GPU bfloat16, or
    float32 where it does not compute in that."""
    device: str = "cpu"
    """Where to compute: cpu, cuda (the first GPU) or cuda:N; auto: the first GPU, else the CPU. A
    CPU unless asked for otherwise, as serving has not run on a GPU yet."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Processes that compute the model together, each with its own share of the weights, of keys
    and values and of the adapters; memory_gib holds for each. How many a model can be divided among
    depends on its attention heads."""
    adapter_sharding: AdapterSharding = "replicated"
    """How low-rank adapters are divided among several processes: replicated (each has the narrow
    ends of the factors whole; adapters add no communication), or full (each has an equal share of
    both factors, for up to four exchanges more per layer and step, of small size; not with
    merge_hot, nor with the kernels of a GPU). Answers are the same."""
    rank_timeout: float = Field(default=60.0, gt=0, allow_inf_nan=False)
    """Seconds after which one of several processes that does not answer counts as lost, which ends
    the server."""
    threads: int | None = Field(default=None, ge=1)
    """Processor threads; unset: one for each core that the process may use, by its affinity and its
    container's quota."""
    backend: str = "auto"
    """Kernels: auto, cpu, reference (plain torch) or triton (GPUs)."""
    attention: Literal["auto", "triton", "flashinfer"] = "auto"
    """Kernels of attention on a GPU: auto is ours (triton); flashinfer those of the package
    flashinfer-python, for float16 and bfloat16 and heads of 64, 128 or 256 (other models, and steps
    with prefixes, take ours). They cut long sequences by what else is computed, so answers equal
    each other up to rounding only. Experimental: it has been tested against the package's written
    behaviour, not yet run on a GPU."""

    @field_validator("adapters", mode="before")
    @classmethod
    def _one_folder_is_a_list_of_one(cls, given: Any) -> Any:
        if given is None:
            return ()
        return (given,) if isinstance(given, str | Path) else given


class PlanSettings(Settings):
    """How large a pool is planned, and for how many tokens."""

    model: str
    """Alias, folder or hub id of the base model."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Whether a CPU is to serve, or a GPU, whose defaults are others."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of weights, keys and values; auto: float32 on a CPU, bfloat16 on a GPU."""
    quantization: Quantization = "none"
    """How the base model's linear layers are quantised when it is loaded, as for serve."""
    tensor_parallel: int = Field(default=1, ge=1)
    """Processes that compute the model together, as for serve; the plan is that of each."""
    adapter_sharding: AdapterSharding = "replicated"
    """How low-rank adapters are divided among these processes, as for serve."""
    memory_gib: float | None = None
    """Size of the pool; unset: 4 on a CPU; nine tenths of what the weights leave of the GPU that is
    here."""
    tokens: int | None = None
    """Tokens of all running requests together; default: half of the pool."""
    rows: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """How low-rank rows rest in memory; auto: bfloat16 beside a base in bfloat16, else float32."""
    block_tokens: int = 16
    """Tokens of a block, as for serve."""

    @model_validator(mode="after")
    def _numbers_are_possible(self) -> Self:
        for name, least in (("memory_gib", 0), ("tokens", -1), ("block_tokens", 0)):
            value = getattr(self, name)
            if value is not None and not value > least:
                raise ValueError(f"setting '{name}' {value:g} is not above {least}")
        return self
