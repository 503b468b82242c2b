"""What Counterpoint asks of a River model: an answer, a lesson, a description, and three start-up checks.

It knows nothing of logs, versions or sources: that is ``fold``.
"""

from __future__ import annotations

import copy
import enum
import functools
import hashlib
import inspect
import io
import math
import pickle
import platform
import textwrap
import types
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from river import base, compose
from river.__version__ import __version__ as river_version

from streams.core.events import Features, Label

GENERATORS = ("random", "numpy.random.mtrand", "numpy.random._generator")
"""Modules of the random generators that models use."""
BINARY, MULTICLASS, REGRESSION = "binary", "multiclass", "regression"
Model: TypeAlias = Any
"""A River estimator or pipeline. River names no type that has both ``learn_one`` and the answers' methods."""
Lesson: TypeAlias = tuple[Features, Label]


class Answer(NamedTuple):
    """What a model says to one event.

    Attributes:
        label: The class, or the number of a regression; None when the model abstains.
        scores: Text of a class to its probability; empty when the model gives none.
        confidence: The probability of ``label``; None when the model gives none.
    """

    label: Label | None
    scores: Mapping[str, float]
    confidence: float | None


NOTHING = Answer(None, {}, None)
Answerer: TypeAlias = Callable[[Features], Answer]


def answerer(task: str, model: Model, classes: Sequence[Label] = ()) -> Answerer:
    """Build the function that asks ``model``, once, so that each answer costs little more than River's own work."""
    if task == REGRESSION:
        return _number(model)
    if not _gives_probabilities(model):
        return _bare_label(model)
    return _probabilities(model, classes)


def _number(model: Model) -> Answerer:
    predict_one = model.predict_one

    def answer(features: Features) -> Answer:
        number = predict_one(features)
        return NOTHING if number is None else Answer(float(number), {}, None)

    return answer


def _bare_label(model: Model) -> Answerer:
    predict_one = model.predict_one

    def answer(features: Features) -> Answer:
        label = predict_one(features)
        return NOTHING if label is None else Answer(label, {}, None)

    return answer


def _probabilities(model: Model, classes: Sequence[Label]) -> Answerer:
    predict_proba_one = model.predict_proba_one
    # A few classifiers choose otherwise than by the largest probability: ask those for the label too.
    choose = None if _chooses_the_likeliest(model) else model.predict_one
    text = {known: str(known) for known in classes}
    bare, new = _bare_label(model), tuple.__new__

    def answer(features: Features) -> Answer:
        try:
            likely = predict_proba_one(features)
        except NotImplementedError:  # a wrapper has the method, the model that it wraps has not
            return bare(features)
        if len(likely) == 2 and choose is None:  # the most of all models, and the fastest
            (one, p), (other, q) = likely.items()
            p, q = float(p), float(q)
            scores = {text.get(one) or str(one): p, text.get(other) or str(other): q}
            return new(Answer, (other, scores, q) if q > p else (one, scores, p))
        if not likely:
            return NOTHING
        label = max(likely, key=likely.get) if choose is None else choose(features)
        scores = {text.get(known) or str(known): float(p) for known, p in likely.items()}
        return Answer(label, scores, None if label is None else scores.get(str(label)))

    return answer


def _last(model: Model) -> Model:
    while isinstance(model, compose.Pipeline):
        model = model._last_step
    return model


def _gives_probabilities(model: Model) -> bool:
    method = getattr(type(_last(model)), "predict_proba_one", None)
    return method is not None and method is not base.Classifier.predict_proba_one


def _chooses_the_likeliest(model: Model) -> bool:
    return getattr(type(_last(model)), "predict_one", None) is base.Classifier.predict_one


def learner(model: Model) -> Callable[[Features, Label, float], None]:
    """Build the function that teaches ``model``; the weight is only told when it says something."""
    learn_one = model.learn_one

    def learn(features: Features, label: Label, weight: float) -> None:
        if weight == 1:
            learn_one(features, label)
        else:
            learn_one(features, label, w=weight)

    return learn


# What a model is, in words -------------------------------------------------------------------------------------------


def describe(model: Model) -> str:
    """Tell a model by class paths and init parameters: equal for equal models, in every process.

    >>> from river import linear_model, preprocessing
    >>> print(describe(preprocessing.Binarizer() | linear_model.PARegressor(C=0.5)))
    river.compose.pipeline.Pipeline(
      Binarizer=river.preprocessing.scale.Binarizer(
        threshold=0.0,
        dtype=builtins.bool,
      ),
      PARegressor=river.linear_model.pa.PARegressor(
        C=0.5,
        mode=1,
        eps=0.1,
        learn_intercept=True,
      ),
    )
    """
    return _told(model, frozenset())


