"""Tuned models as the page's own routes show them."""

from typing import Any

from gossamer.jobs.store.records import ModelRecord


def model_object(model: ModelRecord, keep_seconds: float) -> dict[str, Any]:
    """Show a model; of a deleted one, until when it can be had back."""
    gone = model.deleted
    return {
        "id": model.name,
        "object": "studio.model",
        "alias": model.alias,
        "job_id": model.job_id,
        "organization_id": model.tenant,
        "digest": model.digest,
        "bytes": model.bytes,
        "created_at": int(model.created),
        "deleted_at": None if gone is None else int(gone),
        "restorable_until": None if gone is None else int(gone + keep_seconds),
    }
