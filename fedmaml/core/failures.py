"""Failures of a client's own code: how they are caught, and what may be said of them elsewhere.

A client's data, network or strategy may raise anything, even SystemExit. That is the failure of
this client, and must neither end its node nor the run. Only a signal to the process may do so.
"""

import builtins
import dis
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmaml.core import errors

_PACKAGE = Path(__file__).parents[1]
_HANDLERS = _PACKAGE / "core" / "interrupts.py", _PACKAGE / "simulations" / "backends"


class EndedItselfError(Exception):
    """Code that raised SystemExit or KeyboardInterrupt, whose name is the only argument."""


@contextmanager
def contained() -> Iterator[None]:
    """Make an `EndedItselfError` of SystemExit and KeyboardInterrupt that no signal caused."""
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        if _from_signal(error):
            raise
        raise EndedItselfError(type(error).__name__) from error


def said_of(error: BaseException, stage: str) -> str:
    """Return what may leave a site: the class of an error, and where in our work it was raised.

    Texts may quote data, and so may the name of a class or a place in code that nobody but the site
    knows: instead of such a class the nearest one of Python, PyTorch or fedmaml is named. Only the
    text of a refusal quotes nothing but the request, and says what to change in it.
    """
    if isinstance(error, errors.RefusedError):
        return f"{error}"
    return f"{_class_of(error)} in {stage} (its text and place stay in the node's log)"


def _class_of(error: BaseException) -> str:
    if isinstance(error, EndedItselfError):
        return str(error.args[0])
    known = (cls.__name__ for cls in type(error).__mro__ if _is_known(cls))
    return next(known, "Exception")


def _is_known(cls: type) -> bool:
    ours = vars(errors).get(cls.__name__) is cls
    return (
        ours
        or vars(builtins).get(cls.__name__) is cls
        or cls.__module__.partition(".")[0] == "torch"
    )


def _from_signal(error: BaseException) -> bool:
    """Return whether the handler of a signal raised an error, not the code that it interrupted."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return True
    code = last.tb_frame.f_code
    path = Path(code.co_filename)
    if "flwr" in path.parts or any(path.is_relative_to(handler) for handler in _HANDLERS):
        return True
    if isinstance(error, SystemExit):
        return False
    # Python's own handler has no frame: it interrupts some instruction that is no ``raise``.
    return code.co_code[last.tb_lasti] != dis.opmap["RAISE_VARARGS"]
