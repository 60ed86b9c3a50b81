"""The recommendation pipeline: gate, profile, sources, filters, hydrators, scorer, selector, side effects."""

import time

import numpy as np
from prometheus_client import Counter

from hot_path_api.application.descriptions import Descriptions
from hot_path_api.application.models import ServingModels
from hot_path_api.application.retrieval import CANDIDATES_EACH, PROFILE, Found, Limits, Retrieval, Wish
from hot_path_api.application.selector import Chosen, Conditions, Selector
from hot_path_api.application.served import ServedLists
from hot_path_api.application.sources import TrendingSource, popular_candidates
from hot_path_api.domain.blend import Ranked, rank
from hot_path_api.domain.candidates import NO_CANDIDATES, TRENDING, Candidates, SourceQuery
from hot_path_api.domain.events import ListServed
from hot_path_api.domain.evidence import NO_EVIDENCE, Evidence, Shown, evidence_of
from hot_path_api.domain.fallback import fallback_items, fallback_popularity
from hot_path_api.domain.plan import Plan
from hot_path_api.domain.pools import pool_of
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
        strategy = await self._fill(plan, query, model, run, found, want)
        filled = time.perf_counter()
        chosen = await self._choose(query, model, run, found.ranked, want)
        page = slice(query.offset, query.offset + query.limit)
        items, errors = await self._descriptions.describe(
            chosen.items[page],
            _evidence_at(chosen.ranks[page], found),
            question=question,
            popular=ReasonCode.FALLBACK if strategy == FALLBACK else ReasonCode.TRENDING,
            explain=query.explain,
            timeout_s=run.for_rest_s(),
        )
        for error in errors:
            run.do_without("explanations", error)

        answer = RecommendationList(
            request_id=query.request_id,
            model_version=found.pool.model_version or model.version,
            items=items,
            cold_start=not len(question.history_keys) and PROFILE not in run.degraded,
            degraded=run.degraded,
            strategy=strategy,
            variant=VARIANT,
            has_more=len(chosen.ranks) == want and query.offset + query.limit < MAX_DEPTH,
        )
        done = time.perf_counter()
        self._selecting.observe(done - filled)
        self._latency.observe(done - run.started)
        self._side_effects(query, answer, found.pool)
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
    ) -> str:
        """Add popular items where the plan weighs them, and when the history retrieved too little; give the strategy.

        When even these lack, the model's static list.
        """
        question = found.question
        if plan.trending:
            popular = await self._ask_trending(question, query, model, run)
            found.pool = pool_of([found.pool, popular], enough=CANDIDATES_EACH * query.limit)
            found.ranked = rank(plan.blend, found.pool)
            found.evidence = NO_EVIDENCE
        likes = bool((question.history_weights > 0.0).any())
        if not plan.tops_up or (likes and found.ranked.speaking >= want):
            return plan.strategy
        is_personal = likes and len(found.pool.keys) > 0
        strategy = plan.strategy if is_personal else TRENDING
        popular = await self._ask_trending(question, query, model, run)
        if not len(popular.keys) and TRENDING in run.degraded:
            strategy = strategy if is_personal else FALLBACK
            popular = popular_candidates(fallback_popularity(query.tenant, model), question)
            if not len(popular.keys) and not len(found.pool.keys):
                raise UnavailableError("no part that recommends can be reached; try again in a moment")
        found.pool, found.ranked = top_up(found.pool, found.ranked, popular, likes=likes)
        found.evidence = NO_EVIDENCE
        return strategy

    async def _choose(
        self,
        query: RecommendationQuery,
        model: ServingModel,
        run: _Run,
        ranked: Ranked,
        want: int,
    ) -> Chosen:
        chosen = await self._selector.choose(
            ranked.keys,
            ranked.scores,
            want=want,
            conditions=Conditions(
                filter=query.filter,
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


def _evidence_at(ranks: list[int], found: Found) -> Evidence:
    """Give what is known of chosen candidates; nearly always it is laid out already."""
    evidence = found.evidence.at(ranks)
    if evidence is None:
        shown = Shown(found.pool, found.ranked, found.question, np.array(ranks, np.intp))
        (evidence,) = evidence_of([shown])
    return evidence
