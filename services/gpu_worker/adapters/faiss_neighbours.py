"""Exact nearest neighbours by faiss: on a GPU where faiss is built for it and finds one, else on the CPU."""

import faiss
import numpy as np

from gpu_worker.training.methods import Rows
from servicekit.arrays import Floats
from servicekit.errors import InternalError

_CHUNK = 8192
_MOST_ON_GPU = 2048
"""Faiss finds no more neighbours than that on a GPU."""


class FaissNeighbours:
    """See NeighbourSearch.

    Args:
        device: "cpu", "cuda", "cuda:1": on which GPU, if faiss can use one.
        threads: Of the search on the CPU.
    """

    def __init__(self, *, device: str, threads: int) -> None:
        faiss.omp_set_num_threads(threads)
        kind, _, number = device.partition(":")
        self._gpu = int(number or 0) if kind == "cuda" and faiss.get_num_gpus() > int(number or 0) else None
        self.name = f"faiss {faiss.__version__}, exact, on {'the CPU' if self._gpu is None else f'GPU {self._gpu}'}"

    def nearest(self, queries: Floats, vectors: Floats, count: int) -> Rows:
        """See NeighbourSearch."""
        columns = np.empty((len(queries), count), np.int64)
        values = np.empty((len(queries), count), np.float32)
        if not count:
            return Rows(columns, values)
        try:
            index = faiss.IndexFlatIP(vectors.shape[1])
            if self._gpu is not None and count <= _MOST_ON_GPU:
                index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), self._gpu, index)
            index.add(np.ascontiguousarray(vectors, np.float32))
            for begin in range(0, len(queries), _CHUNK):
                part = slice(begin, begin + _CHUNK)
                values[part], columns[part] = index.search(np.ascontiguousarray(queries[part], np.float32), count)
        except RuntimeError as exc:  # the only kind that faiss raises
            raise InternalError(f"faiss failed: {exc}") from exc
        return Rows(columns, values)
