"""The recommendation pipeline: gate, profile, sources, filters, hydrators, scorer, selector, side effects."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client import Counter

from hot_path_api.application.descriptions import Descriptions
from hot_path_api.application.models import ServingModels
from hot_path_api.application.selector import Chosen, Conditions, Selector
from hot_path_api.application.served import ServedLists
from hot_path_api.application.sources import CandidateSource, TrendingSource
from hot_path_api.domain.candidates import NO_CANDIDATES, TRENDING, Candidates, SourceQuery, join, merge
from hot_path_api.domain.events import ListServed
from hot_path_api.domain.fallback import fallback_candidates, fallback_items
from hot_path_api.domain.plan import Plan
from hot_path_api.domain.ports import Profiles
from hot_path_api.domain.ranking import top_up
from hot_path_api.domain.recommendations import (
    MAX_DEPTH,
    ReasonCode,
    RecommendationList,
    RecommendationQuery,
)
from hot_path_api.domain.serving import ServingModel
from hot_path_api.domain.users import NOBODY, UserContext, with_session
from servicekit import metrics
from servicekit.arrays import Floats
from servicekit.clock import Clock
from servicekit.errors import ServiceError, UnavailableError

FALLBACK = "fallback"
VARIANT = "default"
# Each step is given at least this long, even when the steps before it have used the budget up: a stall of the machine
# that hits the profile must not cost the sources too, and a personal list a moment late is better than a popular one.
_LEAST_FOR_SOURCES_S = 0.04
_LEAST_FOR_ITEMS_S = 0.005


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a list may take, and how much is asked for.

    Args:
        budget_s: Seconds for the whole list.
        reserve_s: Seconds of them that the profile and the sources leave to the rest.
        candidates: How many candidates a source is asked for when the list is short.
    """

    budget_s: float = 0.08
    reserve_s: float = 0.01
    candidates: int = 300


class _Run:
    """One list in the making: its deadline, and what it has to do without."""

    __slots__ = ("_reserve_s", "deadline", "degraded", "started")

    def __init__(self, limits: Limits) -> None:
        self.started = time.perf_counter()
        self.deadline = self.started + limits.budget_s
        self._reserve_s = limits.reserve_s
        self.degraded: list[str] = []

    def for_sources_s(self) -> float:
        return max(self.deadline - self._reserve_s - time.perf_counter(), _LEAST_FOR_SOURCES_S)

    def for_rest_s(self) -> float:
        return max(self.deadline - time.perf_counter(), _LEAST_FOR_ITEMS_S)

    def do_without(self, name: str, error: ServiceError | None) -> None:
        if name not in self.degraded:
            self.degraded.append(name)
        metrics.DEGRADED.labels(name, error.code if error else "stale").inc()


