"""Notes below a comparison: what was equal, what was tuned, which settings led to divergence."""

from collections.abc import Mapping

from fedmaml.comparison.budget import Budget
from fedmaml.comparison.diverging import Runs
from fedmaml.comparison.findings import Tuned
from fedmaml.comparison.given import own
from fedmaml.comparison.names import display, listed
from fedmaml.comparison.planning import Plan
from fedmaml.comparison.tuning import SEED, is_tunable
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.outcome import diverged_from, rates_of_training


def notes_on(planned: Plan, runs: Runs, found: Mapping[str, Tuned] | None) -> tuple[str, ...]:
    """Return the sentences.

    Args:
        planned: The runs of the comparison.
        runs: Their directories.
        found: Results of tuning, if the settings were tuned.
    """
    budget = planned.budget
    return (
        *_label_notes(planned), *_divergence_notes(planned, runs), *_loss_notes(runs),
        _equal_note(budget), _tuning_note(found, budget),
    )  # fmt: skip


def _label_notes(planned: Plan) -> list[str]:
    labels = {config.labels for configs in planned.runs.values() for config in configs}
    if labels == {"true"}:
        return []
    if labels == {"exchanged"}:
        return [
            "All supports are other clients' (labels = exchanged): what is gained by adapting "
            "here, every client's examples teach alike."
        ]
    return ["All labels were shuffled (labels = shuffled): what a method reaches here is chance."]


def _divergence_notes(planned: Plan, runs: Runs) -> list[str]:
    """Name the settings for all strategies with which one diverged."""
    given = planned.budget.given
    reached: dict[str, list[str]] = {}
    for name, seeds in runs.items():
        if start := max(diverged_from(RunDirectory(path)) for path in seeds.values()):
            for key in rates_of_training(planned.runs[name][0].to_table(), start):
                if key in given and key not in own(given, name):
                    reached.setdefault(key, []).append(name)
    return [
        f"{key} = {given[key]:g} was set for all strategies that know it, and "
        f"{listed(map(display, names))} diverged; without it each takes its recipe's own."
        for key, names in reached.items()
    ]


def _loss_notes(runs: Runs) -> list[str]:
    """Name the strategies that trained with fewer updates than planned."""
    notes = []
    for name, seeds in runs.items():
        directories = [RunDirectory(path) for path in seeds.values()]
        summaries = [found for each in directories if (found := each.summary()) is not None]
        planned = sum(summary["cost"]["totals"]["clients"] for summary in summaries)
        used = sum(summary["updates_used"] for summary in summaries)
        if 0 < used < planned:
            notes.append(
                f"{display(name)} trained with {used:,} of {planned:,} updates; rounds.jsonl of "
                "its runs has the reasons for the others."
            )
    return notes


def _equal_note(budget: Budget) -> str:
    amount = f"{budget.amount:,}" if budget.amount is not None else ""
    reference = f"{display(REFERENCE)}, not tuned, takes in {budget.reference_rounds} rounds"
    of_a_counter = (
        f"Every strategy trains as many rounds as {amount} {budget.equal} of support and query "
        f"examples allow, which is what {reference}."
    )
    notes = {
        "recipes": "Every strategy trains as many rounds as its recipe says; bytes and operations "
        "differ, see what each took.",
        "rounds": f"All but Local, which has none, train {amount} rounds; bytes and operations "
        "differ, see what each took.",
        "bytes": f"Every strategy trains as many rounds as {amount} bytes of tensors allow, down "
        f"and up, which is what {reference}.",
        "flops": f"Every strategy trains as many rounds as {amount} operations of clients allow, "
        f"which is what {reference}.",
    }
    return notes.get(budget.equal, of_a_counter)


def _tuning_note(found: Mapping[str, Tuned] | None, budget: Budget) -> str:
    if not found:
        return "Not tuned: every strategy has the settings of its recipe, or the given ones."
    trials = next(iter(found.values())).trials
    held = [key for key in budget.given if is_tunable(key)]
    kept = f" Given, so not tuned: {', '.join(held)}." if held else ""
    return (
        f"Tuned: {trials} trials for every strategy, the first of them its recipe, evaluated on "
        f"validation clients with seed {SEED}, which is not among the seeds compared; no test "
        f"client was evaluated.{kept}"
    )
