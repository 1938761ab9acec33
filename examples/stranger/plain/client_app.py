"""stranger: a Flower / PyTorch app."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from stranger import task

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Train on this node's data."""
    partition_id = int(context.node_config["partition-id"])
    num_partitions = int(context.node_config["num-partitions"])
    trainset, _ = task.load_data(partition_id, num_partitions)
    model = task.Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loss = task.train(model, trainset, lr=context.run_config["learning-rate"])
    arrays = ArrayRecord(model.state_dict())
    metrics = MetricRecord({"train_loss": loss, "num-examples": len(trainset)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Evaluate the model on this node's held-out data."""
    partition_id = int(context.node_config["partition-id"])
    num_partitions = int(context.node_config["num-partitions"])
    _, testset = task.load_data(partition_id, num_partitions)
    model = task.Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    loss, accuracy = task.test(model, testset)
    metrics = {"eval_loss": loss, "eval_acc": accuracy, "num-examples": len(testset)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
