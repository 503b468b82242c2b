"""The fold: the one class through which records of ``examples`` become a model, in learners and predictors alike.

It decides nothing about where a fold starts (``lineage``), nor what exclusions mean (``exclusions``), and reads and
writes nothing.
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from pyroaring import BitMap64

from streams.core import exclusions
from streams.core.errors import BadRecord, Conflict
from streams.core.events import (
    LEARNED,
    RETRACTED,
    Check,
    Corrected,
    Example,
    Exclusion,
    Features,
    Label,
    Outcome,
    Source,
)
from streams.core.exclusions import NOWHERE, Head, Places, Where
from streams.core.experience import Detector, Experience
from streams.core.explain import Explainer, explainer, is_exact
from streams.core.model import Answerer, Model, answerer, digest, learner
from streams.core.scores import Scores
from streams.core.topics import FEEDBACK
from streams.core.usual import Usual

PROBES = 16
"""Distinct examples on which replicas compare their answers."""
CHECK_EVERY = 256
"""Lessons between two checks. Lessons and not offsets: with several model keys, or transaction markers in the log, a
model may never see an offset that 256 divides, and the number of lessons is as much a function of the log."""
CHECKS = 16
"""Checks kept: enough for a replica and a snapshot to have one in common."""
FROZEN_AFTER = 100
"""Lessons after which the frozen model, the yardstick, stops learning."""
FORMAT = 2
READABLE = (1, FORMAT)
"""The first had no exclusions."""

Folded: TypeAlias = Example | Exclusion
"""What a model key's part of the log is made of."""


class Applied(NamedTuple):
    """What one example did.

    Attributes:
        fresh: Its sources that had not been seen before; empty for a duplicate.
        error: Why the model could not learn it; None if it did, or had not to.
    """

    fresh: tuple[Source, ...]
    error: str | None


DUPLICATE = Applied((), None)


def learned(
    example: Example, fresh: Iterable[Source], version: int, detail: str | None = None
) -> list[Outcome]:
    """What became of each feedback among the fresh sources of an example that was learned, or that took others back."""
    event_id, key = example.event_id, example.model_key
    status = RETRACTED if example.label is None else LEARNED
    return [
        Outcome(event_id, feedback_id, status, detail, partition, offset, key, version)
        for topic, partition, offset, feedback_id, *_ in fresh
        if topic == FEEDBACK
    ]


def refusals(example: Example, applied: Applied) -> Iterator[BadRecord]:
    """For each fresh source of an example that the model could not learn, why; none for one that it did."""
    if applied.error is None:
        return
    for source in applied.fresh:
        yield BadRecord(
            f"the model raised {applied.error}",
            event_id=example.event_id,
            feedback_id=source.feedback_id,
        )


