"""The console for tables."""

from rich.console import Console

console = Console()
"""Standard output."""
