"""Assignments: which variant a user gets, decided once and kept for ever."""
