"""The state of a run in Prometheus' text form."""

from collections.abc import Iterator, Mapping
from typing import Any

_HELP = {
    "round": "Finished rounds.",
    "rounds": "Rounds of the run.",
    "clients": "Clients whose updates the last round used.",
    "cohort": "Clients that the last round asked.",
    "seconds_per_round": "Median seconds of the last rounds.",
    "seconds_left": "Estimated seconds until the last round ends.",
    "bytes_down": "Bytes of messages to the sites so far.",
    "bytes_up": "Bytes of messages from the sites so far.",
}
_TOTALS = ("bytes_down", "bytes_up")


def exposition(state: Mapping[str, Any]) -> str:
    """Return the numbers of a snapshot, one line each, with their help."""
    return "\n".join(_lines(state)) + "\n"


def _lines(state: Mapping[str, Any]) -> Iterator[str]:
    for key, text in _HELP.items():
        if state.get(key) is not None:
            total = key in _TOTALS
            name = f"fedmaml_{key}_total" if total else f"fedmaml_{key}"
            yield from _head(name, text, "counter" if total else "gauge")
            yield f"{name} {float(state[key]):.17g}"
    yield from _head("fedmaml_phase", "1 for what the run does now.", "gauge")
    yield f"fedmaml_phase{{phase={_quoted(state['phase'])}}} 1"
    yield from _stages("fedmaml_loss", "Query loss of the last round.", state.get("loss"))
    yield from _stages("fedmaml_metric", "Headline metric, as last evaluated.", state.get("metric"))
    if sites := state.get("sites"):
        yield from _head("fedmaml_site_up", "1 if a site takes part or is connected.", "gauge")
        for site in sites:
            up = site["state"] in ("takes part", "connected")
            yield f"fedmaml_site_up{{site={_quoted(site['name'])}}} {int(up)}"
        yield from _head("fedmaml_site_left_out_total", "Rounds without its update.", "counter")
        for site in sites:
            name = _quoted(site["name"])
            yield f"fedmaml_site_left_out_total{{site={name}}} {site['left_out']}"


def _stages(name: str, text: str, values: Mapping[str, Any] | None) -> Iterator[str]:
    found = {
        stage: values[stage]
        for stage in ("before", "after")
        if values is not None and values.get(stage) is not None
    }
    if not found or values is None:
        return
    yield from _head(name, text, "gauge")
    own = f",metric={_quoted(str(values['name']))}" if "name" in values else ""
    for stage, value in found.items():
        yield f'{name}{{stage="{stage}"{own}}} {float(value):.17g}'


def _head(name: str, text: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'
