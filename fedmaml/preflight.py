"""Checks before a run starts: what cannot work, what will be slow, and which engine computes."""

import logging
import math
import os
from collections.abc import Callable, Mapping

import numpy as np
import torch

from fedmaml import native
from fedmaml.client.node import find_device
from fedmaml.client.worker_processes import workers_of
from fedmaml.computing.declared import check_adaptation, check_update
from fedmaml.computing.diagnosis import (
    Subject,
    changed_buffers,
    check_derivatives,
    hidden_randomness,
    needs_second_derivatives,
    ours_in,
    what_prevents_vmap,
)
from fedmaml.computing.engines import ENGINES, Engine, Job, Plan, plan
from fedmaml.computing.engines.layers import layers_of
from fedmaml.computing.evaluation import is_by_kernel
from fedmaml.computing.returned import (
    refuse_other_predictor,
    refuse_other_start,
    refuse_other_step,
    refuse_other_update,
)
from fedmaml.config import RunConfig
from fedmaml.core import seeding
from fedmaml.core.counters import count_units
from fedmaml.core.errors import (
    TRACEBACK,
    ConfigurationError,
    FedmamlError,
    UnsupportedProblemError,
    described,
)
from fedmaml.core.failures import contained
from fedmaml.core.figures import clients_table
from fedmaml.core.learner import Learner, on_device, prepared_tasks
from fedmaml.core.params import Params, to_device
from fedmaml.core.requests import Form
from fedmaml.core.resampling import resample
from fedmaml.core.tasks import Task, TaskGroup, cast, first_task, rows_of, stack
from fedmaml.core.trees import leaves
from fedmaml.simulations.returned import (
    as_asked,
    caveats_of,
    figures_of,
    groups_of,
    left_out_of,
    references_of,
    statistics_of,
)
from fedmaml.simulations.scenario import Scenario, Split
from fedmaml.strategies.base import ClientUpdate, MetaStrategy, ServerState

logger = logging.getLogger("fedmaml")

_FOR_VMAP = (
    "no .item() and no branch on values of tensors (use torch.where), no change of tensors in "
    "place, and setup_context with generate_vmap_rule = True in an autograd.Function"
)


def preflight(config: RunConfig, say: Callable[[str], None] = logger.debug) -> None:
    """Make a task of two splits and compute on them, to find errors before any process starts.

    Warnings of slow settings go to the log.

    Args:
        config: The run.
        say: Reports progress, and which engine computes.

    Raises:
        UnsupportedProblemError: If the strategy cannot work on the scenario's problem, or a counter
            fails; names the module or the counter.
        DataError: If the data are missing or damaged.
        ConfigurationError: If device or engine are not available, if the tasks cannot be made,
            if one client's update cannot be computed, or if a method of the scenario or a verb of
            the strategy returns something else than it must; names it.
        BackendError: If workers cannot be started.
    """
    device = find_device(config.device)
    strategy, scenario = config.make_strategy(), config.make_scenario()
    start = strategy.build(config.make_problem(), seeding.generator(config.seed, "init"))
    refuse_other_start(start)
    references_of(scenario)
    left_out_of(scenario)
    caveats_of(scenario)
    learner = on_device(start.learner, device)
    meta = to_device(start.state.meta, device)
    memory = to_device({"memory": start.memory}, device)["memory"]
    tasks: dict[str, Task] = {}
    try:
        with contained():
            for split in (config.evaluation.split, "train"):  # while tuning, test data stay unseen
                for group, statistics in _first_tasks(scenario, split):
                    group = prepared_tasks(
                        group, learner.problem, strategy.facts.draws,
                        seed=config.seed, split=split, round=1, device=device,
                    )  # fmt: skip
                    task = first_task(group.tasks)
                    tasks[split] = task
                    count_units(learner.problem.counters, task)
                    if split == "train":
                        update = strategy.client_update(learner, meta, memory, task)
                        refuse_other_update(update, strategy, meta, memory)
                        if config.rounds:
                            _try_step(strategy, start.state, update)
                    else:
                        predictor = strategy.adapt(learner, meta, memory, task.support)
                        refuse_other_predictor(predictor)
                        prediction = predictor(task.query.x)
                        for metric in learner.problem.metrics:
                            metric.values(prediction, task.query.y, statistics)
                        _check_shots(config, learner, task)
    except FedmamlError:
        raise
    except Exception as error:
        if tasks:
            task = next(iter(tasks.values()))
            _check_modules(Subject(strategy, learner, meta, memory, task))
        raise ConfigurationError(
            f"strategy {config.strategy!r} cannot compute on a task of scenario "
            f"{config.scenario!r} with these settings: {described(error)}{_of_integers(tasks)}; "
            f"{TRACEBACK}"
        ) from error
    check_figures(config)
    native.missing()  # builds them now, with a message, and not below a progress bar
    singles = config.aggregation.rule != "mean" or config.compression.compressor() is not None
    form: Form = "stack" if singles else "sum"
    job = Job(strategy, learner, meta, form)
    chosen = choose_engine(config, job)
    if config.rounds:
        say(f"engine {chosen}")
        training_clients = len(scenario.clients()["train"])
        _check_workers(config, chosen.engine, job, training_clients)
    if "train" in tasks:
        check_network(job, memory, tasks["train"], chosen)
        check_declared(config, job, tasks["train"], chosen)


