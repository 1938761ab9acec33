"""The inner loop: gradient steps from theta to fast weights. The only one in fedmaml."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial, reduce
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor

from fedmaml.core.gradients import gradient, is_differentiated
from fedmaml.core.params import Params, map_params, squared_norm
from fedmaml.core.settings import settings
from fedmaml.core.tasks import Batch, part_of, rows_of

_TINY = 1e-30

Loss = Callable[[Params, Batch], Tensor]
Direction = Callable[[Params, Batch], Params]
"""(parameters, examples) -> what a step goes against, shaped like the parameters."""

Rule = Callable[[int, Params, Params, Params], Params]
"""(number of steps so far, point before the last step, point, direction) -> next point."""


@settings
class GradientSteps:
    """Plain gradient descent, differentiable from end to end.

        phi_0 = params,    phi_{t+1} = phi_t - lr * grad L_{B_t}(phi_t)    for t < number of steps

    B_t are all examples or, with ``batch`` b, the t-th b of them in their order; the last part of
    a pass is shorter where b does not divide the number of examples, and after it the first part
    follows again. So ``batch`` and ``epochs`` make the mini-batches of local training, ``batch=1``
    a stream of examples that arrive one after another, and a support of K * b episodes with K
    ``steps`` makes K stages, each on episodes of its own.

    Attributes:
        lr: Step size, > 0.
        steps: Number of steps, >= 0; 0 returns the parameters as they came.
        batch: Examples of a step, >= 0; 0: all of them.
        epochs: Passes over all examples, >= 0; 0: ``steps`` says how many steps are taken,
            otherwise it is ignored.
        bound: Bound of what a step goes along, >= 0: b makes g / (1 + ||g|| / b) of a gradient g,
            over all its entries, which is shorter than b and differentiable; 0: g itself. For
            losses through unstable dynamics.
        later: Factor of the step size in all steps after the first, > 0. Where gradients are
            normalised, steps near the optimum are as long as far from it: a start that was trained
            for one step takes smaller ones from there.
    """

    lr: Annotated[float, Gt(0)] = 0.01
    steps: Annotated[int, Ge(0), Le(1_000_000)] = 5
    batch: Annotated[int, Ge(0)] = 0
    epochs: Annotated[int, Ge(0), Le(1_000_000)] = 0
    bound: Annotated[float, Ge(0)] = 0.0
    later: Annotated[float, Gt(0)] = 1.0

    def taking(self, steps: int) -> "GradientSteps":
        """Return the same rule with another number of steps."""
        return replace(self, steps=steps, epochs=0)

    def moves(self) -> bool:
        """Return whether there are any steps."""
        return bool(self.steps or self.epochs)

    def parts(self, batch: Batch) -> Iterator[Batch]:
        """Yield the examples of each step."""
        size, in_a_pass = self._size(batch), self._in_a_pass(batch)
        for step in range(self.count(batch)):
            first = step % in_a_pass * size
            yield batch if in_a_pass == 1 else part_of(batch, first, first + size)

    def count(self, batch: Batch) -> int:
        """Return how many steps are taken on these examples."""
        return self.epochs * self._in_a_pass(batch) or self.steps

    def follow(
        self, direction: Direction, params: Params, batch: Batch, rule: Rule | None = None
    ) -> Iterator[Params]:
        """Take the steps along any direction, and yield the point after each.

        Args:
            direction: What the steps go against; a gradient, or what a strategy puts in its place.
            params: Where to start; not changed.
            batch: The examples; each step gets its part of them.
            rule: How a step uses its direction; None: phi - lr * direction.
        """
        before = fast = params
        for step, part in enumerate(self.parts(batch)):
            along = self.scaled(direction(fast, part), step)
            if rule is None:  # and nothing holds the point before
                before = fast = map_params(lambda w, g: w - self.lr * g, fast, along)
            else:
                before, fast = fast, rule(step, before, fast, along)
            yield fast

    def path(
        self,
        loss: Loss,
        params: Params,
        batch: Batch,
        *,
        rule: Rule | None = None,
        first_order: bool = False,
        last: int | None = None,
    ) -> Iterator[Params]:
        """Take the steps and yield the fast weights after each: phi_1, phi_2, ...

        Args:
            loss: (params, batch) -> scalar.
            params: Where to start; not changed.
            batch: The examples; each step takes its part of them.
            rule: How a step uses its gradient; None: phi - lr * gradient.
            first_order: Hold each step's gradient constant under an outer derivative, so that
                d phi / d params is the identity.
            last: How many of the last steps are differentiated; the gradients of the steps before
                are held constant. None: all of them, or none if ``first_order``.
        """
        held = 0 if last is None else max(self.count(batch) - last, 0)
        taken, again = 0, None

        def slope(fast: Params, part: Batch) -> Params:
            nonlocal taken, again
            taken += 1
            constant = first_order or taken <= held
            point = map_params(Tensor.detach, fast) if constant else fast
            found = gradient(_loss_on(part, loss), point, False if constant else again)
            if not constant:
                again = is_differentiated(found)  # in the next steps as in this one
            return found

        return self.follow(slope, params, batch, rule)

    def run(
        self,
        loss: Loss,
        params: Params,
        batch: Batch,
        *,
        rates: Params | None = None,
        first_order: bool = False,
        last: int | None = None,
    ) -> Params:
        """Take the steps and return the fast weights.

        Args:
            loss: As in `path`.
            params: As in `path`.
            batch: As in `path`.
            rates: Step sizes per entry, in the shapes of ``params``; they replace ``lr``.
            first_order: As in `path`.
            last: As in `path`.
        """
        rule: Rule | None = None
        if rates is not None:
            rule = partial(_by_rates, rates)
        path = self.path(loss, params, batch, rule=rule, first_order=first_order, last=last)
        return end_of(path, params)

    def scaled(self, along: Params, step: int) -> Params:
        """Return what a step goes along: at most as long as ``bound``, ``later`` times as long.

        Args:
            along: What it goes against.
            step: Number of steps before.
        """
        factor = self.later if step else 1.0
        if self.bound:
            norm = (squared_norm(along) + _TINY).sqrt()  # a root has no derivative at 0
            along = map_params(lambda value: value / (1 + norm / self.bound), along)
        return along if factor == 1 else map_params(lambda value: factor * value, along)

    def _in_a_pass(self, batch: Batch) -> int:
        """Return the steps of one pass over the examples."""
        return max(1, math.ceil(rows_of(batch) / self._size(batch)))

    def _size(self, batch: Batch) -> int:
        return self.batch or max(rows_of(batch), 1)


def end_of(path: Iterator[Params], start: Params) -> Params:
    """Return the last point of a path, or its start if it takes no step."""
    return reduce(lambda _, point: point, path, start)


def _by_rates(rates: Params, step: int, before: Params, fast: Params, slope: Params) -> Params:
    del step, before
    return map_params(lambda w, g, rate: w - rate * g, fast, slope, rates)


def _loss_on(batch: Batch, loss: Loss) -> Callable[[Params], Tensor]:
    return lambda params: loss(params, batch)
