"""A run on disk: its folder, locks, completeness, progress and outcome."""
