"""Where tables go."""

from rich.console import Console

console = Console()
"""Standard output."""
