"""Recorded datasets: for every format its reader and, where it can be relabelled, its label writer side by side."""
