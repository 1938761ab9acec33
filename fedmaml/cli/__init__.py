"""The command line.

    runs          run, estimate, audit, check, check-gradients
    comparisons   compare, report, figures
    directories   list, show, clock, export, new
    models        adapt, predict
    watching      watch
    demo          demo
    coordinator   coordinator init, run, status, ...
    site          site init, approve, doctor, run, ...
    options       options that several commands share
    helping       help of positional arguments

Help must come at once, so whatever imports torch or Flower is imported inside the commands.
"""

import functools
import gc
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer

from fedmaml.cli import comparisons, coordinator, directories, models, runs, site, watching
from fedmaml.cli.demo import demo
from fedmaml.cli.helping import Command

COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "list": directories.list_everything,
    "run": runs.run,
    "estimate": runs.estimate,
    "show": directories.show,
    "compare": comparisons.compare,
    "report": comparisons.report,
    "watch": watching.watch,
    "figures": comparisons.figures,
    "clock": directories.clock,
    "export": directories.export,
    "adapt": models.adapt,
    "predict": models.predict,
    "audit": runs.audit,
    "check": runs.check,
    "check-gradients": runs.check_gradients,
    "new": directories.new,
}

EXAMPLES = {
    "demo": "demo",
    "list": "list strategies",
    "run": "run digits --strategy fomaml --set inner.steps=3 --out runs/first",
    "estimate": "estimate digits --strategy maml --rounds 1000",
    "show": "show runs/first",
    "compare": "compare digits --strategies fomaml,maml --seeds 5",
    "report": "report runs/compare-digits",
    "watch": "watch runs/first --port 8300",
    "figures": "figures runs/compare-digits --width 3.25in --format pdf",
    "clock": "clock runs/first --profile 4g-phone",
    "export": "export runs/first --to tensorboard",
    "adapt": "adapt runs/csv-maml-seed0 --data new_site.csv --out model",
    "predict": "predict model --data new.csv --out predictions.csv",
    "audit": "audit hospitals --strategy fedrep",
    "check": "check wards.py --strategy mine.py",
    "check-gradients": "check-gradients --strategy maml",
    "new": "new scenario wards",
}
"""Command -> what follows "fedmaml", as its help shows it."""

app = typer.Typer(
    name="fedmaml",
    help="Federated meta-learning on Flower and PyTorch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DEBUG = "--debug"
_KEPT = {
    "compare": "finished runs, trials and rounds are kept; the same command goes on with what is "
    "missing",
    "report": "no page was written or changed, unless the figures were being written just now; "
    "repeat the command",
    "export": "what was exported is kept; repeat the command with --force to replace it by all of "
    "it",
    "watch": "the page is served no more; a run that it followed goes on",
}
"""Command -> what Ctrl-C leaves and how to go on; the others write nothing."""
_NOTHING = "nothing was written; repeat the command"


def _interruptible(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """Let a command say what Ctrl-C leaves, before typer makes an exit code of it."""

    @functools.wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt as error:
            kept = _KEPT.get(name, _NOTHING)
            if name in ("run", "demo"):  # what `execute` says; nothing if it had not begun
                kept = str(error) or _NOTHING
            print(f"fedmaml: interrupted; {kept}", file=sys.stderr)
            raise

    return wrapped


for name, command in COMMANDS.items():
    example = f"Example: fedmaml {EXAMPLES[name]}"
    app.command(name, cls=Command, epilog=example)(_interruptible(name, command))
app.add_typer(coordinator.app)
app.add_typer(site.app)


def process() -> NoReturn:
    """Run the command line as a process of its own, which ends with it.

    Python's cyclic garbage collector is off while a command imports: what imports make stays, and
    to search it takes a tenth of the start. `options.imports_are_done` switches it on again. Nor
    is anything searched at the end of the process.
    """
    gc.disable()
    try:
        main()
    finally:
        gc.freeze()


def main() -> NoReturn:
    """Run the command line; errors end as one clear line, with --debug below their traceback."""
    from fedmaml.core.errors import TRACEBACK, FedmamlError, described
    from fedmaml.core.exit_codes import FAILED, SIGNAL, USAGE, exit_code_of
    from fedmaml.core.interrupts import exit_code, handle_signals
    from fedmaml.core.processes import refuse_while_importing_script

    arguments = [word for word in sys.argv[1:] if word != _DEBUG]  # wherever it stands
    debug = len(arguments) < len(sys.argv[1:])
    if threading.current_thread() is threading.main_thread():
        handle_signals()
    try:
        refuse_while_importing_script()
        code = app(arguments, standalone_mode=False)  # what typer would exit with; 130 after Ctrl-C
    except (FedmamlError, OSError) as error:  # OSError: a full disk, a closed pipe
        _show(error, debug)
        _fail(f"{type(error).__name__}: {error}", exit_code_of(error))
    except KeyboardInterrupt:
        _fail("interrupted", exit_code() or SIGNAL + signal.SIGINT)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's errors about arguments
        if usage is None:  # in the code of somebody else, or a mistake in fedmaml
            _show(error, debug)
            _fail(described(error) if debug else f"{described(error)}; {TRACEBACK}", FAILED)
        if usage():
            _fail(f"{usage()} (see --help)", USAGE)
        sys.exit(USAGE)  # no arguments: the help was printed
    sys.exit(exit_code() or code or 0)


def _show(error: Exception, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)


def _print_version(wanted: bool) -> None:
    if wanted:
        from fedmaml import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(_DEBUG, help="Show the traceback of an error; works after a command, too."),
    ] = False,
) -> None:
    """Federated meta-learning on Flower and PyTorch."""
    del version, debug  # `main` has seen them


def _fail(message: str, code: int) -> NoReturn:
    print(f"fedmaml: {message}", file=sys.stderr)
    sys.exit(code)
