"""How long the pipeline may stand in a queue for a table's lock: every writer who comes after it stands behind it."""

# A writer's transaction takes a few milliseconds, so this is enough unless somebody keeps the table open.
WAIT_BRIEFLY = "SET LOCAL lock_timeout = '100ms'"
# Tried so often, with pauses in which the queue runs empty, before it is left for the next round.
ATTEMPTS, BETWEEN_ATTEMPTS_S = 3, 1.0
