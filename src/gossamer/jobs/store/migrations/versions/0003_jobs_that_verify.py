"""There are jobs of the kind verify."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BEFORE = "kind IN ('tune', 'compare', 'export')"
_AFTER = "kind IN ('tune', 'compare', 'verify', 'export')"


def upgrade() -> None:
    """Change the tables."""
    connection = op.get_bind()
    if connection.dialect.name != "sqlite":
        op.drop_constraint(op.f("ck_jobs_kind"), "jobs", type_="check")
        op.create_check_constraint(op.f("ck_jobs_kind"), "jobs", _AFTER)
        return
    # SQLite would make the table again, to whose rows others refer. A check says nothing of how
    # rows are stored, so its text alone is changed, as the makers of SQLite allow.
    version = connection.execute(sa.text("PRAGMA schema_version")).scalar_one()
    connection.execute(sa.text("PRAGMA writable_schema = ON"))
    connection.execute(
        sa.text(
            "UPDATE sqlite_master SET sql = replace(sql, :before, :after) "
            "WHERE type = 'table' AND name = 'jobs'"
        ),
        {"before": _BEFORE, "after": _AFTER},
    )
    # Every connection, this one too, then reads the tables again.
    connection.execute(sa.text(f"PRAGMA schema_version = {int(version) + 1}"))
    connection.execute(sa.text("PRAGMA writable_schema = OFF"))
