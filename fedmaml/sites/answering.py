"""What a site's worker answers: fedmaml's own ClientApp, with the data that the site's file names.

    request -> run configuration refused or completed -> fedmaml.client.app -> identity, signature

The worker answers one request at a time, so what it keeps between them needs no lock.
"""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Error, Message, RecordDict

from fedmaml.client.app import app
from fedmaml.config import from_run_config
from fedmaml.config.at_site import identity_of, refuse_what_a_site_says, with_data_of_site
from fedmaml.core.failures import contained, said_of
from fedmaml.core.identity import Identity
from fedmaml.flower_internals import CLIENT_APP_RAISED, become_node
from fedmaml.messages.roll_call import add_identity
from fedmaml.messages.signatures import Occasion, PrivateKey, private_key, sign
from fedmaml.simulations.backends import MEMORIES
from fedmaml.sites.site_file import Site

ROLL_CALL = "query.roll_call"
_RUNS = 4  # of which costs and configuration are kept

logger = logging.getLogger("fedmaml")


@dataclass(frozen=True)
class _Run:
    """What the worker keeps of a run.

    Attributes:
        settings: The run configuration with what the site's file says.
        identity: What the site computes with.
        state: What a node has measured; the memories of its clients are in files.
    """

    settings: Mapping[str, Any]
    identity: Identity
    state: RecordDict


class Answering:
    """Answers the requests to a site.

    Args:
        site: What its own file says.

    Raises:
        ConfigurationError: If its node key cannot be used.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._key: PrivateKey | None = (
            private_key(site.coordinator.key) if site.coordinator.key else None
        )
        self._runs: OrderedDict[int, _Run] = OrderedDict()

    def answer(
        self, message: Message, run_id: int, node_id: int, run_config: Mapping[str, Any]
    ) -> Message:
        """Return the reply to a message, or an error reply that says no more than it may.

        Args:
            message: From the coordinator.
            run_id: Flower's number of the run.
            node_id: Flower's number of this site's node.
            run_config: From the coordinator.
        """
        become_node(run_id, node_id)
        try:
            with contained():
                run = self._run(run_id, run_config)
                reply = app(message=message, context=self._context(run, run_id, node_id))
                if reply.has_content():
                    self._complete(message, reply.content, run, run_id)
                return reply
        except Exception as error:  # a site must answer, whatever it was sent
            logger.exception("the worker could not answer", exc_info=error)
            reason = said_of(error, "the site's worker")
            return Message(Error(CLIENT_APP_RAISED, reason), reply_to=message)

    def _run(self, run_id: int, run_config: Mapping[str, Any]) -> _Run:
        """Return what is kept of a run; its configuration is checked when it is new.

        Raises:
            RefusedError: If the configuration names what only a site says.
        """
        if run_id not in self._runs:
            refuse_what_a_site_says(run_config)
            data = self._site.data
            settings = with_data_of_site(
                run_config,
                folder=data.folder,
                table=data.table,
                target=data.target,
                module=data.module,
                processes=self._site.limits.processes,
            )
            known = identity_of(from_run_config(settings))
            self._runs[run_id] = _Run(settings, known, RecordDict())
        self._runs.move_to_end(run_id)
        while len(self._runs) > _RUNS:
            self._runs.popitem(last=False)
        return self._runs[run_id]

    def _context(self, run: _Run, run_id: int, node_id: int) -> Context:
        """Return the context of a node that hosts this site's clients."""
        # By the configuration, not the run: a resumed run is a new one of Flower's.
        memories = self._site.folders.memories / run.identity.settings_sha256[:16]
        node_config: dict[str, bool | float | int | str] = {
            "partition-id": self._site.number,
            "num-partitions": self._site.sites,
            "site": self._site.name,
            MEMORIES: str(memories),
        }
        return Context(
            run_id=run_id,
            node_id=node_id,
            node_config=node_config,
            state=run.state,
            run_config=dict(run.settings),
        )

    def _complete(self, message: Message, content: RecordDict, run: _Run, run_id: int) -> None:
        """Put in what the site computes with, and its signature."""
        if message.metadata.message_type == ROLL_CALL:
            add_identity(content, run.identity)
        if self._key is not None:
            sign(content, self._key, Occasion(run_id, message.metadata.message_id, self._site.name))
