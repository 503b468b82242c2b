"""Opens the desk of a loop: makes its parts from settings and the loop, and hands them to each other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from streams import bootstrap
from streams.bootstrap import START_TIMEOUT_S, Parts
from streams.config import Settings
from streams.core import topics as names
from streams.core.errors import ConfigError, Unavailable
from streams.core.events import Feedback
from streams.desk.api import make_api
from streams.desk.board import About, Board, Health, now_ms
from streams.desk.doors import Doors, Proxy
from streams.desk.folding import Folding
from streams.desk.live import Pulse
from streams.desk.middleware import BodyLimit, SecurityHeaders
from streams.desk.outbox import Deliver, Outbox, Sender
from streams.desk.pages import pages
from streams.desk.people import People
from streams.desk.projection import FOLLOWED, Projection
from streams.desk.reads import Reads
from streams.desk.serving import listen, serve
from streams.desk.store import Store, open_store
from streams.desk.work import Work
from streams.engine import admin
from streams.engine.codec import Codec
from streams.engine.producer import Outputs
from streams.engine.slot import take
from streams.failpoints import arm
from streams.heartbeat import beating
from streams.loop import Loop, load
from streams.present import Present
from streams.supervisor import signals_set

log = logging.getLogger("counterpoint.desk")

ROLE = "desk"
DELIVERY_S = 30
LOOK_S = 3.0
"""Who has the store can go on without Kafka: what was read is shown, and verdicts wait."""


@dataclass(frozen=True)
class Opened:
    """The parts of a desk; nothing runs yet."""

    board: Board
    projection: Projection
    sender: Sender
    present: Present


def run_desk(reference: str, worker: str | None, settings: Settings) -> int:
    """Runs the desk until it is told to stop.

    Raises:
        ConfigError: The loop, the settings or the topics are not as they must be.
        StreamsError: It cannot start.
    """
    bootstrap.start_logging()
    arm(settings.failpoints)
    loop = load(reference)
    _check(Parts(loop, settings))
    slot = take(settings.state_dir / loop.name / ROLE, ROLE, worker)
    try:
        listening = listen(settings.desk_host, settings.desk_port)
        # The server raises the signal that ended it once more: then it must not end us before the rest is closed.
        with signals_set(threading.Event()), opened(loop, settings) as desk:
            desk.projection.start()
            desk.sender.start()
            app = application(desk.board, doors_of(desk.board, settings))
            heart = beating(lambda: Parts(loop, settings), ROLE, slot.name, desk.board.health)
            with heart, desk.present.following():
                serve(app, listening, desk.board.pulse.end)
    finally:
        slot.release()
    return 0


def rebuild(loop: Loop, settings: Settings, stop: Callable[[], bool] = lambda: False) -> int:
    """Makes the projection anew from the topics, and nothing else; how many records were taken in.

    Raises:
        Conflict: The loop's desk runs.
        Unavailable: Kafka or the database does not answer.
    """
    admin.reachable(settings.kafka(), START_TIMEOUT_S)
    slot = take(settings.state_dir / loop.name / ROLE, ROLE, f"{ROLE}-1")
    try:
        with opened(loop, settings) as desk:
            desk.board.store.empty_projection()
            desk.projection.start()
            while not desk.projection.await_ready(0.2) and not stop():
                if desk.projection.trouble is not None:
                    raise Unavailable(desk.projection.trouble)
            return desk.projection.taken
    finally:
        slot.release()


@contextmanager
def opened(loop: Loop, settings: Settings) -> Iterator[Opened]:
    """The desk of a loop, closed in the end."""
    parts = Parts(loop, settings)
    store = open_store(desk_url(loop, settings), loop.name)
    made = _made(parts, store)
    try:
        if store.renew_projection():
            log.info("the desk's tables are filled from the topics")
        yield made
    finally:
        made.board.pulse.end()
        made.projection.stop()
        made.sender.stop()
        store.close()


def desk_url(loop: Loop, settings: Settings) -> str:
    """Where the desk's tables are."""
    if settings.desk_url:
        return settings.desk_url.reveal()
    return f"sqlite:///{settings.state_dir / loop.name / ROLE / 'desk.sqlite'}"


def _check(parts: Parts) -> None:
    """The topics are as they must be, if Kafka is there to be asked."""
    try:
        admin.reachable(parts.kafka, LOOK_S)
    except Unavailable as error:
        log.warning("%s: the desk shows what it has read, and verdicts wait", error)
        return
    mistakes = admin.check(parts.admin, list(parts.topics.values()))
    if mistakes:
        raise ConfigError(mistakes)


