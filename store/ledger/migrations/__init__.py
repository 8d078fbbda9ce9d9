"""The ledger's Alembic migrations. Only `store.ledger.schema.migrate` runs them.

For a new one: change `store/ledger/tables.py`, write `versions/0002_WHAT.py` by hand after the
pattern of 0001 (numbers in sequence, no gaps; SQLite changes a table by `op.batch_alter_table`),
and set `schema.HEAD`. Tests compare what the migrations make with the tables, on SQLite and on
PostgreSQL.
"""
