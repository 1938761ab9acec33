"""The app with fedmaml's first-order MAML."""
