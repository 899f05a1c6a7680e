-- Which history this is, and how far it has come. PostgreSQL keeps the same, and writes a higher generation now and
-- then: a ClickHouse that was emptied or exchanged has no marker that PostgreSQL knows, one that was set back to an
-- older copy has a generation that is too low. Then nothing is taken for complete before it has been compared.

CREATE TABLE IF NOT EXISTS history_marker
(
    id UUID,
    generation UInt64
)
ENGINE = ReplacingMergeTree(generation)
ORDER BY tuple();
