"""The checker finds every strategy right, and can find one wrong."""

import pytest

from fedmaml.core.errors import ConfigurationError
from fedmaml.core.meta_gradient import meta_gradient
from fedmaml.core.params import map_params
from fedmaml.core.settings import settings
from fedmaml.strategies import (
    CATALOGUE,
    FOMAML,
    MAML,
    FedAvg,
    FedRep,
    Local,
    MetaSGD,
    ProtoNet,
    Reptile,
)
from fedmaml.verification import TOLERANCE, CheckResult, check_all
from fedmaml.verification.closed_forms import CLOSED_FORMS
from fedmaml.verification.formulas import FORMULAS


@pytest.fixture(scope="module")
def results() -> list[CheckResult]:
    return check_all()


def test_every_strategy_is_checked_and_right(results: list[CheckResult]) -> None:
    assert TOLERANCE == 1e-6
    assert [*dict.fromkeys(result.strategy for result in results)] == list(CATALOGUE)
    assert len(CATALOGUE) >= 9
    for result in results:
        assert result.relative_error <= TOLERANCE, result


def test_strategies_that_differentiate_are_held_against_finite_differences(
    results: list[CheckResult],
) -> None:
    held = {result.strategy for result in results if "differences of its obj" in result.reference}
    assert held == set(CATALOGUE) - set(FORMULAS)
    assert held >= {"maml", "meta_sgd", "protonet"}
    # Differences are never equal to the last bit: an error of exactly 0 would compare a thing
    # with itself.
    for result in results:
        if "finite differences" in result.reference:
            assert result.relative_error > 0


def test_strategies_with_a_closed_form_are_held_against_it(results: list[CheckResult]) -> None:
    held = {result.strategy for result in results if "closed form" in result.reference}
    assert held == set(CLOSED_FORMS)
    assert held >= {"local", "fedavg", "fedprox", "maml", "fomaml", "reptile", "meta_sgd"}


def test_one_strategy_can_be_checked_alone(results: list[CheckResult]) -> None:
    assert check_all("fomaml") == [result for result in results if result.strategy == "fomaml"]


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no strategy 'mamal'; known: local, fedavg"):
        check_all("mamal")


# Wrong on purpose, each in a way that a real mistake could take. They are made of a right strategy
# by replacing one verb.


def with_wrong(cls: type, **verbs: object) -> type:
    return settings(type(f"Wrong{cls.__name__}", (cls,), {"__annotations__": {}, **verbs}))


def _scaled_update(cls: type, factor: float) -> type:
    def client_update(self, learner, meta, memory, task):
        right = cls.client_update(self, learner, meta, memory, task)
        update = {g: map_params(lambda v: v * factor, p) for g, p in right.update.items()}
        return right._replace(update=update)

    return with_wrong(cls, client_update=client_update)


def _first_order_gradient(self, learner, meta, memory, task):
    def adapt(learner, meta, memory, support):
        return FOMAML(inner=self.inner).adapt(learner, meta, memory, support)

    gradient, _ = meta_gradient(adapt, learner, meta, memory, task)
    return MAML.client_update(self, learner, meta, memory, task)._replace(update=gradient)


def _alpha_as_at_one_step(self, learner, meta, memory, task):
    # The alpha gradient of the last step alone, as if theta had not moved before it.
    right = MetaSGD.client_update(self, learner, meta, memory, task)
    alpha = map_params(lambda g: g / self.inner.steps, right.update["alpha"])
    return right._replace(update=right.update | {"alpha": alpha})


def _support_instead_of_query(self, learner, meta, memory, task):
    return ProtoNet.client_update(self, learner, meta, memory, task._replace(query=task.support))


def _on_the_query_alone(self, learner, meta, memory, task):
    return Reptile.client_update(self, learner, meta, memory, task._replace(support=task.query))


def _from_the_second_order(self, learner, meta, memory, support):
    return MAML(inner=self.inner).adapt(learner, meta, memory, support)


def _sends_its_training(self, learner, meta, memory, task):
    return FedAvg(inner=self.inner).client_update(learner, meta, memory, task)


WRONG = {
    "local that sends its training": ("local", Local, {"client_update": _sends_its_training}),
    "maml with a first-order gradient": ("maml", MAML, {"client_update": _first_order_gradient}),
    "fomaml with second derivatives": ("fomaml", FOMAML, {"adapt": _from_the_second_order}),
    "meta_sgd with alpha's gradient of one step": (
        "meta_sgd", MetaSGD, {"client_update": _alpha_as_at_one_step},
    ),
    "protonet evaluated on its support": (
        "protonet", ProtoNet, {"client_update": _support_instead_of_query},
    ),
    "reptile on the query set alone": ("reptile", Reptile, {"client_update": _on_the_query_alone}),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_strategy_is_found(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, cls, verbs = WRONG[what]
    monkeypatch.setitem(CATALOGUE, name, with_wrong(cls, **verbs))
    assert max(result.relative_error for result in check_all(name)) > TOLERANCE


@pytest.mark.parametrize("cls", [MAML, FOMAML, FedAvg, Reptile, FedRep, ProtoNet, MetaSGD])
def test_an_update_off_by_a_hundred_thousandth_is_found(
    cls: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 10 times the tolerance of 10^-6
    name = next(name for name, known in CATALOGUE.items() if known is cls)
    monkeypatch.setitem(CATALOGUE, name, _scaled_update(cls, 1 + 1e-5))
    assert max(result.relative_error for result in check_all(name)) > TOLERANCE


def test_a_wrong_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "fedavg", _scaled_update(FedAvg, -1.0))
    # |-u - u| / |u| = 2
    errors = [result.relative_error for result in check_all("fedavg")]
    assert errors == pytest.approx([2.0] * 3)


def test_an_update_that_is_not_finite_is_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CATALOGUE, "maml", _scaled_update(MAML, float("nan")))
    with pytest.raises(ArithmeticError, match=r"left itself out.*not finite"):
        check_all("maml")
