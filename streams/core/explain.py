"""Why a model said what it said: how far each feature of an event pushed the answer, and from where.

Four methods, the first that is true of the model:

* ``linear``: the weights of a linear model times what its pipeline made of the features.  Exact.
* ``likelihood``: of a naive Bayes model, the logarithm of how much likelier a feature's value is with one label than
  with the other.  Exact.
* ``path``: the tests on the way through a tree; the weight of one is what passing it changed, as the tree had counted
  when it made the test.
* ``left out``: of any other model, the difference that it makes to put a feature's usual value (``usual``) in its place.

In all of them ``bias + weights + others`` is what the model said, in ``unit``.  A positive weight speaks ``towards`` a
label and ``against`` another (the runner-up, or of two labels False); for a number it raises it.

Explaining teaches the model nothing; it asks it what answering asks it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import exp, fsum, isfinite, log
from numbers import Real
from typing import Any, NamedTuple, Protocol, TypeAlias

from river import compose

from streams.core.derived import Derived, given, kind, through
from streams.core.events import Basis, Contribution, Features, Label, Value
from streams.core.model import BINARY, REGRESSION, Answer, Answerer, Model, answerer
from streams.core.usual import Usual

MOST = 10
"""Contributions that are told: the strongest."""
MOST_TEXT = 200
"""A longer text is cut: the whole one is among the features."""
LONGS = range(-(2**63), 2**63)
LINEAR, LIKELIHOOD, PATH, LEFT_OUT = "linear", "likelihood", "path", "left out"
LOGIT, LOG_ODDS, MARGIN = "logit", "log-odds", "difference of logits"
VALUE, LOG_VALUE, PROBABILITY, AGREES = "value", "logarithm of the value", "probability", "agrees"
NEAR = 1e-6
"""How far from the answer an exact explanation may come out: rounding is far below it, and a mistake above."""


class Explanation(NamedTuple):
    """The strongest contributions to an answer, and what they stand on."""

    contributions: list[Contribution]
    basis: Basis

    def total(self) -> float:
        """What the model said, in the unit of the basis."""
        bias, others = self.basis.bias, self.basis.others
        return fsum((bias, others, *(each.weight for each in self.contributions)))


class Explainer(Protocol):
    """Tells why; None if there is nothing to explain."""

    def __call__(
        self, features: Features, answer: Answer, against: Label | None = None
    ) -> Explanation | None:
        """Explain the answer to these features, of several labels against the runner-up or the one that is given."""


class _Term(NamedTuple):
    """A contribution before it is known whether it is told: of a feature as the model sees it, or a test of it."""

    name: Any
    part: str
    weight: float


class _Found(NamedTuple):
    """All that is said about an answer; ``total`` is what the model said, in ``unit``."""

    method: str
    unit: str
    bias: float
    total: float
    terms: Sequence[_Term]
    seen: Derived


class _Sum(NamedTuple):
    """What a model adds up: a bias, and for each of the features that it sees its part."""

    method: str
    unit: str
    bias: float
    parts: Mapping[Any, float]
    seen: Derived


Sides: TypeAlias = tuple[Label | None, Label | None]
"""The label that positive weights speak towards, and the one against which; none for a number."""


def is_exact(model: Model) -> bool:
    """Whether the explanations of a model need nothing but the model itself."""
    if type(model) is compose.Pipeline:
        return is_exact(model._last_step)
    called = kind(model)
    if called == "multiclass.OneVsRestClassifier":
        return is_exact(model.classifier)
    if called in _RESCALED:
        return is_exact(model.regressor)
    return called in _SUMS


def explainer(
    task: str, model: Model, classes: Sequence[Label] = (), usual: Usual | None = None
) -> Explainer:
    """Build the function that explains a model's answers, once.

    Args:
        usual: What features usually are; of a model that ``is_exact`` nobody asks.
    """
    exact, answers = is_exact(model), answerer(task, model, classes)

    def explain(
        features: Features, answer: Answer, against: Label | None = None
    ) -> Explanation | None:
        sides = _sides(task, classes, answer, against)
        if sides is None:
            return None
        if exact:
            found = _added_up(model, features, answer, sides)
        else:
            found = _walked(model, features, answer, sides[0])
            if found is None and usual is not None:
                found = _left_out(answers, features, answer, sides[0], usual)
        return None if found is None else _explanation(found, sides, features)

    return explain


def _sides(
    task: str, classes: Sequence[Label], answer: Answer, against: Label | None
) -> Sides | None:
    """Between which labels the answer is explained; None if there is no answer."""
    if answer.label is None:
        return None
    if task == REGRESSION:
        return None, None
    if task == BINARY:
        return True, False
    scores = answer.scores
    rest = [label for label in classes if label != answer.label and str(label) in scores]
    if against not in rest:
        against = max(rest, key=lambda label: scores[str(label)], default=None)
    return answer.label, against


def _explanation(found: _Found, sides: Sides, features: Features) -> Explanation:
    if not isfinite(found.total):
        raise ArithmeticError(f"the contributions add up to {found.total}")
    seen, is_path = found.seen, found.method == PATH
    terms = [term for term in found.terms if term[2]]
    strongest = sorted(terms, key=_strength)[:MOST]
    if is_path:  # in the order in which the tree asked
        strongest = [term for term in terms if term in strongest]
    parts = Counter([seen.source(name) for name, _, _ in terms])
    told = []
    for name, part, weight in strongest:
        source, value = seen.source(name), _plain(seen.x.get(name))
        if source is None:
            told.append(
                Contribution(_text(str(name)), value, weight, _text(part) if is_path else None)
            )
        elif is_path or parts[source] > 1:
            told.append(Contribution(source, value, weight, _text(part)))
        else:
            told.append(Contribution(source, _plain(features[source]), weight))
    others = fsum((found.total, -found.bias, *(-each.weight for each in told)))
    return Explanation(told, Basis(found.method, found.unit, *sides, found.bias, others))


def _strength(term: _Term) -> tuple[float, str]:
    _, part, weight = term
    return -abs(weight), part


def _plain(value: Any) -> Value:
    """A value as a record can hold it."""
    match value:
        case float() if type(value) is float:  # NumPy's are floats too, and become plain below
            return value
        case None | bool():
            return value
        case int() if value in LONGS:
            return value
        case Real():
            return float(value)
    return _text(str(value))


def _text(text: str) -> str:
    short = text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
    return short.encode(errors="replace").decode()


def _opened(model: Model, seen: Derived) -> tuple[Model, Derived]:
    """The last step of a pipeline, and what it sees."""
    while type(model) is compose.Pipeline:
        *steps, last = model.steps.values()
        model, seen = last, through(steps, seen)
    return model, seen


# Models that add up --------------------------------------------------------------------------------------------------


def _added_up(model: Model, features: Features, answer: Answer, sides: Sides) -> _Found | None:
    scores = answer.scores
    if sides != (None, None) and not all(str(side) in scores for side in sides):
        return None  # there is one label that the model knows, and nothing that would speak for another
    method, unit, bias, parts, seen = _sum(model, given(features), sides)
    total = fsum((bias, *parts.values()))
    _check(total, unit, answer, sides)
    terms = [_Term(name, str(name), part) for name, part in parts.items() if part]
    return _Found(method, unit, bias, total, terms, seen)


def _check(total: float, unit: str, answer: Answer, sides: Sides) -> None:
    """Refuse what is not the answer: a step, a loss or a release of River that is otherwise than what is known here."""
    if unit in (LOGIT, LOG_ODDS):
        share, other = (answer.scores[str(side)] for side in sides)
        said, expected = share / ((share + other) or 1.0), 1 / (1 + exp(-max(total, -700.0)))
    elif unit in (VALUE, LOG_VALUE) and not isinstance(answer.label, str | None):
        scale = max(1.0, abs(answer.label))
        said, expected = answer.label / scale, (exp(total) if unit == LOG_VALUE else total) / scale
    else:
        return
    if not abs(said - expected) <= NEAR:
        raise ArithmeticError(f"the contributions come to {expected}, and the answer is {said}")


def _sum(model: Model, seen: Derived, sides: Sides) -> _Sum:
    last, seen = _opened(model, seen)
    return _ALL_SUMS[kind(last)](last, seen, sides)


def _dot(weights: Callable[[Any, float], float], x: Mapping[Any, Any]) -> dict[Any, float]:
    return {name: float(weights(name, 0.0) * value) for name, value in x.items()}


def _glm(model: Model, seen: Derived, sides: Sides) -> _Sum:
    logarithm = kind(model.loss) == "optim.Poisson"
    unit = LOGIT if sides != (None, None) else LOG_VALUE if logarithm else VALUE
    return _Sum(LINEAR, unit, float(model.intercept), _dot(model._weights.get, seen.x), seen)


def _passive_aggressive(model: Model, seen: Derived, sides: Sides) -> _Sum:
    unit = VALUE if sides == (None, None) else LOGIT
    return _Sum(LINEAR, unit, float(model.intercept), _dot(model.weights.get, seen.x), seen)


def _large_margin(model: Model, seen: Derived, sides: Sides) -> _Sum:
    return _Sum(LINEAR, LOGIT, 0.0, _dot(model.w.get, seen.x), seen)


def _bayesian_linear(model: Model, seen: Derived, sides: Sides) -> _Sum:
    parts = {name: model.predict_one({name: value}) for name, value in seen.x.items()}
    return _Sum(LINEAR, VALUE, 0.0, parts, seen)


def _softmax(model: Model, seen: Derived, sides: Sides) -> _Sum:
    these, those = (model.weights.get(side, {}).get for side in sides)
    return _Sum(
        LINEAR, LOG_ODDS, 0.0, _dot(lambda n, zero: these(n, zero) - those(n, zero), seen.x), seen
    )


def _one_against_rest(model: Model, seen: Derived, sides: Sides) -> _Sum:
    this, that = (_sum(model.classifiers[side], seen, (True, False)) for side in sides)
    names = {**this.parts, **that.parts}
    parts = {name: this.parts.get(name, 0.0) - that.parts.get(name, 0.0) for name in names}
    both = Derived({**that.seen.x, **this.seen.x}, {**that.seen.sources, **this.seen.sources})
    return _Sum(this.method, MARGIN, this.bias - that.bias, parts, both)


def _rescaled(model: Model, seen: Derived, sides: Sides) -> _Sum:
    inner = _sum(model.regressor, seen, sides)
    zero = model.inverse_func(0.0)
    scale = model.inverse_func(1.0) - zero
    parts = {name: part * scale for name, part in inner.parts.items()}
    return inner._replace(bias=inner.bias * scale + zero, parts=parts)


def _gaussian(model: Model, seen: Derived, sides: Sides) -> _Sum:
    these, those = (model.gaussians.get(side, {}) for side in sides)
    density = model._log_gaussian_pdf
    parts = {
        name: density(these.get(name), value) - density(those.get(name), value)
        for name, value in seen.x.items()
    }
    return _Sum(LIKELIHOOD, LOG_ODDS, _prior(model, sides), parts, seen)


def _multinomial(model: Model, seen: Derived, sides: Sides) -> _Sum:
    this, that = sides
    likely = model.p_feature_given_class
    parts = {
        name: count * (log(likely(name, this)) - log(likely(name, that)))
        for name, count in seen.x.items()
    }
    return _Sum(LIKELIHOOD, LOG_ODDS, _prior(model, sides), parts, seen)


def _bernoulli(model: Model, seen: Derived, sides: Sides) -> _Sum:
    def likely(name: Any, side: Any) -> float:
        p: float = model.p_feature_given_class(name, side)
        there = name in seen.x and seen.x[name] > model.true_threshold
        return log(TINY + (p if there else 1.0 - p))

    this, that = sides
    # What is not there speaks too
    parts = {name: likely(name, this) - likely(name, that) for name in model.feature_counts}
    return _Sum(LIKELIHOOD, LOG_ODDS, _prior(model, sides), parts, seen)


def _complement(model: Model, seen: Derived, sides: Sides) -> _Sum:
    alpha, totals = model.alpha, model.feature_totals

    def rare(side: Any) -> Callable[[Any], float]:
        outside = {
            name: totals[name] + alpha - counts.get(side, 0)
            for name, counts in model.feature_counts.items()
        }
        whole = sum(outside.values())
        return lambda name: -log(outside.get(name, alpha) / whole)

    this, that = map(rare, sides)
    parts = {name: count * (this(name) - that(name)) for name, count in seen.x.items()}
    return _Sum(LIKELIHOOD, LOG_ODDS, 0.0, parts, seen)


def _prior(model: Model, sides: Sides) -> float:
    this, that = map(model.p_class, sides)
    return log(this) - log(that)


TINY = 10e-10
"""What River's BernoulliNB adds to a probability."""
_SUMS: Mapping[str, Callable[[Model, Derived, Sides], _Sum]] = {
    "linear_model.ALMAClassifier": _large_margin,
    "linear_model.BayesianLinearRegression": _bayesian_linear,
    "linear_model.LinearRegression": _glm,
    "linear_model.LogisticRegression": _glm,
    "linear_model.PAClassifier": _passive_aggressive,
    "linear_model.PARegressor": _passive_aggressive,
    "linear_model.Perceptron": _glm,
    "linear_model.SoftmaxRegression": _softmax,
    "naive_bayes.BernoulliNB": _bernoulli,
    "naive_bayes.ComplementNB": _complement,
    "naive_bayes.GaussianNB": _gaussian,
    "naive_bayes.MultinomialNB": _multinomial,
}
_RESCALED = ("preprocessing.TargetMinMaxScaler", "preprocessing.TargetStandardScaler")
_ALL_SUMS = {
    **_SUMS,
    "multiclass.OneVsRestClassifier": _one_against_rest,
    **dict.fromkeys(_RESCALED, _rescaled),
}


