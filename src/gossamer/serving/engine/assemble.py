"""Puts the parts of an engine together: the one place that knows how each is made."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gossamer.basemodel.files import fingerprint
from gossamer.basemodel.load import load_config, load_served_model, load_tokenizer
from gossamer.basemodel.quantize import served_quantization, stored_bytes
from gossamer.basemodel.sharded import kv_heads_of
from gossamer.basemodel.special_ids import end_token_ids
from gossamer.basemodel.support import check_supported
from gossamer.errors import SettingError
from gossamer.kernels.attention_choice import choose_attention
from gossamer.kernels.grouped_lora import RowFormat
from gossamer.kernels.paged_attention import KvLayout
from gossamer.machine import fit_threads
from gossamer.serving.core.daemon_threads import DaemonThreads
from gossamer.serving.core.mailbox import Mailbox
from gossamer.serving.core.tenants import LimitsOf
from gossamer.serving.core.validation import EngineLimits
from gossamer.serving.device.device import Copier, Device
from gossamer.serving.device.make import find_device, make_device
from gossamer.serving.engine.adapter_control import AdapterControl
from gossamer.serving.engine.engine import Engine
from gossamer.serving.engine.output import ModelInfo
from gossamer.serving.memory.block_pool import BlockPool
from gossamer.serving.memory.manager import MemoryManager
from gossamer.serving.memory.prefix_cache import PrefixCache
from gossamer.serving.memory.residency import Residency
from gossamer.serving.packing.packer import Packer
from gossamer.serving.runner.adapter_loader import AdapterLoader
from gossamer.serving.runner.attach import base_shape, slices
from gossamer.serving.runner.batch import BatchBuilder
from gossamer.serving.runner.lowering.programs import ProgramLowering
from gossamer.serving.runner.lowering.step import Lowering
from gossamer.serving.runner.lowering.threads import ThreadLowering
from gossamer.serving.runner.merged_weights import LayerMerger
from gossamer.serving.runner.model_runner import ModelRunner, PagedModel
from gossamer.serving.runner.model_shape import (
    as_linear,
    has_window,
    kv_shape,
    layer_kv_heads,
    linear_bytes,
    longest_row,
)
from gossamer.serving.runner.proof.trial import ModelTrial
from gossamer.serving.runner.team import Alone, Ranks, Team, TeamLoader
from gossamer.serving.runner.warm_up import warm_up
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy
from gossamer.serving.scheduler.hot_merge import HotMerger
from gossamer.serving.scheduler.rate_limiter import RateLimiter
from gossamer.serving.scheduler.scheduler import Scheduler
from gossamer.serving.scheduler.step import SchedulerLimits
from gossamer.serving.settings import ServeSettings
from gossamer.serving.shard import Shard
from gossamer.serving.store.folder import AdapterFolder
from gossamer.serving.store.host_cache import HostCache
from gossamer.serving.store.manager import AdapterManager
from gossamer.serving.store.names import AdapterNames
from gossamer.serving.store.reader import AdapterReader, reading_threads
from gossamer.serving.structured.grammars import Grammars

_GIB = 1024**3
_HANG_SECONDS = 30.0
"""Beyond max_read_seconds, which a reading notices itself unless the disk hangs."""
AT_ONCE_BYTES = 16 * 1024**2
"""Copied in some four milliseconds, where a request whose adapter is copied beside a step waits for
the whole of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The base model, ready to compute over the pool."""

    info: ModelInfo
    config: Any
    fingerprint: str
    quantization: str
    num_bytes: int
    model: PagedModel
    lowering: Lowering
    builder: BatchBuilder
    shard: Shard
    layout: KvLayout
    num_blocks: int
    device: Device
    copier: Copier


def assemble_engine(
    settings: ServeSettings, folder: Path, limits_of: LimitsOf, team: Team | None = None
) -> Engine:
    """Make an engine on the base model in `folder`; it is not started. Raises as `build_engine`.

    team: the other ranks, if the model is computed by several.
    """
    team = team or Alone()
    base = load_base(settings, folder, team.ranks)
    base = replace(base, builder=_announced(base, team))
    mailbox = Mailbox()
    team.watch(mailbox.post)
    loader = team.loader(make_loader(settings, base))
    names = AdapterNames(AdapterFolder(*settings.adapters, base=base.info.name))
    memory = _memory(settings, base, loader, names, mailbox, team)
    adapters = _adapters(settings, base, loader, names, memory, mailbox)
    scheduler = Scheduler(
        memory,
        adapters,
        _scheduler_limits(settings, base),
        promise=FirstTokenPolicy(slo=settings.first_token_slo),
        limits_of=limits_of,
    )
    # Other ranks are told the tokens of a step, so those of the one before must have been read.
    overlaps = settings.overlap_steps if base.shard.is_whole else False
    merger = None
    if settings.merge_hot:
        merger = HotMerger(team.merge(LayerMerger(loader, base.model.modules), loader))
    return Engine(
        model=base.info,
        runner=ModelRunner(base.model, base.builder, base.device, merger, team, overlaps=overlaps),
        scheduler=scheduler,
        rate_limiter=RateLimiter(settings.max_waiting, scheduler.usage, limits_of),
        mailbox=mailbox,
        control=AdapterControl(adapters, names, memory, mailbox, settings.adapters, base.info.name),
    )


def load_base(settings: ServeSettings, folder: Path, ranks: Ranks) -> Base:
    """Load the base model in `folder`, or this rank's part of it, and try it.

    All ranks call this at the same time. Raises as `build_engine`.
    """
    is_full = settings.adapter_sharding == "full" and not ranks.shard.is_whole
    shard = replace(ranks.shard, splits_factors=is_full)
    device = _device(settings, shard)
    config = load_config(folder)
    check_supported(config, for_serving=True)
    quantization = served_quantization(config, settings.quantization)
    if settings.merge_hot and quantization != "none":
        raise SettingError(
            f"setting 'merge_hot': the base model's weights are quantised ({quantization}), and "
            "an adapter merged into them would be rounded away; leave one of the two out"
        )
    tokenizer = load_tokenizer(folder)
    part = None if shard.is_whole else shard.part
    model = load_served_model(
        folder, quantization, dtype=device.dtype, device=device.torch_device, part=part
    )
    eos_token_ids = end_token_ids(model, tokenizer)
    # Counted before layers are replaced and packed.
    num_bytes = stored_bytes(model)
    trial = ModelTrial(model, device, shard, quantization)
    as_linear(model)
    with trial.explained():
        layout = _layout(settings, model, device.dtype, shard)
    attention = choose_attention(
        settings.attention, device.backend, layout, has_window=has_window(config)
    )
    kept_free = linear_bytes(model) if settings.merge_hot else 0
    num_blocks = ranks.least(_num_blocks(settings, device, layout.block_bytes, kept_free, shard))
    pool_memory = device.pool_memory(num_blocks, layout.block_bytes)
    rows = _row_format(settings, device)
    with trial.explained():
        paged = PagedModel(model, pool_memory, layout, device, rows, attention, shard)
    lowering = _lowering(device, layout.block_tokens, attention)
    builder = BatchBuilder(block_tokens=layout.block_tokens, lowering=lowering)
    most = settings.max_running or device.usual_running
    runner = ModelRunner(paged, builder, device)
    with trial.explained():
        warm_up(runner, pool_memory, layout, most, ranks.meet, split=shard.splits_factors)
    trial.check(paged, builder, num_blocks, layout.block_tokens)
    info = ModelInfo(
        name=_model_name(settings.model, folder),
        tokenizer=tokenizer,
        special_tokens=settings.special_tokens,
        eos_token_ids=eos_token_ids,
        grammars=Grammars(tokenizer, eos_token_ids, config.vocab_size),
        limits=EngineLimits(
            max_context=_max_context(settings, config),
            vocab_size=config.vocab_size,
            block_tokens=layout.block_tokens,
            block_bytes=layout.block_bytes,
        ),
    )
    return Base(
        info=info,
        config=config,
        fingerprint=fingerprint(folder),
        quantization=quantization,
        num_bytes=num_bytes,
        model=paged,
        lowering=lowering,
        builder=builder,
        shard=shard,
        layout=layout,
        num_blocks=num_blocks,
        device=device,
        copier=device.copier(pool_memory),
    )


def _announced(base: Base, team: Team) -> BatchBuilder:
    """Make what builds batches and tells other ranks of each."""
    lowering = team.lowering(base.lowering)
    return BatchBuilder(block_tokens=base.layout.block_tokens, lowering=lowering)


def _lowering(device: Device, block_tokens: int, attention: str) -> Lowering:
    if device.backend == "triton":
        takes_pages = attention == "flashinfer"
        return ProgramLowering(device, block_tokens=block_tokens, takes_pages=takes_pages)
    return ThreadLowering(block_tokens=block_tokens, num_workers=torch.get_num_threads())


def _device(settings: ServeSettings, shard: Shard) -> Device:
    """Make the device, and have torch use the processors that there are, or this rank's share."""
    name = settings.device
    if not shard.is_whole and find_device(name).type == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', shard.rank)}"
    device = make_device(name, backend=settings.backend, dtype=settings.dtype)
    if settings.merge_hot and device.backend == "triton":
        raise SettingError(
            "merge_hot is for processors; a GPU computes one adapter for all tokens at a cost of "
            "some per cent, and steps on other weights could not be replayed. Leave it out"
        )
    if shard.splits_factors and device.backend == "triton":
        raise SettingError(
            "setting 'adapter_sharding' full: the kernels of a GPU (backend triton) compute both "
            "factors of an adapter in one go, with no exchange between them; use replicated"
        )
    if settings.threads is None:
        fit_threads(shard.size)
    else:
        torch.set_num_threads(settings.threads)
    return device


