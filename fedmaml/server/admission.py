"""Which sites a run admits, and which of their replies it believes.

    nobody approved     as in a simulation: every node may answer, and what a node says of its code
                        and settings is compared with the server's own
    sites approved      a node must say the name of an approved site and what it computes with, and
                        must sign every reply with that site's key

The operator of the server names the file of approved sites in the environment variable `APPROVED`:

    [sites]
    cleveland = "ecdsa-sha2-nistp384 AAAA..."    # the content of the site's .pub file
"""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from flwr.app import RecordDict

from fedmaml.config import RunConfig
from fedmaml.config.at_site import identity_of
from fedmaml.core.errors import ConfigurationError, MessageError
from fedmaml.core.identity import Identity, difference
from fedmaml.messages.roll_call import RollCallReply
from fedmaml.messages.signatures import Occasion, PublicKey, check_signature, public_key

APPROVED = "FEDMAML_APPROVED"
"""Environment variable: the file with the public keys of approved sites."""


@dataclass(frozen=True)
class Admission:
    """What a run demands of its nodes.

    Attributes:
        own: Returns what the server computes with; None: it is not compared.
        run: Flower's number of the run.
        keys: Name of an approved site -> its public key; None: no signatures are demanded.
    """

    own: Callable[[], Identity] | None = field(default=None, repr=False)
    run: int = 0
    keys: Mapping[str, PublicKey] | None = field(default=None, repr=False)

    def check_reply(self, content: RecordDict, request: str, site: str) -> None:
        """Refuse a reply that its site did not sign for this request.

        Args:
            content: As it came.
            request: Flower's id of the request.
            site: Name of the site that was asked.

        Raises:
            MessageError: "SIGNATURE" or "STALE".
        """
        if self.keys is None:
            return
        if site not in self.keys:
            raise MessageError(
                "SIGNATURE",
                f"site {site or 'without a name'} is not approved: fedmaml site approve adds it",
            )
        check_signature(content, self.keys[site], Occasion(self.run, request, site))

    def check_roll_call(self, content: RecordDict, reply: RollCallReply, request: str) -> None:
        """Refuse a node of another site than those approved, or that computes with other things.

        Raises:
            MessageError: "SIGNATURE", "STALE" or "VERSION".
        """
        self.check_reply(content, request, reply.name)
        if reply.identity is None:
            if self.keys is not None:
                raise MessageError(
                    "VERSION", "it does not say with which code and settings it computes"
                )
            return
        if self.own is not None and (other := difference(self.own(), reply.identity)):
            raise MessageError(
                "VERSION", f"{other}: install the same packages at both and start the site again"
            )


EVERYBODY = Admission()
"""Admits every node."""


def admission(config: RunConfig, run: int) -> Admission:
    """Return what a run demands of its nodes.

    Args:
        config: Of the run, as the run config gave it.
        run: Flower's number of the run.

    Raises:
        ConfigurationError: If the file of approved sites cannot be read.
    """
    path = os.environ.get(APPROVED)
    keys = read_approved(Path(path)) if path else None

    @cache  # it reads the whole package, and most runs have no real sites
    def own() -> Identity:
        return identity_of(config)

    return Admission(own, run, keys)


def read_approved(path: Path) -> dict[str, PublicKey]:
    """Return the public keys of the approved sites, by name.

    Raises:
        ConfigurationError: If the file is missing or wrong, or two sites have the same key.
    """
    try:
        sites = tomllib.loads(path.read_text(encoding="utf-8")).get("sites", {})
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the approved sites {path}: {error.strerror}; fedmaml site approve writes "
            "them"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from error
    if not isinstance(sites, Mapping):
        raise ConfigurationError(f'{path}: [sites] must hold name = "key"')
    keys: dict[str, PublicKey] = {}
    for name, text in sites.items():
        key = public_key(str(text))
        for other, known in keys.items():
            if known.public_numbers() == key.public_numbers():
                raise ConfigurationError(
                    f"{path}: sites {other} and {name} have the same key; one key is one site: "
                    "let one of them make its own with fedmaml site init"
                )
        keys[name] = key
    return keys
