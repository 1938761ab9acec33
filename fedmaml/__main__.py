"""``python -m fedmaml`` is the command ``fedmaml``."""

from fedmaml.cli import process

if __name__ == "__main__":
    process()