def _made(parts: Parts, store: Store) -> Opened:
    loop, decode = parts.loop, parts.codec.decode
    rules, pulse = parts.rules, Pulse()
    followed = {suffix: parts.topic(suffix) for suffix in FOLLOWED}
    projection = Projection(
        kafka=parts.kafka,
        topics=followed,
        store=store,
        folding=Folding(rules, decode, is_sqlite=store.is_sqlite),
        pulse=pulse,
        topic_ids=lambda: admin.topic_ids(
            admin.connect(parts.kafka, LOOK_S), list(followed.values())
        ),
    )
    sender = Sender(store, lambda: _delivery(parts), lambda count: pulse.beat(["verdicts"]))
    outbox = Outbox(store, rules, decode, Codec().encoder(Feedback, ""), sender.wake)

    def health() -> Health:
        trouble = projection.trouble or sender.trouble
        return Health(
            ready=projection.ready,
            behind=projection.behind(),
            skipped=projection.skipped,
            undelivered=outbox.undelivered(),
            trouble=trouble,
        )

    reads = Reads(store, decode, loop.window_ms)

    def again(partition: int, offset: int) -> str:
        verdict = reads.again(partition, offset)
        _delivery(parts)([verdict])
        return f"said once more, as {verdict.feedback_id}"

    present = Present(lambda: bootstrap.replica(parts))
    board = Board(
        about=About(loop.name, loop.task, tuple(loop.classes), loop.window_ms, loop.view),
        store=store,
        work=Work(store, decode, parts.settings.desk_lease_s, several=rules.reviewers is not None),
        outbox=outbox,
        reads=reads,
        pulse=pulse,
        health=health,
        retry=lambda partition, offset: _retry(parts, partition, offset),
        again=again,
        now=present.answer,
    )
    return Opened(board, projection, sender, present)


def _delivery(parts: Parts) -> Deliver:
    """What writes verdicts to the loop's feedback, with a producer of its own."""
    topic = parts.topic(names.FEEDBACK)
    encode = parts.codec.encoder(Feedback, topic)
    outputs = Outputs(parts.kafka, log_level=0, **{"delivery.timeout.ms": DELIVERY_S * 1000})

    def deliver(verdicts: Sequence[Feedback]) -> None:
        for said in verdicts:
            headers = [("feedback_id", said.feedback_id.encode())]
            outputs.send(topic, encode(said), said.event_id.encode(), headers)
        outputs.flush(DELIVERY_S + 5)

    return deliver


def _retry(parts: Parts, partition: int, offset: int) -> str:
    from streams import operate

    (letter,) = operate.retry(parts.loop, parts.settings, [f"{partition}-{offset}"])
    return f"sent to {letter.letter.topic} again"


def application(board: Board, doors: Doors) -> Any:
    """What is served."""
    api = Mount("/api/v1", make_api(board, doors.caller))
    return Starlette(
        routes=[*probes(board), api, Mount("/", pages(board, doors))],
        middleware=[Middleware(SecurityHeaders), Middleware(BodyLimit)],
    )


def doors_of(board: Board, settings: Settings) -> Doors:
    """Who may come in, and how."""
    proxy = None
    if settings.desk_trusted:
        proxy = Proxy(settings.desk_user_header, settings.desk_trusted)
    secure = (settings.desk_public_url or "").startswith("https:")
    return Doors(People(board.store), board.clock, proxy, secure=secure)


def link(loop: Loop, settings: Settings, name: str) -> str:
    """A link to the loop's desk that signs somebody in, once.

    Raises:
        NotFound: There is no such person.
    """
    store = open_store(desk_url(loop, settings), loop.name)
    with closing(store):
        secret = People(store).new_link(name, now_ms())
    here = f"http://{settings.desk_host}:{settings.desk_port}"
    return f"{settings.desk_public_url or here}/enter/{secret}"


def probes(board: Board) -> list[Route]:
    """Whether it is alive, and whether it has read what there was."""

    def is_alive(request: Request) -> Response:
        return PlainTextResponse("alive")

    def is_ready(request: Request) -> Response:
        health = board.health()
        if health.ready:
            return PlainTextResponse("ready")
        return PlainTextResponse(f"{health.behind} records behind", 503)

    return [Route("/healthz", is_alive), Route("/readyz", is_ready)]
