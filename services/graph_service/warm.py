"""Compiles the kernel ahead: `python -m graph_service.warm`.

What it compiles goes to numba's cache, beside the modules or in NUMBA_CACHE_DIR, from where every later start loads it.
"""

import numpy as np

from graph_service.domain.composition import Composer, Wish, pack
from graph_service.domain.graph import NEVER_MS, ItemFacts
from graph_service.domain.item_table import ItemTable
from servicekit.compiled import quickly_loaded, run_warming


def warm() -> None:
    """Call the kernel once, with arrays of the types that serving uses."""
    table = ItemTable()
    table.place([1], {1: ItemFacts("", 0, NEVER_MS)})
    entries = pack(np.zeros(1, np.int32), np.ones(1, np.float32))
    wish = Wish([entries], np.ones(1), np.zeros(1, np.int32), np.zeros(0, np.int64), 1)
    with quickly_loaded():
        Composer(table).compose([wish], shown=table.shown("", 0))


if __name__ == "__main__":
    run_warming(warm)
