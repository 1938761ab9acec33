"""The learner: network and loss as functions, and the problems that are refused."""

import dataclasses

import pytest
import torch
from torch import nn

from fedmaml.core import seeding
from fedmaml.core.errors import UnsupportedProblemError
from fedmaml.core.learner import in_head, make_learner, without_head
from fedmaml.core.networks import LinearModel
from fedmaml.core.params import flatten, sha256, squared_norm


def problem_with(problem, network, **changes):
    return dataclasses.replace(problem, network=network, **changes)


def test_the_same_generator_gives_the_same_parameters(classification) -> None:
    def fingerprint(seed: int) -> str:
        return sha256({"theta": make_learner(classification.problem, seeding.generator(seed))[1]})

    assert fingerprint(0) == fingerprint(0) != fingerprint(1)


def test_building_leaves_the_global_generator_alone(classification) -> None:
    before = torch.get_rng_state()
    make_learner(classification.problem, seeding.generator(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_come_in_the_dtype_of_the_problem(classification) -> None:
    _, params = make_learner(classification.problem, seeding.generator(0))
    assert {value.dtype for value in params.values()} == {torch.float64}
    assert not any(value.requires_grad for value in params.values())


def test_apply_uses_the_given_parameters_only(classification) -> None:
    learner, params = make_learner(classification.problem, seeding.generator(0))
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    assert not learner.apply(zeros, classification.task().support.x).any()
    assert flatten(params).any()


def test_loss_adds_l2_and_query_loss_does_not(classification) -> None:
    learner, params = make_learner(classification.problem, seeding.generator(0))
    batch = classification.task().query
    bare = learner.query_loss(lambda x: learner.apply(params, x), batch)
    penalty = 0.01 * squared_norm(params)
    assert float(learner.loss(params, batch)) == pytest.approx(float(bare + penalty), rel=1e-14)
    assert learner.loss(params, batch).dtype == torch.float64


@pytest.mark.parametrize(
    "layer",
    [nn.BatchNorm1d(4), nn.InstanceNorm1d(4, track_running_stats=True)],
    ids=lambda layer: type(layer).__name__,
)
def test_running_statistics_are_refused(classification, layer: nn.Module) -> None:
    problem = problem_with(classification.problem, lambda: nn.Sequential(layer, nn.Linear(4, 3)))
    with pytest.raises(
        UnsupportedProblemError, match=r"module '0' .*running statistics.*GroupNorm"
    ):
        make_learner(problem, seeding.generator(0))


def test_normalisation_by_the_batch_at_hand_is_allowed(classification) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))

    make_learner(problem_with(classification.problem, network), seeding.generator(0))


def test_dropout_is_refused(classification) -> None:
    # It would draw from the global generator, and it cannot pass vmap.
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    with pytest.raises(UnsupportedProblemError, match=r"module '1' \(Dropout\)"):
        make_learner(problem_with(classification.problem, network), seeding.generator(0))


def test_a_network_without_parameters_is_refused(classification) -> None:
    with pytest.raises(UnsupportedProblemError, match="network ReLU has no parameters"):
        make_learner(problem_with(classification.problem, nn.ReLU), seeding.generator(0))


def test_without_head_yields_the_embedding(classification) -> None:
    learner, params = make_learner(classification.problem, seeding.generator(0))
    body = {name: value for name, value in params.items() if not name.startswith("head.")}
    x = classification.task().support.x
    embedding = without_head(learner).apply(body, x)
    expected = torch.tanh(x @ params["body.0.weight"].T + params["body.0.bias"])
    torch.testing.assert_close(embedding, expected, rtol=1e-14, atol=1e-14)
    assert learner.apply(params, x).shape == (6, 3)  # the learner itself keeps its head


@pytest.mark.parametrize("head", ["head", ""])
def test_a_network_that_is_all_head_has_no_embedding(classification, head: str) -> None:
    problem = problem_with(classification.problem, lambda: LinearModel(4, 3), head=head)
    learner, _ = make_learner(problem, seeding.generator(0))
    with pytest.raises(UnsupportedProblemError, match="has no layers before its head"):
        without_head(learner)


def test_head_parameters_are_found_by_whole_names(classification) -> None:
    assert in_head(classification.problem, "head.weight")
    assert not in_head(classification.problem, "header.weight")
    assert not in_head(classification.problem, "body.head.weight")
    assert not in_head(dataclasses.replace(classification.problem, head=""), "head.weight")


def test_a_problem_may_have_another_network_and_loss_for_a_replay(classification) -> None:
    problem = classification.problem.in_dtype("float32")
    assert problem.for_replay() is problem

    def network():
        return LinearModel(4, 3)

    def loss(prediction, y):
        return prediction[:, 0] * y

    other = dataclasses.replace(problem, replayed=(network, loss)).for_replay()
    assert (other.network, other.loss, other.replayed) == (network, loss, None)
    assert (other.dtype, other.metrics) == (problem.dtype, problem.metrics)
