"""Trajectories: how they are recorded, stored, sampled and turned into targets."""
