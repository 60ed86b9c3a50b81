"""A small shop whose visitors each keep to one theme: what the journeys put into a stack."""

import time
from typing import Any

import numpy as np

from e2e.stack import Stack

THEMES = {
    "space": "astronauts fly a spaceship to a distant planet and meet aliens",
    "western": "a cowboy rides through the desert and duels with a bandit",
    "cooking": "a chef opens a restaurant and cooks pasta in the kitchen",
    "romance": "two lovers meet in Paris, kiss and marry at the wedding",
}
FILMS_A_THEME = 15
VISITORS = 80


def film(theme: str, number: int) -> dict[str, Any]:
    return {
        "item_id": f"{theme}-{number}",
        "item_type": "film",
        "title": f"{theme.title()} story {number}",
        "description": THEMES[theme],
        "attributes": {"genres": [theme], "year": 1950 + number, "directors": [f"Director of {theme} {number % 3}"]},
    }


def fill(stack: Stack) -> None:
    """Put the whole catalogue."""
    films = [film(theme, number) for theme in THEMES for number in range(FILMS_A_THEME)]
    written = stack.client.post("/api/v1/items/bulk", json={"items": films})
    assert written.status_code == 201, written.text
    assert written.json()["accepted"] == len(films)


def visit_and_train(stack: Stack) -> None:
    """Let eighty visitors like films, and train a model that learns from them."""
    generator = np.random.default_rng(3)
    themes = list(THEMES)
    now = time.time()
    interactions = [
        {
            "user_id": f"visitor-{visitor}",
            "item_id": f"{themes[visitor % 4]}-{number}",
            "item_type": "film",
            "interaction_type": "like",
            "occurred_at": now - 3600 + 60 * step,
        }
        for visitor in range(VISITORS)
        for step, number in enumerate(generator.choice(FILMS_A_THEME, 8, replace=False))
    ]
    written = stack.client.post("/api/v1/interactions/bulk", json={"interactions": interactions})
    assert written.status_code == 201, written.text
    assert written.json()["errors"] == []
    stack.recommend("train")
    assert stack.list_for("visitor-0")["model_version"]
