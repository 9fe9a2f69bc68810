"""Compact reward models: a small network over features of a frozen image network, trained on a processor in minutes."""
