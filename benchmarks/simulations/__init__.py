"""Simulations of every method of the statistics engine: how often it is wrong, beside how often it says so."""
