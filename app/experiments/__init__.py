"""Experiments: what they are, how they change, and how every process knows them."""
