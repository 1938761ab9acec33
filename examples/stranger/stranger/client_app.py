"""stranger: a Flower / PyTorch app."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmaml.client import evaluate_reply, train_reply
from fedmaml.core import learner, metrics, outer_optimizer, tasks
from fedmaml.strategies import FOMAML
from stranger import task

app = ClientApp()
fomaml = FOMAML(outer=outer_optimizer.OuterOptimizer(lr=0.01))
problem = learner.Problem(task.Net, task.loss_fn, (metrics.ACCURACY,))


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train on this node's data."""
    partition_id = int(context.node_config["partition-id"])
    num_partitions = int(context.node_config["num-partitions"])
    trainset, _ = task.load_data(partition_id, num_partitions)
    mine = tasks.Task(tasks.Batch(*trainset[::2]), tasks.Batch(*trainset[1::2]))
    return train_reply(msg, context, fomaml, problem, mine)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on this node's held-out data."""
    partition_id = int(context.node_config["partition-id"])
    num_partitions = int(context.node_config["num-partitions"])
    trainset, testset = task.load_data(partition_id, num_partitions)
    mine = tasks.Task(tasks.Batch(*trainset[:]), tasks.Batch(*testset[:]))
    return evaluate_reply(msg, context, fomaml, problem, mine)
