"""What is said below a comparison: what was equal, what was tuned, what made some diverge."""

from collections.abc import Mapping

from fedmaml.comparison.budget import Terms
from fedmaml.comparison.diverging import Runs
from fedmaml.comparison.findings import Tuned
from fedmaml.comparison.given import own
from fedmaml.comparison.planning import Plan
from fedmaml.comparison.tuning import SEED, is_tunable
from fedmaml.comparison.verdicts import REFERENCE
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.outcome import diverged_from, rates_of_training


def notes_on(planned: Plan, runs: Runs, found: Mapping[str, Tuned] | None) -> tuple[str, ...]:
    """Return the sentences.

    Args:
        planned: What was run.
        runs: Where.
        found: What tuning found, if the settings were tuned.
    """
    terms = planned.terms
    return (
        *_divergence_notes(planned, runs), *_loss_notes(runs), _equal_note(terms),
        _tuning_note(found, terms),
    )  # fmt: skip


def _divergence_notes(planned: Plan, runs: Runs) -> list[str]:
    """Say which settings that were made for all made a strategy diverge."""
    given = planned.terms.given
    reached: dict[str, list[str]] = {}
    for name, seeds in runs.items():
        if start := max(diverged_from(RunDirectory(path)) for path in seeds.values()):
            for key in rates_of_training(planned.runs[name][0].to_table(), start):
                if key in given and key not in own(given, name):
                    reached.setdefault(key, []).append(name)
    return [
        f"{key} = {given[key]:g} was set for all strategies that know it, and {', '.join(names)} "
        "diverged; without it each takes its recipe's own."
        for key, names in reached.items()
    ]


def _loss_notes(runs: Runs) -> list[str]:
    """Say who trained with fewer updates than were asked for."""
    notes = []
    for name, seeds in runs.items():
        directories = [RunDirectory(path) for path in seeds.values()]
        summaries = [found for each in directories if (found := each.summary()) is not None]
        asked = sum(summary["cost"]["totals"]["clients"] for summary in summaries)
        used = sum(summary["updates_used"] for summary in summaries)
        if 0 < used < asked:
            notes.append(
                f"{name} trained with {used:,} of {asked:,} updates; why the others were left out "
                "is in rounds.jsonl of its runs."
            )
    return notes


def _equal_note(terms: Terms) -> str:
    budget = f"{terms.budget:,}" if terms.budget is not None else ""
    reference = f"{REFERENCE}, not tuned, takes in {terms.reference_rounds} rounds"
    of_a_counter = (
        f"Every strategy trains as many rounds as {budget} {terms.equal} of support and query "
        f"examples allow, which is what {reference}."
    )
    notes = {
        "recipes": "Every strategy trains as many rounds as its recipe says; bytes and operations "
        "differ, see what each took.",
        "rounds": f"All but local, which has none, train {budget} rounds; bytes and operations "
        "differ, see what each took.",
        "bytes": f"Every strategy trains as many rounds as {budget} bytes of tensors allow, down "
        f"and up, which is what {reference}.",
        "flops": f"Every strategy trains as many rounds as {budget} operations of clients allow, "
        f"which is what {reference}.",
    }
    return notes.get(terms.equal, of_a_counter)


def _tuning_note(found: Mapping[str, Tuned] | None, terms: Terms) -> str:
    if not found:
        return "Not tuned: every strategy has the settings of its recipe, or those that were given."
    trials = next(iter(found.values())).trials
    held = [key for key in terms.given if is_tunable(key)]
    kept = f" Given, so not tuned: {', '.join(held)}." if held else ""
    return (
        f"Tuned: {trials} trials for every strategy, the first of them its recipe, evaluated on "
        f"validation clients with seed {SEED}, which is not among the seeds compared; no test "
        f"client was asked.{kept}"
    )
