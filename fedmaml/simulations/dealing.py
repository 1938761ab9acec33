"""Clients distributed to training, validation and test."""

from fedmaml.simulations.scenario import Split

_TRAIN, _VALIDATION = 0.6, 0.15


def deal(clients: int) -> dict[Split, range]:
    """Return client numbers: 60 % train, 15 % validate, the others test; at least one of each."""
    train = max(1, round(_TRAIN * clients))
    validation = max(1, round(_VALIDATION * clients))
    return numbered(train, validation, clients - train - validation)


def numbered(train: int, validation: int, test: int) -> dict[Split, range]:
    """Return client numbers of each split, one split after the other, by their counts."""
    first_test = train + validation
    return {
        "train": range(train),
        "validation": range(train, first_test),
        "test": range(first_test, first_test + test),
    }
