"""How good a reward model is."""
