"""A reward model of one's own recordings: from a store to a checkpoint with a verdict, on a processor in minutes."""
