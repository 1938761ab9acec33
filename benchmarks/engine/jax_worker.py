"""JAX ``jit(vmap)``, or ``jit(lax.map over chunks of vmap)``, in an interpreter of its own.

Commands and answers are lines of JSON. It runs under the interpreter that JAX_PYTHON names, which
need not have PyTorch or fedmaml: nothing of this repository is imported here.
"""

import json
import os
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
os.environ["JAX_PLATFORMS"] = "cpu"
if hasattr(os, "sched_setaffinity"):  # XLA counts the processors that it may use: one
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np


def network(layers, params, x):
    """Apply layers, each a list of its kind and settings, in the manner of ``nn.Sequential``."""
    values = iter(params)
    for kind, *settings in layers:
        if kind == "linear":
            x = x @ next(values).T + next(values)
        elif kind == "convolution":
            x = convolution(x, next(values), settings[0]) + next(values)[:, None, None]
        elif kind == "batch norm":
            x = batch_norm(x, settings[0]) * next(values)[:, None, None]
            x = x + next(values)[:, None, None]
        elif kind == "relu":
            x = jax.nn.relu(x)
        elif kind == "max pool":
            window = (1, 1, settings[0], settings[0])
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, window, "VALID")
        elif kind == "flatten":
            x = x.reshape(x.shape[0], -1)
        else:
            raise ValueError(f"unknown layer {kind!r}")
    return x


def convolution(x, weight, padding):
    return jax.lax.conv_general_dilated(x, weight, (1, 1), [(padding, padding)] * 2)


def batch_norm(x, epsilon):
    mean = x.mean((0, 2, 3), keepdims=True)
    variance = x.var((0, 2, 3), keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon)


def cross_entropy(logits, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


def squared_error(prediction, y):
    return ((prediction - y) ** 2).mean()


def compiled(job):
    """Return the round as a jitted function of (theta, training x, y, query x, y)."""
    mean_loss = {"cross_entropy": cross_entropy, "squared_error": squared_error}[job["loss"]]

    def loss(params, x, y):
        return mean_loss(network(job["layers"], params, x), y)

    def steps(params, x, y):
        for _ in range(job["steps"]):
            gradient = jax.grad(loss)(params, x, y)
            params = [
                value - job["lr"] * part for value, part in zip(params, gradient, strict=True)
            ]
        return params

    def fomaml(theta, x, y, query_x, query_y):
        return jax.grad(loss)(steps(theta, x, y), query_x, query_y)

    def maml(theta, x, y, query_x, query_y):
        return jax.grad(lambda start: loss(steps(start, x, y), query_x, query_y))(theta)

    def reptile(theta, x, y, query_x, query_y):
        del query_x, query_y
        return [start - end for start, end in zip(theta, steps(theta, x, y), strict=True)]

    def meta_sgd(theta, x, y, query_x, query_y):
        def at(start, rates):
            for _ in range(job["steps"]):
                parts = zip(start, rates, jax.grad(loss)(start, x, y), strict=True)
                start = [value - rate * part for value, rate, part in parts]
            return loss(start, query_x, query_y)

        rates = [jnp.full_like(value, job["lr"]) for value in theta]
        of_theta, of_rates = jax.grad(at, (0, 1))(theta, rates)
        return of_theta + of_rates

    def descend(of, params, count):
        for _ in range(count):
            parts = zip(params, jax.grad(of)(params), strict=True)
            params = [value - job["lr"] * part for value, part in parts]
        return params

    def anil(theta, x, y, query_x, query_y):
        def at(start):
            body, head = start[:-2], start[-2:]
            head = descend(lambda own: loss(body + own, x, y), head, job["steps"])
            return loss(body + head, query_x, query_y)

        return jax.grad(at)(list(theta))

    def fedrep(theta, x, y, query_x, query_y):
        del query_x, query_y
        start, head = list(theta[:-2]), list(theta[-2:])
        head = descend(lambda own: loss(start + own, x, y), head, 2 * job["steps"])
        body = descend(lambda own: loss(own + head, x, y), start, job["steps"])
        return [before - after for before, after in zip(start, body, strict=True)]

    def protonet(theta, x, y, query_x, query_y):
        classes, layers = theta[-1].shape[0], job["layers"][:-1]

        def at(start):
            known, asked = (network(layers, start, some) for some in (x, query_x))
            member = jax.nn.one_hot(y, classes).T
            means = member @ known / member.sum(1, keepdims=True)
            return cross_entropy(-((asked[:, None] - means) ** 2).sum(-1), query_y)

        return jax.grad(at)(list(theta[:-2]))

    updates = (fomaml, maml, reptile, meta_sgd, anil, fedrep, protonet)
    update = {each.__name__: each for each in updates}[job["algorithm"]]
    many = jax.vmap(update, (None, 0, 0, 0, 0))
    size = job["together"]

    def mean(theta, *data):
        if not size:
            return [value.mean(0) for value in many(theta, *data)]
        chunks = [value.reshape(-1, size, *value.shape[1:]) for value in data]
        sums = jax.lax.map(lambda some: [v.sum(0) for v in many(theta, *some)], tuple(chunks))
        return [value.sum(0) / data[0].shape[0] for value in sums]

    return jax.jit(mean)


def main():
    function = inputs = None
    for line in sys.stdin:
        job = json.loads(line)
        if job["command"] == "prepare":
            with np.load(job["file"]) as arrays:
                values = [jnp.asarray(arrays[f"arr_{i}"]) for i in range(len(arrays.files))]
            function, inputs = compiled(job), (values[:-4], *values[-4:])
        processor, wall = time.process_time(), time.perf_counter()
        result = jax.block_until_ready(function(*inputs))
        taken = (time.process_time() - processor, time.perf_counter() - wall)
        if job["command"] == "result":
            np.save(job["file"], np.concatenate([np.asarray(value).ravel() for value in result]))
        print(json.dumps(taken), flush=True)


if __name__ == "__main__":
    main()
