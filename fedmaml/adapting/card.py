"""The model card of an adapted model: Markdown, filled from the run and the site."""

from collections.abc import Iterator, Mapping
from typing import Any

from fedmaml.adapting.model import Model
from fedmaml.core.params import count_entries

_USE = {
    "model.safetensors": "`fedmaml predict THIS_FOLDER --data new.csv --out predictions.csv`, or "
    "`fm.load_model(THIS_FOLDER).predict(X)` in Python",
    "model.pt2": "`torch.export.load('model.pt2').module()(rows)`; needs PyTorch alone",
    "model.onnx": "`onnxruntime.InferenceSession('model.onnx').run(None, {'rows': rows})`",
}


def model_card(
    model: Model, summary: Mapping[str, Any], facts: Mapping[str, Any], *, embeddings: bool
) -> str:
    """Return the card.

    Args:
        model: That adapted.
        summary: Of the run.
        facts: What ``model.json`` says.
        embeddings: Whether the files hold the site's examples, embedded.
    """
    config, label = model.config, model.strategy.facts.label
    lines = [
        f"# {label} on {config.scenario}, adapted to one site",
        "",
        f"An initialisation that {label} learned over clients whose data stayed where they were, "
        f"adapted to {facts['examples']:,} examples of one site.",
        "",
        "## What it predicts",
        "",
        *_what(model, facts),
        "",
        "## How it was trained",
        "",
        f"- Scenario `{config.scenario}`, strategy `{config.strategy}`, "
        f"{summary['rounds']:,} rounds, seed {config.seed}.",
        f"- Network: {type(model.learner.network).__name__}, "
        f"{count_entries({'theta': dict(model.learner.network.named_parameters())}):,} parameters.",
        f"- Adaptation: {_adaptation(model, facts)}.",
        f"- Initialisation, SHA-256: `{summary['theta_sha256']}`.",
        f"- Run folder: `{facts['run']}`; its `config.toml` repeats the run.",
        "",
        "## How good it is",
        "",
        f"At {summary['clients_evaluated']:,} clients of the run that did not train:",
        "",
        "| metric | before adaptation | after | 95 % interval over clients |",
        "|---|---:|---:|---|",
        *_metrics(summary),
        "",
        f"At this site: {_gain(facts['gain'])}.",
        "",
        "## What it must not be used for",
        "",
        "- Other sites than this one: adapt the run to them instead.",
        "- Examples of another kind than those of the site: nothing here tells how it does there.",
        "- Decisions about people without an evaluation of their own, at the site, on later cases.",
        "",
        "## What of the data is in it",
        "",
        *_privacy(model, embeddings),
        "",
        "## Files",
        "",
        *(f"- `{name}`: {_USE[name]}" for name in facts["files"]),
        "",
        f"Made by fedmaml {facts['versions']['fedmaml']}, PyTorch {facts['versions']['torch']}.",
    ]
    return "\n".join(lines) + "\n"


def _what(model: Model, facts: Mapping[str, Any]) -> Iterator[str]:
    rows = model.rows
    if rows is None:
        yield f"- Input: what the scenario's network takes, `(rows, {_shape(facts['shape'])})`."
        kinds = {
            "classes": f"probabilities of the classes 0 to {(model.problem.classes or 0) - 1}",
            "two classes": "probabilities of the classes 0 and 1",
            "numbers": "numbers, in the unit in which the network was trained",
        }
        yield f"- Output: {kinds[model.target]}."
        return
    schema = rows.schema
    if schema.kind == "regression":
        yield f"- Target: `{schema.target}`, a number in its own unit."
    else:
        yield f"- Target: `{schema.target}`, one of {_listed(schema.classes)}."
        yield "- Output: probabilities of these classes, in this order."
    yield f"- Input: {len(schema.columns)} columns, as {schema.width} numbers (float64):"
    yield ""
    yield "| column | entries of a row |"
    yield "|---|---|"
    for column in schema.columns:
        kind = f"one-hot of {_listed(column.categories)}" if column.categories else "a number"
        yield f"| {_cell(column.name)} | {kind} |"
    yield ""
    yield (
        "A missing number is NaN and becomes the mean of the training clients; a missing or "
        "unknown category is all zeros. Means and scales are in the model."
    )


def _adaptation(model: Model, facts: Mapping[str, Any]) -> str:
    if model.steps is None:
        return "without steps, by the site's examples"
    steps = model.steps if facts["steps"] is None else facts["steps"]
    return f"{steps} steps" if steps else "none: this is the model as the run left it"


def _metrics(summary: Mapping[str, Any]) -> Iterator[str]:
    for metric in (summary["metric"], *summary["metrics"]):
        low, high = metric["ci95"] or (None, None)
        interval = "–" if low is None else f"{_number(low)} to {_number(high)}"
        unit = "" if metric["unit"] == "1" else f" ({metric['unit']})"
        before, after = _number(metric["before"]), _number(metric["after"])
        yield f"| {_cell(metric['name'] + unit)} | {before} | {after} | {interval} |"


def _gain(gain: Mapping[str, Any] | None) -> str:
    if gain is None:
        return "not evaluated"
    text = str(gain["advice"])
    if gain["after"] is not None:
        text += (
            f"; {gain['metric']} {_number(gain['before'])} before, {_number(gain['after'])} after"
        )
    return text


def _privacy(model: Model, embeddings: bool) -> Iterator[str]:
    yield "- Parameters, which were fitted to the site's examples and may reveal something of them."
    if model.rows is not None:
        yield (
            "- Counts, sums and sums of squares of all training clients' numbers together; names "
            "of columns, categories and classes."
        )
    if embeddings:
        yield (
            "- **An embedding of each example of the site**, with its label: predictions compare "
            "with them. Treat this folder as you treat the examples."
        )


def _listed(values: tuple[str, ...]) -> str:
    return ", ".join(f"`{_cell(value)}`" for value in values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _shape(shape: list[int]) -> str:
    return ", ".join(map(str, shape))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"
