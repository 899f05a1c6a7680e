-- Rollups: counts by hour and day, made in steps. A step covers what was ingested in a stretch of time: each pair of
-- an event and an exposure that counts belongs to the step in which the later of the two was ingested, so a late
-- event is in a later step than its hour's other events and changes no earlier one. Every row names its step, and
-- only the steps of the newest manifest count; what an interrupted attempt has left behind is never read.

-- `users` are the numbers of `rollup_units`. `width` is the length of a bucket, `bucket_us` its start in microseconds
-- since 1970. Rows without an event type are the exposures themselves. `part` is the slice of users that one insert
-- counted.
CREATE TABLE IF NOT EXISTS rollups
(
    step UInt64,
    experiment_id Int64,
    width Enum8('hour' = 1, 'day' = 2),
    variant_id Int64,
    event_type LowCardinality(String),
    bucket_us Int64 CODEC(Delta, ZSTD(1)),
    part UInt32,
    events UInt64,
    users AggregateFunction(groupBitmap, UInt32) CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
ORDER BY (experiment_id, width, step, variant_id, event_type, bucket_us, part);

-- The exposures of a step, with a number for each: users of an experiment are counted as bits of a bitmap, which is
-- exact because no two of them have the same number.
CREATE TABLE IF NOT EXISTS rollup_units
(
    step UInt64,
    experiment_id Int64,
    project_id Int64,
    user_id String,
    variant_id Int64,
    exposed_at DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    number UInt32
)
ENGINE = ReplacingMergeTree
ORDER BY (experiment_id, user_id, step);

-- The steps that hold; the manifest with the highest version does. `content` is JSON.
CREATE TABLE IF NOT EXISTS rollup_manifests
(
    version UInt64,
    content String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
ORDER BY tuple();

-- Rows that were ingested from `since` on have changed after their time. A step that did not know so is void.
-- Invalidations from the same moment on become one row when parts are merged, so the table never has more rows than
-- hours that were ever invalidated. `id` makes each insert another one: the server would drop one that it has seen.
CREATE TABLE IF NOT EXISTS rollup_invalidations
(
    since DateTime64(6, 'UTC'),
    id UUID,
    times UInt64 DEFAULT 1
)
ENGINE = SummingMergeTree(times)
ORDER BY since;
