-- A clock may step back. Then the last heartbeat is the one that holds, not the one with the highest time, so
-- heartbeats are ordered by `beat`, which never falls. Until the next one comes there is no watermark, and every
-- answer is read from PostgreSQL.

DROP TABLE IF EXISTS heartbeats;

CREATE TABLE IF NOT EXISTS heartbeats
(
    lane Int32,
    beat UInt64,
    watermark DateTime64(6, 'UTC'),
    ingested_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(beat)
ORDER BY lane;
