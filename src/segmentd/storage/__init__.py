"""PostgreSQL: the one source of truth. One module a table group; `tables` and `functions` are the schema."""
