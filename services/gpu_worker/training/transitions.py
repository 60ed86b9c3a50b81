"""What follows what: a table of next items, counted over pairs up to a few positions apart.

A pair k positions apart counts decay^(k-1). Counts are divided by powers of both items' popularity, since what
everybody does next says little; the powers are those that ranked best on hold-outs of ML-100K.
"""

import numpy as np
import scipy.sparse as sp

from gpu_worker.domain.training import ItemTable
from gpu_worker.training.sequences import Sequences
from gpu_worker.training.tables import table_of_sparse

_WINDOW = 20
_DECAY = 0.9
_POPULARITY_POWER = 0.4
_POPULARITY_OFFSET = 5.0  # keeps the rarest items from being lifted to the top


def transition_table(sequences: Sequences, neighbours: int) -> ItemTable:
    """Count the transitions of all users; the row of an item lists what comes after it."""
    users, items = sequences.users, sequences.items
    counts = sp.csr_array((sequences.n_items, sequences.n_items), dtype=np.float64)
    for apart in range(1, _WINDOW + 1):
        same_user = users[apart:] == users[:-apart]
        before, after = items[:-apart][same_user], items[apart:][same_user]
        counts = counts + sp.csr_array(
            (np.full(len(before), _DECAY ** (apart - 1)), (before, after)), shape=counts.shape
        )
    damping = sp.diags_array((sequences.popularity() + _POPULARITY_OFFSET) ** -_POPULARITY_POWER)
    return table_of_sparse(sp.csr_array(damping @ counts @ damping), neighbours)
