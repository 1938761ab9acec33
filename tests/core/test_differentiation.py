"""Gradients without the compiler of PyTorch are those of ``torch.func``, to the bit."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fedmaml.core import differentiation

X = torch.linspace(-1, 1, 24).reshape(4, 6)
POINT = {"w": torch.linspace(-0.5, 0.7, 6), "b": torch.tensor(0.3), "unused": torch.ones(2)}


def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
    return ((x @ params["w"]).tanh() + params["b"]).square().mean()


def stepped(tools: Any) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    """Return the loss after one gradient step, so that its gradient has second derivatives."""

    def after(params: dict[str, Tensor], x: Tensor) -> Tensor:
        slopes, _ = tools.grad_and_value(loss)(params, x)
        return loss({name: params[name] - 0.1 * slopes[name] for name in params}, x)

    return after


def one_client(tools: Any) -> Any:
    return tools.grad_and_value(stepped(tools))(POINT, X)


def many_clients(tools: Any) -> Any:
    return torch.func.vmap(tools.grad_and_value(stepped(tools)), in_dims=(None, 0))(
        POINT, X.reshape(2, 2, 6)
    )


def within_autograd(tools: Any) -> Any:
    point = {name: value.clone().requires_grad_() for name, value in POINT.items()}
    stepped(tools)(point, X).backward()
    return {name: value.grad for name, value in point.items() if value.grad is not None}


@pytest.mark.parametrize("case", [one_client, many_clients, within_autograd])
def test_gradients_have_the_bits_of_torch_func(case: Callable[[Any], Any]) -> None:
    ours, theirs = case(differentiation), case(torch.func)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_both_kinds_nest_with_each_other() -> None:
    outer_ours, _ = differentiation.grad_and_value(stepped(torch.func))(POINT, X)
    outer_theirs = torch.func.grad(stepped(differentiation))(POINT, X)
    torch.testing.assert_close(outer_ours, outer_theirs, rtol=0, atol=0)
    assert not outer_ours["w"].requires_grad


def test_a_constant_has_the_gradient_zero() -> None:
    gradient, value = differentiation.grad_and_value(lambda _: torch.tensor(2.0))(POINT)
    assert value == 2
    assert {name: part.tolist() for name, part in gradient.items()} == {
        "w": [0.0] * 6, "b": 0.0, "unused": [0.0, 0.0],
    }  # fmt: skip


@pytest.mark.parametrize("result", [torch.ones(3), 1.0])
def test_what_is_no_scalar_is_refused_with_the_cure(result: Any) -> None:
    with pytest.raises(RuntimeError, match="return its mean"):
        differentiation.grad_and_value(lambda _: result)(POINT)


def test_a_run_imports_neither_compiler_nor_statistics_nor_scikit_learn(tmp_path: Any) -> None:
    program = (
        "import sys; from fedmaml.config import resolve; from fedmaml.running import execute\n"
        "from pathlib import Path\n"
        "execute(resolve({'scenario': 'digits', 'strategy': 'fomaml', 'rounds': 1}), Path('run'))\n"
        "slow = ('torch._dynamo', 'torch._inductor', 'sympy', 'scipy.stats', 'sklearn',\n"
        "        'pytorch_optimizer', 'ray', 'matplotlib')\n"
        "print([name for name in slow if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.split("\n")[-2] == "[]"
