"""Your turn: after the simulated reviewers are done, the stream goes on, and whoever opens the desk is the reviewer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import replace

from streams import bootstrap, opening
from streams.config import Settings
from streams.core.errors import Unavailable
from streams.core.events import Features, Input, Label
from streams.core.topics import INPUTS, topic_name
from streams.desk.board import now_ms
from streams.desk.people import OPERATOR, People
from streams.desk.serving import listen
from streams.desk.store import open_store
from streams.engine.producer import Outputs
from streams.loop import Loop
from streams.supervisor import Supervisor, workers

ROLES = ("predictor", "joiner", "learner", "desk")
YOU = "you"
AGAIN = "again"
"""Goes before the ids of events that come a second time: they are other events."""


def your_turn(
    loop: Loop,
    settings: Settings,
    events: Iterable[tuple[str, Features, Label]],
    wait: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """Runs the roles and the desk, and sends the events once more, until told to end.

    Args:
        wait: Called before each event, and on after the last one; true ends it all.
        tell: Is given the link that signs in, once.

    Raises:
        Unavailable: A role ended.
    """
    settings = replace(settings, desk_port=_port(settings))
    env = {
        **os.environ,
        "COUNTERPOINT_BOOTSTRAP": settings.bootstrap,
        "COUNTERPOINT_STATE_DIR": str(settings.state_dir),
        "COUNTERPOINT_DESK_PORT": str(settings.desk_port),
    }
    with closing(open_store(opening.desk_url(loop, settings), loop.name)) as store:
        People(store).ensure(YOU, OPERATOR, now_ms())
    outputs, topic = Outputs(settings.kafka()), topic_name(loop.name, INPUTS)
    encode, coming = bootstrap.codec(settings).encoder(Input, topic), iter(events)
    with Supervisor(workers(loop.name, ROLES), env, say=lambda name, line: None) as roles:
        tell(opening.link(loop, settings, YOU))
        while not wait():
            if roles.failure is not None:
                raise Unavailable(str(roles.failure))
            for event_id, features, _ in coming:
                again = f"{AGAIN}-{event_id}"
                outputs.send(topic, encode(Input(again, features)), again.encode())
                outputs.flush(30)
                break


def _port(settings: Settings) -> int:
    """The desk's own port, or a free one where that is taken."""
    try:
        listening = listen(settings.desk_host, settings.desk_port)
    except Unavailable:
        listening = listen(settings.desk_host, 0)
    with listening:
        return int(listening.getsockname()[1])
