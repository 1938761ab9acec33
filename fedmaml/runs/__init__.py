"""A run on disk: its folder, who may write to it, how far it got, and what came of it."""
