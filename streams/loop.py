"""The loop that a user writes: a name, a River model, a task, where events and labels come from, who is asked.

A loop is a value; making one opens nothing.  It is checked as a whole: all mistakes are told together.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from importlib import import_module
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from river import base

from streams import demos
from streams.core import topics
from streams.core.consensus import Consensus
from streams.core.errors import ConfigError, Mistake, NotFound
from streams.core.events import ACCEPT, CORRECT, REJECT, Features, Label
from streams.core.model import BINARY, MULTICLASS, REGRESSION, is_deaf_to_weights, specimens
from streams.core.review import Everything, Policy

TASKS = (BINARY, MULTICLASS, REGRESSION)
LEARN_AGAIN, KEEP_FIRST, REPAIR = "learn-again", "keep-first", "repair"
CORRECTIONS = (LEARN_AGAIN, KEEP_FIRST, REPAIR)
AT_LEAST_ONCE, TRANSACTIONAL = "at-least-once", "transactional"
DELIVERIES = (AT_LEAST_ONCE, TRANSACTIONAL)
UNANSWERED = "unanswered"
WEIGHTED = (ACCEPT, CORRECT, REJECT, UNANSWERED)
"""What a lesson can come from, and so can have a weight."""
FEATURE_TYPES: Mapping[str, type] = {"float": float, "int": int, "str": str, "bool": bool}

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
TOPIC = re.compile(r"(?!\.{1,2}$)[a-zA-Z0-9._-]{1,249}")
LONGS = range(-(2**63), 2**63)
MILLISECOND = timedelta(milliseconds=1)

ModelKey: TypeAlias = str | Callable[[Features], str]


@dataclass(frozen=True, slots=True)
class Source:
    """A topic of the user's, and the names that his records have for what we need.

    Without a topic it is the loop's own ``inputs``, whose records are as ``schemas/input.avsc`` says.

    Attributes:
        topic: Avro (with a registry, or single objects) or JSON; it is never created, only read.
        event_id: The field with the event's id.
        features: Feature name to its type: float, int, str or bool, or their names.  Not needed where an Avro schema
            tells the types; JSON tells none, so a JSON record of a source without features becomes a dead letter.
        label: In a label topic: the field with the label, or a function of the whole record.
        text: The field with the text that reviewers see.
        occurred_at: The field with the time when it happened, in milliseconds since the epoch.
        reviewer: In a label topic: the field that tells who said it.
        schema: The schema of single Avro objects, or the path of its ``.avsc`` file.
    """

    topic: str | None = None
    _: KW_ONLY
    event_id: str = "event_id"
    features: Mapping[str, type | str] | None = None
    label: str | Callable[[dict[str, Any]], Label] | None = None
    text: str | None = None
    occurred_at: str | None = None
    reviewer: str | None = None
    schema: dict[str, Any] | Path | None = None

    @property
    def feature_types(self) -> dict[str, type] | None:
        """The declared features with their types, names resolved; None if none were declared."""
        if self.features is None:
            return None
        return {
            name: FEATURE_TYPES[kind] if isinstance(kind, str) else kind
            for name, kind in self.features.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loop:
    """One task of a model and the people who check it.

    Attributes:
        name: Names topics, groups and state: lower-case letters, digits, hyphens, underscores.
        task: ``binary``, ``multiclass`` or ``regression``.
        model: A River classifier or regressor, or a pipeline that ends in one.  Loops copy it, and never teach it.
        inputs: Where raw events come from.
        labels: Topics with labels from elsewhere.
        review: Who is asked.
        explain: Whether who is asked is told why the model said what it said.  A linear model or naive Bayes costs some
            80 µs to explain, a tree little more; any other is asked once more for each feature: what it costs, the
            events that people are asked about cost so many times more.
        view: The features that reviewers see at the desk, in this order; all where none is named.
        window: A verdict that comes later than this after the prediction is ``expired``.
        early: A verdict may come this much before the prediction.
        unanswered: The label of an event on which no verdict came within the window; None: then nothing is learned.
        classes: The labels of a multiclass loop, all of them.
        model_key: A feature's name, or a function of the features: one model for each key.  None: one model.
        weights: Verdict kind (or ``unanswered``) to the weight of its lessons; 1 where nothing is said.
        corrections: What a later verdict on the same event does: it is learned too (``learn-again``), or not
            (``keep-first``), or in place of the earlier ones, as if they had never been given (``repair``).
        partitions: Of the topics that are keyed by event.
        reviewers: How many people are asked about an event, and how many of them have to say the same, for it to be learned:
            ``review.Consensus(of=3, agree=2)``.  None: one, and each verdict is learned.
        delivery: ``at-least-once``: after a crash an output may be on its topic twice.  ``transactional``: a reader of
            committed records sees each once, a fraction of a second later.

    Raises:
        ConfigError: With all mistakes.
    """

    name: str
    task: str
    model: Any  # River has no one type for what it calls a model
    inputs: Source = Source()
    labels: Sequence[Source] = ()
    review: Policy = field(default_factory=Everything)
    explain: bool = True
    view: Sequence[str] = ()
    window: timedelta = timedelta(days=30)
    early: timedelta = timedelta(days=1)
    unanswered: Label | None = None
    classes: Sequence[Label] = ()
    model_key: ModelKey | None = None
    weights: Mapping[str, float] = field(default_factory=dict)
    corrections: str = LEARN_AGAIN
    partitions: int = 4
    delivery: str = AT_LEAST_ONCE
    reviewers: Consensus | None = None

    def __post_init__(self) -> None:
        if self.task == BINARY and not self.classes:
            object.__setattr__(self, "classes", (False, True))
        mistakes = list(_mistakes(self))
        if mistakes:
            raise ConfigError(mistakes)
        # What was checked is what stays: nobody may change it through a list or dict of his own.
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "view", tuple(self.view))
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    @property
    def window_ms(self) -> int:
        """The window in milliseconds."""
        return self.window // MILLISECOND

    @property
    def early_ms(self) -> int:
        """The allowed earliness in milliseconds."""
        return self.early // MILLISECOND


def _mistakes(loop: Loop) -> Iterable[Mistake]:
    """All of them; what is checked later may rely on nothing that was checked before."""
    yield from _mistakes_of_name(loop)
    yield from _mistakes_of_task(loop)
    yield from _mistakes_of_model(loop)
    yield from _mistakes_of_classes(loop)
    yield from _mistakes_of_view(loop)
    yield from _mistakes_of_sources(loop)
    yield from _mistakes_of_review(loop)
    yield from _mistakes_of_reviewers(loop)
    yield from _mistakes_of_times(loop)
    yield from _mistakes_of_unanswered(loop)
    yield from _mistakes_of_model_key(loop)
    yield from _mistakes_of_weights(loop)
    yield from _mistakes_of_the_rest(loop)


def _mistakes_of_name(loop: Loop) -> Iterable[Mistake]:
    name: object = loop.name
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        expected = (
            "1 to 64 lower-case letters, digits, hyphens and underscores, a letter or digit first"
        )
        yield Mistake("name", name, expected)


def _mistakes_of_task(loop: Loop) -> Iterable[Mistake]:
    if loop.task == "draft":
        yield Mistake(
            "task", loop.task, f"one of {', '.join(TASKS)}; it comes with a later version"
        )
    elif loop.task not in TASKS:
        yield Mistake("task", loop.task, f"one of {', '.join(TASKS)}")


def _mistakes_of_model(loop: Loop) -> Iterable[Mistake]:
    model, kind = loop.model, "regressor" if loop.task == REGRESSION else "classifier"
    wanted = base.Regressor if loop.task == REGRESSION else base.Classifier
    if isinstance(model, type):
        yield Mistake("model", model, f"a model, not its class: write {model.__name__}()")
    elif not isinstance(model, base.Classifier | base.Regressor):
        expected = "a River classifier or regressor, or a pipeline that ends in one"
        yield Mistake("model", _short(model), f"{expected} (it has learn_one and predict_one)")
    elif loop.task in TASKS and not isinstance(model, wanted):
        yield Mistake("model", _short(model), f"a {kind}, since the task is {loop.task}")
    elif loop.task == MULTICLASS and isinstance(model, base.Classifier) and not model._multiclass:
        expected = "a model of many classes; multiclass.OneVsRestClassifier(...) makes one of it"
        yield Mistake("model", _short(model), expected)


def _mistakes_of_classes(loop: Loop) -> Iterable[Mistake]:
    classes: Any = loop.classes
    if not isinstance(classes, Sequence) or isinstance(classes, str):
        yield Mistake("classes", classes, "a tuple of labels")
    elif loop.task == BINARY and not _same(classes, (False, True)):
        expected = "(False, True) or nothing, since the task is binary; other labels: multiclass"
        yield Mistake("classes", classes, expected)
    elif loop.task == REGRESSION and classes:
        yield Mistake("classes", classes, "nothing, since the task is regression")
    elif loop.task == MULTICLASS:
        yield from _mistakes_of_many_classes(classes)


def _mistakes_of_many_classes(classes: Sequence[Label]) -> Iterable[Mistake]:
    kinds = {type(label) for label in classes}
    if not (kinds == {str} or kinds == {int}) or len(classes) < 2:
        yield Mistake("classes", classes, "two labels or more, all of them text or all integers")
    elif len(set(classes)) < len(classes):
        yield Mistake("classes", classes, "each label once")
    elif "" in classes:
        yield Mistake("classes", classes, "no empty label")
    elif kinds == {int} and not all(label in LONGS for label in classes):
        yield Mistake("classes", classes, "integers of 64 bits")


def _mistakes_of_sources(loop: Loop) -> Iterable[Mistake]:
    if not isinstance(loop.inputs, Source):
        yield Mistake("inputs", loop.inputs, "a Source")
    else:
        yield from _mistakes_of_source("inputs", loop.inputs)
    labels: Any = loop.labels
    if not isinstance(labels, Sequence) or isinstance(labels, str):
        yield Mistake("labels", labels, "a list of Sources")
        return
    for n, source in enumerate(labels):
        if not isinstance(source, Source):
            yield Mistake(f"labels[{n}]", source, "a Source")
            continue
        yield from _mistakes_of_source(f"labels[{n}]", source)
        if source.topic is None:
            yield Mistake(f"labels[{n}].topic", None, "the name of your topic with the labels")
        if not (callable(source.label) or _is_text(source.label)):
            expected = "the field with the label, or a function that reads it off the record"
            yield Mistake(f"labels[{n}].label", source.label, expected)
    yield from _mistakes_of_topics(loop)


def _mistakes_of_source(where: str, source: Source) -> Iterable[Mistake]:
    topic: object = source.topic
    if topic is not None and not (isinstance(topic, str) and TOPIC.fullmatch(topic)):
        expected = "a topic's name: letters, digits, '.', '_' and '-', at most 249"
        yield Mistake(f"{where}.topic", topic, expected)
    for name in ("event_id", "text", "occurred_at", "reviewer"):
        value = getattr(source, name)
        if not (_is_text(value) or (value is None and name != "event_id")):
            yield Mistake(f"{where}.{name}", value, "the name of a field")
    if source.schema is not None and not isinstance(source.schema, dict | Path):
        yield Mistake(f"{where}.schema", source.schema, "an Avro schema as dict, or its Path")
    yield from _mistakes_of_features(where, source)


def _mistakes_of_features(where: str, source: Source) -> Iterable[Mistake]:
    features = source.features
    if features is None:
        return
    if not isinstance(features, Mapping):
        yield Mistake(f"{where}.features", features, "a dict of feature name to type")
        return
    for name, kind in features.items():
        if not _is_text(name):
            yield Mistake(f"{where}.features", name, "a feature's name")
        if kind not in (*FEATURE_TYPES, *FEATURE_TYPES.values()):
            yield Mistake(f"{where}.features[{name!r}]", kind, "float, int, str or bool")


def _mistakes_of_topics(loop: Loop) -> Iterable[Mistake]:
    sources = [("inputs", loop.inputs), *((f"labels[{n}]", s) for n, s in enumerate(loop.labels))]
    seen = {
        topics.topic_name(str(loop.name), suffix): "the loop itself" for suffix in topics.SUFFIXES
    }
    for where, source in sources:
        topic = getattr(source, "topic", None)
        if not isinstance(topic, str):
            continue
        if topic in seen:
            yield Mistake(f"{where}.topic", topic, f"another topic: {seen[topic]} has this one")
        seen.setdefault(topic, where)


def _mistakes_of_review(loop: Loop) -> Iterable[Mistake]:
    policy: object = loop.review
    if isinstance(policy, Policy) and not isinstance(policy, type):
        yield from policy.mistakes()
    else:
        expected = "a policy, such as review.Everything() or review.Audit(0.05)"
        yield Mistake("review", policy, expected)


def _mistakes_of_reviewers(loop: Loop) -> Iterable[Mistake]:
    reviewers: object = loop.reviewers
    if reviewers is None:
        return
    if not isinstance(reviewers, Consensus):
        yield Mistake("reviewers", reviewers, "review.Consensus(of=3, agree=2), or None")
        return
    yield from reviewers.mistakes()
    if loop.task == REGRESSION:
        yield Mistake(
            "reviewers", reviewers, "None, since numbers that people give are hardly ever the same"
        )


def _mistakes_of_view(loop: Loop) -> Iterable[Mistake]:
    view: object = loop.view
    is_list = isinstance(view, Sequence) and not isinstance(view, str)
    if not is_list or not all(map(_is_text, loop.view)):
        yield Mistake("view", view, "names of features, such as ('amount', 'country')")


def _mistakes_of_times(loop: Loop) -> Iterable[Mistake]:
    window: object = loop.window
    early: object = loop.early
    if not isinstance(window, timedelta) or window < MILLISECOND:
        yield Mistake("window", window, "a timedelta above 0, such as timedelta(days=30)")
    if not isinstance(early, timedelta) or early < timedelta(0):
        yield Mistake("early", early, "a timedelta of 0 or more, such as timedelta(days=1)")


def _mistakes_of_unanswered(loop: Loop) -> Iterable[Mistake]:
    label, classes = loop.unanswered, loop.classes
    given: object = classes
    if label is None:
        return
    if loop.task == REGRESSION:
        if isinstance(label, bool) or not isinstance(label, int | float) or not isfinite(label):
            yield Mistake("unanswered", label, "a finite number, or None")
    elif isinstance(given, Sequence) and not any(_same([label], [known]) for known in classes):
        yield Mistake("unanswered", label, f"one of {tuple(classes)!r}, or None")


def _mistakes_of_model_key(loop: Loop) -> Iterable[Mistake]:
    key = loop.model_key
    if key is None or (callable(key) and not isinstance(key, type)):
        return
    declared = getattr(loop.inputs, "features", None)
    if not _is_text(key):
        yield Mistake("model_key", key, "a feature's name, or a function of the features, or None")
    elif isinstance(declared, Mapping) and key not in declared:
        yield Mistake("model_key", key, f"one of the features: {', '.join(map(str, declared))}")


def _mistakes_of_weights(loop: Loop) -> Iterable[Mistake]:
    if not isinstance(loop.weights, Mapping):
        yield Mistake("weights", loop.weights, "a dict of verdict kind to weight")
        return
    wrong = [
        *(
            Mistake("weights", kind, f"one of {', '.join(WEIGHTED)}")
            for kind in loop.weights
            if kind not in WEIGHTED
        ),
        *(
            Mistake(f"weights[{kind!r}]", weight, "a finite number above 0")
            for kind, weight in loop.weights.items()
            if not _is_weight(weight)
        ),
    ]
    yield from wrong
    if not wrong and any(weight != 1 for weight in loop.weights.values()) and _is_deaf(loop):
        expected = f"nothing: {_short(loop.model)} ignores or refuses weights; or another model"
        yield Mistake("weights", dict(loop.weights), expected)


def _is_weight(weight: object) -> bool:
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    return number and isfinite(weight) and weight > 0  # type: ignore[arg-type, operator]


def _is_deaf(loop: Loop) -> bool:
    """Whether a probe shows it; without features to probe with, the start-up check does, on the first real ones."""
    if any(True for check in (_mistakes_of_model, _mistakes_of_classes) for _ in check(loop)):
        return False
    if any(True for _ in _mistakes_of_source("inputs", loop.inputs)) or loop.task not in TASKS:
        return False
    features = loop.inputs.feature_types
    if not features:
        return False
    lessons = specimens(loop.task, features, loop.classes)
    try:
        return is_deaf_to_weights(loop.model, loop.task, lessons)
    except Exception:  # noqa: BLE001  the user's own steps may not like made-up values; that tells nothing
        return False


def _mistakes_of_the_rest(loop: Loop) -> Iterable[Mistake]:
    if not isinstance(loop.explain, bool):
        yield Mistake("explain", loop.explain, "True or False")
    if loop.corrections not in CORRECTIONS:
        yield Mistake("corrections", loop.corrections, f"one of {', '.join(CORRECTIONS)}")
    if type(loop.partitions) is not int or not 1 <= loop.partitions <= 10_000:
        yield Mistake("partitions", loop.partitions, "a whole number from 1 to 10000")
    if loop.delivery not in DELIVERIES:
        yield Mistake("delivery", loop.delivery, f"one of {', '.join(DELIVERIES)}")


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _same(some: Sequence[Any], others: Sequence[Any]) -> bool:
    """Equal in type too: 1 is not True."""
    return [(type(a), a) for a in some] == [(type(b), b) for b in others]


def _short(model: object) -> object:
    """A model by the name of its last step: what it shows of itself may fill a screen."""
    last = getattr(model, "_last_step", model)
    return type(last).__name__ if isinstance(model, base.Base) else model


def load(reference: str) -> Loop:
    """The loop that ``module:attribute`` or a demo's name refers to; modules in the current directory are found.

    Raises:
        NotFound: There is no such module, attribute or demo, or the module needs one that is not installed.
        ConfigError: What it refers to is not a loop, or has mistakes.
    """
    module_name, colon, attribute = reference.partition(":")
    if not colon:
        module_name, attribute = _demo(reference), "loop"
    elif not (module_name and attribute):
        message = f"{reference!r} is not a loop: write module:attribute, such as app:loop"
        raise NotFound(message)
    module = _import(module_name)
    if not hasattr(module, attribute):
        loops = [name for name, value in vars(module).items() if isinstance(value, Loop)]
        there = f"there is {', '.join(loops)}" if loops else "it has no loop"
        message = f"{module_name} has no {attribute!r}; {there}"
        raise NotFound(message)
    loop = getattr(module, attribute)
    if not isinstance(loop, Loop):
        raise ConfigError([Mistake(reference, _short(loop), "a streams.Loop")])
    return loop


def _demo(name: str) -> str:
    if name not in demos.NAMES:
        message = (
            f"no demo is called {name!r}; there are {', '.join(demos.NAMES)}."
            " A loop of your own is written module:attribute, such as app:loop"
        )
        raise NotFound(message)
    return f"streams.demos.{name}"


def _import(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            message = f"there is no module {error.name!r} in {here} or among what is installed"
            raise NotFound(message) from error
        at = [
            f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename
        ][-1]
        message = (
            f"{name} cannot be imported: {error} (imported by {at.filename}, line {at.lineno})."
            " Install it where Counterpoint runs"
        )
        raise NotFound(message) from error
