"""``python -m fedmaml.cli``."""

from fedmaml.cli import process

if __name__ == "__main__":
    process()
