"""Where a node keeps the two slots of its clients: in Flower's context, or in files.

Flower's context ends with its run, and travels whole with every message, for all clients. So a node
whose environment names a folder (`FEDMAML_MEMORIES`), or whose node config does, as that of a real
site's worker, keeps the memories there: the next Flower run in the same run directory finds them,
and a message opens the files of those clients only that it asks. In one process nothing travels,
and the server writes the contexts to its journal; there the folder has no effect.

    <client>.a.safetensors, <client>.b.safetensors   one slot each, sealed (`runs.sealing`)

A file that is damaged counts as missing, so its client says that it lacks its memory.
"""

import logging
import os
from pathlib import Path
from typing import Protocol

from flwr.app import Context, RecordDict

from fedmaml.core.params import Params
from fedmaml.core.requests import Used
from fedmaml.messages.memories import SLOTS, read_memory, write_memory
from fedmaml.runs.sealing import seal, unseal
from fedmaml.runs.writing import write_whole
from fedmaml.simulations.backends import IN_JOURNAL, MEMORIES

logger = logging.getLogger("fedmaml")


class Slots(Protocol):
    """Two memories of each client, labelled with the updates that they follow."""

    def read(self, client: int, used: Used) -> Params | None:
        """Return the memory after an update; None if neither slot holds it."""
        ...

    def write(self, client: int, memory: Params, made: Used, used: Used) -> None:
        """Store the memory after an update ``made``, beside that after the last used one."""
        ...


def slots_of(context: Context) -> Slots:
    """Return the slots of a node's clients."""
    folder = str(context.node_config.get(MEMORIES, "")) or os.environ.get(MEMORIES)
    if folder and not context.node_config.get(IN_JOURNAL):
        return FileSlots(Path(folder))
    return ContextSlots(context.state)


class ContextSlots:
    """Slots in the records of a node's Flower context.

    Args:
        state: The records.
    """

    def __init__(self, state: RecordDict) -> None:
        self._state = state

    def read(self, client: int, used: Used) -> Params | None:
        """Return the memory after an update; None if neither slot holds it."""
        return read_memory(self._state, client, used)

    def write(self, client: int, memory: Params, made: Used, used: Used) -> None:
        """Store the memory after an update ``made``, beside that after the last used one."""
        write_memory(self._state, client, memory, made, used)


class FileSlots:
    """Slots in files that only their owner may read.

    Args:
        folder: Made when the first memory is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, client: int, used: Used) -> Params | None:
        """Return the memory after an update; None if neither slot holds it."""
        for slot in SLOTS:
            memory, label = self._slot(client, slot)
            if label == used:
                return memory
        return None

    def write(self, client: int, memory: Params, made: Used, used: Used) -> None:
        """Store the memory after an update ``made``, beside that after the last used one.

        Raises:
            OSError: If it cannot be written; both slots are as before.
        """
        keeps = [slot for slot in SLOTS if self._slot(client, slot)[1] == used]
        target, *others = [slot for slot in SLOTS if slot not in keeps[:1]]
        parts, _ = seal(memory, {"round": str(made.round), "base": made.base})
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(self._path(client, target), *parts, private=True)
        for slot in others:
            self._path(client, slot).unlink(missing_ok=True)

    def _slot(self, client: int, slot: str) -> tuple[Params, Used | None]:
        """Return a memory and its label; None if there is none."""
        path = self._path(client, slot)
        try:
            memory, texts, _ = unseal(path.read_bytes())
            return memory, Used(int(texts["round"]), texts["base"])
        except FileNotFoundError:
            return {}, None
        except (ValueError, KeyError) as error:
            logger.warning("%s is damaged, so this memory is lost: %s", path, error)
            return {}, None

    def _path(self, client: int, slot: str) -> Path:
        return self._folder / f"{client}.{slot}.safetensors"
