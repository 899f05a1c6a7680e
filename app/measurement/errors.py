"""What can keep a measurement from being made in ClickHouse."""


class TailTooLarge(Exception):
    """More rows wait on their way to ClickHouse, or larger ones, than one query may carry."""
