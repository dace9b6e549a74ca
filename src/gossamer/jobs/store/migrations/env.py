"""What Alembic runs: the scripts of `versions`, on the connection that `migrate` hands over."""

from alembic import context

from gossamer.jobs.store.tables import TableRow

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=TableRow.metadata,
    # SQLite changes tables by making them again.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
