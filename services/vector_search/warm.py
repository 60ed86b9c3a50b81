"""Compiles the kernels ahead: `python -m vector_search.warm`.

What it compiles goes to numba's cache, beside the modules or in NUMBA_CACHE_DIR, from where every later start loads it.
"""

import numpy as np

from servicekit.clock import SystemClock
from servicekit.compiled import quickly_loaded, run_warming
from vector_search.domain.catalogue import Catalogue
from vector_search.domain.items import ItemState
from vector_search.domain.model import UNTRAINED_MODEL
from vector_search.domain.overlay import Overlay
from vector_search.domain.retrieval import Retriever, UserQuery


def warm() -> None:
    """Call every kernel once, with arrays of the types that serving uses."""
    with quickly_loaded():
        _call_all()


def _call_all() -> None:
    catalogue = Catalogue(UNTRAINED_MODEL.items, clock=SystemClock())
    overlay = Overlay(catalogue.numbering.capacity)
    for key in (1, 2):
        catalogue.put(ItemState(key, {}, 0))
    overlay.link(0, np.array([1], np.int32), np.ones(1, np.float32))
    overlay.regroup()
    one = np.ones(1, np.float32)
    query = UserQuery(np.array([1]), one, one, 1)
    retriever = Retriever(UNTRAINED_MODEL, catalogue, overlay)
    retriever.retrieve([query])
    list(retriever.rows(query))


if __name__ == "__main__":
    run_warming(warm)
