"""EDLAE on torch: the Gram matrix and its inverse on the device, by the same code on a CPU and on CUDA.

The inverse comes from sweeping the symmetric matrix block by block: after the sweep over the rows K the matrix holds
-A_KK^-1 at K and A - A_K A_KK^-1 A_K' elsewhere, and after all sweeps -A^-1. Only strips of the lower triangle are
touched, so that a matrix too large for the device lies in the machine's memory and passes through in strips; the
result is exact either way. (Goodnight, "A tutorial on the SWEEP operator", 1979.)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from gpu_worker.adapters.torch_device import describe_device, mapped_errors
from gpu_worker.domain.training import Precision
from gpu_worker.training.edlae import LONGEST_SESSION_HISTORY
from gpu_worker.training.methods import Rows
from gpu_worker.training.sequences import Sequences, tied_positions
from servicekit.arrays import Keys
from servicekit.logs import get_logger

_BLOCK = 1024
_LARGEST_BLOCK = 4096
_USERS_ENTRIES = 1 << 26  # of the users made dense at once; 256 MiB
_PAIRS = 1 << 22  # of one step of the session kernel; 100 MiB with their places

_log = get_logger(__name__)


class TorchEdlae:
    """See EdlaeSolver.

    Args:
        device: "cpu", "cuda", "cuda:1".
        precision: float64 gives what numpy gives; float32 takes half the memory, and on most GPUs a fraction of the
            time, for weights that differ in the fifth digit.
        memory_bytes: A larger matrix stays in the machine's memory and is solved in strips.
    """

    def __init__(self, *, device: str, precision: Precision, memory_bytes: int) -> None:
        self._device = torch.device(device)
        self._type = torch.float64 if precision == "float64" else torch.float32
        self._memory_bytes = memory_bytes
        self.name = f"torch on {describe_device(device)}, {precision}"

    def cooccurrence(
        self, sequences: Sequences, members: Keys, *, ridge: float, dropout: float, neighbours: int
    ) -> Rows:
        """See EdlaeSolver."""
        with mapped_errors("EDLAE on co-occurrence"):
            return self._solve(
                self.cooccurrence_gram(sequences, members), ridge=ridge, dropout=dropout, neighbours=neighbours
            )

    def session(
        self,
        sequences: Sequences,
        members: Keys,
        *,
        half_life_items: float,
        ridge: float,
        dropout: float,
        neighbours: int,
    ) -> Rows:
        """See EdlaeSolver."""
        with mapped_errors("EDLAE on sessions"):
            gram = self.session_gram(sequences, members, half_life_items=half_life_items)
            return self._solve(gram, ridge=ridge, dropout=dropout, neighbours=neighbours)

    def cooccurrence_gram(self, sequences: Sequences, members: Keys) -> Any:
        """Count for each two of the members the users who took to both: a tensor [M, M], its lower triangle in blocks.

        The counts are whole numbers, so the order in which they are added does not matter.
        """
        rows, places, _ = _entries(sequences, members)
        gram = self._empty_gram(len(members))
        per_step = max(_USERS_ENTRIES // max(len(members), 1), 1)
        for begin in range(0, sequences.n_users, per_step):
            first, last = np.searchsorted(rows, [begin, begin + per_step])
            users = torch.zeros((min(per_step, sequences.n_users - begin), len(members)), device=self._device)
            users[self._tensor(rows[first:last] - begin), self._tensor(places[first:last])] = 1.0
            for strip in self._strips(len(members)):
                counts = users[:, strip].T @ users[:, : strip.stop]
                gram[strip, : strip.stop] += counts.to(gram.device, self._type)
        return gram

    def session_gram(self, sequences: Sequences, members: Keys, *, half_life_items: float) -> Any:
        """Count pairs by how close they stand in a user's history: a tensor [M, M]."""
        rows, places, positions = _entries(sequences, members, newest=LONGEST_SESSION_HISTORY)
        counts = np.bincount(rows, minlength=sequences.n_users)
        starts = np.concatenate([[0], counts.cumsum()])
        gram = self._empty_gram(len(members))
        flat = gram.view(-1)
        for first, last in _steps(counts):
            begin, end = starts[first], starts[last]
            sizes = self._tensor(counts[first:last]).to(gram.device)
            place, position = (self._tensor(each[begin:end]).to(gram.device) for each in (places, positions))
            partners = sizes.repeat_interleave(sizes)  # of each entry
            offsets = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
            one = torch.arange(len(place), device=gram.device).repeat_interleave(partners)
            other = torch.arange(len(one), device=gram.device)
            other -= (partners.cumsum(0) - partners - offsets).repeat_interleave(partners)
            closeness = torch.exp2(-(position[one] - position[other]).abs() / half_life_items)
            flat.index_put_((place[one] * len(members) + place[other],), closeness.to(self._type), accumulate=True)
        return gram

    def _solve(self, gram: Any, *, ridge: float, dropout: float, neighbours: int) -> Rows:
        diagonal = gram.diagonal()
        diagonal += dropout / (1.0 - dropout) * diagonal + ridge
        for strip in self._strips(len(gram)):
            self._sweep(gram, strip)
        # Now it is -P, and the weights are -P_ij / P_jj.
        variances = -gram.diagonal().to(self._device, copy=True)
        kept = min(neighbours, len(gram))
        columns, values = np.empty((len(gram), kept), np.int64), np.empty((len(gram), kept), np.float32)
        for strip in self._strips(len(gram)):
            left, below = gram[strip, : strip.stop], gram[strip.stop :, strip].T
            weights = torch.cat([left.to(self._device), below.to(self._device)], dim=1) / variances
            weights[torch.arange(len(weights)), torch.arange(strip.start, strip.stop)] = 0.0
            best = weights.float().topk(kept, dim=1, sorted=False)
            columns[strip], values[strip] = best.indices.cpu().numpy(), best.values.cpu().numpy()
        return Rows(columns, values)

    def _sweep(self, gram: Any, pivot: slice) -> None:
        """Sweep over the rows of one block, in the lower triangle."""
        above, below = gram[pivot, : pivot.start].T, gram[pivot.stop :, pivot]
        block = gram[pivot, pivot].to(self._device)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(block))
        panel = torch.cat([above.to(self._device), torch.zeros_like(block), below.to(self._device)])
        product = panel @ inverse
        for strip in self._strips(len(gram)):
            rest = gram[strip, : strip.stop].to(self._device)
            rest.addmm_(product[strip], panel[: strip.stop].T, alpha=-1.0)
            if gram.device != self._device:
                gram[strip, : strip.stop] = rest.to(gram.device)
        gram[pivot, : pivot.start] = product[: pivot.start].T.to(gram.device)
        gram[pivot.stop :, pivot] = product[pivot.stop :].to(gram.device)
        gram[pivot, pivot] = -inverse.to(gram.device)

    def _empty_gram(self, members: int) -> Any:
        """Make the matrix on the device, or in the machine's memory when the device shall not hold it."""
        size = members**2 * self._type.itemsize
        fits = size <= self._memory_bytes
        if not fits and self._device.type != "cpu":
            _log.warning("EDLAE is solved in strips", items=members, matrix_bytes=size, bound_bytes=self._memory_bytes)
        return torch.zeros((members, members), dtype=self._type, device=self._device if fits else "cpu")

    def _strips(self, members: int) -> Iterator[slice]:
        """Cut the rows into blocks, larger ones where every block costs a passage of the whole matrix."""
        size = members * self._type.itemsize
        block = _BLOCK
        if members * size > self._memory_bytes:
            # Two panels, one strip and its copy lie on the device at once.
            block = min(max(self._memory_bytes // (4 * size), _BLOCK), _LARGEST_BLOCK)
        for begin in range(0, members, block):
            yield slice(begin, min(begin + block, members))

    def _tensor(self, array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _entries(sequences: Sequences, members: Keys, *, newest: int | None = None) -> tuple[Keys, Keys, Any]:
    """Give of each history's entries that are members: the user, the place among the members, the tied position."""
    place = np.full(sequences.n_items, -1)
    place[members] = np.arange(len(members))
    users, places = sequences.users, place[sequences.items]
    kept = places >= 0
    if newest is not None:
        kept &= np.arange(len(users)) >= sequences.starts[users + 1] - newest
    return users[kept], places[kept], tied_positions(sequences.times_s, users)[kept]


def _steps(counts: Keys) -> Iterator[tuple[int, int]]:
    """Cut the users so that the pairs within each step stay below a bound."""
    pairs = (counts.astype(np.int64) ** 2).cumsum()
    first = 0
    while first < len(counts):
        done = pairs[first - 1] if first else 0
        last = max(int(np.searchsorted(pairs, done + _PAIRS, side="right")), first + 1)
        yield first, last
        first = last
