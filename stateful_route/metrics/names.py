"""Which metrics there are, derived from the statistics, and their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import attrs

from stateful_route._validation import check_hook
from stateful_route.statistics import KINDS, metrics_of, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class HasStatistics(Protocol):
    """A driver, a middleware or a gateway."""

    def statistics(self) -> Any:
        """Return what it has done so far."""
        ...


@attrs.frozen
class Metric:
    """One metric.

    Attributes:
        name: as in OpenTelemetry: words with dots between them.
        unit: of UCUM: ``s``, or what is counted, in braces.
        rises: whether it is a count that only rises; else it is a value that goes up and down.
        meaning: in words.
        kind: the class of the statistics that has it.
        field: of that class.
        labels: what it tells in labels besides; then its value is 1, and what it tells are attributes of what is found
            in the field.

    """

    name: str
    unit: str
    rises: bool
    meaning: str
    kind: str
    field: str
    labels: tuple[str, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Its name in Prometheus: with its unit, and ``_total`` if it only rises."""
        name = self.name.replace(".", "_")
        if self.unit == "s":
            name += "_seconds"
        return f"{name}_total" if self.rises else name


Reading: TypeAlias = "tuple[Metric, float, dict[str, str]]"
"""A metric with its value, and what its labels say."""


def _metrics(kind: type) -> Iterator[Metric]:
    prefix = f"stateful_route.{kind.__name__.removesuffix('Statistics').lower()}"
    for field, said in metrics_of(kind).items():
        yield Metric(**said | {"name": f"{prefix}.{said['name'] or field}"}, kind=kind.__name__, field=field)


_BY_KIND: dict[type, list[Metric]] = {kind: list(_metrics(kind)) for kind in KINDS}

METRICS = tuple(metric for metrics in _BY_KIND.values() for metric in metrics)
"""All of them."""


def check_sources(sources: Mapping[str, object]) -> None:
    """Refuse what has no statistics.

    Raises:
        InvalidArgumentError: naming the source.

    """
    for name, source in sources.items():
        check_hook(f"sources[{name!r}]", source, ("statistics",))


def read(source: HasStatistics) -> Iterator[Reading]:
    """Yield each metric of a source, and of what its statistics contain, with its value and its labels.

    Those without a value are left out, and all of a source that does not run.
    """
    try:
        statistics = source.statistics()
    except Exception:  # noqa: BLE001 - it is not open, or wrong: it says so itself
        return
    yield from _of(statistics)


def _of(statistics: Any) -> Iterator[Reading]:
    kind = type(statistics)
    if kind not in _BY_KIND:
        return
    for metric in _BY_KIND[kind]:
        value = getattr(statistics, metric.field)
        if value is None:
            continue
        if metric.labels:
            said = {name: getattr(value, name) for name in metric.labels}
            yield metric, 1.0, {name: "" if text is None else str(text) for name, text in said.items()}
        else:
            yield metric, float(value), {}
    for part in parts_of(kind):
        yield from _of(getattr(statistics, part))
