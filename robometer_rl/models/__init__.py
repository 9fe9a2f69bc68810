"""Reward models: the interface, loading, and the Robometer itself."""
