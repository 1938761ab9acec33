"""Model, data, and local training and testing: all the app's own."""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

loss_fn = nn.CrossEntropyLoss(reduction="none")


class Net(nn.Module):
    """A small convolutional network for 8x8 grey images of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, kernel_size=3)
        self.hidden = nn.Linear(16 * 3 * 3, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``(examples, 1, 8, 8)`` to logits ``(examples, 10)``."""
        x = nn.functional.max_pool2d(torch.relu(self.conv(x)), 2)
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def load_data(partition_id: int, num_partitions: int) -> tuple[TensorDataset, TensorDataset]:
    """Return a partition's training and test images (4 to 1), turned by quarters of a circle.

    Partition p's images are turned p quarters, as if each site held its scanner another way.
    """
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[partition_id::num_partitions], dtype=torch.float32) / 16
    x = torch.rot90(x.reshape(-1, 1, 8, 8), partition_id, dims=(2, 3))
    y = torch.tensor(labels[partition_id::num_partitions])
    cut = len(y) * 4 // 5
    return TensorDataset(x[:cut], y[:cut]), TensorDataset(x[cut:], y[cut:])


def train(net: Net, data: TensorDataset, lr: float) -> float:
    """Train the network in place for one epoch; return the mean loss."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    total = 0.0
    for x, y in DataLoader(data, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        losses = loss_fn(net(x), y)
        losses.mean().backward()
        optimizer.step()
        total += losses.sum().item()
    return total / len(data)


def test(net: Net, data: TensorDataset) -> tuple[float, float]:
    """Return mean loss and accuracy."""
    x, y = data[:]
    with torch.no_grad():
        logits = net(x)
    return loss_fn(logits, y).mean().item(), (logits.argmax(-1) == y).float().mean().item()