def _of_integers(tasks: Mapping[str, Task]) -> str:
    """Return which inputs are integers, of which most layers cannot compute."""
    inputs = [leaf for task in tasks.values() for leaf in leaves(task.support.x)]
    kinds = {str(leaf.dtype) for leaf in inputs if not leaf.is_floating_point()}
    if not kinds:
        return ""
    return f"; x of support is {', '.join(sorted(kinds))}, which only embeddings take: use .float()"


def check_figures(config: RunConfig) -> None:
    """Compute the scenario's figures of made-up values, so that no run ends on a wrong name.

    Raises:
        ConfigurationError: If one cannot be computed.
    """
    scenario, metrics = config.make_scenario(), config.make_problem().metrics
    clients = list(scenario.clients()[config.evaluation.split][:100])
    rng = np.random.default_rng(0)
    columns = {
        f"{column}:after": rng.random(len(clients)).tolist()
        for metric in metrics for column in metric.columns
    }  # fmt: skip
    groups = [groups_of(scenario, client) for client in clients]
    made_up = clients_table(clients, columns, metrics, groups)
    for figure in figures_of(scenario) if clients else ():
        try:
            resample(figure, made_up, resamples=1)
        except Exception as error:  # whatever a figure may raise
            raise ConfigurationError(
                f"figure {figure.name!r} of scenario {config.scenario!r} cannot be computed "
                f"({type(error).__name__}: {error})"
            ) from error


def choose_engine(config: RunConfig, job: Job) -> Plan:
    """Return the engine that will compute.

    Raises:
        ConfigurationError: If the engine that was named cannot compute the run.
    """
    if config.client_batch == 1:
        return plan("loop", job)
    if config.engine != "auto":
        reason = (
            ENGINES[config.engine].why_unsupported(job)
            if config.engine in ENGINES
            else "there is none of this name (fedmaml list engines)"
        )
        if reason:
            raise ConfigurationError(
                f"engine = {config.engine!r} cannot compute this run: {reason}; use --engine auto, "
                "which takes the first that can"
            )
    return plan(config.engine, job)


def check_declared(config: RunConfig, job: Job, task: Task, chosen: Plan) -> None:
    """Compare kernels with the verbs of a strategy of one's own, on one client in float64.

    Raises:
        ConfigurationError: If a kernel computes something else.
    """
    strategy = job.strategy
    if type(strategy).__module__.partition(".")[0] == "fedmaml":  # tests do it
        return
    updated = strategy.facts.kernel is not None and chosen.engine.name not in ("vmap", "loop")
    evaluated = is_by_kernel(job, config.engine)
    if not updated and not evaluated:
        return
    problem = config.make_scenario().problem().in_dtype("float64")
    start = strategy.build(problem, seeding.generator(config.seed, "init"))
    exact = Job(strategy, start.learner, start.state.meta, "stack")
    group, memories = TaskGroup((0,), stack([cast(task, torch.float64)])), {0: start.memory}
    if updated:
        check_update(exact, chosen.engine, group, memories)
    if evaluated:
        check_adaptation(exact, group, memories)


