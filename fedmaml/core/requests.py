"""Requests to a node and its replies, as plain values; `fedmaml.messages` carries them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from fedmaml.core.aggregation import ExactSum
from fedmaml.core.compression import NO_COMPRESSION, Compression
from fedmaml.core.costs import Computation
from fedmaml.core.counters import Counted
from fedmaml.core.params import MetaParams, Params
from fedmaml.core.records import Rejection

Form = Literal["sum", "stack"]

Update = dict[str, Tensor] | dict[str, ExactSum]
"""Group -> stacked updates, ``(clients, entries)``, or their weighted sum."""


class Used(NamedTuple):
    """The last update of a client that the server used; it tells the client which memory to use.

    Attributes:
        round: Of the update; 0: none was used, so the client starts anew.
        base: `fingerprint` of the meta-parameters that it was computed from.
    """

    round: int = 0
    base: str = ""


NEVER = Used()

TRAINING_METRICS = "loss_before", "loss_after"
"""Metrics of training that a strategy may return, unless it declares others."""

MAX_EXAMPLES = 10**9
"""Claims of more examples than this are refused."""


@dataclass(frozen=True)
class TrainRequest:
    """What the server requests from a node in one round.

    Attributes:
        round: From 1.
        clients: Numbers of the node's clients that take part.
        meta: Meta-parameters.
        form: "stack" if the server needs every client's update, "sum" if their sum will do.
        shared_statistics: Totals of the scenario's statistics over all training clients.
        base: `fingerprint` of ``meta``; the reply repeats it.
        compression: How each client's update is to be compressed, whatever the form.
        seed: Determines all noise: of compression, and what problem and strategy declare.
        used: Client -> its last used update, where clients keep a memory; the others start anew.
        max_examples: Most num-examples of a client, as the node declared in the roll call; the
            server's own, it is not sent.
        site: Name of the node's site; the server's own, likewise.
    """

    round: int
    clients: tuple[int, ...]
    meta: MetaParams
    form: Form = "sum"
    shared_statistics: Params = field(default_factory=dict)
    base: str = ""
    compression: Compression = NO_COMPRESSION
    seed: int = 0
    used: Mapping[int, Used] = field(default_factory=dict)
    max_examples: int = MAX_EXAMPLES
    site: str = ""

    @property
    def computed_form(self) -> Form:
        """The form that an engine must return: only single updates can be compressed."""
        return "stack" if self.compression.compressor() else self.form


@dataclass(frozen=True)
class TrainReply:
    """A node's reply to a `TrainRequest`.

    Attributes:
        clients: Clients whose updates are included, in the order of all lists below.
        weights: Their num-examples.
        metrics: name -> one value per client.
        update: group -> stacked updates ``(clients, entries)``, or their weighted `ExactSum`; on
            its way to the server also compressed updates, uint8 ``(clients, bytes)``.
        rejected: Clients that are left out, with the reason.
        round: Of the request.
        base: Of the request.
        computations: Cost of each client's update; empty if not reported.
        engines: Engine -> how many of the updates it computed; empty if not reported.
        counted: What each client's examples cost; empty if the problem has no counters.
    """

    clients: tuple[int, ...]
    weights: tuple[float, ...]
    metrics: dict[str, list[float]]
    update: Update
    rejected: tuple[Rejection, ...]
    round: int
    base: str
    computations: tuple[Computation, ...] = ()
    engines: Mapping[str, int] = field(default_factory=dict)
    counted: tuple[Counted, ...] = ()


@dataclass(frozen=True)
class EvaluateRequest:
    """What the server requests in an evaluation; attributes as in `TrainRequest`.

    Attributes:
        steps: Numbers of gradient steps at which adaptation is evaluated, besides 0 and the
            strategy's own.
        shots: Sizes of smaller supports at which it is evaluated; see `core.tasks.first_shots`.
        base: `fingerprint` of ``meta``; the reply repeats it.
        site: Name of the node's site; the server's own, it is not sent.
    """

    round: int
    split: str
    clients: tuple[int, ...]
    meta: MetaParams
    steps: tuple[int, ...] = ()
    shots: tuple[int, ...] = ()
    shared_statistics: Params = field(default_factory=dict)
    seed: int = 0
    used: Mapping[int, Used] = field(default_factory=dict)
    base: str = ""
    site: str = ""


@dataclass(frozen=True)
class EvaluateReply:
    """Per client, ``values["<column>:<stage>"]``; stages: before, after, after@N, shots@N.

    Columns are metrics, or their cells: "accuracy", "confusion/tp".

    Attributes:
        computations: Cost of evaluating each client, all stages together; empty if not reported.
        counted: What each client's examples cost; empty if the problem has no counters.
    """

    clients: tuple[int, ...]
    values: dict[str, list[float]]
    rejected: tuple[Rejection, ...]
    computations: tuple[Computation, ...] = ()
    counted: tuple[Counted, ...] = ()
