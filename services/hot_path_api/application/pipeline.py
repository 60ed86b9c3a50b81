"""The recommendation pipeline: gate, profile, sources, filters, hydrators, scorer, selector, side effects."""

import time

import numpy as np
from prometheus_client import Counter

from hot_path_api.application.descriptions import Descriptions
from hot_path_api.application.models import ServingModels
from hot_path_api.application.retrieval import PROFILE, Found, Limits, Retrieval, Wish
from hot_path_api.application.selector import Chosen, Conditions, Selector
from hot_path_api.application.served import ServedLists
from hot_path_api.application.sources import TrendingSource
from hot_path_api.domain.blend import Ranked, best_first, rank
from hot_path_api.domain.candidates import NO_CANDIDATES, TRENDING, Candidates, SourceQuery, pool_of
from hot_path_api.domain.events import ListServed
from hot_path_api.domain.fallback import fallback_candidates, fallback_items
from hot_path_api.domain.plan import Plan
from hot_path_api.domain.ranking import top_up
from hot_path_api.domain.recommendations import (
    MAX_DEPTH,
    ReasonCode,
    RecommendationList,
    RecommendationQuery,
)
from hot_path_api.domain.serving import ServingModel
from servicekit import metrics
from servicekit.clock import Clock
from servicekit.errors import ServiceError, UnavailableError

FALLBACK = "fallback"
VARIANT = "default"
_LEAST_FOR_ITEMS_S = 0.005


class _Run:
    """One list in the making: its deadline, and what it has to do without."""

    __slots__ = ("deadline", "degraded", "started")

    def __init__(self, limits: Limits) -> None:
        self.started = time.perf_counter()
        self.deadline = self.started + limits.budget_s
        self.degraded: list[str] = []

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
        retrieval: Retrieval,
        trending: TrendingSource,
        models: ServingModels,
        selector: Selector,
        descriptions: Descriptions,
        served: ServedLists,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._retrieval = retrieval
        self._trending = trending
        self._models = models
        self._selector = selector
        self._descriptions = descriptions
        self._served = served
        self._clock = clock
        self._limits = limits
        self._popular = metrics.CANDIDATES.labels(TRENDING)
        self._lists: dict[str, Counter] = {}
        self._latency = metrics.RECOMMENDATION_LATENCY.labels(VARIANT)
        self._selecting = metrics.STAGE_LATENCY.labels("select")

    async def recommend(self, query: RecommendationQuery) -> RecommendationList:
        """Make a list.

        Raises:
            InvalidArgumentError: The weights name a source that does not exist.
            UnavailableError: Nothing can be said: no source answers, and no model ever left a list to fall back to.
        """
        run = _Run(self._limits)
        model = self._models.current(query.tenant)
        plan = self._models.plan(query.tenant, query.algorithm, query.weights)

        found = await self._retrieval.retrieve(Wish(query, plan, run.deadline))
        question = found.question
        for name, error in found.missing.items():
            run.do_without(name, error)
        want = query.offset + query.limit + 1
        pool, ranked, strategy = await self._fill(plan, query, model, run, found, want)
        filled = time.perf_counter()
        chosen = await self._choose(query, question, model, run, pool, ranked, want)
        page = slice(query.offset, query.offset + query.limit)
        items, errors = await self._descriptions.describe(
            chosen.places[page],
            chosen.items[page],
            pool=pool,
            scores=ranked.scores,
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
            cold_start=not len(question.history_keys) and PROFILE not in run.degraded,
            degraded=run.degraded,
            strategy=strategy,
            variant=VARIANT,
            has_more=len(chosen.places) == want and query.offset + query.limit < MAX_DEPTH,
        )
        done = time.perf_counter()
        self._selecting.observe(done - filled)
        self._latency.observe(done - run.started)
        self._side_effects(query, answer, pool)
        return answer

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
        self._popular.inc(len(found.keys))
        return found

    async def _fill(
        self, plan: Plan, query: RecommendationQuery, model: ServingModel, run: _Run, found: Found, want: int
    ) -> tuple[Candidates, Ranked, str]:
        """Add popular items where the plan weighs them, and when the history retrieved too little.

        When even these lack, the model's static list.
        """
        pool, ranked = found.pool, found.ranked
        if plan.trending:
            popular = await self._ask_trending(found.question, query, model, run)
            pool = pool_of([pool, popular], enough=3 * want)
            ranked = rank(plan.blend, pool)
        likes = bool((found.question.history_weights > 0.0).any())
        if not plan.tops_up or (likes and ranked.speaking >= want):
            return pool, ranked, plan.strategy
        strategy = plan.strategy if likes and len(pool.keys) else TRENDING
        popular = await self._ask_trending(found.question, query, model, run)
        if not len(popular.keys) and TRENDING in run.degraded:
            strategy = strategy if likes and len(pool.keys) else FALLBACK
            popular = fallback_candidates(query.tenant, model)
            if not len(popular.keys) and not len(pool.keys):
                raise UnavailableError("no part that recommends can be reached; try again in a moment")
        pool, scores = top_up(pool, ranked.scores, popular, likes=likes)
        return pool, Ranked(scores, best_first(scores[np.newaxis])[0], ranked.speaking), strategy

    async def _choose(
        self,
        query: RecommendationQuery,
        question: SourceQuery,
        model: ServingModel,
        run: _Run,
        pool: Candidates,
        ranked: Ranked,
        want: int,
    ) -> Chosen:
        excluded = question.history_keys
        if len(question.exclude_keys):
            excluded = np.concatenate([excluded, question.exclude_keys])
        chosen = await self._selector.choose(
            pool.keys,
            ranked.scores,
            order=ranked.order,
            want=want,
            conditions=Conditions(
                filter=query.filter,
                excluded=excluded,
                known=fallback_items(query.tenant, model.fallback) if TRENDING in run.degraded else None,
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
