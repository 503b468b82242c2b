"""Which of an event's features the features that a model sees were made of, step by step through its pipeline.

It runs each step as answering does, and teaches none.  What a step makes is known by its name, by the kind of the step,
or by there being nothing else that it could be of; where none of these tells, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, product
from typing import Any, NamedTuple, TypeAlias

from river import base, compose

Sources: TypeAlias = Mapping[Any, tuple[str, ...]]
"""Name of a feature to the event's features that it was made of; empty where that is not known."""
NOT_KNOWN: tuple[str, ...] = ()
Step: TypeAlias = Any
"""A River transformer: it has ``transform_one``."""


class Derived(NamedTuple):
    """Features as a step has made them."""

    x: Mapping[Any, Any]
    sources: Sources

    def source(self, name: Any) -> str | None:
        """The one feature of the event that a feature was made of; None if they are several, or not known."""
        found = self.sources.get(name, NOT_KNOWN)
        return found[0] if len(found) == 1 else None


def given(features: Mapping[str, Any]) -> Derived:
    """An event's features: each was made of itself.  A copy, since some steps take names out of what they are given."""
    return Derived(dict(features), {name: (name,) for name in features})


def through(steps: Iterable[Step], before: Derived) -> Derived:
    """What the steps make of features, one after the other."""
    for step in steps:
        if not isinstance(
            step, base.AnomalyFilter
        ):  # it keeps lessons from the next steps, and answers from none
            before = _after(step, before)
    return before


def kind(step: Step) -> str:
    """What River calls a step or model of its own; nothing for one of somebody else's, also if it inherits from River's.

    A name and not the class: to import all that River has takes a second.

    >>> from river import preprocessing
    >>> kind(preprocessing.StandardScaler())
    'preprocessing.StandardScaler'
    """
    package, _, module = type(step).__module__.partition(".")
    return f"{module.partition('.')[0]}.{type(step).__name__}" if package == "river" else ""


def _after(step: Step, before: Derived) -> Derived:
    match step:
        case compose.TransformerProduct():
            return _product(step, before)
        case compose.TransformerUnion():
            return _union(step, before)
        case compose.Pipeline():
            return through(step.steps.values(), before)
        case compose.FuncTransformer():
            return _function(step, before)
    was = dict(before.x)  # a Renamer changes what it is given
    x = step.transform_one(before.x)
    rule = _RULES.get(kind(step))
    return Derived(x, _named(x, {} if rule is None else dict(rule(step, was, x)), was, before))


def _named(
    x: Mapping[Any, Any],
    new: Mapping[Any, Iterable[Any]],
    was: Iterable[Any],
    before: Derived,
) -> Sources:
    """The sources of what a step made, by what it is known to make a name of; a name that it kept is of that name."""
    known = before.sources
    if not new and known.keys() >= x.keys():  # scaled, selected, filled in
        return known
    names = tuple(was)
    alone = names if len(names) == 1 else ()
    return {name: _of(new.get(name, (name,) if name in known else alone), known) for name in x}


def _of(names: Iterable[Any], known: Sources) -> tuple[str, ...]:
    """The sources of all of these; nothing is known of the whole if nothing is known of one."""
    return _all([known.get(name, NOT_KNOWN) for name in names])


def _all(each: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(each))) if all(each) else NOT_KNOWN


def _union(step: Step, before: Derived) -> Derived:
    x, sources = dict[Any, Any](), dict[Any, tuple[str, ...]]()
    for part in reversed(step.transformers.values()):  # of two with one name, River has the first
        made = _after(part, before)
        x.update(made.x)
        sources.update(made.sources)
    return Derived(x, sources)


def _product(step: Step, before: Derived) -> Derived:
    parts = [_after(part, before) for part in step.transformers.values()]
    sources = {}
    for names in product(*(part.x for part in parts)):
        each = [part.sources.get(n, NOT_KNOWN) for part, n in zip(parts, names, strict=True)]
        sources["*".join(names)] = _all(each)
    return Derived(step.transform_one(before.x), sources)


def _function(step: Step, before: Derived) -> Derived:
    watched = _Watched(before.x)
    x = step.transform_one(watched)
    read = tuple(watched.read)
    if x is watched:  # it changed what it was given
        x = dict(x)
    new = {name: read for name in x if name not in before.sources and len(read) == 1}
    return Derived(x, _named(x, new, before.x, before))


class _Watched(dict[Any, Any]):
    """Notes what is read of it: a name, or everything at once."""

    def __init__(self, x: Mapping[Any, Any]) -> None:
        super().__init__(x)
        self._names, self.read = tuple(x), set[Any]()

    def __getitem__(self, name: Any) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: Any) -> bool:
        self.read.add(name)
        return super().__contains__(name)

    def get(self, name: Any, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def pop(self, name: Any, *default: Any) -> Any:
        self.read.add(name)
        return super().pop(name, *default)

    def __iter__(self) -> Iterator[Any]:
        self.read.update(self._names)
        return super().__iter__()

    def keys(self) -> Any:
        self.read.update(self._names)
        return super().keys()

    def values(self) -> Any:
        self.read.update(self._names)
        return super().values()

    def items(self) -> Any:
        self.read.update(self._names)
        return super().items()

    def copy(self) -> dict[Any, Any]:
        self.read.update(self._names)
        return super().copy()


Made: TypeAlias = Iterable[tuple[Any, Iterable[Any]]]
"""(New name, names that it is of)."""


def _affixed(step: Step, was: Mapping[Any, Any], x: Mapping[Any, Any]) -> Made:
    return ((made, (name,)) for name, made in zip(was, x, strict=True))


def _grouped(step: Step, was: Mapping[Any, Any], x: Mapping[Any, Any]) -> Made:
    return ((made, step.by or ()) for made in x)


def _one_hot(step: Step, was: Mapping[Any, Any], x: Mapping[Any, Any]) -> Made:
    for name, values in step.values.items():
        yield from ((f"{name}_{value}", (name,)) for value in values)
    for name, value in was.items():
        several = value if isinstance(value, list | set) else (value,)
        yield from ((f"{name}_{each}", (name,)) for each in several)


def _polynomial(step: Step, was: Mapping[Any, Any], x: Mapping[Any, Any]) -> Made:
    return (("*".join(sorted(map(str, some))), some) for some in step._enumerate(was))


def _renamed(step: Step, was: Mapping[Any, Any], x: Mapping[Any, Any]) -> Made:
    return ((new, (old,)) for old, new in step.mapping.items() if old in was)


def _words(step: Step, was: Mapping[Any, Any], x: Mapping[Any, Any]) -> Made:
    return ((word, (step.on,)) for word in x)


_RULES: Mapping[str, Callable[[Step, Mapping[Any, Any], Mapping[Any, Any]], Made]] = {
    "compose.Prefixer": _affixed,
    "compose.Renamer": _renamed,
    "compose.Suffixer": _affixed,
    "feature_extraction.Agg": _grouped,
    "feature_extraction.BagOfWords": _words,
    "feature_extraction.PolynomialExtender": _polynomial,
    "feature_extraction.TFIDF": _words,
    "feature_extraction.TargetAgg": _grouped,
    "preprocessing.OneHotEncoder": _one_hot,
}
"""What makes features with other names: by the step, what it was given and what it made."""
