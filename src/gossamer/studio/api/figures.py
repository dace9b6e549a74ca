"""The figures of adapters and of the server that the page draws; the engine's own, no others."""

from typing import Any

from gossamer.serving.core.interface import EngineInterface
from gossamer.serving.core.stats import AdapterStatus


def adapter_figures(adapter: AdapterStatus) -> dict[str, Any]:
    """Show what the page's table has of an adapter."""
    return {
        "id": adapter.name,
        "alias_of": adapter.alias_of,
        "state": adapter.state,
        "kind": adapter.kind,
        "rank": adapter.rank,
        "num_bytes": adapter.num_bytes,
        "digest": adapter.digest,
        "created": adapter.created,
        "pinned": adapter.pinned,
        "requests": adapter.requests,
        "hits": adapter.hits,
        "last_used": adapter.last_used,
        "problem": adapter.problem,
    }


def server_figures(engine: EngineInterface) -> dict[str, Any]:
    """Show who has which memory, who runs and waits, and what has been done since the start."""
    stats = engine.stats()
    return {
        "running": stats.num_running,
        "waiting": stats.num_waiting,
        "block_bytes": stats.block_bytes,
        "blocks": {
            "total": stats.blocks_total,
            "free": stats.blocks_free,
            "kv": stats.blocks_kv,
            "adapters": stats.blocks_adapters,
            "cached": stats.blocks_cached,
        },
        "resident_bytes": stats.resident_bytes,
        "adapters_by_state": stats.adapters_by_state,
        "host_bytes": stats.host_bytes,
        "loads": stats.adapter_loads,
        "evictions": stats.adapter_evictions,
        "preemptions": stats.preemptions,
        "steps": stats.steps,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "prefix_queried_tokens": stats.prefix_queried_tokens,
        "prefix_hit_tokens": stats.prefix_hit_tokens,
        "finished": stats.finished,
        "tenants": [
            {
                "name": tenant.name,
                "waiting": tenant.num_waiting,
                "running": tenant.num_running,
                "prompt_tokens": tenant.prompt_tokens,
                "generated_tokens": tenant.generated_tokens,
            }
            for tenant in stats.tenants
        ],
    }
