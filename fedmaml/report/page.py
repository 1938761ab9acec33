"""The page of a report: one HTML file without scripts, fonts or other external files."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from fedmaml.comparison.conclusions import is_baseline
from fedmaml.comparison.references import about
from fedmaml.quantities import number
from fedmaml.report import inline, integrity, reproduce, tables, words
from fedmaml.report.pictures import Picture
from fedmaml.report.reading import Material
from fedmaml.runs.left_out import in_words
from fedmaml.runs.references import label

_SUPPORTS = {
    "true": "their own support examples",
    "shuffled": "their own support examples, all labels in random order: what is reached is chance",
    "exchanged": "the support examples of another client",
}


def render(
    material: Material, figures: Sequence[inline.Figure], pictures: Sequence[Picture] = ()
) -> str:
    """Return the page.

    Args:
        material: The runs and their comparison.
        figures: Those of `figures.draw`, finished; shown in this order, by section.
        pictures: Drawings of one's own.
    """
    drawn = {
        section: (Markup(legend), [(figure, Markup(svg)) for figure, svg in members])
        for section, (legend, members) in inline.sections(figures).items()
    }
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            material=material,
            comparison=material.comparison,
            headline=headline(material),
            negative=_negative(material),
            facts=_facts(material),
            figures=drawn,
            pictures=pictures,
            answer=tables.comparison(material.comparison) if material.comparison else None,
            references=tables.references(material),
            about_references=_about_references(material),
            tuning=tables.tuning(material.comparison) if material.comparison else None,
            outcomes=tables.outcomes(material),
            further=tables.further(material),
            distribution=tables.distribution(material),
            cost=tables.cost(material),
            counters=tables.counters(material),
            rejected=integrity.rejected(material),
            rejected_count=sum(
                run.summary["rejected_replies"] for runs in material.runs.values() for run in runs
            ),
            interruptions=integrity.interruptions(material),
            audit=integrity.audit(material),
            runs=tables.runs(material),
            command=reproduce.compare_command(material).replace(" --", " \\\n    --"),
            configurations=reproduce.configurations(material),
            versions=_versions(material),
        )
    )


def environment() -> Environment:
    """Return what fills in the templates; it escapes every text."""
    made = Environment(
        loader=PackageLoader("fedmaml.report", "."),
        autoescape=select_autoescape(["html", "j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"typeset": _typeset, "whole_words": _whole_words, "shown": words.shown}
    return made


def headline(material: Material) -> str:
    """Return the answer in one line."""
    if material.comparison is not None:
        return material.comparison.headline
    count = sum(map(len, material.runs.values()))
    if count > 1:
        return f"{count} runs on {material.scenario}, not compared."
    ((name, (run,)),) = material.runs.items()
    metric = run.summary["metric"]
    if run.diverged:
        who = f"{words.shown(name)} on {material.scenario}"
        return f"{who} diverged: its updates could not be used."
    return (
        f"{words.shown(name)} on {material.scenario}: {words.metric_label(material.metric)} "
        f"{number(metric['after'])} after adaptation"
        + (f", {number(metric['before'])} before." if metric["before"] is not None else ".")
    )


def _about_references(material: Material) -> list[str]:
    """Return what each reference predicts."""
    if material.comparison is not None:
        return [about(row) for row in material.comparison.references]
    sentences = [
        f"{label(reference)}: {reference['about']}."
        for runs in material.runs.values()
        for run in runs
        for reference in run.summary["references"]
    ]
    return list(dict.fromkeys(sentences))


def _negative(material: Material) -> bool:
    """Return whether meta-learning was compared and found not to be better."""
    if material.comparison is None:
        return False
    evaluated = [
        row for row in material.comparison.rows
        if row.verdict not in ("one seed", "diverged", "not comparable")
    ]  # fmt: skip
    verdicts = [row.verdict for row in evaluated if not is_baseline(row.strategy)]
    return bool(verdicts) and "better" not in verdicts


def _facts(material: Material) -> dict[str, str]:
    """Return the facts about the runs, in words."""
    every = [run for runs in material.runs.values() for run in runs]
    first = every[0]
    seeds = sorted({int(run.table["seed"]) for run in every})
    facts = {
        "Scenario": ": ".join(filter(None, (material.scenario, first.summary.get("about")))),
        "Evaluated by": f"{words.metric_label(material.metric)} of {material.evaluated} clients, "
        f"after they adapted on {_SUPPORTS[first.table.get('labels', 'true')]}; "
        f"{material.metric.better} is better",
        "Strategies": ", ".join(map(words.shown, material.runs)),
        "Rounds": _each(
            {name: str(runs[0].summary["rounds"]) for name, runs in material.runs.items()}
        ),
        "Seeds": ", ".join(map(str, seeds)),
        "Clients": f"{first.summary['clients_train']} train, "
        f"{_several(run.summary['clients_evaluated'] for run in every)} are evaluated in each run",
        "Back end": _several(
            f"{run.summary['backend']}, {run.summary['nodes']} "
            f"node{'s' if run.summary['nodes'] > 1 else ''}, {run.summary['device']}"
            for run in every
        ),
    }
    if unsuited := [run.summary["left_out"] for run in every if run.summary.get("left_out")]:
        facts["Left out"] = _several(map(in_words, unsuited))
    asked, evaluated = (
        sum(run.summary[key] for run in every) for key in ("clients_asked", "clients_evaluated")
    )
    further = {name: count for name, count in first.summary["families"].items() if name}
    if further:
        named = ", ".join(f"{count} of family {name}" for name, count in further.items())
        facts["Clients"] += f", {named} among them: these count in no mean and in no verdict"
    if asked > evaluated:
        silent = f"{asked - evaluated} of {asked} {material.evaluated} clients"
        facts["Not evaluated"] = f"{silent} gave no usable answer"
    if caveats := first.summary.get("caveats"):
        facts["Caveats"] = " ".join(caveats)
    return facts


def _typeset(text: str) -> str:
    """Return a text whose numbers have minus signs and are not parted from their per cent sign."""
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    return re.sub(r"(?<![\w-])-(?=[\d.])", "\N{MINUS SIGN}", text)


def _whole_words(text: str) -> Markup:
    """Return a text whose words with a hyphen stand on one line."""
    words_of = _typeset(text).split(" ")
    return Markup(" ").join(
        Markup('<span class="whole">{}</span>').format(word) if "-" in word else word
        for word in words_of
    )


def _each(values: Mapping[str, str]) -> str:
    """Return one value if all are alike, else each with its name."""
    if len(set(values.values())) == 1:
        return next(iter(values.values()))
    return ", ".join(f"{words.shown(name)} {value}" for name, value in values.items())


def _several(values: Any) -> str:
    return "; ".join(dict.fromkeys(map(str, values)))


def _versions(material: Material) -> str:
    return _several(
        ", ".join(f"{name} {version}" for name, version in run.summary["versions"].items())
        for runs in material.runs.values() for run in runs if "versions" in run.summary
    )  # fmt: skip
