"""Daily prices of 505 companies of the S&P 500, 2013-02-08 to 2018-02-07, 1,259 days.

Nugent. S&P 500 stock data. Kaggle, 2018 (CC0 1.0); the author's repository has the MIT licence.
Prices are adjusted for splits, not for dividends. The list of companies is that of 2018, so who
failed before is missing: survivorship bias, and buying and holding looks better than it was.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedmaml.simulations.datasets.files import DataFile, located, read_once

PRICES = DataFile(
    "sp500_5yr",
    "sp500_ohlc.npz",
    "sha256:09ec497ae70541166be603a5802b15e212179b45b75cee1aba02bb5b7f5e9393",
    source="github.com/CNuge/kaggle-code",
)


class Prices(NamedTuple):
    """Companies with a price on every day.

    Attributes:
        close: Closing prices in dollars, ``(companies, days)``.
        dates: Days, ``(days,)``.
        tickers: Names, sorted.
    """

    close: NDArray[np.float64]
    dates: NDArray[np.datetime64]
    tickers: tuple[str, ...]


@read_once
def load(data_dir: str = "") -> Prices:
    """Return the 470 companies with all prices.

    Args:
        data_dir: Folder that holds a folder ``sp500_5yr``; "" means the environment variable
            FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    with np.load(located(PRICES, data_dir), allow_pickle=False) as arrays:
        close, dates, tickers = arrays["close"], arrays["dates"], arrays["tickers"]
    complete = np.isfinite(close).all(1)
    return Prices(
        close[complete].astype(np.float64), dates, tuple(str(name) for name in tickers[complete])
    )
