-- Messages that can never become rows, with the reason; kept so that somebody can look, mend and send them again.
-- `payload` is text: bytes that are no UTF-8 are written out as \xNN.

CREATE TABLE IF NOT EXISTS dead_letters
(
    message_id UUID,
    aggregatetype String,
    type String,
    payload String CODEC(ZSTD(1)),
    reason String,
    died_at DateTime64(6, 'UTC')
)
ENGINE = ReplacingMergeTree(died_at)
ORDER BY message_id;