def _told(value: Any, above: frozenset[int]) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return repr(value)
    if id(value) in above:
        return "..."
    above |= {id(value)}
    if isinstance(value, enum.Enum | type):
        return _path(value) if isinstance(value, type) else f"{_path(type(value))}.{value.name}"
    if isinstance(value, list | tuple):
        return _block("[", ((None, item) for item in value), "]", above)
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(_told(item, above) for item in value)) + "}"
    if isinstance(value, Mapping):
        return _block("{", ((_told(key, above), item) for key, item in value.items()), "}", above)
    if isinstance(value, functools.partial):
        parts = [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
        return _block("functools.partial(", parts, ")", above)
    if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
        return _told_function(value, above)
    if isinstance(value, base.Base):
        return _block(f"{_path(type(value))}(", _parameters(value).items(), ")", above)
    return _told_object(value, above)


def _block(
    start: str, items: Iterable[tuple[str | None, Any]], end: str, above: frozenset[int]
) -> str:
    lines = [(f"{name}=" if name else "") + _told(item, above) for name, item in items]
    if not lines:
        return start + end
    inside = "".join(f"{line},\n" for line in lines)
    return f"{start}\n{textwrap.indent(inside, '  ')}{end}"


def _told_function(function: Any, above: frozenset[int]) -> str:
    if isinstance(function, types.MethodType):
        owner = _told(function.__self__, above)
        return _block(f"{function.__qualname__}(", [("self", owner)], ")", above)
    code = getattr(function, "__code__", None)
    if code is None:
        return _path(function)
    enclosed = [cell.cell_contents for cell in function.__closure__ or ()]
    rests = [function.__defaults__, function.__kwdefaults__, enclosed]
    # The code and not the source: nothing has to be read from disk, and a comment changes no model.
    return f"{_path(function)}#{_short(_told_code(code) + ''.join(_told(r, above) for r in rests))}"


def _told_code(code: types.CodeType) -> str:
    constants = [
        _told_code(c) if isinstance(c, types.CodeType) else _told(c, frozenset())
        for c in code.co_consts
    ]
    return "/".join([code.co_code.hex(), *code.co_names, *code.co_varnames, *constants])


def _told_object(value: Any, above: frozenset[int]) -> str:
    state = getattr(value, "__dict__", None)
    if state:
        return _block(f"{_path(type(value))}(", sorted(state.items()), ")", above)
    # Random generators, arrays, patterns, dates: their pickle is their value.
    return f"{_path(type(value))}#{_short(pickle.dumps(value, protocol=4).hex())}"


def _path(thing: Any) -> str:
    return f"{getattr(thing, '__module__', None) or 'builtins'}.{thing.__qualname__}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parameters(model: base.Base) -> dict[str, Any]:
    """The init parameters of a River object, or the parts by name of a pipeline or union."""
    if isinstance(model, compose.Pipeline):
        return dict(model.steps)
    if isinstance(model, compose.TransformerUnion):
        return dict(model.transformers)
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(model).__init__).parameters.items():
        if name != "self" and hasattr(model, name):
            value = getattr(model, name)
            found.update(value if parameter.kind is parameter.VAR_KEYWORD else {name: value})
    return found


class Definition(NamedTuple):
    """What a model is before it has learned: a hash to compare, and the words that were hashed."""

    hash: str
    description: str


def definition_of(
    model: Model,
    task: str,
    *,
    classes: Sequence[Label] = (),
    features: Mapping[str, Any] | None = None,
    seeds: Sequence[str] = (),
) -> Definition:
    """Define a loop's model: model, task, features, seeds, River and Python versions.

    Python counts with its minor version only: a patch release changes neither arithmetic nor pickles.
    """
    typed = sorted((n, getattr(t, "__name__", str(t))) for n, t in (features or {}).items())
    description = "\n".join(
        [
            f"task: {task}",
            f"classes: {', '.join(repr(label) for label in classes) or '-'}",
            f"features: {', '.join(f'{name}: {kind}' for name, kind in typed) or '-'}",
            f"seeds: {', '.join(seeds) or '-'}",
            f"river: {river_version}",
            f"python: {'.'.join(platform.python_version_tuple()[:2])}",
            f"model: {describe(model)}",
        ]
    )
    return Definition(hashlib.sha256(description.encode()).hexdigest()[:32], description)


# Start-up checks -----------------------------------------------------------------------------------------------------


def seeded(model: Model, name: str) -> tuple[Model, list[str]]:
    """Give every unset ``seed`` in an unlearned model a value derived from the loop's name, and say which."""
    told: list[str] = []
    return _seeded(model, name, "model", told), told


def _seeded(value: Any, name: str, path: str, told: list[str]) -> Any:
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [_seeded(item, name, f"{path}[{i}]", told) for i, item in enumerate(value)]
        return value if _same(items, value) else type(value)(items)
    if not isinstance(value, base.Base):
        return value
    before = _parameters(value)
    after = {part: _seeded(v, name, f"{path}.{part}", told) for part, v in before.items()}
    if "seed" in before and before["seed"] is None:
        after["seed"] = _seed(name, path)
        told.append(f"{path}.seed = {after['seed']}")
    return value if _same(after.values(), before.values()) else _rebuilt(value, after)


def _same(some: Iterable[Any], others: Iterable[Any]) -> bool:
    return all(a is b for a, b in zip(some, others, strict=True))


def _rebuilt(value: base.Base, parameters: dict[str, Any]) -> Any:
    # Through __init__ and not by setting the attribute: most models make their generator there.
    if isinstance(value, compose.Pipeline | compose.TransformerUnion):
        return type(value)(*parameters.items())
    return type(value)(**parameters)


