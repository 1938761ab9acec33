"""What the files of this folder would add to the catalogues of the package."""

from typing import Any

from fedmaml.strategies import MetaStrategy
from tests.outside.graph_network import Messages
from tests.outside.matching import Matching
from tests.outside.recurrent_network import RecurrentRollouts
from tests.outside.recurrent_policy import RecurrentPolicy
from tests.trees import SCENARIOS

OUTSIDE: dict[str, type[MetaStrategy]] = {
    "matching": Matching,
    "recurrent_policy": RecurrentPolicy,
}

OUTSIDE_SCENARIOS: dict[str, Any] = SCENARIOS | {
    "messages": Messages,
    "recurrent_rollouts": RecurrentRollouts,
}

NEED_CLASSES = ("matching", "recurrent_policy")
"""Those that refuse `nodes`, which has no class for each example."""
