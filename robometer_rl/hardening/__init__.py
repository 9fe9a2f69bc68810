"""Agents are set on a reward model, and it is taught what they were paid for without having done it."""
