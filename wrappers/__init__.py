"""Environment wrappers that pay a learned reward."""