def _seed(name: str, path: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{name}/{path}".encode(), digest_size=4).digest()) >> 1


def unpicklable(model: Model) -> str | None:
    """Why a model cannot be stored, with what to do; None when it can."""
    try:
        pickle.dumps(model, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return f"cannot be stored ({error}): use functions of a module in place of lambdas"
    return None


def is_deaf_to_weights(model: Model, task: str, examples: Iterable[Lesson]) -> bool:
    """Whether a model ignores or refuses weights: two copies, one told that every second lesson counts threefold."""
    lessons = list(examples)
    plain, weighted = copy.deepcopy(model), copy.deepcopy(model)
    teach, tell = learner(plain), learner(weighted)
    for number, (features, label) in enumerate(lessons):
        teach(features, label, 1)
        try:
            tell(features, label, 3.0 if number % 2 else 1)
        except Exception:  # noqa: BLE001 - the model is the user's code: however it refuses, it does not hear
            return True
    probe = [features for features, _ in lessons[:16]]
    return digest(answerer(task, plain), probe) == digest(answerer(task, weighted), probe)


def digest(answer: Answerer, probe: Iterable[Features]) -> str:
    """A digest of the exact answers to a set of events: equal only if they are equal to the last bit.

    And only where the machine rounds alike: on a CPU without FMA one ``exp`` in 1,400 has another last bit (measured),
    so that a few answers would show it by luck, and late.
    """
    told = hashlib.blake2b(rounding(), digest_size=16)
    for features in probe:
        label, scores, _ = answer(features)
        exact = label.hex() if isinstance(label, float) else repr(label)
        told.update(f"{exact} {[(known, p.hex()) for known, p in scores.items()]}\n".encode())
    return told.hexdigest()


@functools.cache
def rounding() -> bytes:
    """A digest of how this machine rounds: the functions that models use, at a few thousand points."""
    points = [(number + 0.5) / 777 for number in range(4096)]
    functions = (math.exp, math.log, math.log1p, math.sin, math.tan, math.atan, math.tanh)
    values = array("d", [of(point) for of in functions for point in points])
    values.extend(point**1.7 for point in points)
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()


def replayed(
    model: Model,
    task: str,
    examples: Sequence[Lesson],
    *,
    pickled_after: int | None = None,
    predicting: bool = False,
    unpickle: Callable[[bytes], Any] = pickle.loads,
) -> str:
    """Fold examples into a copy and digest its answers: a model replays if this is the same everywhere.

    Compare the digest of one process with that of another one which answers between its lessons, and which stores
    and restores the model halfway: a model that learns or draws while it answers differs there.  What it is asked about
    has its features in another order than what it learns: some steps draw for a feature when they first see it.
    """
    taught = copy.deepcopy(model)
    for number, (features, label) in enumerate(examples):
        if number == pickled_after:
            taught = unpickle(pickle.dumps(taught, protocol=5))
        if predicting:
            asked = examples[-1 - number][0]
            answerer(task, taught)(dict(reversed(list(asked.items()))))
        taught.learn_one(features, label)
    return digest(answerer(task, taught), [features for features, _ in examples])


def draws_unseeded(model: Model) -> bool:
    """Whether two models made of the same parameters draw otherwise: then no process can make another's model.

    Such a generator may hide below what ``seeded`` reaches, and show late: the index that KNNClassifier makes itself has
    one, and draws from it after 500 lessons.
    """
    return _generators(model.clone()) != _generators(model.clone())


def _generators(model: Model) -> list[bytes]:
    met = _Generators()
    met.dump(model)
    return met.states


class _Generators(pickle.Pickler):
    """Notes the state of each random generator that it comes by."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), protocol=5)
        self.states: list[bytes] = []

    def reducer_override(self, value: Any) -> Any:
        """Lets everything be pickled as it is (pickle's hook)."""
        if type(value).__module__ in GENERATORS:
            self.states.append(pickle.dumps(value, protocol=5))
        return NotImplemented


def specimens(
    task: str,
    features: Mapping[str, Any],
    classes: Sequence[Label] = (),
    count: int = 64,
) -> list[Lesson]:
    """Made-up lessons with features of the right types, to try a model on before the first real one."""
    return [_specimen(task, features, classes, number) for number in range(count)]


def _specimen(task: str, features: Mapping[str, Any], classes: Sequence[Label], n: int) -> Lesson:
    drawn = {name: _drawn(kind, f"{name}/{n}") for name, kind in features.items()}
    share = _share(f"label/{n}")
    label: Label = share * 100 if task == REGRESSION else classes[int(share * len(classes))]
    return drawn, label


def _drawn(kind: Any, key: str) -> Any:
    name, share = getattr(kind, "__name__", str(kind)), _share(key)
    if name in ("bool", "boolean"):
        return share < 0.5
    if name in ("int", "long"):
        return int(share * 100)
    if name in ("str", "string"):
        return f"value {int(share * 5)}"
    return share * 10 - 5


def _share(key: str) -> float:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest()) / 2**48
