"""Rollups: which steps of them hold. They are built by the pipeline and read by results."""
