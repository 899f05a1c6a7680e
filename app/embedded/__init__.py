"""PostgreSQL, Valkey and ClickHouse inside the service, for machines that have nothing but Python."""
