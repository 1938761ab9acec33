"""Bytes of messages, as the server counts them, against bytes that crossed real sockets."""

import pytest

from benchmarks.socket import deployed

PAYLOAD = {"mlp": 4 * 242_437, "conv4": 4 * 112_261}


@pytest.mark.slow
@pytest.mark.flower
@pytest.mark.parametrize("network", ["mlp", "conv4"])
def test_message_bytes_are_what_crosses_the_socket_but_for_framing(network: str) -> None:
    reported = deployed(network)
    for direction in ("down", "up"):
        counted = sum(part[f"message_bytes_{direction}"] for part in reported["counted"].values())
        carried = reported["socket"][direction]
        assert counted > 2 * PAYLOAD[network]
        assert counted == pytest.approx(carried["objects"], rel=0.001)
        assert carried["unread"] == 0
        parts = ("objects", "envelopes", "other_calls", "http")
        assert carried["total"] == sum(carried[part] for part in parts)
        assert carried["envelopes"] < 0.01 * carried["objects"]
    assert reported["socket"]["calls"]["push-object"] > 2
