"""Back end: a real Flower deployment on this machine, a SuperLink and one SuperNode per node.

It checks that what works in simulation works deployed. Every message crosses a socket and starts a
new Python process, so a round takes seconds. A SuperNode needs about 0.3 GB of memory, hence a
handful of nodes. There are no TLS and no node keys: it is loopback, not a model of how to deploy.
Every SuperNode talks to the SuperLink through a proxy of its own, which counts the bytes that cross
the socket.
"""

from contextlib import ExitStack
from typing import Any

from fedmaml.counting_proxy import CountingProxy, crossed
from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.backends.flower_processes import (
    CONNECTION,
    START_SECONDS,
    RunConfig,
    ask,
    environment_of,
    own_memories,
    run_app,
    start_superlink,
    write_app,
)
from fedmaml.simulations.backends.processes import answers, free_ports, wait_until, workspace


def run(apps: Apps, run_config: RunConfig, nodes: int) -> dict[str, Any]:
    """Run the apps on real SuperNodes; return when the run has finished.

    Args:
        apps: The server app and the client app.
        run_config: The run config of both, ``context.run_config``.
        nodes: Number of SuperNodes, numbered by ``partition-id`` in their
            ``node_config``. All are registered before the run begins.

    Returns:
        The bytes between SuperNodes and SuperLink, see `counting_proxy.crossed`.

    Raises:
        BackendError: A process did not start, or the run failed.
    """
    with ExitStack() as stack, workspace() as space:  # proxies outlive the processes
        write_app(space.folder / "app", apps, run_config)
        superlink, address = start_superlink(space)
        ports = free_ports(nodes)
        proxies = [stack.enter_context(CountingProxy(address)) for _ in ports]
        supernodes, kept = [], own_memories(run_config)
        for number, port in enumerate(ports):
            command = ["flower-supernode", "--insecure", "--superlink", proxies[number].address]
            command += ["--port", str(port)]
            command += ["--node-config", f"partition-id={number} num-partitions={nodes}"]
            name = f"supernode-{number}"
            supernodes.append(space.start(name, command, environment_of(space, name) | kept))

        def online() -> bool:
            if not all(answers(port) for port in ports):  # cheap; the question below is not
                return False
            listed = ask(space, "supernode", "list", CONNECTION).get("nodes", [])
            return [node["status"] for node in listed].count("online") == nodes

        patience = START_SECONDS + 5.0 * nodes
        wait_until(online, [superlink, *supernodes], patience, f"{nodes} SuperNodes to register")
        run_app(space, space.folder / "app", superlink, supernodes)
        return crossed([proxy.tally for proxy in proxies])
