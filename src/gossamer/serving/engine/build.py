"""Put an engine together from its settings. The heavy imports come when that is asked for."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gossamer.errors import AdapterNotFoundError, SettingError
from gossamer.machine import fit_threads, usable_memory
from gossamer.serving.core.tenants import LimitsOf, unlimited
from gossamer.serving.scheduler.deadlines import FirstTokenPolicy
from gossamer.serving.settings import ServeSettings

if TYPE_CHECKING:
    from gossamer.kernels.paged_attention import KvLayout
    from gossamer.serving.engine.engine import Engine

__all__ = ["ServeSettings", "build_engine"]

_GIB = 1024**3
_HANG_SECONDS = 30.0
"""Beyond max_read_seconds, which a reading notices itself unless the disk hangs."""
_AT_ONCE_BYTES = 16 * 1024**2
"""Copied in some four milliseconds, where a request whose adapter is copied beside a step waits for
the whole of it."""


def build_engine(settings: ServeSettings, limits_of: LimitsOf = unlimited) -> "Engine":
    """Load the base model and start an engine on it. `limits_of` tells what a tenant may use.

    Raises `BaseModelError`s for the model, `AdapterNotFoundError` for a missing adapter folder,
    `SettingError` for settings that cannot work here.
    """
    from gossamer.basemodel.find import resolve

    # What can be wrong with names is told before anything heavy is loaded.
    _check_adapters(settings.adapters)
    folder = resolve(settings.model)
    import torch

    from gossamer.basemodel.files import fingerprint
    from gossamer.basemodel.load import load_config, load_model, load_tokenizer
    from gossamer.basemodel.special_ids import end_token_ids
    from gossamer.basemodel.support import check_supported
    from gossamer.kernels.backend import choose_backend
    from gossamer.serving.core.daemon_threads import DaemonThreads
    from gossamer.serving.core.mailbox import Mailbox
    from gossamer.serving.core.validation import EngineLimits
    from gossamer.serving.engine import engine
    from gossamer.serving.engine.adapter_control import AdapterControl
    from gossamer.serving.memory.block_pool import BlockPool
    from gossamer.serving.memory.prefix_cache import PrefixCache
    from gossamer.serving.packing.packer import Packer
    from gossamer.serving.runner.adapter_loader import AdapterLoader
    from gossamer.serving.runner.attach import base_shape
    from gossamer.serving.runner.batch import BatchBuilder
    from gossamer.serving.runner.merged_weights import LayerMerger
    from gossamer.serving.runner.model_runner import Runner
    from gossamer.serving.runner.model_shape import linear_bytes
    from gossamer.serving.runner.model_shape import pool_memory as new_pool_memory
    from gossamer.serving.runner.warm_up import warm_up
    from gossamer.serving.scheduler.hot_merge import HotMerger
    from gossamer.serving.scheduler.rate_limiter import RateLimiter
    from gossamer.serving.scheduler.scheduler import Scheduler, SchedulerLimits
    from gossamer.serving.store.folder import AdapterFolder
    from gossamer.serving.store.manager import AdapterManager

    if settings.dtype != "float32":
        raise SettingError(f"dtype '{settings.dtype}' is not supported yet; use float32")
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        raise SettingError(f"device '{settings.device}' does not exist; use cpu") from None
    backend = choose_backend(settings.backend, device, torch.float32)
    if settings.threads is None:
        fit_threads()
    else:
        torch.set_num_threads(settings.threads)
    config = load_config(folder)
    check_supported(config, for_serving=True)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, dtype=torch.float32, device=settings.device)
    eos_token_ids = end_token_ids(model, tokenizer)

    # Counted before layers are replaced and packed.
    base_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    layout = _layout(settings, model)
    kept_free = linear_bytes(model) if settings.merge_hot else 0
    num_blocks = _num_blocks(settings, layout.block_bytes, kept_free)
    pool_memory = new_pool_memory(num_blocks, layout.block_bytes)
    pool = BlockPool(num_blocks)
    runner = Runner(model, pool_memory, layout, backend)
    builder = BatchBuilder(block_tokens=layout.block_tokens, num_workers=torch.get_num_threads())
    warm_up(runner, builder)
    mailbox = Mailbox()
    model_name = _model_name(settings.model, folder)
    base = base_shape(config, runner.modules)
    packer = Packer(
        base,
        runner.modules.ids,
        runner.modules.linears,
        layout,
        int8=settings.adapter_rows == "int8",
    )
    base_id = fingerprint(folder)
    max_context = _max_context(settings, config)
    loader = AdapterLoader(base, packer, pool_memory, base_id, settings.adapter_limits, max_context)
    adapters = AdapterManager(
        AdapterFolder(*settings.adapters, base=model_name),
        pool,
        loader,
        mailbox.post,
        copies=DaemonThreads("gossamer-copies", most=1),
        at_once_bytes=_AT_ONCE_BYTES,
        read_seconds=settings.adapter_limits.max_read_seconds + _HANG_SECONDS,
        host_bytes=_host_bytes(settings, num_blocks * layout.block_bytes),
        prefixes=PrefixCache(
            pool,
            layout.block_tokens,
            base=base_id,
            enabled=settings.prefix_cache,
            between_tenants=settings.share_prefixes,
        ),
    )
    limits = SchedulerLimits(
        block_tokens=layout.block_tokens,
        max_context=max_context,
        max_batch_tokens=settings.max_batch_tokens,
        max_running=settings.max_running,
        expected_new_tokens=settings.expected_new_tokens,
        adapter_cluster=settings.adapter_cluster,
        prefetch=settings.prefetch,
        base_bytes=base_bytes,
    )
    promise = FirstTokenPolicy(slo=settings.first_token_slo)
    scheduler = Scheduler(pool, adapters, limits, promise=promise, limits_of=limits_of)
    return engine.Engine(
        model_name=model_name,
        tokenizer=tokenizer,
        special_tokens=settings.special_tokens,
        eos_token_ids=eos_token_ids,
        runner=runner,
        builder=builder,
        pool=pool,
        adapters=adapters,
        scheduler=scheduler,
        limits=EngineLimits(
            max_context=max_context,
            vocab_size=config.vocab_size,
            block_tokens=layout.block_tokens,
            block_bytes=layout.block_bytes,
        ),
        mailbox=mailbox,
        rate_limiter=RateLimiter(settings.max_waiting, scheduler.usage, limits_of),
        control=AdapterControl(adapters, mailbox, settings.adapters, model_name),
        merger=HotMerger(LayerMerger(loader, runner.modules)) if settings.merge_hot else None,
    )


def _check_adapters(folders: Iterable[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise AdapterNotFoundError(
                f"the adapter folder {folder} does not exist; create it, or give another --adapters"
            )


def _host_bytes(settings: ServeSettings, pool_bytes: int) -> int:
    if settings.host_cache_gib is None:
        return min(_GIB, pool_bytes)
    return int(settings.host_cache_gib * _GIB)


def _layout(settings: ServeSettings, model: Any) -> "KvLayout":
    import torch

    from gossamer.kernels.paged_attention import KvLayout
    from gossamer.serving.runner.model_shape import kv_shape, longest_row

    layers, kv_heads, head_dim = kv_shape(model.config)
    layout = KvLayout(
        num_layers=layers,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        block_tokens=settings.block_tokens,
        dtype=torch.float32,
    )
    row_bytes = longest_row(model) * 4
    if layout.block_bytes < row_bytes:
        per_token = layout.block_bytes // settings.block_tokens
        raise SettingError(
            f"block_tokens={settings.block_tokens}: a block must hold the widest adapter row "
            f"({row_bytes} bytes); use at least {-(-row_bytes // per_token)}"
        )
    return layout


def _num_blocks(settings: ServeSettings, block_bytes: int, kept_free: int) -> int:
    """Blocks of the pool; `kept_free` bytes of what is free are left for merged weights."""
    available = max(0, usable_memory() - kept_free)
    if settings.memory_gib is None:
        wanted = min(4 * _GIB, available // 4)
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
