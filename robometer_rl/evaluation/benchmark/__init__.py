"""Benchmarks by name: what is asked is fixed beforehand, several models and controls answer, and one page says how."""
