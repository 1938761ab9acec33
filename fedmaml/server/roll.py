"""The roll: which site hosts which clients; called at the start, and again when a node appears.

A node that says something impossible, or that differs from all others, is left out with the reason.
A site is known by its name. If it comes back as another node, that node takes its place, with the
same clients; the totals of the statistics stay those of the start, or everybody's scale would
change.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from fedmaml.core.errors import BackendError, MessageError
from fedmaml.core.params import Params, layout_of
from fedmaml.core.records import Event
from fedmaml.messages.roll_call import RollCallReply, read_roll_call_reply
from fedmaml.server.admission import EVERYBODY, Admission
from fedmaml.server.cohort import RollCall, wait_for_nodes
from fedmaml.server.replies import content_of, matched

ROLL_CALL = "query.roll_call"
ROLL_SECONDS = 60.0
"""Most seconds that a round waits for a node that has just appeared."""

Statistics = Mapping[int, Params]
Check = Callable[[Statistics], Mapping[int, str]]
"""Statistics of clients -> clients whose statistics cannot be true, and why."""

logger = logging.getLogger("fedmaml")


def no_check(_statistics: Statistics) -> Mapping[int, str]:
    """Believe all statistics."""
    return {}


@dataclass
class _Answers:
    """Answers of nodes.

    Attributes:
        sound: Node id -> its reply.
        refused: Node id -> why it was left out.
    """

    sound: dict[int, RollCallReply] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def refuse(self, node: int, why: str) -> None:
        """Leave a node out; the log says it."""
        reply = self.sound.pop(node, None)
        name = f" (site {reply.name})" if reply is not None and reply.name else ""
        logger.warning("the roll call: left out node %s%s: %s", node, name, why)
        self.refused[node] = why


def call_roll(
    grid: Grid,
    nodes: int,
    timeout: float,
    check: Check = no_check,
    admission: Admission = EVERYBODY,
) -> RollCall:
    """Wait for the nodes, and ask each which clients it hosts.

    Args:
        grid: The way to the nodes.
        nodes: How many to wait for; more if most nodes report that clients are spread over more.
        timeout: Seconds to wait for them to connect, and again for their answers.
        check: Finds statistics that cannot be true.
        admission: Which sites may take part.

    Raises:
        BackendError: If nodes are missing, or none of them says anything that can be used.
    """
    ids = wait_for_nodes(grid, nodes, timeout)
    answers = _asked(grid, ids, timeout, admission)
    _refuse_same_names(answers)
    _refuse_other_steps(answers)
    parts = max((step for reply in answers.sound.values() for step in _steps(reply)), default=1)
    everybody = admission.keys is None  # real sites may be away, and join when they come
    if everybody and len(ids) < parts:  # the nodes know of more nodes than had connected
        return call_roll(grid, parts, timeout, check, admission)
    _refuse_statistics(answers, check)
    if not answers.sound:
        node, why = next(iter(answers.refused.items()))
        raise BackendError(f"no node can take part; node {node}: {why}")
    statistics: dict[int, Params] = {}
    for reply in answers.sound.values():
        statistics |= reply.statistics
    senders = tuple(sorted(statistics))
    replies = answers.sound.items()
    return RollCall(
        {node: _ranges(reply) for node, reply in replies},
        _totals([statistics[client] for client in senders]),
        dict(Counter(reply.engine or "not reported" for _, reply in replies)),
        senders,
        examples={node: reply.examples for node, reply in replies if reply.examples},
        names={node: reply.name for node, reply in replies if reply.name},
        refused=answers.refused,
    )


class Roll:
    """The roll of a run.

    Args:
        call: The first roll call.
        grid: The way to the nodes; None: nobody can join.
        timeout: Seconds to wait for the answer of a node that appears.
        admission: Which sites may take part.
    """

    def __init__(
        self,
        call: RollCall,
        grid: Grid | None = None,
        timeout: float = 0.0,
        admission: Admission = EVERYBODY,
    ) -> None:
        self.call = call
        self._admission = admission
        self._grid, self._timeout = grid, min(timeout, ROLL_SECONDS)
        self._known = {*call.hosts, *call.refused}

    def call_again(self) -> tuple[Event, ...]:
        """Ask the nodes that have appeared since; return who joined or was refused."""
        if self._grid is None:
            return ()
        new = sorted(set(self._grid.get_node_ids()) - self._known)
        if not new:
            return ()
        self._known.update(new)
        answers, events = _asked(self._grid, new, self._timeout, self._admission), []
        for node, reply in list(answers.sound.items()):
            if why := self._why_not(reply):
                answers.refuse(node, why)
                continue
            self.call = _joined(self.call, node, reply)
            logger.warning("node %s joined as site %s", node, reply.name or node)
            events.append(Event("joined", self.call.name(node)))
        events += [Event("refused", str(node), why) for node, why in answers.refused.items()]
        return tuple(events)

    def _why_not(self, reply: RollCallReply) -> str:
        """Return why a node cannot join; "" if it can."""
        online = set(self._grid.get_node_ids()) if self._grid is not None else set()
        before = self.call.node_of(reply.name)
        if before is not None and before in online:
            return f"node {before} is online as site {reply.name} already"
        if before is not None:
            same = dict(self.call.hosts[before]) == _ranges(reply)
            return "" if same else f"site {reply.name} hosts other clients than it did"
        hosted = _ranges(reply)
        for other, ranges in self.call.hosts.items():
            if any(_overlap(hosted[split], ranges.get(split, range(0))) for split in hosted):
                return f"node {other} hosts some of its clients already"
        return ""


def _joined(call: RollCall, node: int, reply: RollCallReply) -> RollCall:
    """Return a roll with one more node, in the place of the node of the same site."""
    before = call.node_of(reply.name)
    hosts = {each: own for each, own in call.hosts.items() if each != before}
    names = {each: own for each, own in call.names.items() if each != before}
    examples = {each: own for each, own in call.examples.items() if each != before}
    return replace(
        call,
        hosts=hosts | {node: _ranges(reply)},
        names=names | ({node: reply.name} if reply.name else {}),
        examples=examples | ({node: reply.examples} if reply.examples else {}),
    )


def _asked(grid: Grid, ids: Sequence[int], timeout: float, admission: Admission) -> _Answers:
    """Ask nodes; each answer is checked by itself."""
    sent = [(Message(RecordDict(), node, ROLL_CALL), node) for node in ids]
    replies = grid.send_and_receive([message for message, _ in sent], timeout=timeout)
    answers = _Answers()
    for message, node, reply in matched(sent, replies):
        try:
            content = content_of(reply)
            read = read_roll_call_reply(content)
            admission.check_roll_call(content, read, message.metadata.message_id)
            answers.sound[node] = read
        except MessageError as error:
            if error.reason == "RAISED":
                answers.refuse(node, f"it failed the roll call: {error.detail}")
            elif error.reason == "NO_REPLY":
                answers.refuse(node, f"it did not answer the roll call within {timeout:g} s")
            elif error.reason in ("SIGNATURE", "STALE", "VERSION"):
                answers.refuse(node, str(error))
            else:
                answers.refuse(node, f"{error}; it may run another app or version of fedmaml")
        except Exception as error:  # a damaged or malicious reply may break a reader in any way
            answers.refuse(
                node,
                f"it sent something else than a reply to the roll call ({type(error).__name__}); "
                "it may run another app or version of fedmaml",
            )
    return answers


def _refuse_same_names(answers: _Answers) -> None:
    """Leave out nodes that say the name of a site that another node, of a lower id, said."""
    known: dict[str, int] = {}
    for node, reply in sorted(answers.sound.items()):
        first = known.setdefault(reply.name, node)
        if reply.name and first != node:
            answers.refuse(node, f"node {first} is online as site {reply.name} already")


def _refuse_other_steps(answers: _Answers) -> None:
    """Leave out nodes that spread clients over another number of nodes than most others do."""
    steps = Counter(step for reply in answers.sound.values() for step in set(_steps(reply)))
    if len(steps) < 2:
        return
    most = max(steps.values())
    usual = min(step for step, count in steps.items() if count == most)
    for node, reply in list(answers.sound.items()):
        if set(_steps(reply)) != {usual}:
            answers.refuse(node, f"it hosts every {_steps(reply)[0]}th client, most nodes every "
                                 f"{usual}th")  # fmt: skip


def _refuse_statistics(answers: _Answers, check: Check) -> None:
    """Leave out nodes whose statistics have another form than most, or cannot be true."""
    forms = {
        node: {layout_of(own) for own in reply.statistics.values()}
        for node, reply in answers.sound.items()
        if reply.statistics
    }
    counted = Counter(form for of_node in forms.values() for form in of_node)
    usual = max(counted, key=lambda form: (counted[form], repr(form)), default=())
    for node, of_node in forms.items():
        if of_node != {usual}:
            answers.refuse(node, "its statistics have other names or shapes than most others")
    everybody = {
        client: own for reply in answers.sound.values() for client, own in reply.statistics.items()
    }
    unsound = check(everybody)
    for node, reply in list(answers.sound.items()):
        for client in sorted(unsound.keys() & reply.statistics.keys())[:1]:
            answers.refuse(node, f"the statistics of client {client} {unsound[client]}")


def _steps(reply: RollCallReply) -> list[int]:
    """Return the steps of the splits in which a node hosts clients."""
    return [numbers[2] for numbers in reply.hosted.values() if len(range(*numbers))]


def _ranges(reply: RollCallReply) -> dict[str, range]:
    return {split: range(*numbers) for split, numbers in reply.hosted.items()}


def _overlap(one: range, other: range) -> bool:
    """Return whether two ranges share a number."""
    shorter, longer = sorted((one, other), key=len)
    return any(number in longer for number in shorter)


def _totals(statistics: Iterable[Params]) -> Params:
    totals: Params = {}
    for params in statistics:
        if not totals:
            totals = {name: torch.zeros_like(value) for name, value in params.items()}
        totals = {name: total + params[name] for name, total in totals.items()}
    return totals