# Trees, and all others -----------------------------------------------------------------------------------------------

_TREES = (
    "tree.ExtremelyFastDecisionTreeClassifier",
    "tree.HoeffdingAdaptiveTreeClassifier",
    "tree.HoeffdingAdaptiveTreeRegressor",
    "tree.HoeffdingTreeClassifier",
    "tree.HoeffdingTreeRegressor",
)


def _walked(
    model: Model, features: Features, answer: Answer, towards: Label | None
) -> _Found | None:
    """The path to the leaf that answers; None if the model is no tree, has not split, or asks several leaves."""
    last = _last(model)
    if kind(last) not in _TREES or not hasattr(last._root, "children"):
        return None
    _, seen = _opened(model, given(features))
    nodes = list(last._root.walk(seen.x))
    leaves = last._root.traverse(seen.x)
    if leaves is not nodes[-1] and leaves != [nodes[-1]]:
        return None
    terms = []
    for node, child in pairwise(nodes):
        if child is not node:  # where a feature is missing, River tells the next node twice
            test = node.repr_branch(node.children.index(child))
            weight = _counted(child, towards) - _counted(node, towards)
            terms.append(_Term(node.feature, test, weight))
    unit, said = _said(answer, towards)
    return _Found(PATH, unit, _counted(nodes[0], towards), said(answer), terms, seen)


