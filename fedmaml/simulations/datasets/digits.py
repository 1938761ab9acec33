"""Optical recognition of handwritten digits: 1,797 images of 8 x 8 pixels, the test part.

Alpaydin, Kaynak. Optical Recognition of Handwritten Digits. UCI, 1998. doi:10.24432/C50P49.
CC BY 4.0. The numbers are those of ``sklearn.datasets.load_digits``, which a test compares. They
are kept beside this file, so that no other package is imported for them.
"""

from pathlib import Path

import numpy as np

_FILE = Path(__file__).with_suffix(".npz")


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return images, float64 ``(1797, 64)``, 0 to 16, and their digits, int64 ``(1797,)``."""
    with np.load(_FILE) as arrays:
        return arrays["images"].astype(np.float64), arrays["labels"].astype(np.int64)
