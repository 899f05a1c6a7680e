-- The history. Delivery is at least once: a redelivered row is identical, so the sorting key, which ends in the
-- row's identity, is also its deduplication key, and every read says FINAL. All copies of a row carry the same
-- ingested_at, so no two of them ever lie in different partitions.

CREATE TABLE IF NOT EXISTS exposures
(
    experiment_id Int64,
    user_id String,
    variant_id Int64,
    source LowCardinality(String),
    experiment_version Int32,
    context String CODEC(ZSTD(1)),
    exposed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    ingested_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(ingested_at)
ORDER BY (experiment_id, user_id);

CREATE TABLE IF NOT EXISTS overrides
(
    experiment_id Int64,
    user_id String,
    variant_id Int64,
    exposed_at DateTime64(6, 'UTC'),
    removed Bool,
    epoch Int64,
    ingested_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(epoch)
ORDER BY (experiment_id, user_id);

CREATE TABLE IF NOT EXISTS events
(
    project_id Int64,
    event_id UUID,
    experiment_id Nullable(Int64),
    user_id String,
    event_type LowCardinality(String),
    ts DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    value Nullable(Float64),
    properties String CODEC(ZSTD(1)),
    ingested_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(ingested_at)
PARTITION BY toYYYYMM(ingested_at)
ORDER BY (project_id, event_type, user_id, ts, event_id);

CREATE TABLE IF NOT EXISTS experiments
(
    experiment_id Int64,
    project_id Int64,
    key String,
    status LowCardinality(String),
    version Int32,
    definition String CODEC(ZSTD(1)),
    ingested_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(version)
ORDER BY experiment_id;

-- A heartbeat says: every row ingested before `watermark` went into the outbox before this heartbeat did.
CREATE TABLE IF NOT EXISTS heartbeats
(
    lane Int32,
    watermark DateTime64(6, 'UTC'),
    ingested_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(watermark)
ORDER BY lane;

-- How far a relay has come. It is kept here, beside the rows, so that an empty ClickHouse is filled from the start.
CREATE TABLE IF NOT EXISTS relay_positions
(
    relay LowCardinality(String),
    xid UInt64,
    seq UInt64,
    moved_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(moved_at)
ORDER BY relay;
