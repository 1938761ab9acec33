"""Numbers of chemical elements that describe a composition.

Electronegativity: Pauling's scale. Radius: Cordero et al. Covalent radii revisited. Dalton Trans.,
2008, 2832 (low spin). Ionisation energy: NIST Atomic Spectra Database. Facts, no licence.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

# symbol, atomic number, period, group, electronegativity, radius / pm, ionisation / eV, mass / u
_TABLE = """
Li  3 2  1 0.98 128  5.392   6.94
Be  4 2  2 1.57  96  9.323   9.012
B   5 2 13 2.04  84  8.298  10.81
N   7 2 15 3.04  71 14.534  14.007
O   8 2 16 3.44  66 13.618  15.999
F   9 2 17 3.98  57 17.423  18.998
Na 11 3  1 0.93 166  5.139  22.990
Mg 12 3  2 1.31 141  7.646  24.305
Al 13 3 13 1.61 121  5.986  26.982
Si 14 3 14 1.90 111  8.152  28.085
S  16 3 16 2.58 105 10.360  32.06
K  19 4  1 0.82 203  4.341  39.098
Ca 20 4  2 1.00 176  6.113  40.078
Sc 21 4  3 1.36 170  6.561  44.956
Ti 22 4  4 1.54 160  6.828  47.867
V  23 4  5 1.63 153  6.746  50.942
Cr 24 4  6 1.66 139  6.767  51.996
Mn 25 4  7 1.55 139  7.434  54.938
Fe 26 4  8 1.83 132  7.902  55.845
Co 27 4  9 1.88 126  7.881  58.933
Ni 28 4 10 1.91 124  7.640  58.693
Cu 29 4 11 1.90 132  7.726  63.546
Zn 30 4 12 1.65 122  9.394  65.38
Ga 31 4 13 1.81 122  5.999  69.723
Ge 32 4 14 2.01 120  7.899  72.630
As 33 4 15 2.18 119  9.789  74.922
Rb 37 5  1 0.82 220  4.177  85.468
Sr 38 5  2 0.95 195  5.695  87.62
Y  39 5  3 1.22 190  6.217  88.906
Zr 40 5  4 1.33 175  6.634  91.224
Nb 41 5  5 1.60 164  6.759  92.906
Mo 42 5  6 2.16 154  7.092  95.95
Ru 44 5  8 2.20 146  7.361 101.07
Rh 45 5  9 2.28 142  7.459 102.91
Pd 46 5 10 2.20 139  8.337 106.42
Ag 47 5 11 1.93 145  7.576 107.87
Cd 48 5 12 1.69 144  8.994 112.41
In 49 5 13 1.78 142  5.786 114.82
Sn 50 5 14 1.96 139  7.344 118.71
Sb 51 5 15 2.05 139  8.608 121.76
Te 52 5 16 2.10 138  9.010 127.60
Cs 55 6  1 0.79 244  3.894 132.91
Ba 56 6  2 0.89 215  5.212 137.33
La 57 6  3 1.10 207  5.577 138.91
Hf 72 6  4 1.30 175  6.825 178.49
Ta 73 6  5 1.50 170  7.550 180.95
W  74 6  6 2.36 162  7.864 183.84
Re 75 6  7 1.90 151  7.834 186.21
Os 76 6  8 2.20 144  8.438 190.23
Ir 77 6  9 2.20 141  8.967 192.22
Pt 78 6 10 2.28 136  8.959 195.08
Au 79 6 11 2.54 136  9.226 196.97
Hg 80 6 12 2.00 132 10.438 200.59
Tl 81 6 13 1.62 145  6.108 204.38
Pb 82 6 14 2.33 146  7.417 207.2
Bi 83 6 15 2.02 148  7.286 208.98
"""
FEATURES = (
    "atomic number", "period", "group", "group squared", "electronegativity", "radius",
    "ionisation", "log mass", "valence electrons", "s block", "p block", "d block",
)  # fmt: skip


@lru_cache(maxsize=1)
def table() -> dict[str, dict[str, float]]:
    """Return `FEATURES` of each element by its symbol; radii in Angstrom, energies in eV."""
    found = {}
    for line in _TABLE.split("\n")[1:-1]:
        symbol, *numbers = line.split()
        number, period, group, negativity, radius, ionisation, mass = map(float, numbers)
        valence = group if group <= 12 else group - 10
        block = "s" if group <= 2 else "d" if group <= 12 else "p"
        row = (
            number, period, group, group**2, negativity, radius / 100, ionisation, math.log(mass),
            valence, *(float(block == name) for name in "spd"),
        )  # fmt: skip
        found[symbol] = dict(zip(FEATURES, row, strict=True))
    return found


def column(name: str, symbols: Sequence[str]) -> Tensor:
    """Return one feature of some elements, float64 ``(symbols,)``."""
    return torch.tensor([table()[symbol][name] for symbol in symbols], dtype=torch.float64)


@lru_cache(maxsize=1)
def standardised() -> dict[str, Tensor]:
    """Return the features of each element ``(12,)``, of mean 0 and variance 1 over the table."""
    symbols = list(table())
    matrix = torch.stack([column(name, symbols) for name in FEATURES], 1)
    scaled = (matrix - matrix.mean(0)) / matrix.std(0, correction=0)
    return dict(zip(symbols, scaled, strict=True))