class Fold:
    """The state of one model key: ``apply`` is the only thing that changes it, and depends on the log alone.

    Two folds of equal models that apply the same records are equal to the last bit, on one kind of CPU and for
    models that replay, also if one of them was stored and loaded in between.  Answering and explaining change nothing.

    Attributes:
        version: Offset + 1 of the last record folded; 0 is the unlearned model.
        learned: Lessons that the model took.
        size: Bytes of the state when it was last dumped or loaded; 0 before.
        excluded: The sources that are out.
        experience: What routing has to know of it.
        owed: Sources that folded examples correct and no control record has named since: whoever owns the log's
            partition has to write one.
    """

    def __init__(
        self,
        model: Model,
        task: str,
        classes: Sequence[Label] = (),
        *,
        scores: Scores | None = None,
        detectors: Iterable[Detector] = (),
    ) -> None:
        self._task, self._classes = task, tuple(classes)
        self.version = self.learned = self.size = 0
        self.scores = scores
        self.experience = Experience(task, detectors)
        self.checks: deque[Check] = deque(maxlen=CHECKS)
        self.excluded: Places = NOWHERE
        self.owed: Places = NOWHERE
        self._fixed: Places = NOWHERE
        self._refolding = False
        self._seen: dict[Where, BitMap64] = {}
        self._probe: list[Features] = []
        self._frozen: Model | None = None
        self._usual = None if is_exact(model) else Usual()
        self._use(copy.deepcopy(model))

    def _use(self, model: Model) -> None:
        self.model = model
        self.answer: Answerer = answerer(self._task, model, self._classes)
        self.explain: Explainer = explainer(self._task, model, self._classes, self._usual)
        self._learn = learner(model)
        self._freeze(self._frozen)

    def _freeze(self, model: Model | None) -> None:
        self._frozen = model
        self._frozen_answer: Callable[[Features], Label | None] | None = (
            None if model is None else model.predict_one
        )

    def apply(self, version: int, example: Example) -> Applied:
        """Fold the example at offset ``version - 1``; one that was folded before, or rests on nothing new, does nothing."""
        if type(example) is not Example:
            raise Conflict(_unknown(version, example))
        fresh = self.mark(version, example)
        if not fresh:
            return DUPLICATE
        if example.corrects:
            self._owe(example.corrects)
        label = example.label
        if label is None or (self.excluded and self._is_out(fresh)):
            return Applied(fresh, None)
        self._score(example)
        try:
            self._learn(example.features, label, example.weight)
        except MemoryError:  # says something about this machine, not about the example
            raise
        except Exception as error:  # noqa: BLE001 - the model is the user's code; every replica fails alike
            return Applied(fresh, f"{type(error).__name__}: {error}")
        self._count(version, example)
        return Applied(fresh, None)

    def mark(self, version: int, example: Example) -> tuple[Source, ...]:
        """Take the example's sources as seen without learning it, and tell which had not been."""
        if version <= self.version:  # folded before: the reader went back
            return ()
        self.version = version
        sources, seen = example.sources, self._seen
        if len(sources) == 1:  # as nearly all have
            return tuple(sources) if _add(seen, sources[0]) else ()
        return tuple(source for source in sources if _add(seen, source))

    def _owe(self, corrected: Sequence[Corrected]) -> None:
        self.owed = exclusions.union(self.owed, exclusions.places(corrected))

    def _is_out(self, fresh: Iterable[Source]) -> bool:
        out = self.excluded
        return all(s.offset in out.get((s.topic, s.partition), ()) for s in fresh)

    def exclude(self, version: int, exclusion: Exclusion) -> bool:
        """Fold the control record at offset ``version - 1``, of either kind.

        Returns:
            Whether this model is still the log's.  If not, nothing has changed, and only ``refold`` from an earlier
            state gives the model after this record.

        Raises:
            BadRecord: The record cannot be read.
        """
        if version <= self.version:
            return True
        if not self._refolding:
            target = self.target(exclusion)
            if not exclusions.is_start(self.head, target):
                return False
            self.excluded = target
        self.owed = exclusions.minus(self.owed, exclusions.read(exclusion))
        self.version = version
        return True

    def target(self, exclusion: Exclusion) -> Places:
        """What is out after a control record."""
        return exclusions.after(self.excluded, exclusion, self._fixed)

    def refold(
        self, target: Places, records: Iterable[tuple[int, Folded]], learn_from: int = 0
    ) -> dict[int, str]:
        """Fold, under the exclusions ``target`` from the first record on, what came after this state.

        Args:
            target: What is out at the end; ``exclusions.is_start`` of this state.
            records: The model key's part of the log, with versions.
            learn_from: Examples below this offset only mark their sources as seen.

        Returns:
            Version to the reason, of what the model could not learn.
        """
        refused: dict[int, str] = {}
        self.excluded, self._refolding = target, True
        for version, record in records:
            if isinstance(record, Exclusion):
                self.exclude(version, record)
            elif version <= learn_from:
                self.mark(version, record)
            elif (error := self.apply(version, record).error) is not None:
                refused[version] = error
        self._refolding = False
        # Those made on the way depend on where it started, and are not those of who follows the log.
        self.checks.clear()
        return refused

    def fix(self) -> None:
        """What was seen so far cannot be taken out any more: the log alone does not make this model."""
        self._fixed = {where: held.copy() for where, held in self._seen.items()}

    def advance(self, version: int) -> None:
        """Pass a record that changes nothing here: a definition, or the end of a read."""
        self.version = max(self.version, version)

    def _score(self, example: Example) -> None:
        if (
            self.scores is not None and example.predicted_at is not None
        ):  # history was never predicted
            self.scores.update(example, self._frozen_label(example))

    def _frozen_label(self, example: Example) -> Label | None:
        if (
            self._frozen_answer is None
        ):  # until it is frozen it is the model: its answer is the original one
            return example.predicted
        try:
            return self._frozen_answer(example.features)
        except Exception:  # noqa: BLE001 - user code beside the fold: replicas without scores must learn alike
            return None

    def _count(self, version: int, example: Example) -> None:
        features = example.features
        self.learned += 1
        self.experience.learn(version, example)
        if self._usual is not None:
            self._usual.learn(features)
        if len(self._probe) < PROBES and features not in self._probe:
            self._probe.append(dict(features))
        if self.learned % CHECK_EVERY == 0:
            self.checks.append(Check(version, self.digest()))
        if self.learned == FROZEN_AFTER and self.scores is not None:
            self._freeze(copy.deepcopy(self.model))

    def digest(self) -> str:
        """The exact answers on the probe set, as a digest."""
        return digest(self.answer, self._probe)

    def differs(self, checks: Iterable[Check]) -> bool | None:
        """Whether this model and that of ``checks`` ever answered otherwise; None without a version in common."""
        mine = dict(self.checks)
        common = [mine[version] != told for version, told in checks if version in mine]
        return any(common) if common else None

    @property
    def seen(self) -> dict[Where, BitMap64]:
        """Offsets of the sources seen, by topic and partition."""
        return self._seen

    @property
    def head(self) -> Head:
        """What this state tells of itself; it changes with it."""
        return Head(self.version, self.learned, self._seen, self.excluded, self._fixed)

    @property
    def probe(self) -> tuple[Features, ...]:
        """The events on which replicas compare their answers."""
        return tuple(self._probe)

    def dump(self) -> bytes:
        """The state as bytes: parts that are pickled each for itself, so that a reader pays for what it uses."""
        state = {
            "format": FORMAT,
            "version": self.version,
            "learned": self.learned,
            "seen": exclusions.dumped(self._seen),
            "excluded": exclusions.dumped(self.excluded),
            "owed": exclusions.dumped(self.owed),
            "fixed": exclusions.dumped(self._fixed),
            "probe": self._probe,
            "checks": [tuple(check) for check in self.checks],
            "experience": self.experience.dump(),
            "usual": None if self._usual is None else self._usual.dump(),
            "model": pickle.dumps(self.model, protocol=5),
            "scores": None
            if self.scores is None
            else pickle.dumps((self.scores.dump(), self._frozen), protocol=5),
        }
        data = pickle.dumps(state, protocol=5)
        self.size = len(data)
        return data

    def load(self, data: bytes, unpickle: Callable[[bytes], Any] = pickle.loads) -> None:
        """Take a dumped state in place of this one; scores only if this fold keeps any."""
        state = _opened(unpickle, data)
        model = _quietly(unpickle, state["model"])
        if self.scores is not None and state["scores"] is not None:
            scored, self._frozen = _quietly(unpickle, state["scores"])
            self.scores.load(scored)
        self.version, self.learned, self.size = state["version"], state["learned"], len(data)
        self._seen = exclusions.loaded(state["seen"])
        self.excluded = exclusions.loaded(state.get("excluded", {}))
        self.owed = exclusions.loaded(state.get("owed", {}))
        self._fixed = exclusions.loaded(state.get("fixed", {}))
        self._probe = state["probe"]
        self.checks = deque((Check(*check) for check in state["checks"]), maxlen=CHECKS)
        if "experience" in state:  # not in one of the release before
            self.experience.load(state["experience"])
        if self._usual is not None:
            self._usual = Usual()
            self._usual.load(state.get("usual") or self._usual.dump())
        self._use(model)


