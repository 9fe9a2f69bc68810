"""A reward model behind HTTP: the server (extra ``serve``), and the client, which needs NumPy only."""
