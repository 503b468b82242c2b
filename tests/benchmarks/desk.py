"""How fast the desk is, with 100,000 items that wait: taking the topics in, the next item, Browse, many who answer.

It is measured where a request would ask, in this process, on SQLite and on a real Kafka; one desk serves everybody.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from time import perf_counter, sleep

from streams import opening
from streams.core.events import ABSTAIN, AUTO, REVIEW, Contribution, Prediction, Review
from streams.core.topics import PREDICTIONS, REVIEWS, topics
from streams.desk.board import Board, now_ms
from streams.desk.filters import Filter
from streams.desk.outbox import Verdict
from streams.engine.codec import Codec
from tests.benchmarks import loops
from tests.benchmarks.lab import Lab
from tests.benchmarks.latency import percentile
from tests.benchmarks.report import Figure

WAITING, OTHERS = 100_000, 100_000
PEOPLE, ANSWERS = 50, 100
ASKED = 500
FEATURES = {f"feature_{number}": number / 7 for number in range(10)}
FILTERS = (
    Filter(),
    Filter(label=True, lane="sure"),
    Filter(lane="unsure"),
    Filter(confidence_from=0.2, confidence_to=0.201),
    Filter(model_version=-1),
    Filter(route=AUTO),
    Filter(channel="git"),
    Filter(reviewer="nobody"),
    Filter(answered=True),
    Filter(text="event 77777"),
    Filter(text="not there"),
)


def measure(lab: Lab) -> list[Figure]:
    """One desk, from empty tables on."""
    loop = loops.named(loops.asked, lab.name("desk"))
    lab.prepare(loop)
    _fill(lab, {suffix: spec.name for suffix, spec in topics(loop).items()})
    with opening.opened(loop, lab.settings(loop.name)) as desk:
        began = perf_counter()
        desk.projection.start()
        while not desk.projection.await_ready(0.2):
            pass
        per_s = desk.projection.taken / (perf_counter() - began)
        lab.say(f"the projection took in {desk.projection.taken:,} at {per_s:,.0f}/s")
        desk.sender.start()
        following = _timed(lambda n: _next(desk.board, f"reviewer-{n % PEOPLE}"), ASKED)
        browsing = _timed(lambda n: desk.board.reads.browse(FILTERS[n % len(FILTERS)]), ASKED)
        worst = max(FILTERS, key=lambda each: _slowest(desk.board, each))
        lab.say(f"the slowest filter is {worst}")
        verdicts_per_s = _answering(lab, desk.board)
    return [
        Figure("desk_next_ms_p95", percentile(following, 95)),
        Figure("desk_browse_ms_p95", percentile(browsing, 95)),
        Figure("desk_verdicts_per_s", verdicts_per_s),
        Figure("projection_per_s", per_s),
    ]


def _fill(lab: Lab, names: dict[str, str]) -> None:
    """Predictions that people are asked about, and as many others."""
    codec, now = Codec(), now_ms()
    predictions = codec.encoder(Prediction, names[PREDICTIONS])
    reviews = codec.encoder(Review, names[REVIEWS])
    asked, others = lab.count(WAITING), lab.count(OTHERS)

    def said() -> Iterator[tuple[bytes, bytes]]:
        for number in range(asked + others):
            made = _prediction(number, REVIEW if number % 2 == 0 else AUTO)
            yield made.event_id.encode(), predictions(made)

    def wanted() -> Iterator[tuple[bytes, bytes]]:
        for number in range(0, asked + others, 2):
            made = _prediction(number, REVIEW)
            fields = made._asdict()
            del fields["route"]
            asks = Review(
                **fields,
                priority=number % 97 / 97,
                requested_at=now,
                deadline=now + 10**9,
            )
            yield made.event_id.encode(), reviews(asks)

    lab.feed(names[PREDICTIONS], said())
    lab.feed(names[REVIEWS], wanted())


def _prediction(number: int, route: str) -> Prediction:
    confidence = number % 1_009 / 1_009
    return Prediction(
        event_id=f"event-{number:07}",
        label=number % 3 == 0,
        scores={"True": confidence, "False": 1 - confidence},
        confidence=confidence,
        features=FEATURES,
        text=f"what people read of event {number}",
        occurred_at=None,
        model_key="",
        model_version=number // 1_000,
        route=route,
        reason="one in two",
        probability=0.5,
        explanation=[Contribution(name, 1.0, 0.5) for name in FEATURES],
    )


def _next(board: Board, reviewer: str) -> None:
    """As a page does: the item to be looked at, and the one after it; the first is answered."""
    items = board.work.next(reviewer, board.clock(), 2)
    verdict = Verdict(event_id=items[0].review.event_id, kind=ABSTAIN, lease=items[0].lease)
    board.outbox.confirm(reviewer, verdict, board.clock())


def _timed(ask: Callable[[int], object], count: int) -> list[float]:
    """How long each of so many took, in milliseconds."""
    took = []
    for number in range(count):
        began = perf_counter()
        ask(number)
        took.append((perf_counter() - began) * 1000)
    return took


def _slowest(board: Board, wanted: Filter) -> float:
    return max(_timed(lambda _: board.reads.browse(wanted), 5))


def _answering(lab: Lab, board: Board) -> float:
    """Many who take and answer items at once, until all of it is on Kafka: verdicts per second."""
    each = lab.count(ANSWERS, least=2)
    given: list[str] = []

    def work(reviewer: str) -> None:
        for _ in range(each):
            (item, *_rest) = board.work.next(reviewer, board.clock(), 1)
            event_id = item.review.event_id
            verdict = Verdict(event_id=event_id, kind=ABSTAIN, lease=item.lease)
            board.outbox.confirm(reviewer, verdict, board.clock())
            given.append(event_id)

    threads = [threading.Thread(target=work, args=(f"person-{n}",)) for n in range(PEOPLE)]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    while board.outbox.undelivered():
        sleep(0.005)
    took_s = perf_counter() - began
    lab.say(f"{len(given):,} verdicts in {took_s:.1f} s, {len(set(given)):,} different items")
    if len(set(given)) != len(given) or len(given) != each * PEOPLE:
        message = "an item was given out twice, or a verdict was lost"
        raise AssertionError(message)
    return len(given) / took_s
