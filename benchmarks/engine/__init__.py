"""fedmaml's engines beside the libraries that people use today, on the same work.

python -m benchmarks.engine [--quick] [--cases W2-fomaml,...] [--json FILE] [--plots DIR]

Each contender computes one round, the mean update of many clients, in float32 on one thread. It is
first compared with a loop in float64, and timed only if it agrees. fedmaml's rows contain all that
a node does for a request: losses before and after adaptation, checks and the exact sum, which the
peers do not compute. Flower's own simulation with 2,000 clients takes minutes; --flower-clients 100
is quicker and flatters it.

What is missing is listed as not installed. To have all peers, none of which may replace the PyTorch
that is there:

    pip install --no-deps higher==0.2.1 torchopt==0.7.3 optree graphviz
    pip install 'fedmaml[ray,report]'

    learn2learn 0.2.0 has no wheel for Python 3.11, and needs none of what does not build:
    pip download --no-binary learn2learn --no-deps learn2learn==0.2.0 && tar xf learn2learn-*.gz
    export LEARN2LEARN_SOURCE=$PWD/learn2learn-0.2.0

    JAX lives in an environment of its own:
    python -m venv jax-environment && jax-environment/bin/pip install jax
    export JAX_PYTHON=$PWD/jax-environment/bin/python
"""
