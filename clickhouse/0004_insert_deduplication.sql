-- A loader that dies between an insert and its commit is followed by one that inserts the same rows again, under the
-- same insert_deduplication_token. The server drops what it has seen among the last blocks of a table. One process
-- flushes twice a second at most; with eight of them, two months' partitions in a batch and a minute until the
-- partitions of the dead one are handed on, that is 2,000 blocks. Five times as many cost about 1 MB a table.
-- It is a first line of defence: what comes later or in other batches is dropped by the table's key.

ALTER TABLE exposures MODIFY SETTING non_replicated_deduplication_window = 10000;

ALTER TABLE overrides MODIFY SETTING non_replicated_deduplication_window = 10000;

ALTER TABLE events MODIFY SETTING non_replicated_deduplication_window = 10000;

ALTER TABLE experiments MODIFY SETTING non_replicated_deduplication_window = 10000;

ALTER TABLE heartbeats MODIFY SETTING non_replicated_deduplication_window = 10000;