def _add(seen: dict[Where, BitMap64], source: Source) -> bool:
    """Notes a source; whether it had not been seen before."""
    topic, partition, offset, *_ = source
    held = seen.get((topic, partition))
    if held is None:
        held = seen[topic, partition] = BitMap64()
    elif offset in held:
        return False
    held.add(offset)
    return True


def head(data: bytes, unpickle: Callable[[bytes], Any] = pickle.loads) -> Head:
    """What a dumped state tells of itself; its model stays pickled.

    Raises:
        Conflict: Another release made it.
    """
    state = _opened(unpickle, data)
    return Head(
        state["version"],
        state["learned"],
        exclusions.loaded(state["seen"]),
        exclusions.loaded(state.get("excluded", {})),
        exclusions.loaded(state.get("fixed", {})),
    )


def _opened(unpickle: Callable[[bytes], Any], data: bytes) -> Mapping[str, Any]:
    state: Mapping[str, Any] = _quietly(unpickle, data)
    if state["format"] not in READABLE:
        raise Conflict(
            f"The state has format {state['format']}, this program reads {FORMAT}: use one release"
        )
    return state


def _quietly(unpickle: Callable[[bytes], Any], data: bytes) -> Any:
    """Unpickle without the cycle collector, which looks at a growing forest again and again."""
    if not gc.isenabled():
        return unpickle(data)
    gc.disable()
    try:
        return unpickle(data)
    finally:
        gc.enable()


def _unknown(version: int, record: object) -> str:
    return (
        f"Record {version - 1} of the examples is a {type(record).__name__}, which this release cannot fold: "
        "a newer one wrote it; upgrade this process"
    )
