"""The ClientApp of a real site: it passes every message to the site's worker, and its reply back.

Flower starts a process for each message. This app imports neither PyTorch nor the site's data, so
such a process costs what Flower itself costs. A worker that is missing is started; if it dies while
it answers, it is started again and asked again, once.

    flower-supernode ... --node-config 'site-file="/etc/fedmaml/site.toml"'
"""

import logging
from pathlib import Path

import grpc
from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp

from fedmaml import __version__
from fedmaml.core.errors import BackendError, RefusedError
from fedmaml.core.failures import said_of
from fedmaml.flower_internals import CLIENT_APP_RAISED, message_from_bytes, message_to_bytes
from fedmaml.simulations.backends import SITE_FILE
from fedmaml.sites.site_file import Site, read_site_file
from fedmaml.sites.starting import channel_to, serves, started
from fedmaml.sites.wire import METHOD, chunked, joined, refuse_larger

_GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

logger = logging.getLogger("fedmaml")

app = ClientApp()


@app.query("roll_call")
def roll_call(message: Message, context: Context) -> Message:
    """Report which clients this site hosts, and their statistics."""
    return passed_on(message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Compute the updates of this site's clients."""
    return passed_on(message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate adaptation for this site's clients."""
    return passed_on(message, context)


def passed_on(message: Message, context: Context) -> Message:
    """Return the worker's reply, or an error reply that says no more than it may."""
    try:
        path = context.node_config.get(SITE_FILE)
        if not path:
            raise RefusedError(
                "this site's SuperNode names no file of its own: start it with --node-config "
                f"'{SITE_FILE}=\"/path/of/site.toml\"' (fedmaml site run does)"
            )
        site_file = Path(str(path))
        site = read_site_file(site_file)
        body = message_to_bytes(message)
        refuse_larger(len(body), site.limits.message_bytes)
        header = {
            "version": __version__,
            "run": context.run_id,
            "node": context.node_id,
            "run_config": dict(context.run_config),
        }
        parts = list(chunked(header, body))
        return message_from_bytes(_asked(site_file, site, parts, message.metadata.ttl))
    except Exception as error:  # a site must answer, whatever happens to it
        logger.exception("the site's app failed", exc_info=error)
        return Message(Error(CLIENT_APP_RAISED, said_of(error, "the site's app")), reply_to=message)


def _asked(site_file: Path, site: Site, parts: list[bytes], seconds: float) -> bytes:
    """Return the worker's reply; a worker that dies is started anew and asked again, once.

    Raises:
        RefusedError: If the worker refuses the request.
        BackendError: If it dies twice, or does not serve.
    """
    try:
        return _answer(site_file, site, parts, seconds)
    except _DiedError:
        logger.warning("the site's worker died; it is started anew and asked again")
        return _answer(site_file, site, parts, seconds)


class _DiedError(BackendError):
    """A worker that went away while it answered."""


def _answer(site_file: Path, site: Site, parts: list[bytes], seconds: float) -> bytes:
    with channel_to(site) as channel:
        if serves(channel):
            return _reply(channel, site, parts, seconds)
    started(site_file, site)
    with channel_to(site) as channel:
        return _reply(channel, site, parts, seconds)


def _reply(channel: grpc.Channel, site: Site, parts: list[bytes], seconds: float) -> bytes:
    try:
        answer = channel.stream_stream(METHOD)(iter(parts), timeout=seconds)
        return joined(answer, site.limits.message_bytes)[1]
    except grpc.RpcError as error:
        code = error.code()
        if code == grpc.StatusCode.FAILED_PRECONDITION:
            raise RefusedError(error.details()) from error
        failed = _DiedError if code in _GONE else BackendError
        raise failed(f"the site's worker failed ({code.name}); {site.log} says why") from error
