"""Answers kept in Redis for a while, under keys that say what they were computed from."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from app.core.metrics import Metrics
from app.core.redis import RedisAid
from app.experiments.values import Experiment
from app.results.answer import Results
from app.results.chosen import Chosen
from app.results.reading import Reading
from app.results.values import LONGEST_KEPT, Freshness, Question

# The contract's lifetimes: a summary 60 s, an answer with its time series 5 min.
_SUMMARY_TTL_S = 60
_DETAILED_TTL_S = LONGEST_KEPT.total_seconds()
# Answers of one moment should not all be forgotten in one moment.
_JITTER = 0.1


class ResultsCache:
    """Finds and keeps answers; without Redis it finds nothing."""

    def __init__(self, redis: RedisAid, metrics: Metrics, namespace: str) -> None:
        self._redis = redis
        self._metrics = metrics
        self._namespace = namespace

    def key(
        self,
        experiment: Experiment,
        question: Question,
        reading: Reading,
        metrics: Sequence[Chosen],
        freshness: Freshness,
    ) -> str:
        asked = [_without_freshness(question), reading, meaning_of(experiment, metrics)]
        content = msgspec.json.encode([*asked, freshness.newest, freshness.override_epoch])
        digest = hashlib.sha256(content).hexdigest()
        return f"{self._namespace}:results:{experiment.id}:{experiment.version}:{digest}"

    async def find(self, key: str) -> Results | None:
        kept = await self._redis.attempt(lambda client: client.get(key), None)
        self._metrics.cache.labels("results", "miss" if kept is None else "hit").inc()
        try:
            return None if kept is None else msgspec.json.decode(kept, type=Results)
        except (msgspec.DecodeError, UnicodeDecodeError):  # Written by another release.
            return None

    async def put(self, key: str, results: Results, question: Question) -> None:
        lifetime_s = _DETAILED_TTL_S if question.with_series else _SUMMARY_TTL_S
        ttl_s = int(lifetime_s * (1 - _JITTER * random.random()))
        await self._redis.attempt(lambda client: client.set(key, msgspec.json.encode(results), ex=ttl_s), None)


def meaning_of(experiment: Experiment, metrics: Sequence[Chosen]) -> object:
    """Return what gives a question its meaning besides the experiment's version.

    What is measured, of whom, and what was promised may change without a new version of the experiment.
    """
    versions = [
        None if found is None else (found.metric.id, found.metric.version, found.role, found.margin, found.exploratory)
        for found in (metric.attached for metric in metrics)
    ]
    promised = [(item.metric.id, item.metric.key, item.metric.version, item.role) for item in experiment.metrics]
    return [experiment.population, experiment.plan, promised, versions]


def _without_freshness(question: Question) -> Question:
    return replace(question, fresh=False)
