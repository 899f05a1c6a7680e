"""Stored metrics: recipes with versions, and the metrics that need no set-up."""
