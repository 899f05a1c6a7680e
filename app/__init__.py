"""The Experimentation Platform: assignment, event ingestion and results over HTTP."""
