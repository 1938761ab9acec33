"""A real site: its own file, the worker that alone reads its data, and the thin app before it."""