class Pipeline:
    """Makes lists. Fails only when nothing can be said at all."""

    def __init__(
        self,
        *,
        profiles: Profiles,
        sources: Sequence[CandidateSource],
        trending: TrendingSource,
        models: ServingModels,
        selector: Selector,
        descriptions: Descriptions,
        served: ServedLists,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._profiles = profiles
        self._sources = tuple(sources)
        self._trending = trending
        self._models = models
        self._selector = selector
        self._descriptions = descriptions
        self._served = served
        self._clock = clock
        self._limits = limits
        self._found = {name: metrics.CANDIDATES.labels(name) for name in (TRENDING, *(each.name for each in sources))}
        self._lists: dict[str, Counter] = {}
        self._latency = metrics.RECOMMENDATION_LATENCY.labels(VARIANT)
        self._stages = {
            stage: metrics.STAGE_LATENCY.labels(stage) for stage in ("profile", "sources", "score", "select")
        }

    async def recommend(self, query: RecommendationQuery) -> RecommendationList:
        """Make a list.

        Raises:
            InvalidArgumentError: The weights name a source that does not exist.
            UnavailableError: Nothing can be said: no source answers, and no model ever left a list to fall back to.
        """
        run = _Run(self._limits)
        model = self._models.current(query.tenant)
        plan = self._models.plan(query.tenant, query.algorithm, query.weights)

        context = await self._read_profile(query, run)
        known = time.perf_counter()
        question = self._question(query, context)
        parts = await self._ask_sources(plan, question, query, model, run)
        asked = time.perf_counter()
        want = query.offset + query.limit + 1
        pool = _pool(parts, enough=3 * want)
        scores = plan.blend.score(pool)
        pool, scores, strategy = await self._fill(plan, question, query, model, run, pool, scores, want)
        scored = time.perf_counter()
        chosen = await self._choose(query, question, model, run, pool, scores, want)
        page = slice(query.offset, query.offset + query.limit)
        items, errors = await self._descriptions.describe(
            chosen.places[page],
            chosen.items[page],
            pool=pool,
            scores=scores,
            question=question,
            popular=ReasonCode.FALLBACK if strategy == FALLBACK else ReasonCode.TRENDING,
            explain=query.explain,
            timeout_s=run.for_rest_s(),
        )
        for error in errors:
            run.do_without("explanations", error)

        answer = RecommendationList(
            request_id=query.request_id,
            model_version=pool.model_version or model.version,
            items=items,
            cold_start=not len(context.history_keys) and "profile" not in run.degraded,
            degraded=run.degraded,
            strategy=strategy,
            variant=VARIANT,
            has_more=len(chosen.places) == want and query.offset + query.limit < MAX_DEPTH,
        )
        done = time.perf_counter()
        for stage, seconds in (
            ("profile", known - run.started),
            ("sources", asked - known),
            ("score", scored - asked),
            ("select", done - scored),
        ):
            self._stages[stage].observe(seconds)
        self._latency.observe(done - run.started)
        self._side_effects(query, answer, pool)
        return answer

    async def _read_profile(self, query: RecommendationQuery, run: _Run) -> UserContext:
        context = NOBODY
        if query.user_id:
            try:
                context = await self._profiles.user_context(query.tenant, query.user_id, timeout_s=run.for_sources_s())
            except ServiceError as error:
                run.do_without("profile", error)
        return with_session(context, query.session) if query.session else context

    def _question(self, query: RecommendationQuery, context: UserContext) -> SourceQuery:
        ages_s = (self._clock.now_ms() - context.history_times_ms) * np.float32(0.001)
        exclude = context.seen_keys
        if query.exclude:
            exclude = np.concatenate([exclude, np.array(query.exclude, np.int64)])
        return SourceQuery(
            tenant=query.tenant,
            history_keys=context.history_keys,
            history_weights=context.history_weights,
            history_ages_s=np.maximum(ages_s, 0.0, dtype=np.float32),
            exclude_keys=exclude,
            filter=query.filter,
            limit=min(max(self._limits.candidates, 3 * (query.offset + query.limit)), MAX_DEPTH),
        )

    async def _ask_sources(
        self, plan: Plan, question: SourceQuery, query: RecommendationQuery, model: ServingModel, run: _Run
    ) -> list[Candidates]:
        asked = [self._ask(source, plan, question, run) for source in self._sources if source.is_asked(plan, question)]
        if plan.trending:
            asked.append(self._ask_trending(question, query, model, run))
        return await _together(asked)

    async def _ask(self, source: CandidateSource, plan: Plan, question: SourceQuery, run: _Run) -> Candidates:
        try:
            found = await source.retrieve(plan, question, timeout_s=run.for_sources_s())
        except ServiceError as error:
            run.do_without(source.name, error)
            return NO_CANDIDATES
        self._found[source.name].inc(len(found.keys))
        return found

    async def _ask_trending(
        self, question: SourceQuery, query: RecommendationQuery, model: ServingModel, run: _Run
    ) -> Candidates:
        try:
            found, fresh = await self._trending.retrieve(
                question, query.window or model.trending_window, timeout_s=run.for_rest_s()
            )
        except ServiceError as error:
            run.do_without(TRENDING, error)
            return NO_CANDIDATES
        if not fresh:
            run.do_without(TRENDING, None)
        self._found[TRENDING].inc(len(found.keys))
        return found

    async def _fill(
        self,
        plan: Plan,
        question: SourceQuery,
        query: RecommendationQuery,
        model: ServingModel,
        run: _Run,
        pool: Candidates,
        scores: Floats,
        want: int,
    ) -> tuple[Candidates, Floats, str]:
        """Add popular items when the history retrieved too little, the model's static list when even these lack."""
        if not plan.tops_up or np.count_nonzero(pool.evidence() > 0.0) >= want:
            return pool, scores, plan.strategy
        strategy = plan.strategy if len(pool.keys) else TRENDING
        popular = await self._ask_trending(question, query, model, run)
        if not len(popular.keys) and TRENDING in run.degraded:
            strategy = plan.strategy if len(pool.keys) else FALLBACK
            popular = fallback_candidates(query.tenant, model)
            if not len(popular.keys) and not len(pool.keys):
                raise UnavailableError("no part that recommends can be reached; try again in a moment")
        pool, scores = top_up(pool, scores, popular)
        return pool, scores, strategy

    async def _choose(
        self,
        query: RecommendationQuery,
        question: SourceQuery,
        model: ServingModel,
        run: _Run,
        pool: Candidates,
        scores: Floats,
        want: int,
    ) -> Chosen:
        excluded = question.history_keys
        if len(question.exclude_keys):
            excluded = np.concatenate([excluded, question.exclude_keys])
        chosen = await self._selector.choose(
            pool.keys,
            scores,
            want=want,
            conditions=Conditions(
                filter=query.filter,
                excluded=excluded,
                known=fallback_items(query.tenant, model) if TRENDING in run.degraded else None,
            ),
            timeout_s=run.for_rest_s(),
            diversity=query.diversity,
            caps=query.caps,
        )
        if chosen.items_missing is not None:
            run.do_without("items", chosen.items_missing)
        return chosen

    def _count(self, strategy: str) -> None:
        counter = self._lists.get(strategy)
        if counter is None:
            counter = self._lists[strategy] = metrics.RECOMMENDATIONS.labels(VARIANT, strategy)
        counter.inc()

    def _side_effects(self, query: RecommendationQuery, answer: RecommendationList, pool: Candidates) -> None:
        self._count(answer.strategy)
        self._models.heard_of(query.tenant, pool.model_version)
        if query.is_personal and answer.items:
            self._served.record(
                ListServed(
                    event_id=query.request_id,
                    tenant=query.tenant,
                    user_id=query.user_id,
                    item_keys=[each.item.key for each in answer.items],
                    scores=[each.score for each in answer.items],
                    propensities=[each.propensity for each in answer.items],
                    variant=answer.variant,
                    model_version=answer.model_version,
                    surface=query.surface,
                    occurred_at_ms=self._clock.now_ms(),
                )
            )


def _pool(parts: Sequence[Candidates], *, enough: int) -> Candidates:
    """Make one pool of the sources' answers: all of them, unless the first source found enough by itself."""
    if not parts or len(parts[0].keys) < enough:
        return merge(parts)
    pool = parts[0]
    for part in parts[1:]:
        pool = join(pool, part)
    return pool


async def _together(asked: Sequence[Coroutine[Any, Any, Candidates]]) -> list[Candidates]:
    """Await all at the same time; one of them in this task, because a task costs more than what most of them do."""
    if not asked:
        return []
    others = [asyncio.create_task(each) for each in asked[1:]]
    try:
        return [await asked[0], *[await each for each in others]]
    finally:
        for each in others:
            each.cancel()
