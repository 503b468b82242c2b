"""What an audit keeps whatever it looks at: accusations with the first few names, counts, notes; and how it reads."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf

from confluent_kafka import Consumer, Message

from streams.audit.digests import Digests, Seen
from streams.audit.report import NAMED, Fields, Subject
from streams.audit.topics import Bounds, place, read, show


class Ledger:
    """See the module."""

    def __init__(
        self,
        subject: Subject,
        settled: bool,
        progress: Callable[[str, float], None],
        consumer: Consumer,
        bounds: Mapping[str, Bounds],
    ) -> None:
        self._subject, self._settled, self._progress = subject, settled, progress
        self._consumer, self._bounds = consumer, bounds
        self._counts: Counter[str] = Counter()
        self._off: dict[tuple[int, str], list[str]] = defaultdict(list)
        self._times: Counter[tuple[int, str]] = Counter()
        self._notes: list[str] = []
        self._kept_since: dict[str, float] = {}
        self._dead_places = Seen()

    # Accusing

    def _accuse(self, promise: int, what: str, who: object) -> None:
        self._times[promise, what] += 1
        if len(self._off[promise, what]) < NAMED:
            self._off[promise, what].append(str(who))

    def _miss(self, promise: int, what: str, who: object) -> None:
        """Something has not happened: it is lost, or under way."""
        if self._settled:
            self._accuse(promise, what, who)
        else:
            self._counts["waiting"] += 1

    def _accuse_all(
        self,
        promise: int,
        what: str,
        offenders: Digests,
        names: Callable[[set[int]], Iterable[str]],
    ) -> None:
        """Accuses those with these digests; the first few are named, for which a topic is read again."""
        if not len(offenders):
            return
        self._times[promise, what] += len(offenders)
        wanted = {int(each) for each in offenders[: 100 * NAMED]}
        named = dict.fromkeys(names(wanted))
        self._off[promise, what] += [name for name, _ in zip(named, range(NAMED), strict=False)]

    def _miss_all(
        self, promise: int, what: str, missing: Digests, names: Callable[[set[int]], Iterable[str]]
    ) -> None:
        if self._settled:
            self._accuse_all(promise, what, missing, names)
        else:
            self._counts["waiting"] += len(missing)

    def _named(self, suffix: str, name: str = "feedback_id") -> Callable[[set[int]], Iterator[str]]:
        """Finds what has these digests among the records of a topic; each is told once."""

        def find(wanted: set[int]) -> Iterator[str]:
            for _, _, fields in self._records(suffix, "offenders"):
                if (digest := hash(fields[name])) in wanted:
                    wanted.discard(digest)
                    yield fields[name]
                if not wanted:
                    return

        return find

    # Reading

    def _read(self, suffix: str, what: str | None = None) -> Iterator[Message]:
        topic, bounds = self._subject.topics[suffix], self._bounds[suffix]
        return read(
            self._consumer, topic, bounds, lambda part: self._progress(what or suffix, part)
        )

    def _records(
        self, suffix: str, what: str | None = None
    ) -> Iterator[tuple[Message, str, Fields]]:
        for message in self._read(suffix, what):
            try:
                name, fields = self._subject.decode(message.value() or b"")
            except self._subject.unreadable:
                if what is None and hash(place(message)) not in self._dead_places:
                    told = f"unreadable records of {suffix} without a dead letter"
                    self._miss(1, told, show(place(message)))
                continue
            yield message, name.rpartition(".")[2], fields

    def _note_what_is_gone(self) -> None:
        """Finds since when each topic is whole: what is older, it can neither confirm nor deny."""
        for suffix, bounds in self._bounds.items():
            begun = {p: low for p, (low, _) in bounds.items() if low > 0}
            if not begun:
                continue
            firsts = [self._first_time(suffix, p) for p in begun]
            self._kept_since[suffix] = max(firsts)
            gone = sum(begun.values())
            self._notes.append(
                f"{gone:,} records of {suffix} are deleted already and not recounted"
            )

    def _first_time(self, suffix: str, partition: int) -> float:
        low, high = self._bounds[suffix][partition]
        if low == high:
            return inf
        topic, first = self._subject.topics[suffix], {partition: (low, low + 1)}
        return next((message.timestamp()[1] for message in read(self._consumer, topic, first)), inf)

    def _is_told_of(self, time_ms: float, *suffixes: str) -> bool:
        """Whether these topics still hold what came of a record of that time."""
        return not self._kept_since or all(
            time_ms >= self._kept_since.get(suffix, -inf) for suffix in suffixes
        )

    def _is_kept(self, suffix: str, partition: int, offset: int) -> bool:
        low, _ = self._bounds[suffix].get(partition, (0, 0))
        return offset >= low
