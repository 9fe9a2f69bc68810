"""Recording in simulators: scripted policies, what they are made to do, and the command that collects episodes."""
