"""The trainer computes graph_service's related items itself; here one is held against the other."""

import numpy as np

from gpu_worker.domain.training import TrainingData, TrainingItem
from gpu_worker.training import meta_paths
from gpu_worker.training.sequences import sequences_of
from graph_service.adapters.memory import MemoryGraphStore
from graph_service.domain.graph import (
    NEVER_MS,
    FilterableItem,
    Interaction,
    ItemFacts,
    NodeKind,
    NodeRule,
    PutItem,
)
from graph_service.domain.ports import RelatednessRule
from graph_service.settings import GraphServiceSettings

PEOPLE = [("A", "B"), ("A",), ("C", "B"), (), ("D",), ("A", "D")]
GENRES = [("g",), ("g", "h"), ("h",), ("g",), ("i",), ("h", "i")]
NODES = NodeRule({NodeKind.PERSON: ("people",), NodeKind.GENRE: ("genres",), NodeKind.COUNTRY: ("countries",)})


async def test_the_trainer_relates_items_as_graph_service_does() -> None:
    generator = np.random.default_rng(4)
    count = len(PEOPLE)
    taken = [(user, int(item)) for user in range(12) for item in generator.choice(count, 3, replace=False)]
    items = [
        PutItem(
            key,
            ItemFacts("t", 0, NEVER_MS),
            FilterableItem("film", 5, {}),
            NODES.nodes_of("t", {"people": PEOPLE[key - 1], "genres": GENRES[key - 1]}),
            10,
        )
        for key in range(1, count + 1)
    ]
    store = MemoryGraphStore()
    await store.apply([*items, *(Interaction(user, item + 1, 1.0, 10) for user, item in taken)])
    served = await store.related(np.arange(1, count + 1, dtype=np.int64), RelatednessRule())
    await store.close()

    sequences = sequences_of(
        TrainingData(
            item_keys=np.arange(1, count + 1, dtype=np.int64),
            items=[TrainingItem("film", str(number)) for number in range(count)],
            user_keys=np.array([user for user, _ in taken], np.int64),
            interaction_keys=np.array([item + 1 for _, item in taken], np.int64),
            weights=np.ones(len(taken), np.float32),
            times_ms=np.full(len(taken), 10, np.int64),
            vector_keys=np.empty(0, np.int64),
            vectors=np.empty((0, 1), np.float32),
        )
    )
    trained = meta_paths.related_items(
        [TrainingItem("film", str(number), people=PEOPLE[number], genres=GENRES[number]) for number in range(count)],
        sequences,
    )
    for column, matrix in enumerate(trained.values()):
        expected = np.zeros((count, count))
        for number, related in enumerate(served):
            expected[number, related.keys - 1] = related.scores[:, column]
        np.testing.assert_allclose(matrix.toarray(), expected, rtol=2e-3, atol=1e-6)


def test_the_trainer_knows_the_defaults_of_graph_service() -> None:
    settings = GraphServiceSettings()
    assert settings.history_items == meta_paths.HISTORY_ITEMS
    assert settings.history_half_life_items == meta_paths.HALF_LIFE_ITEMS
    assert {
        "item_person_item": settings.person_weight,
        "item_genre_item": settings.genre_weight,
        "item_user_item": settings.user_weight,
    } == meta_paths.WEIGHTS
