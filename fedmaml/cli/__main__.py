"""``python -m fedmaml.cli``."""

from fedmaml.cli import main

if __name__ == "__main__":
    main()
