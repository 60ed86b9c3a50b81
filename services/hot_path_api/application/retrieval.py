"""What is known of users and what the sources find for them: many users in one batch, one call to each service.

Requests that come while a batch is under way wait for the next one, so that the cost of a call is shared by all of a
batch, and what numpy does to one user's arrays it does to all of them at once.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from hot_path_api.application.sources import CandidateSource
from hot_path_api.domain.blend import NOTHING_RANKED, Ranked, rank_all
from hot_path_api.domain.candidates import NO_CANDIDATES, Candidates, SourceQuery
from hot_path_api.domain.evidence import NO_EVIDENCE, Evidence, Shown, evidence_of
from hot_path_api.domain.plan import Plan
from hot_path_api.domain.pools import pools_of
from hot_path_api.domain.ports import Profiles
from hot_path_api.domain.recommendations import MAX_DEPTH, RecommendationQuery
from hot_path_api.domain.users import NOBODY, UserContext, with_session
from servicekit import metrics
from servicekit.arrays import Floats
from servicekit.batching import MicroBatcher
from servicekit.clock import Clock
from servicekit.errors import ServiceError

PROFILE = "profile"

# Each step is given at least this long, even when the steps before it have used the budget up: a stall of the machine
# that hits the profile must not cost the sources too, and a personal list a moment late is better than a popular one.
_LEAST_S = 0.04
CANDIDATES_EACH = 3  # for each item of a page, at least
_SPARE = 2  # so many of a page's items may be gone or hidden before what is told of it is laid out once more
_MAX_BATCH = 128  # about 4 ms of work for vector_search


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


@dataclass(slots=True)
class Wish:
    """One request in a batch: what is asked, of whom, and until when (on the clock of time.perf_counter)."""

    query: RecommendationQuery
    plan: Plan
    deadline: float


@dataclass(slots=True)
class Found:
    """What came of it.

    Args:
        question: What the sources were asked.
        pool: What they answered, as one.
        ranked: The pool in order.
        evidence: What is known of its first candidates.
        missing: Who could not be asked, and why.
    """

    question: SourceQuery
    pool: Candidates = field(default_factory=lambda: NO_CANDIDATES)
    ranked: Ranked = field(default_factory=lambda: NOTHING_RANKED)
    evidence: Evidence = NO_EVIDENCE
    missing: dict[str, ServiceError] = field(default_factory=dict)


class Retrieval:
    """Reads profiles and asks sources, in batches. A part that fails is left out and named, never raised.

    Args:
        in_flight: How many batches may be under way at a time.
    """

    def __init__(
        self,
        profiles: Profiles,
        sources: Sequence[CandidateSource],
        *,
        clock: Clock,
        limits: Limits,
        in_flight: int,
    ) -> None:
        self._profiles = profiles
        self._sources = tuple(sources)
        self._clock = clock
        self._limits = limits
        self._counts = {each.name: metrics.CANDIDATES.labels(each.name) for each in sources}
        self._stages = {stage: metrics.STAGE_LATENCY.labels(stage) for stage in (PROFILE, "sources", "score")}
        self._batcher: MicroBatcher[Wish, Found] = MicroBatcher(
            self._retrieve, name="recommendations", max_batch=_MAX_BATCH, max_in_flight=in_flight, max_queue=4096
        )

    async def close(self) -> None:
        """Finish what was taken."""
        await self._batcher.close()

    async def retrieve(self, wish: Wish) -> Found:
        """Give what is known of a user, and the candidates with their scores."""
        query = wish.query
        if not query.is_personal:
            return Found(self._question_of(query, NOBODY))
        try:
            # The parts have deadlines of their own; this one is for the queue, and lets them be missed first.
            return await self._batcher.submit(wish, timeout_s=self._limits.budget_s + 2 * _LEAST_S)
        except ServiceError as error:
            missing = {PROFILE: error} | {each.name: error for each in self._sources}
            return Found(self._question_of(query, with_session(NOBODY, query.session)), missing=missing)

    async def _retrieve(self, wishes: list[Wish]) -> list[Found]:
        started = time.perf_counter()
        until = min(wish.deadline for wish in wishes) - self._limits.reserve_s
        found = await self._read_profiles(wishes, until)
        known = time.perf_counter()
        parts = await self._ask_sources(wishes, found, until)
        asked = time.perf_counter()
        pools = pools_of(parts, enough=[CANDIDATES_EACH * wish.query.limit for wish in wishes])
        ranked = rank_all([(wish.plan.blend, pool) for wish, pool in zip(wishes, pools, strict=True)])
        for wish, each, pool, own in zip(wishes, found, pools, ranked, strict=True):
            each.pool = pool
            each.ranked = own.with_first(self._first_candidates(wish.query))
        shown = [
            Shown(each.pool, each.ranked, each.question, slice(wish.query.offset + wish.query.limit + _SPARE))
            for wish, each in zip(wishes, found, strict=True)
        ]
        for each, evidence in zip(found, evidence_of(shown), strict=True):
            each.evidence = evidence
        self._stages[PROFILE].observe(known - started)
        self._stages["sources"].observe(asked - known)
        self._stages["score"].observe(time.perf_counter() - asked)
        return found

    async def _read_profiles(self, wishes: Sequence[Wish], until: float) -> list[Found]:
        users = [(wish.query.tenant, wish.query.user_id) for wish in wishes if wish.query.user_id]
        contexts: Sequence[UserContext | ServiceError] = ()
        if users:
            try:
                contexts = await self._profiles.user_contexts(users, timeout_s=_left_s(until))
            except ServiceError as error:
                contexts = [error] * len(users)
        answers = iter(contexts)
        known: list[UserContext] = []
        missing_of: list[dict[str, ServiceError]] = []
        for wish in wishes:
            query = wish.query
            context: UserContext | ServiceError = next(answers) if query.user_id else NOBODY
            missing: dict[str, ServiceError] = {}
            if isinstance(context, ServiceError):
                missing[PROFILE] = context
                context = NOBODY
            if query.session:
                context = with_session(context, query.session)
            known.append(context)
            missing_of.append(missing)
        questions = self._questions([wish.query for wish in wishes], known)
        return [Found(question, missing=missing) for question, missing in zip(questions, missing_of, strict=True)]

    def _question_of(self, query: RecommendationQuery, context: UserContext) -> SourceQuery:
        (question,) = self._questions([query], [context])
        return question

    def _questions(
        self, queries: Sequence[RecommendationQuery], contexts: Sequence[UserContext]
    ) -> Iterator[SourceQuery]:
        times_ms = np.concatenate([context.history_times_ms for context in contexts])
        ages_s = np.maximum((self._clock.now_ms() - times_ms) * np.float32(0.001), 0.0, dtype=np.float32)
        end = 0
        for query, context in zip(queries, contexts, strict=True):
            begin, end = end, end + len(context.history_times_ms)
            yield self._question(query, context, ages_s[begin:end])

    def _question(self, query: RecommendationQuery, context: UserContext, ages_s: Floats) -> SourceQuery:
        exclude = context.seen_keys
        if query.exclude:
            exclude = np.concatenate([exclude, np.array(query.exclude, np.int64)])
        first = self._first_candidates(query)
        return SourceQuery(
            tenant=query.tenant,
            history_keys=context.history_keys,
            history_weights=context.history_weights,
            history_ages_s=ages_s,
            exclude_keys=exclude,
            filter=query.filter,
            # The same for most pages of a list, so that these are parts of one order.
            limit=first if query.offset + query.limit < first else MAX_DEPTH,
        )

    def _first_candidates(self, query: RecommendationQuery) -> int:
        """Give how many candidates the first pages are made of; those that deeper pages add stand behind them."""
        return max(self._limits.candidates, CANDIDATES_EACH * query.limit)

    async def _ask_sources(
        self, wishes: Sequence[Wish], found: Sequence[Found], until: float
    ) -> list[list[Candidates]]:
        plans = [wish.plan for wish in wishes]
        asked = [self._ask(source, plans, found, until) for source in self._sources]
        parts: list[list[Candidates]] = [[] for _ in wishes]
        for answers in await asyncio.gather(*asked):
            for at, part in answers.items():
                parts[at].append(part)
        return parts

    async def _ask(
        self, source: CandidateSource, plans: Sequence[Plan], found: Sequence[Found], until: float
    ) -> dict[int, Candidates]:
        """Ask a source for those whose plan and history want it."""
        places = [at for at, plan in enumerate(plans) if source.is_asked(plan, found[at].question)]
        if not places:
            return {}
        answers: Sequence[Candidates | ServiceError]
        try:
            answers = await source.retrieve(
                [(plans[at], found[at].question) for at in places], timeout_s=_left_s(until)
            )
        except ServiceError as error:
            answers = [error] * len(places)
        good: dict[int, Candidates] = {}
        count = 0
        for at, answer in zip(places, answers, strict=True):
            if isinstance(answer, ServiceError):
                found[at].missing[source.name] = answer
            else:
                good[at] = answer
                count += len(answer.keys)
        self._counts[source.name].inc(count)
        return good


def _left_s(until: float) -> float:
    return max(until - time.perf_counter(), _LEAST_S)
