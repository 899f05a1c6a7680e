"""Connections beside the pool, for whoever listens, holds a lock or copies."""

from app.core.db import Database
from app.exports.copying import Copying
from app.pipeline.exclusive import own_connection


async def test_own_connections__url_says_how_to_encrypt__are_opened_as_the_pool_s(database: Database) -> None:
    url = database.engine.url.update_query_dict({"ssl": "prefer"}).render_as_string(hide_password=False)
    said = Database.connect(url, pool_size=1)
    try:
        async with own_connection(said) as connection:
            assert await connection.fetchval("SELECT 1") == 1
        async with Copying(said).session() as session:
            (row,) = await session.rows("SELECT 1 AS one")
            assert row["one"] == 1
    finally:
        await said.close()
