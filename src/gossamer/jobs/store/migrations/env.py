"""What Alembic runs: the scripts of `versions`, on the connection that `migrate` hands over."""

from alembic import context

from gossamer.jobs.store.tables import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    # SQLite changes tables by making them again.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
