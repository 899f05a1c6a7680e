"""Measurements of the running service, each beside a raw probe taken in the same run."""
