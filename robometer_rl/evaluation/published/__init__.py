"""The reference's evaluations: its samplers, its files and its numbers, and the corrected numbers beside them."""
