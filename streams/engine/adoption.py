"""Puts another definition of a loop's models in force: what `counterpoint models adopt` does to the log.

What definitions mean is decided in ``core/lineage``; where a fold starts from them, in ``log``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from confluent_kafka import Message

from streams.core import lineage
from streams.core.errors import BadRecord
from streams.core.events import CONTINUE, FRESH, REFOLD, Define, Example, Exclusion, Outcome
from streams.core.fold import Fold, learned, refusals
from streams.engine.codec import Codec
from streams.engine.guard import Guard
from streams.engine.log import CONTROLS, FAR, Log, Opening, control_kind
from streams.engine.partition import Record
from streams.engine.producer import Outputs
from streams.engine.reader import to_end
from streams.engine.rebuild import Rebuilder, Target

LEFT = "by the models that were left for a fresh start at offset {}"


class Adoption:
    """Puts the definition of a log's process in force, in every partition.

    What can be refused is refused before anything is written, and what is written can be written again: an adoption
    that was interrupted is seen through by running it again, in its own mode or in another.  After the definition comes

    * *refold*: nothing;
    * *continue*: the models of the lineage before, folded up to the definition (by this process's code, where their last
      snapshots do not reach), as this lineage's own.  All but the last say that a fold starts at 0: so the one that
      says otherwise says that all are there.  Where nothing was learned yet it becomes a refold;
    * *fresh*: what is owed (see below), and the definition again, which says that it was told.

    **What is owed.**  A version is a position in the log, so an example in front of a definition was learned by the
    models before it, whether or not a learner ever got there.  The new learner will not tell so: it starts behind the
    definition, or passes over what stands in front of it.  Therefore the adoption tells ``learned``, at the version that
    the example made; a learner of the old code that comes by tells the same, and outcomes may repeat.

    Args:
        log: Whose definition is adopted.
        outcomes: The topic of that name.
        guard: Buries what the learner would.
    """

    def __init__(
        self, log: Log, *, outcomes: str, codec: Codec, guard: Guard, outputs: Outputs
    ) -> None:
        self._log, self._outcomes, self._guard, self._outputs = log, outcomes, guard, outputs
        self._decode = codec.decode_as
        self._encode_outcome = codec.encoder(Outcome, outcomes)

    def run(self) -> None:
        """Adopts, or does what an adoption has left to do.

        Raises:
            Conflict: There is nothing to adopt, or nothing to continue.
            ConfigError: The log cannot be folded from its beginning.
            BadRecord: A model that is to be continued cannot be read.
        """
        log = self._log
        standings = {
            partition: lineage.standing(log.definitions(partition), log.mine)
            for partition in log.partitions()
        }
        troubles = {p: log.trouble(p) for p, standing in standings.items() if standing.is_mine}
        lineage.check_adoption(standings.values(), log.mine, usable=not any(troubles.values()))
        left = {
            partition: standing
            for partition, standing in standings.items()
            if not (standing.is_begun and standing.is_told and troubles[partition] is None)
        }
        # All of it before anything is written.
        continued = {p: self._check(p, standing, troubles.get(p)) for p, standing in left.items()}
        for partition, standing in left.items():
            self._adopt(partition, standing, continued[partition])

    def _check(
        self, partition: int, standing: lineage.Standing, trouble: Exception | None
    ) -> _Theirs | None:
        """Refuses what cannot be adopted; gives what is continued."""
        if self._log.mine.mode != CONTINUE:
            if standing.is_begun and trouble is not None:  # the same once more would not help
                raise trouble
            self._log.check_whole(partition)
            return None
        before, end = standing.in_force, FAR
        if standing.is_begun:
            before, end = standing.before, standing.at
        if before is None:
            return None
        theirs = self._log.under(before[1])
        until = {partition: end}
        return _Theirs(theirs, theirs.open(scores=True, partitions=[partition], until=until))

    def _adopt(self, partition: int, standing: lineage.Standing, theirs: _Theirs | None) -> None:
        log, at = self._log, standing.at
        if not standing.is_begun:
            if not standing.is_told:
                self._tell_owed(partition, at)
            at = log.define(partition, self._definition(theirs), self._outputs)
        if theirs is not None:
            self._carry_over(partition, at, theirs)
        elif log.mine.mode == FRESH and standing.in_force is not None:
            self._settle(partition, at, log.mine)

    def _definition(self, theirs: _Theirs | None) -> Define:
        mine = self._log.mine
        if mine.mode != CONTINUE:
            return mine
        if theirs is None:  # a partition without a definition: nothing is there to continue
            return mine._replace(mode=REFOLD)
        return mine._replace(base=theirs.log.mine.base)  # for model keys that are still to come

    def begin_afresh(self, partition: int, define: Define) -> None:
        """Starts a lineage that knows nothing of what was learned before it."""
        at = self._log.define(partition, define, self._outputs)
        self._settle(partition, at, define)

    def _settle(self, partition: int, at: int, define: Define) -> None:
        self._tell_owed(partition, at)
        self._log.define(partition, define, self._outputs)

    def _tell_owed(self, partition: int, at: int) -> None:
        """Tells of the examples in front of a fresh start that no learner is known to have told of."""
        told = self._log.told_below(partition, at)
        folds: dict[str, Fold] = {}  # they learn nothing, and know which sources are new
        for message in self._examples(partition, 0, at):
            try:
                example = self._decode(Example, message.value() or b"")
            except BadRecord:  # the new learner passes by here, and buries it
                continue
            fold = folds.get(example.model_key)
            if fold is None:
                fold = folds[example.model_key] = self._log.new_fold(scores=False)
            version = (message.offset() or 0) + 1
            fresh = fold.mark(version, example)
            if version > told:
                self._tell(learned(example, fresh, version, LEFT.format(at)))
        self._outputs.flush()

    def _carry_over(self, partition: int, at: int, theirs: _Theirs) -> None:
        log, folds = self._log, theirs.opening.folds
        for message in self._records(partition, theirs.opening.starts[partition], at):
            if control_kind(message.headers()) is None:
                self._fold(message, theirs)
            else:
                self._exclude(message, theirs, at)
        if not folds:
            define = log.mine._replace(mode=REFOLD, base=theirs.log.mine.base)
            log.define(partition, define, self._outputs)
            return
        version = at + 1
        for fold in folds.values():
            fold.advance(version)
            fold.fix()
        *others, last = folds
        sealed = [log.seal(folds[key], key, partition, 0, at) for key in others]
        log.publish(sealed, self._outputs)
        log.publish([log.seal(folds[last], last, partition, version, at)], self._outputs)

    def _examples(self, partition: int, start: int, end: int) -> Iterator[Message]:
        for message in self._records(partition, start, end):
            if control_kind(message.headers()) is None:
                yield message

    def _records(self, partition: int, start: int, end: int) -> Iterator[Message]:
        """Examples, and control records about one model key."""
        log = self._log
        for message in to_end(log.kafka, log.examples, {partition: start}, {partition: end}):
            if control_kind(message.headers()) in (None, *CONTROLS):
                yield message

    def _exclude(self, message: Message, theirs: _Theirs, end: int) -> None:
        """What the learner does with a control record."""
        version, partition = (message.offset() or 0) + 1, message.partition() or 0
        key, opening = (message.key() or b"").decode(), theirs.opening
        fold = opening.folds.get(key)
        if fold is None:
            fold = opening.folds[key] = theirs.log.new_fold(scores=True)
        try:
            exclusion = self._decode(Exclusion, message.value() or b"")
            if fold.exclude(version, exclusion):
                return
        except BadRecord as error:
            self._guard.bury(_raw(message), "decode", error)
            return
        maker = Rebuilder(theirs.log, key, partition, opening.lineage[partition], until=end)
        opening.folds[key] = maker.rebuild(Target(version, fold.target(exclusion))).fold

    def _fold(self, message: Message, theirs: _Theirs) -> None:
        """What the learner does with an example."""
        try:
            example = self._decode(Example, message.value() or b"")
        except BadRecord as error:
            self._guard.bury(_raw(message), "decode", error)
            return
        folds = theirs.opening.folds
        fold = folds.get(example.model_key)
        if fold is None:
            fold = folds[example.model_key] = theirs.log.new_fold(scores=True)
        version = (message.offset() or 0) + 1
        if version <= theirs.opening.lineage[message.partition() or 0].learn_from:
            fold.mark(version, example)  # of a lineage that was left for a fresh start
            return
        applied = fold.apply(version, example)
        if applied.error is None:
            self._tell(learned(example, applied.fresh, version))
        for refused in refusals(example, applied):
            self._guard.bury(_raw(message), "learn", refused)

    def _tell(self, told: Iterable[Outcome]) -> None:
        for outcome in told:
            value = self._encode_outcome(outcome)
            self._outputs.send(self._outcomes, value, outcome.event_id.encode())


class _Theirs(NamedTuple):
    """The lineage that is continued: its log, and the models that its last snapshots hold."""

    log: Log
    opening: Opening


def _raw(message: Message) -> Record:
    where = message.topic() or "", message.partition() or 0, message.offset() or 0
    headers = message.headers() or ()
    return Record(*where, message.timestamp()[1], message.key(), message.value(), headers)
