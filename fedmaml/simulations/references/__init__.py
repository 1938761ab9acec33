"""References that many scenarios can name, each a function that returns a `Reference`.

simple   a constant, the last value of a window, the nearest neighbours or class mean, similarity
linear   least squares, ridge regression to the training clients' mean, logistic regression
hierarchical   posterior means: under the training clients' mean and covariance, or the truth
forest   a random forest; with a client's class shares; proximity by its leaves
boosting boosted trees, alone or corrected at each client
curves   curves with a few parameters: nonlinear least squares, hierarchical Bayes
archive  the training clients' whole curves: the nearest ones, kriging
similar  neighbours and ridge regression by a similarity of one's own
targets  averages of targets as predictions
"""

from fedmaml.simulations.references.boosting import corrected_boosting, gradient_boosting
from fedmaml.simulations.references.forest import (
    forest_by_shares,
    forest_proximity,
    random_forest,
)
from fedmaml.simulations.references.hierarchical import hierarchical_ridge, posterior_mean
from fedmaml.simulations.references.linear import (
    identity,
    least_squares,
    logistic_regression,
    pooled_logistic,
    pooled_logistic_regression,
    ridge,
    ridge_to_the_mean,
)
from fedmaml.simulations.references.similar import kernel_ridge, most_similar
from fedmaml.simulations.references.simple import (
    constant,
    nearest_class_mean,
    nearest_neighbour,
    persistence,
    similarity,
)
from fedmaml.simulations.references.targets import BINARY, NUMBERS, Targets, classes

__all__ = [
    "BINARY",
    "NUMBERS",
    "Targets",
    "classes",
    "constant",
    "corrected_boosting",
    "forest_by_shares",
    "forest_proximity",
    "gradient_boosting",
    "hierarchical_ridge",
    "identity",
    "kernel_ridge",
    "least_squares",
    "logistic_regression",
    "most_similar",
    "nearest_class_mean",
    "nearest_neighbour",
    "persistence",
    "pooled_logistic",
    "pooled_logistic_regression",
    "posterior_mean",
    "random_forest",
    "ridge",
    "ridge_to_the_mean",
    "similarity",
]
