"""Bytes of messages, as the server counts them, beside the bytes that cross real sockets.

python -m benchmarks.socket [--json FILE]

One round of FOMAML on two nodes of one client with two networks, and three rounds of hospitals on
two nodes of two hospitals; each is a deployment on this machine.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.runs import run_clients
from benchmarks.socket_app import NODES
from benchmarks.tables import Table, add_json_option, print_tables, write
from fedmaml.simulations.backends import flower_deployment
from fedmaml.simulations.backends.apps import Apps

NETWORKS = {"mlp": "MLP 784-256-128-64-5", "conv4": "Conv4, 28x28, 64 filters"}
WAYS = ("down", "up")
RUN = {
    "scenario": "hospitals",
    "strategy": "fomaml",
    "rounds": 3,
    "backend": "flower-deployment",
    "nodes": 2,
}
HOSPITALS = "hospitals, MLP 16-16-1"
COLUMNS = {
    "network": ["{network}"],
    "way": ["{way}"],
    "`message_bytes`": ["{messages:,}"],
    "`objects`": ["{objects:,}"],
    "ratio": ["{ratio:.4f}"],
    "envelopes": ["{envelopes:,}"],
    "other calls": ["{other_calls:,}"],
    "HTTP": ["{http:,}"],
    "messages / total": ["{percent:.1f} %"],
}


def deployed(network: str) -> dict[str, Any]:
    """Run the app in a deployment; return what the server counted, and what the sockets carried."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "traffic.json"
        apps = Apps("benchmarks.socket_app:server", "benchmarks.socket_app:client")
        crossed = flower_deployment.run(apps, {"network": network, "out": str(out)}, NODES)
        return {"counted": json.loads(out.read_text()), "socket": crossed}


def rows_of(name: str, counted: dict[str, int], socket: dict[str, Any]) -> dict[str, Any]:
    """Return a row for each direction.

    Args:
        name: Of the network.
        counted: Bytes of messages, by direction.
        socket: What the proxy saw.
    """
    rows = {}
    for way, messages in counted.items():
        carried = socket[way]
        rows[f"{name}, {way}"] = {
            "network": name, "way": way, "messages": messages, "objects": carried["objects"],
            "ratio": messages / carried["objects"], "envelopes": carried["envelopes"],
            "other_calls": carried["other_calls"], "http": carried["http"],
            "percent": 100 * messages / carried["total"],
        }  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_json_option(parser)
    arguments = parser.parse_args()
    rows: dict[str, Any] = {}
    for network, name in NETWORKS.items():
        seen = deployed(network)
        phases = list(seen["counted"].values())
        counted = {way: sum(part[f"message_bytes_{way}"] for part in phases) for way in WAYS}
        rows |= rows_of(name, counted, seen["socket"])
    cost = run_clients(RUN)[0]["cost"]
    phases = [cost["totals"], cost["evaluation"], cost["roll_call"]]
    counted = {way: sum(part[f"message_bytes_{way}"] for part in phases) for way in WAYS}
    rows |= rows_of(HOSPITALS, counted, cost["socket"])
    tables = {"bytes": Table(COLUMNS, rows)}
    print_tables(tables)
    if arguments.json:
        write(arguments.json, tables)


if __name__ == "__main__":
    main()
