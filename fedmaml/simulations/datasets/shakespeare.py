"""The plays of Shakespeare by speaking role.

Text of J. Bosak's edition (from Moby), which "may be freely copied and distributed worldwide";
https://www.ibiblio.org/xml/examples/shakespeare/, 1999. Roles as clients: McMahan et al.
Communication-Efficient Learning of Deep Networks from Decentralized Data. AISTATS 2017; Caldas et
al. LEAF. arXiv:1812.01097, 2018. The file read here is the edition's speeches as one table.
"""

import csv
import gzip

from fedmaml.simulations.datasets.files import DataFile, located, read_once

FILE = DataFile(
    "shakespeare_roles",
    "shakespeare_speeches.csv.gz",
    "sha256:b7983b1054457aa4a5809c59e266357b5c8689116c59931e2169c31aeb9c28cd",
    source="www.ibiblio.org/xml/examples/shakespeare, the plays' speeches as one table",
)


@read_once
def load(data_dir: str = "") -> dict[tuple[str, str], str]:
    """Return the text of each (play, role), sorted; speeches in their order, a line break between.

    Speeches of several speakers together are left out.

    Args:
        data_dir: Folder that holds a folder ``shakespeare_roles``; "" means the environment
            variable FEDMAML_DATA.

    Raises:
        DataError: If the file is missing or is not the original.
    """
    speeches: dict[tuple[str, str], list[str]] = {}
    with gzip.open(located(FILE, data_dir), "rt", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if "|" not in row["speaker"]:
                speeches.setdefault((row["play"], row["speaker"]), []).append(row["text"])
    return {role: "\n".join(texts) for role, texts in sorted(speeches.items())}
