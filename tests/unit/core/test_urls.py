"""What the URL of a database means to the driver."""

from app.core.urls import connect_arguments


def test_connect_arguments__url_of_a_hosted_database__are_those_of_the_driver() -> None:
    url = "postgresql+asyncpg://app:p%40ss@db.example:6432/main?ssl=require&prepared_statement_cache_size=0&timeout=9"

    assert connect_arguments(url) == {
        "user": "app",
        "password": "p@ss",
        "host": "db.example",
        "port": 6432,
        "database": "main",
        "ssl": "require",
    }