def check_network(job: Job, memory: Params, task: Task, chosen: Plan) -> None:
    """Check a network for missing derivatives, hidden state, randomness, and vmap.

    Raises:
        UnsupportedProblemError: If it lacks second derivatives that the strategy takes.
    """
    learner, strategy = job.learner, job.strategy
    subject = Subject(strategy, learner, job.meta, memory, task)
    changed = ", ".join(f"buffer {name!r}" for name in changed_buffers(subject))
    if changed:
        logger.warning(
            "the network changes %s in its forward pass, which all clients of a process share: "
            "results depend on their order. Keep no state between calls",
            changed,
        )
    if not isinstance(layers_of(learner.network), str):
        return
    where = hidden_randomness(subject)
    if where and changed:
        raise UnsupportedProblemError(
            f"{where} changes with every call, as the network changes {changed}: one update "
            "computed twice is not the same, so no run could be repeated. Keep no state between "
            "calls and change no tensor in place"
        )
    if where:
        raise UnsupportedProblemError(
            f"{where} draws random numbers of its own: one update computed twice is not the same, "
            "so no run could be repeated. Set its probability to 0, or declare the noise in "
            "Problem(draws=...) and let the network take it from its input "
            "(fedmaml.core.networks.dropout)"
        )
    if needs_second_derivatives(strategy):
        check_derivatives(subject)
    if chosen.engine.name != "vmap":
        return
    two = TaskGroup((0, 1), stack([task, task]))
    try:
        with contained():
            for _ in chosen.engine.compute(job, [two], {0: memory, 1: memory}):
                pass
    except Exception as error:  # whatever a network may raise
        why = what_prevents_vmap(subject)
        why = why or f"{type(error).__name__} in client_update of {type(strategy).__name__}"
        logger.warning(
            "many clients at once (torch.func.vmap) are impossible with this network, so they are "
            "computed one by one, which is slower. The reason: %s. What to change: %s",
            why,
            ours_in(subject.learner.network) or _FOR_VMAP,
        )


def _try_step(strategy: MetaStrategy, state: ServerState, update: ClientUpdate) -> None:
    """Let the server take one step with the update of one client, unless that has diverged."""
    sent = to_device(update.update, torch.device("cpu"))
    if all(value.isfinite().all() for group in sent.values() for value in group.values()):
        refuse_other_step(strategy.server_update(state, sent), state)


def _first_tasks(scenario: Scenario, split: Split) -> list[tuple[TaskGroup, Params]]:
    """Return the first group of the first two clients, and statistics.

    Of the first client alone if the second fails.
    """
    clients = scenario.clients()[split][:2]
    if not clients:
        return []
    statistics = statistics_of(scenario, clients[0])
    try:
        groups = scenario.tasks(split, clients, 1, statistics)
    except Exception:  # a run leaves a client out whose data are broken
        clients = clients[:1]
        groups = scenario.tasks(split, clients, 1, statistics)
    return [(as_asked(groups, clients)[0], statistics)]


def _check_modules(subject: Subject) -> None:
    """Name the module that fails; do nothing if not even a prediction works.

    Raises:
        UnsupportedProblemError: Names the module.
    """
    try:
        subject.predict()
    except Exception:  # the caller reports its own error
        return
    check_derivatives(subject)


def _check_shots(config: RunConfig, learner: Learner, task: Task) -> None:
    """Refuse shots that exceed the support of a test client."""
    classes, most = learner.problem.classes, rows_of(task.support)
    if classes is not None and not learner.problem.ordered:
        most = int(torch.bincount(task.support.y, minlength=classes).max())
    for count in config.evaluation.shots:
        if count > most:
            each = "" if classes is None else " of a class"
            raise ConfigurationError(
                f"evaluation.shots = {list(config.evaluation.shots)}: the first test client of "
                f"{config.scenario!r} has {most} support examples{each}; allowed: 1 to {most}"
            )


def _check_workers(config: RunConfig, engine: Engine, job: Job, training_clients: int) -> None:
    """Warn if workers will be idle; start those that this process will need."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processes = config.workers * (1 if config.backend == "in-process" else config.nodes)
    if config.workers > 1 and processes > (cores or 1):
        logger.warning(
            "workers = %d: %d processes share %d cores, which is not faster than one for each core",
            config.workers, processes, cores,
        )  # fmt: skip
    cohort = math.ceil((config.clients or training_clients) / config.nodes)
    size = engine.chunk_size(job, cohort, config.workers, config.client_batch)
    if config.workers > 1 and cohort <= size:
        logger.warning(
            "workers = %d have nothing to share: a node's %d clients of a round are one chunk of "
            "at most %d; lower --client-batch",
            config.workers, cohort, size,
        )  # fmt: skip
    elif config.workers > 1 and config.backend == "in-process":
        workers_of(config.workers).check()
