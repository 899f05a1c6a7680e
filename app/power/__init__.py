"""Planning: how many users an experiment needs, and what it can find with those it has."""
