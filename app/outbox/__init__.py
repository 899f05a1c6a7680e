"""The outbox: facts on their way to Kafka and ClickHouse."""
