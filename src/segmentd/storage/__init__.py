"""PostgreSQL: the one source of truth. One module a table group; the SQL of the schema is in `migrations`."""
