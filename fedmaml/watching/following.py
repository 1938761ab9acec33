"""The lines of a run, read as they are written."""

import json
from pathlib import Path
from typing import Any


class Lines:
    """The finished rounds of a run; each line is read once.

    A resumed run may have cut lines off: then all are read anew.

    Args:
        path: Of ``rounds.jsonl``, which need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.records: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Return the finished rounds."""
        try:
            with self._path.open("rb") as file:
                size = file.seek(0, 2)
                if size < self._position:
                    self._position, self.records = 0, []
                file.seek(self._position)
                complete, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            self._position, self.records = 0, []
            return self.records
        for line in complete.splitlines():
            record = json.loads(line)
            while self.records and self.records[-1]["round"] >= record["round"]:
                self.records.pop()  # a resumed run wrote this round again
            self.records.append(record)
        self._position += len(complete + newline)
        return self.records
