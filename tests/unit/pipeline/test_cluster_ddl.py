"""What each statement becomes on a cluster, and which are refused."""

import pytest

from app.pipeline.cluster_ddl import ClusterDdl, NotUnderstood

SPREAD = """CREATE TABLE IF NOT EXISTS clicks
(
    user_id String CODEC(ZSTD(1)),
    at DateTime64(6, 'UTC'),
    note String DEFAULT 'it''s (a, b'
)
ENGINE = ReplacingMergeTree(at)
PARTITION BY toYYYYMM(at)
ORDER BY (user_id, at)
SETTINGS non_replicated_deduplication_window = 7"""
WHOLE = (
    "CREATE TABLE days (day Date, users AggregateFunction(uniqExact, String))"
    " ENGINE = AggregatingMergeTree() ORDER BY day"
)


@pytest.fixture
def ddl() -> ClusterDdl:
    return ClusterDdl("blue-1", "history")


@pytest.fixture
def made(ddl: ClusterDdl) -> ClusterDdl:
    """One that knows a spread table, `clicks`, and a whole one, `days`."""
    ddl.render(SPREAD)
    ddl.render(WHOLE)
    return ddl


def test_render__table_of_users__is_replicated_in_each_shard_and_distributed_by_user(ddl: ClusterDdl) -> None:
    stored, distributed = ddl.render(SPREAD)

    assert stored == (
        """CREATE TABLE IF NOT EXISTS clicks_local ON CLUSTER 'blue-1' (
    user_id String CODEC(ZSTD(1)),
    at DateTime64(6, 'UTC'),
    note String DEFAULT 'it''s (a, b'
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/history/clicks_local/{shard}', '{replica}', at)
PARTITION BY toYYYYMM(at)
ORDER BY (user_id, at)
SETTINGS replicated_deduplication_window = 7"""
    )
    assert distributed == (
        "CREATE TABLE IF NOT EXISTS clicks ON CLUSTER 'blue-1' AS clicks_local"
        " ENGINE = Distributed('blue-1', 'history', 'clicks_local', cityHash64(user_id))"
    )


def test_render__table_without_users__is_whole_on_every_node(ddl: ClusterDdl) -> None:
    assert ddl.render(WHOLE) == [
        (
            "CREATE TABLE days ON CLUSTER 'blue-1' (day Date, users AggregateFunction(uniqExact, String))"
            " ENGINE = ReplicatedAggregatingMergeTree("
            "'/clickhouse/tables/history/days/every_node', '{shard}-{replica}') ORDER BY day"
        )
    ]


@pytest.mark.parametrize(
    ("columns", "comment", "tables"),
    [
        ("user_id String", "", 2),
        ("day Date, `user_id` String", "", 2),
        ("user_id String", " COMMENT 'whole on every node'", 1),
        ("users AggregateFunction(any, user_id)", "", 1),
        ("last_user_id String, note String DEFAULT 'user_id'", "", 1),
    ],
)
def test_render__columns__decide_unless_the_table_says_otherwise(
    ddl: ClusterDdl, columns: str, comment: str, tables: int
) -> None:
    assert len(ddl.render(f"CREATE TABLE t ({columns}) ENGINE = MergeTree ORDER BY tuple(){comment}")) == tables


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "ALTER TABLE clicks ADD COLUMN IF NOT EXISTS a String, DROP COLUMN IF EXISTS note",
            [
                (
                    "ALTER TABLE clicks_local ON CLUSTER 'blue-1' ADD COLUMN IF NOT EXISTS a String,"
                    " DROP COLUMN IF EXISTS note"
                ),
                "ALTER TABLE clicks ON CLUSTER 'blue-1' ADD COLUMN IF NOT EXISTS a String, DROP COLUMN IF EXISTS note",
            ],
        ),
        (
            "ALTER TABLE clicks MODIFY SETTING non_replicated_deduplication_window = 9, merge_max_block_size = 5",
            [
                (
                    "ALTER TABLE clicks_local ON CLUSTER 'blue-1' MODIFY SETTING replicated_deduplication_window = 9,"
                    " merge_max_block_size = 5"
                )
            ],
        ),
        (
            "ALTER TABLE clicks DROP PARTITION ID '202601'",
            ["ALTER TABLE clicks_local ON CLUSTER 'blue-1' DROP PARTITION ID '202601'"],
        ),
        ("ALTER TABLE days ADD COLUMN b Int8", ["ALTER TABLE days ON CLUSTER 'blue-1' ADD COLUMN b Int8"]),
        (
            "DROP TABLE IF EXISTS clicks",
            [
                "DROP TABLE IF EXISTS clicks ON CLUSTER 'blue-1' SYNC",
                "DROP TABLE IF EXISTS clicks_local ON CLUSTER 'blue-1' SYNC",
            ],
        ),
        ("DROP TABLE days SYNC", ["DROP TABLE days ON CLUSTER 'blue-1' SYNC"]),
    ],
)
def test_render__later_statement__follows_its_table(made: ClusterDdl, statement: str, expected: list[str]) -> None:
    assert made.render(statement) == expected


def test_render__exchange__is_of_the_tables_with_the_rows(made: ClusterDdl) -> None:
    made.render(SPREAD.replace("clicks", "clicks_anew"))

    assert made.render("EXCHANGE TABLES clicks AND clicks_anew") == [
        "EXCHANGE TABLES clicks_local AND clicks_anew_local ON CLUSTER 'blue-1'"
    ]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("CREATE TABLE t (a Int8) ENGINE = Memory", "Memory has no replicated form"),
        ("CREATE TABLE t (a Int8) ENGINE = ReplicatedMergeTree('/t', 'r') ORDER BY a", "no replicated form"),
        ("CREATE TABLE t AS clicks", "only CREATE TABLE"),
        ("CREATE TABLE t (a Int8) ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a", "only CREATE TABLE"),
        ("CREATE TABLE t (a Int8) ENGINE = MergeTree AS SELECT 1 AS a", "only CREATE TABLE"),
        ("CREATE MATERIALIZED VIEW v TO clicks AS SELECT * FROM days", "only CREATE TABLE"),
        ("CREATE TABLE other.t (a Int8) ENGINE = MergeTree ORDER BY a", "only CREATE TABLE"),
        ("RENAME TABLE clicks TO old", "only CREATE TABLE"),
        ("INSERT INTO days SELECT today()", "only CREATE TABLE"),
        ("ALTER TABLE nowhere ADD COLUMN a Int8", "no earlier statement makes a table nowhere"),
        ("DROP TABLE nowhere", "no earlier statement makes a table nowhere"),
        ("ALTER TABLE clicks ADD COLUMN a Int8, MODIFY SETTING merge_max_block_size = 5", "a statement each"),
        ("EXCHANGE TABLES clicks AND days", "spread over the shards"),
    ],
)
def test_render__what_it_cannot_tell__is_refused(made: ClusterDdl, statement: str, reason: str) -> None:
    with pytest.raises(NotUnderstood, match=reason):
        made.render(statement)
