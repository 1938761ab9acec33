"""A Flower app that asks three nodes of one site in turn: without a worker, with it, a bare one.

The nodes say in their node config which they are. The server writes seconds and CPU seconds of
every message to the file that the run configuration names.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

VARIANTS = ("today", "worker", "bare")
TURNS, MEASURED, OF_WORKER = "turns", "measured", "of-worker"  # entries of the run configuration
PAUSE, SETTLE, PATIENCE = 0.05, 2.0, 120.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")

server = ServerApp()
client = ClientApp()


@client.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    return answered(message, context)


@client.query("variant")
def variant(message: Message, context: Context) -> Message:
    said = ConfigRecord({"variant": str(context.node_config["variant"])})
    return Message(RecordDict({"said": said}), reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    return answered(message, context)


def answered(message: Message, context: Context) -> Message:
    """Answer as the node's variant does; what it needs is imported now."""
    which = context.node_config["variant"]
    if which == "bare":
        return Message(RecordDict(), reply_to=message)
    if which == "worker":
        from fedmaml.sites.app import app

        return app(message=message, context=context)
    from fedmaml.client.app import app as whole

    return whole(message=message, context=context)


@server.main()
def main(grid: Grid, context: Context) -> None:
    nodes = {}
    for node in grid.get_node_ids():
        reply = asked(grid, Message(RecordDict(), node, "query.variant"))
        nodes[str(reply.content.config_records["said"]["variant"])] = node
    assert set(nodes) == set(VARIANTS), nodes
    roots = {name: processes_with(f'variant="{name}"') for name in VARIANTS}
    requests, replies = prepared(grid, context, nodes), {}
    rows: dict[str, dict[str, list[float]]] = {
        name: {"seconds": [], "cpu_seconds": []} for name in VARIANTS
    }
    for turn in range(int(str(context.run_config[TURNS])) + 1):
        for name in VARIANTS:
            pids = roots[name]
            if name == "worker":  # its process is no child of the node
                pids = [*pids, *processes_with(str(context.run_config[OF_WORKER]))]
            cpu, started = cpu_seconds(pids), time.perf_counter()
            reply = asked(grid, Message(requests[name], nodes[name], "train"))
            seconds = time.perf_counter() - started
            assert not reply.has_error(), reply.error
            replies[name] = reply.content
            time.sleep(SETTLE)  # the process of the message ends after its reply
            if turn:  # the first one builds what a worker keeps
                rows[name]["seconds"].append(seconds)
                rows[name]["cpu_seconds"].append(cpu_seconds(pids) - cpu)
    today, worker = (replies[name].array_records["update"] for name in ("today", "worker"))
    same = all(bytes(today[key].data) == bytes(worker[key].data) for key in today)
    assert same, "the worker computed other bits"
    Path(str(context.run_config[MEASURED])).write_text(json.dumps(rows))


def prepared(grid: Grid, context: Context, nodes: dict[str, int]) -> dict[str, RecordDict]:
    """Return the request of round 1 to each node."""
    from fedmaml.config import from_run_config
    from fedmaml.messages.roll_call import read_roll_call_reply
    from fedmaml.server.cohort import RollCall
    from fedmaml.server.flower_strategy import FlowerStrategy

    config = from_run_config(context.run_config)
    strategy = FlowerStrategy(config.make_strategy(), config.make_problem(), seed=config.seed)
    requests = {}
    for name in VARIANTS:
        node = nodes[name]
        reply = asked(grid, Message(RecordDict(), node, "query.roll_call"))
        assert not reply.has_error(), reply.error
        if name != "bare":
            said = read_roll_call_reply(reply.content)
            ((number, statistics),) = said.statistics.items()
        call = RollCall({node: {"train": range(number, number + 1)}}, statistics)
        (message,) = strategy.train_messages(1, call, [number])
        requests[name] = message.content
    return requests


def asked(grid: Grid, message: Message) -> Message:
    """Send a message; return its reply."""
    ids = list(grid.push_messages([message]))
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for reply in grid.pull_messages(ids):
            return reply
        time.sleep(PAUSE)
    raise TimeoutError(f"no reply within {PATIENCE:g} s")


def processes_with(word: str) -> list[int]:
    """Return the processes with a word in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if word.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it has ended
            continue
    return found


def cpu_seconds(pids: list[int]) -> float:
    """Return the CPU seconds of processes and of all that descend from them, ended ones too."""
    stats = dict(all_stats())
    wanted = set(pids)
    while more := {pid for pid, (parent, _) in stats.items() if parent in wanted} - wanted:
        wanted |= more
    return sum(stats[pid][1] for pid in wanted if pid in stats) / TICKS


def all_stats() -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield pid, (parent, ticks of itself and of children that it waited for)."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        yield int(entry.name), (int(words[1]), sum(map(int, words[11:15])))