def _counted(node: Any, towards: Label | None) -> float:
    """What a node of a tree would say of all that it has counted."""
    if towards is None:
        return float(node.stats.mean.get())
    whole = sum(node.stats.values())
    return float(node.stats.get(towards, 0.0) / whole) if whole else 0.0


def _left_out(
    answers: Answerer, features: Features, answer: Answer, towards: Label | None, usual: Usual
) -> _Found:
    unit, said = _said(answer, towards)
    total = said(answer)
    others = {name: usual.of(name) for name in features}
    others = {n: value for n, value in others.items() if value is not None and value != features[n]}
    terms = [
        _Term(name, name, total - said(answers({**features, name: value})))
        for name, value in others.items()
    ]
    bias = said(answers({**features, **others}))
    return _Found(LEFT_OUT, unit, bias, total, terms, given(features))


def _said(answer: Answer, towards: Label | None) -> tuple[str, Callable[[Answer], float]]:
    """A unit, and an answer as a number in it."""
    if towards is None:
        return VALUE, lambda other: float(other.label)
    if answer.scores:
        return PROBABILITY, lambda other: other.scores.get(str(towards), 0.0)
    return AGREES, lambda other: float(other.label == towards)


def _last(model: Model) -> Model:
    while type(model) is compose.Pipeline:
        model = model._last_step
    return model
