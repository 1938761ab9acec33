"""``python -m fedmaml.cli``."""

from fedmaml.cli import main

main()