def make_loader(settings: ServeSettings, base: Base) -> AdapterLoader:
    """Make what reads and packs adapters for the base, or for this rank's part of it."""
    modules = base.model.modules
    shape = base_shape(base.config, modules)
    packer = Packer(
        shape,
        modules.ids,
        modules.linears,
        base.layout,
        rows=_row_format(settings, base.device),
        device_tables=base.device.backend == "triton",
        empty=base.device.host_empty,
    ).with_parts(modules.parts)
    packer = packer.for_share(slices(base.config, modules, base.shard))
    return AdapterLoader(
        shape,
        packer,
        base.copier,
        base.fingerprint,
        base.quantization,
        settings.adapter_limits,
        base.info.limits.max_context,
    )


def _row_format(settings: ServeSettings, device: Device) -> RowFormat | None:
    """The format of low-rank rows in the pool; None: as they were saved."""
    asked = settings.adapter_rows
    if asked == "int8":
        return RowFormat.INT8
    if asked == "as-saved" or (asked == "auto" and device.dtype != torch.bfloat16):
        return None
    return next(each for each in RowFormat if each.dtype == device.dtype)


def _memory(
    settings: ServeSettings,
    base: Base,
    loader: TeamLoader,
    names: AdapterNames,
    mailbox: Mailbox,
    team: Team,
) -> MemoryManager:
    pool = BlockPool(base.num_blocks, base.device.launched)
    prefixes = PrefixCache(
        pool,
        base.layout.block_tokens,
        base=base.fingerprint,
        enabled=settings.prefix_cache,
        between_tenants=settings.share_prefixes,
    )
    copies = DaemonThreads("gossamer-copies", most=1)
    # Where a copy runs beside steps, waiting for it costs more than it takes.
    at_once = 0 if base.device.overlaps else AT_ONCE_BYTES
    residency = Residency(
        pool, loader, mailbox.post, copies, at_once_bytes=at_once, evicted=team.evicted
    )
    return MemoryManager(pool, prefixes, residency, names.is_current)


