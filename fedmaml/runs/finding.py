"""Finds runs below a folder, and explains why a folder is no run."""

from pathlib import Path

_DEPTH = 2  # DIR/<strategy>/seed<k>, as `fedmaml compare` writes them


def runs_below(folder: Path) -> list[Path]:
    """Return the run directories up to two levels below a folder."""
    patterns = ["/".join(["*"] * depth + ["config.toml"]) for depth in range(1, _DEPTH + 1)]
    return sorted(path.parent for pattern in patterns for path in folder.glob(pattern))


def why_no_run(folder: Path) -> str:
    """Return what a folder without a run is, and what to do with it."""
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        return f"{folder} holds no run: it {what}; give a run directory"
    found = runs_below(folder)
    if not found:
        return (
            f"{folder} holds no run (no config.toml); runs are made by "
            "`fedmaml run SCENARIO --out DIR`"
        )
    last = "seed*" if all(path.name.startswith("seed") for path in found) else "*"
    above = ["*"] * (len(found[-1].relative_to(folder).parts) - 1)
    several = "/".join([str(folder), *above, last])
    runs = f"{len(found)} run{'s' if len(found) > 1 else ''} and no run itself"
    example = f"name one, e.g. {found[0]}, or all of them, {several}"
    if not (folder / "comparison.json").is_file():
        return f"{folder} is a folder of {runs}: {example}"
    return (
        f"{folder} is a comparison of {runs}: what it found is in {folder / 'comparison.md'}, a "
        f"page of it is made by `fedmaml report {folder}`; of its runs {example}"
    )
