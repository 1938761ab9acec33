"""Back end: Flower's simulation engine, which spreads the nodes over Ray workers.

For work that fills several cores or machines: start-up costs about ten seconds, a message a few
milliseconds. With RAY_ADDRESS set the nodes run on that Ray cluster, where fedmaml must be
installed; otherwise a Ray of our own is started on this machine and ended with the run.
"""

import os

from fedmaml.simulations.backends.apps import Apps
from fedmaml.simulations.backends.flower_processes import (
    RunConfig,
    own_memories,
    run_app,
    start_superlink,
    write_app,
)
from fedmaml.simulations.backends.processes import workspace

LONGEST_RAY_FOLDER = 36  # Ray adds up to 70 characters; the path of a Unix socket ends at 107


def run(apps: Apps, run_config: RunConfig, nodes: int) -> None:
    """Run the apps on simulated nodes; return when the run has finished.

    Args:
        apps: The server app and the client app.
        run_config: The run config of both, ``context.run_config``.
        nodes: Number of nodes, numbered by ``partition-id`` in their ``node_config``.

    Raises:
        BackendError: A process did not start, or the run failed.
    """
    federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
    with workspace() as space:
        variables = own_memories(run_config)
        if "RAY_ADDRESS" not in os.environ:
            variables["RAY_ADDRESS"] = "local"  # a new one, even where a Ray is running already
            federation += f" init-args-num-cpus={min(nodes, os.cpu_count() or 1)}"
            if len(str(space.folder)) <= LONGEST_RAY_FOLDER:
                variables["RAY_TMPDIR"] = str(space.folder)
        write_app(space.folder / "app", apps, run_config)
        superlink, _ = start_superlink(space, "--simulation", **variables)
        run_app(space, space.folder / "app", superlink, federation=federation)