def _adapters(
    settings: ServeSettings,
    base: Base,
    loader: TeamLoader,
    names: AdapterNames,
    memory: MemoryManager,
    mailbox: Mailbox,
) -> AdapterManager:
    host_bytes = _host_bytes(settings, base.num_blocks * base.layout.block_bytes)
    threads = reading_threads(settings.adapter_limits.max_read_seconds + _HANG_SECONDS)
    reader = AdapterReader(
        loader, threads, mailbox.post, base.num_blocks, early_bytes=host_bytes // 4
    )
    return AdapterManager(names, reader, HostCache(host_bytes), memory)


def _scheduler_limits(settings: ServeSettings, base: Base) -> SchedulerLimits:
    return SchedulerLimits(
        block_tokens=base.layout.block_tokens,
        max_context=base.info.limits.max_context,
        max_batch_tokens=settings.max_batch_tokens or base.device.usual_batch_tokens,
        max_running=settings.max_running or base.device.usual_running,
        expected_new_tokens=settings.expected_new_tokens,
        adapter_cluster=settings.adapter_cluster,
        prefetch=settings.prefetch,
        base_bytes=base.num_bytes,
    )


def _host_bytes(settings: ServeSettings, pool_bytes: int) -> int:
    if settings.host_cache_gib is None:
        return min(_GIB, pool_bytes)
    return int(settings.host_cache_gib * _GIB)


