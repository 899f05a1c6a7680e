-- Events that this history gives up for their age, decided some time before they are dropped: all that were ingested
-- before the highest `ingested_before`. Whoever needs one of them has to be told so instead of a number.

CREATE TABLE IF NOT EXISTS dropped_history
(
    ingested_before DateTime64(6, 'UTC'),
    decided_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree
ORDER BY ingested_before;
