"""What Alembic runs around the migrations: on the caller's connection, in the caller's transaction.

Not a command line of its own: `store.ledger.schema.migrate` is the only way in.
"""

from alembic import context

from store.ledger.tables import Row

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Row.metadata,
    render_as_batch=True,
)
context.run_migrations()
