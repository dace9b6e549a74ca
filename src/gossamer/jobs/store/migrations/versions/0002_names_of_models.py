"""Models have names that their owners chose, and folders of their own; some come from no job."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_PERMISSIONS = sa.table(
    "model_permissions",
    *(sa.column(name) for name in ("id", "model", "tenant", "project", "created")),
)


def upgrade() -> None:
    """Change the tables."""
    connection = op.get_bind()
    # SQLite changes a table by making it again, and meanwhile nothing may refer to its rows.
    permissions: list[dict[str, Any]] = [
        dict(row) for row in connection.execute(sa.select(_PERMISSIONS)).mappings()
    ]
    connection.execute(sa.delete(_PERMISSIONS))
    with op.batch_alter_table("models") as models:
        models.add_column(sa.Column("alias", sa.String(length=255), nullable=True))
        models.add_column(sa.Column("folder", sa.String(length=255), nullable=True))
        models.alter_column("job_id", existing_type=sa.String(length=64), nullable=True)
    connection.execute(sa.text("UPDATE models SET folder = 'jobs/' || job_id || '/run'"))
    with op.batch_alter_table("models") as models:
        models.alter_column("folder", existing_type=sa.String(length=255), nullable=False)
        models.create_unique_constraint(op.f("uq_models_alias"), ["alias"])
    if permissions:
        connection.execute(sa.insert(_PERMISSIONS), permissions)
    # The one name of a model stands with the model.
    op.drop_column("jobs", "alias")
