"""Figures of one server, in Prometheus' format. No words of anybody's are among them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vistune.serve.engine.engine import BadRequestError, BusyError, Engine, Piece

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_COUNTED = re.compile(r"tokens_(\w+)|cancelled")


class Metrics:
    """Attributes:
    requests: by path and status; 499 where the client hung up before it was answered.
    seconds: until a response was complete, by path.
    answers: by model and how they ended: stop, length, cancelled, refused, busy, failed.
    first_token: seconds until an answer's first words, by model.
    pictures_refused: requests refused for their pictures, by reason.
    """

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter("vistune_requests", "Requests.", ("path", "status"), registry=registry)
        self.seconds = Histogram(
            "vistune_request_seconds", "Until complete.", ("path",), registry=registry, buckets=_SECONDS
        )
        self.answers = Counter("vistune_answers", "Answers.", ("model", "end"), registry=registry)
        self.first_token = Histogram(
            "vistune_first_token_seconds",
            "Until an answer's first words.",
            ("model",),
            registry=registry,
            buckets=_SECONDS,
        )
        self.pictures_refused = Counter(
            "vistune_pictures_refused", "Refused for their pictures.", ("reason",), registry=registry
        )
        registry.register(_Engines(engines))

    def page(self) -> bytes:
        return generate_latest(self._registry)

    @contextmanager
    def answering(self, model: str) -> Iterator[Watch]:
        """Times one answer, and counts how it ends."""
        watch = Watch(self, model)
        try:
            yield watch
        except BadRequestError:
            watch.end = "refused"
            raise
        except BusyError:
            watch.end = "busy"
            raise
        except Exception:
            watch.end = "failed"
            raise
        finally:
            self.answers.labels(model, watch.end).inc()


class Watch:
    """Looks at one answer's pieces."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics, self._model, self._start = metrics, model, time.perf_counter()
        self._begun = False
        self.end: str = "cancelled"

    def see(self, piece: Piece) -> None:
        if not self._begun and (piece.text or piece.finish):
            self._begun = True
            self._metrics.first_token.labels(self._model).observe(time.perf_counter() - self._start)
        if piece.finish:
            self.end = piece.finish


class _Engines(Collector):
    """What the engines say of themselves, when asked: ``tokens_*`` are counted, the rest is as it stands."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterable[Metric]:
        states = {name: engine.state() for name, engine in list(self._engines.items())}
        for figure in sorted({figure for state in states.values() for figure in state}):
            name = "vistune_engine_" + re.sub(r"\W", "_", figure)
            family = CounterMetricFamily if _COUNTED.fullmatch(figure) else GaugeMetricFamily
            metric = family(name, f"{figure.replace('_', ' ')}, by model.", labels=("model",))
            for model, state in states.items():
                if figure in state:
                    metric.add_metric((model,), float(state[figure]))
            yield metric