def _layout(settings: ServeSettings, model: Any, dtype: torch.dtype, shard: Shard) -> KvLayout:
    layers, kv_heads, head_dim = kv_shape(model.config)
    kv_heads = len(kv_heads_of(shard.part, kv_heads))
    layout = KvLayout(
        num_layers=layers,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        block_tokens=settings.block_tokens,
        dtype=dtype,
        layer_kv_heads=layer_kv_heads(model.config),
    )
    # Whatever the base's format: factors of outputs, and rows as saved, are float32.
    row_bytes = longest_row(model) * 4
    if layout.block_bytes < row_bytes:
        per_token = layout.block_bytes // settings.block_tokens
        raise SettingError(
            f"block_tokens={settings.block_tokens}: a block must hold the widest adapter row "
            f"({row_bytes} bytes); use at least {-(-row_bytes // per_token)}"
        )
    return layout


def _num_blocks(
    settings: ServeSettings, device: Device, block_bytes: int, kept_free: int, shard: Shard
) -> int:
    """Blocks of the pool; `kept_free` bytes of what is free are left for merged weights."""
    available = max(0, device.memory_for_pool() - kept_free)
    if settings.memory_gib is None:
        # Ranks on processors share the machine's memory; GPUs have their own.
        sharing = shard.size if device.torch_device.type == "cpu" else 1
        wanted = device.usual_memory(kept_free) // sharing
    else:
        wanted = int(settings.memory_gib * _GIB)
    if wanted > available:
        raise SettingError(
            f"memory of {wanted / _GIB:.1f} GiB was asked for and {available / _GIB:.1f} GiB are "
            "free; give a smaller --memory"
        )
    if wanted < 2 * block_bytes:
        raise SettingError(
            f"memory of {wanted / _GIB:.4f} GiB is less than two blocks of {block_bytes} bytes; "
            "give a larger --memory"
        )
    return wanted // block_bytes


def _max_context(settings: ServeSettings, config: Any) -> int:
    own: int = config.max_position_embeddings
    if settings.max_context is not None and settings.max_context > own:
        raise SettingError(
            f"max_context={settings.max_context} exceeds the {own} positions that the model knows"
        )
    return settings.max_context or own


def _model_name(given: str, folder: Path) -> str:
    return folder.resolve().name if Path(given).is_dir() else given
