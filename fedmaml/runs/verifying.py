"""Whether the files of a run are those that it wrote: the chain of its rounds, and its hashes."""

from fedmaml.core.errors import RunDirectoryError
from fedmaml.core.params import sha256
from fedmaml.runs.chain import LINES, follow
from fedmaml.runs.directory import RunDirectory
from fedmaml.runs.state import round_of_meta


def verify(directory: RunDirectory) -> str:
    """Check the chain of rounds, the meta-parameters and the journal of a run.

    Returns:
        What was found to be sound, as a sentence.

    Raises:
        RunDirectoryError: At the first thing that is not as the run wrote it.
    """
    directory.config_table()  # whether this is a run at all
    path, summary = directory.path / LINES, directory.summary()
    *_, lines = follow(path, directory.anchor())
    chain = f"{lines.number} lines of {path.name} follow from each other and from config.toml"
    if summary is None:
        after = _round_of_journal(directory)
        return f"{chain}; the run is not complete, and can be resumed after round {after}"
    if (lines.number, lines.sha256) != (summary["rounds"], summary.get("rounds_sha256")):
        raise RunDirectoryError(
            f"{path} does not end with the line that summary.json names: lines were changed, "
            "removed or added after the run wrote them"
        )
    theta = directory.path / "theta.safetensors"
    if sha256(directory.load_meta()) != summary["theta_sha256"]:
        raise RunDirectoryError(
            f"{theta} holds other meta-parameters than those that summary.json names"
        )
    if round_of_meta(theta) != str(summary["evaluated_round"]):
        raise RunDirectoryError(f"{theta} names another round than summary.json")
    _round_of_journal(directory)
    return f"{chain}, and summary.json names the last one; theta.safetensors has its SHA-256"


def _round_of_journal(directory: RunDirectory) -> int:
    """Return the round of the newest state, which must be sound; 0 if there is none."""
    found = directory.newest_state()
    for name, why in found.damaged.items():
        raise RunDirectoryError(f"{directory.path / name} is damaged: {why}")
    return found.state.round if found.state else 0
