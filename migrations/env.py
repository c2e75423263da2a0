"""Alembic's entry: runs migrations on the connection that server/migrations.py hands over."""

from __future__ import annotations

from alembic import context

from phasewatch.storage.schema import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    render_as_batch=connection.dialect.name == "sqlite",
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
