"""ELSA on torch: item factors of unit length whose products rebuild what each user took to.

Vančura, Alves, Kasalický, Kordík, "Scalable Linear Shallow Autoencoder for Collaborative Filtering", RecSys 2022. With
the rows of A of length 1 the model is x (A A' - I), so no item speaks for itself, and A is learned so that the
direction of x (A A' - I) comes near that of x. Without the rectifier of the paper's program, which ranked worse here,
that cosine needs no scores of all items: with h = x A and S = A'A it is (h·h - n) / sqrt(n (h S h' - 2 h·h + n)) for a
user of n items, so a step costs as much as its interactions and never a row as wide as the catalogue.
"""

import numpy as np
import torch

from gpu_worker.adapters.torch_device import mapped_errors
from gpu_worker.training.recipe import Recipe
from gpu_worker.training.sequences import Sequences
from servicekit.arrays import Floats

_DIMENSIONS = 128
_LEARNING_RATE = 0.02  # falls to nothing
_USERS_A_STEP = (128, 1024)  # few enough that a small catalogue's users make several steps
_STEPS_AN_EPOCH = 64
_LEAST = 1e-12


class TorchElsaFactors:
    """See FactorModel; the fold-in is the factors themselves.

    Args:
        device: "cpu", "cuda", "cuda:1".
    """

    name = "elsa"

    def __init__(self, *, device: str) -> None:
        self._device = torch.device(device)

    def factors(self, sequences: Sequences, recipe: Recipe, *, seed: int) -> tuple[Floats, Floats]:
        """See FactorModel."""
        with mapped_errors("ELSA"):
            items = self._learn(sequences, epochs=round(recipe.factors_epochs), seed=seed)
        items[sequences.popularity() == 0.0] = 0.0  # nobody touched them, so what they hold is chance
        return items, items

    def _learn(self, sequences: Sequences, *, epochs: int, seed: int) -> Floats:
        # Drawn on the CPU, so that every device begins alike.
        generator = torch.Generator().manual_seed(seed)
        factors = torch.randn((sequences.n_items, _DIMENSIONS), generator=generator)
        factors = torch.nn.functional.normalize(factors, dim=1).to(self._device).requires_grad_()
        starts = torch.from_numpy(sequences.starts.astype(np.int64))
        items = torch.from_numpy(sequences.items.astype(np.int64)).to(self._device)
        counts = starts.diff()
        users = torch.nonzero(counts >= 2)[:, 0]  # one item alone has nothing to be rebuilt from
        least, most = _USERS_A_STEP
        per_step = min(max(len(users) // _STEPS_AN_EPOCH, least), most)
        optimizer = torch.optim.NAdam([factors], lr=_LEARNING_RATE)
        for epoch in range(epochs):
            optimizer.param_groups[0]["lr"] = _LEARNING_RATE * (1.0 - epoch / epochs)
            order = users[torch.randperm(len(users), generator=generator)]
            for batch in order.split(per_step):
                loss = _loss(factors, items, starts[batch], counts[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        learned: Floats = torch.nn.functional.normalize(factors.detach(), dim=1).cpu().numpy()
        return learned


def _loss(factors: torch.Tensor, items: torch.Tensor, starts: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Give the mean of 1 - cos(x, x (A A' - I)) over some users."""
    first = counts.cumsum(0) - counts
    places = torch.arange(int(counts.sum())) + (starts - first).repeat_interleave(counts)
    unit = torch.nn.functional.normalize(factors, dim=1)
    device = factors.device
    hidden = torch.nn.functional.embedding_bag(items[places.to(device)], unit, first.to(device), mode="sum")
    n = counts.to(device, torch.float32)
    own = (hidden * hidden).sum(1)
    squares = ((hidden @ (unit.T @ unit)) * hidden).sum(1) - 2.0 * own + n
    return (1.0 - (own - n) / (squares.clamp_min(_LEAST) * n).sqrt()).mean()
