"""The composition root: the one file that knows every part, builds them from settings and a loop, and hands them to each other."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import platform
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import faust
from confluent_kafka.admin import AdminClient
from river.__version__ import __version__ as river_version
from rocksdict import Cache

from streams import show
from streams.audit import Report, Stored, Subject
from streams.audit import audit as recount
from streams.config import Settings, signing_secret
from streams.core import topics as names
from streams.core.errors import BadRecord, ConfigError, Conflict, Mistake, NotFound
from streams.core.events import FRESH, Define, Example, Features, Input, Snapshot
from streams.core.fold import Fold
from streams.core.model import (
    definition_of,
    describe,
    draws_unseeded,
    is_deaf_to_weights,
    replayed,
    seeded,
    specimens,
)
from streams.core.scores import Scores
from streams.core.topics import TopicSpec
from streams.core.verdicts import Rules
from streams.engine import admin, snapshots
from streams.engine.adoption import Adoption
from streams.engine.codec import Codec
from streams.engine.guard import Guard
from streams.engine.heap import share_arenas
from streams.engine.intake import Intake
from streams.engine.joiner import Joiner, logged
from streams.engine.learner import Learner
from streams.engine.log import Log, control_kind, rounds_otherwise
from streams.engine.partition import Emit, PartitionJoin
from streams.engine.places import Places
from streams.engine.predictor import Predictor
from streams.engine.producer import Outputs
from streams.engine.reader import group_less, partitions_of, to_end
from streams.engine.replay import replays
from streams.engine.replica import Replica
from streams.engine.slot import Slot, take
from streams.engine.sources import input_reader, label_reader
from streams.engine.standby import Standby
from streams.engine.state import (
    BLOCK_CACHE_BYTES,
    Identity,
    TopicIdentity,
    open_state,
)
from streams.engine.status import Heart
from streams.engine.transactions import Transactions
from streams.engine.worker import Options, Role, RoleWorker
from streams.failpoints import arm
from streams.history import history
from streams.loop import TRANSACTIONAL, Loop, load

log = logging.getLogger("counterpoint")

START_TIMEOUT_S = 15.0
SILENCES = 3
"""Session timeouts until a transaction is aborted: a slow batch must fit in, and who died holds back readers so long."""
REPLAY_LEAST, REPLAY_MOST, REPLAY_S = 300, 1_200, 2.0
"""A model is tried on this many lessons, or on fewer if they would take longer: KNN does not differ before the 500th."""
ROLES = ("predictor", "joiner", "learner", "intake")
USES = {
    "predictor": ((names.INPUTS, names.EXAMPLES, names.MODELS), (names.PREDICTIONS,)),
    "joiner": (
        (names.PREDICTIONS, names.FEEDBACK),
        (names.EXAMPLES, names.OUTCOMES, names.REVIEWS, names.FEEDBACK),
    ),
    "learner": ((names.EXAMPLES, names.MODELS), (names.OUTCOMES, names.SCORES, names.MODELS)),
    "intake": ((), (names.FEEDBACK,)),
}
"""What each role reads and writes, beside ``status`` and ``dead-letters``."""


def settings(bootstrap: str | None = None) -> Settings:
    """The settings of this process's environment; a given broker goes before that of the environment."""
    environ = dict(os.environ)
    if bootstrap is not None:
        environ["COUNTERPOINT_BOOTSTRAP"] = bootstrap
    return Settings.from_env(environ)


def codec(settings: Settings) -> Codec:
    """What turns records to bytes and back."""
    found = settings.registry()
    if found is None:
        return Codec()
    from streams.engine.registry import SchemaRegistry  # its HTTP client takes a second to import

    return Codec(SchemaRegistry(found))


@dataclass(frozen=True)
class Parts:
    """The parts of one loop that several roles need, each made when it is first asked for."""

    loop: Loop
    settings: Settings
    transactional_id: str | None = None  # of a role whose outputs go through transactions

    @cached_property
    def kafka(self) -> dict[str, str]:
        """Connection settings for confluent-kafka."""
        return self.settings.kafka()

    @cached_property
    def codec(self) -> Codec:
        """The codec of this process."""
        return codec(self.settings)

    @cached_property
    def topics(self) -> dict[str, TopicSpec]:
        """The loop's topics, by suffix."""
        return names.topics(self.loop, self.settings.keep())

    def topic(self, suffix: str) -> str:
        """The name of one of them."""
        return self.topics[suffix].name

    @cached_property
    def model(self) -> Any:
        """The unlearned model, with every seed set."""
        model, told = seeded(self.loop.model, self.loop.name)
        for seed in told:
            log.info("%s was not set and is derived from the loop's name", seed)
        return model

    def lessons(self, count: int) -> list[tuple[Features, Any]]:
        """Made-up lessons to try the model on."""
        features = self.loop.inputs.feature_types or dict.fromkeys("abcdefghij", float)
        return specimens(self.loop.task, features, self.loop.classes, count=count)

    def define(
        self, mode: str = FRESH, why: str = "first start", base: str | None = None
    ) -> Define:
        """The definition of the loop as its code says it here and now."""
        found = definition_of(
            self.model,
            self.loop.task,
            classes=self.loop.classes,
            features=self.loop.inputs.features,
        )
        return Define(
            loop=self.loop.name,
            definition=found.hash,
            description=found.description,
            mode=mode,
            base=base,
            replays=self.replays(found.hash),
            deaf=self._deaf(),
            river=river_version,
            python=platform.python_version(),
            who=f"{os.environ.get('USER', 'unknown')}@{socket.gethostname()}",
            why=why,
        )

    def _deaf(self) -> bool:
        try:
            deaf = is_deaf_to_weights(self.model, self.loop.task, self.lessons(64))
        except Exception:  # noqa: BLE001  the user's steps may not like made-up values; that tells nothing
            return False
        weights = {kind: weight for kind, weight in self.loop.weights.items() if weight != 1}
        if deaf and weights:
            expected = "nothing: the model ignores or refuses weights; or another model"
            raise ConfigError([Mistake("weights", weights, expected)])
        return deaf

    def replays(self, definition: str) -> bool:
        """Whether two processes that fold the same lessons get the same model; found out once per definition."""
        known = self.settings.cache_dir / "replays" / definition
        if not known.exists():
            answer = self._replays()
            known.parent.mkdir(parents=True, exist_ok=True)
            written = known.with_name(f"{definition}.{os.getpid()}")
            written.write_text("yes" if answer else "no")
            written.replace(known)  # other roles start at the same time
        return known.read_text() == "yes"

    def _replays(self) -> bool:
        try:
            if draws_unseeded(self.model):
                return False
            started = perf_counter()
            replayed(self.model, self.loop.task, self.lessons(100))
            each_s = (perf_counter() - started) / 100
        except Exception:  # noqa: BLE001  as above; if it does not replay, the checks in the snapshots will tell
            return True
        count = min(REPLAY_MOST, max(REPLAY_LEAST, int(REPLAY_S / each_s)))
        given = pickle.dumps((self.model, self.loop.task, self.lessons(count)))
        return replays(given)

    @property
    def rules(self) -> Rules:
        """What the loop says about verdicts."""
        loop = self.loop
        return Rules(
            task=loop.task,
            classes=tuple(loop.classes),
            window_ms=loop.window_ms,
            early_ms=loop.early_ms,
            weights=loop.weights,
            corrections=loop.corrections,
            unanswered=loop.unanswered,
            reviewers=loop.reviewers,
        )

    def new_fold(self, scores: Scores | None) -> Fold:
        """A model before its first lesson."""
        loop, detectors = self.loop, self.loop.review.detectors()
        return Fold(self.model, loop.task, loop.classes, scores=scores, detectors=detectors)

    def new_scores(self) -> Scores:
        """Metrics before the first lesson."""
        return Scores(self.loop.task)

    def log(self, mine: Define) -> Log:
        """The loop's log and snapshots."""
        examples = self.topic(names.EXAMPLES)
        return Log(
            kafka=self.kafka,
            examples=examples,
            models=self.topic(names.MODELS),
            topic_id=self.topic_ids[examples],
            mine=mine,
            new_fold=self.new_fold,
            new_scores=self.new_scores,
            codec=self.codec,
            secret=signing_secret(self.settings),
            allowed=snapshots.globals_of(pickle.dumps(self.model, protocol=5)),
        )

    def stored(self) -> list[Snapshot]:
        """The manifests of the stored models, newest first."""
        found: dict[bytes, Snapshot] = {}
        for message in to_end(self.kafka, self.topic(names.MODELS)):
            key = message.key() or b""
            if message.value() is None:
                found.pop(key, None)
            elif snapshots.parse_key(key).chunk is None:
                found[key] = self.codec.decode_as(Snapshot, message.value())
        return sorted(found.values(), key=lambda s: (s.created_at, s.version), reverse=True)

    @cached_property
    def admin(self) -> AdminClient:
        """Asks the broker about topics."""
        return AdminClient(self.kafka)

    @cached_property
    def topic_ids(self) -> dict[str, str]:
        """Identities of the loop's topics."""
        return admin.topic_ids(self.admin, [spec.name for spec in self.topics.values()])

    def places(self, role: str, *, rewind: bool = False) -> Places:
        """What checks the offsets of a role's group."""
        return Places(
            kafka=self.kafka,
            codec=self.codec,
            status=self.topic(names.STATUS),
            role=role,
            group=self.group(role),
            topic_ids=self.topic_ids,
            rewind=rewind,
        )

    def uses(self, role: str) -> tuple[list[str], list[str]]:
        """The topics that a role reads, and those that it writes."""
        reads, writes = USES[role]
        own = [self.topic(suffix) for suffix in (*reads, names.STATUS)]
        if role == "intake":
            own += [str(source.topic) for source in self.loop.labels]
        return own, [self.topic(s) for s in (*writes, names.STATUS, names.DEAD_LETTERS)]

    def group(self, role: str) -> str:
        """The consumer group of a role."""
        return f"{self.loop.name}.{role}"

    @cached_property
    def reports(self) -> Outputs:
        """The producer of what is no output of the loop, and is told at once."""
        return Outputs(self.kafka)

    @cached_property
    def transactions(self) -> Transactions | None:
        """The producer of a role's outputs, where readers are to see each exactly once."""
        if self.transactional_id is None:
            return None
        timeout_s = SILENCES * self.settings.session_timeout_s
        return Transactions(self.kafka, self.transactional_id, timeout_s)

    @cached_property
    def outputs(self) -> Outputs:
        """The process's producer."""
        return self.transactions or self.reports

    def guard(self, role: str) -> Guard:
        """Where a role's bad records go."""
        limit = self.settings.max_record_bytes
        return Guard(role, self.topic(names.DEAD_LETTERS), self.codec, self.outputs, limit)

    def heart(self, role: str, worker: str) -> Heart:
        """A worker's heartbeat."""
        return Heart(
            loop=self.loop.name,
            role=role,
            worker=worker,
            topic=self.topic(names.STATUS),
            topic_ids=self.topic_ids,
            codec=self.codec,
            outputs=self.reports,
        )

    def model_key(self) -> Callable[[Features], str]:
        """What tells the model key of an event.

        The function made raises BadRecord for an event without one.
        """
        key = self.loop.model_key
        if key is None:
            return lambda features: ""
        if callable(key):
            of = key
            return lambda features: _as_key(of(features), "the loop's model_key")
        name = key
        return lambda features: _as_key(features.get(name), f"feature {name}")


def _as_key(value: object, what: str) -> str:
    if not isinstance(value, str | int) or value == "":
        reason = f"{what} gives {value!r}, expected the text that names a model"
        raise BadRecord(reason)
    return str(value)


# Running a role ------------------------------------------------------------------------------------------------------


def run_role(
    role: str,
    reference: str,
    worker: str | None,
    settings: Settings,
    *,
    standby: bool = False,
    rewind: bool = False,
) -> int:
    """Runs a role until it is told to stop.

    Args:
        standby: Of a joiner: it keeps copies of the partitions that others own.
        rewind: It goes on where its group's offsets are, though they were set back.

    Raises:
        ConfigError: The loop, the settings or the topics are not as they must be.
        StreamsError: It cannot start, or cannot go on.
    """
    if role not in ROLES:
        message = f"no role is called {role!r}; there are {', '.join(ROLES)}"
        raise NotFound(message)
    _with_fixed_hashes()
    share_arenas()
    start_logging()
    arm(settings.failpoints)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until Faust has its own
    loop = load(reference)
    parts = Parts(loop, settings)
    admin.reachable(parts.kafka, START_TIMEOUT_S)
    mistakes = admin.check(parts.admin, list(parts.topics.values()))
    if mistakes:
        raise ConfigError(mistakes)
    mistakes = admin.rights(parts.admin, *parts.uses(role), parts.group(role))
    if mistakes:
        raise ConfigError(mistakes)
    slot = take(settings.state_dir / loop.name / role, role, worker)
    try:
        if loop.delivery == TRANSACTIONAL:
            parts = replace(parts, transactional_id=_transactional_id(parts, role, slot, worker))
        built = _joiner(parts, slot, standby=standby) if standby else BUILDERS[role](parts, slot)
        options = _options(parts, role, slot, static=worker is not None)
        runner = RoleWorker(built, options, parts.places(role, rewind=rewind))
        if isinstance(built, Predictor):
            built.replica.wake = runner.wake
        elif isinstance(built, Learner):
            built.wake = runner.wake
        runner.run()
    finally:
        slot.release()
    return 0


def _transactional_id(parts: Parts, role: str, slot: Slot, worker: str | None) -> str:
    """Stable, so that who starts again ends at once what he left open; a name that was not given is no one's alone."""
    return f"{parts.group(role)}.{worker if worker is not None else slot.identity()}"


def _with_fixed_hashes() -> None:
    """Starts this process anew if its hashes are random: some models iterate over sets, and would not replay."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606


def start_logging() -> None:
    """Our own lines from INFO on, those of others if something is the matter."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )
    log.setLevel(logging.INFO)
    # A commit may take longer than the time between two: the next one comes later, that is all.
    logging.getLogger("mode.timers").setLevel(logging.ERROR)
    damper = Damper()
    for handler in logging.getLogger().handlers:
        handler.addFilter(damper)


class Damper(logging.Filter):
    """Lets a line through once in five seconds: an outage makes aiokafka write forty a second."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written."""
        if record.name.startswith("counterpoint"):
            return True
        line = (record.name, str(record.msg))
        if record.created - self._last.get(line, 0) < 5:
            return False
        self._last[line] = record.created
        return True


def _options(parts: Parts, role: str, slot: Slot, *, static: bool) -> Options:
    settings = parts.settings
    return Options(
        group=parts.group(role),
        bootstrap=settings.bootstrap,
        kafka=parts.kafka,
        credentials=_credentials(settings),
        folder=slot.path / "faust",
        instance_id=slot.name if static else None,
        commit_interval_s=(
            settings.commit_interval_s
            if parts.transactions is None
            else settings.transaction_interval_s
        ),
        transactions=parts.transactions,
        session_timeout_s=settings.session_timeout_s,
    )


def _credentials(settings: Settings) -> Any:
    """The same sign-in as ``Settings.kafka``, in Faust's form."""
    protocol = settings.security_protocol
    if protocol == "PLAINTEXT":
        return None
    context = None
    if protocol.endswith("SSL"):
        cafile = str(settings.ssl_ca) if settings.ssl_ca is not None else None
        context = ssl.create_default_context(cafile=cafile)
    if protocol == "SSL":
        return faust.SSLCredentials(context=context)
    password = settings.sasl_password
    return faust.SASLCredentials(
        username=settings.sasl_username,
        password=password.reveal() if password else "",
        mechanism=settings.sasl_mechanism,
        ssl_context=context,
    )


def _predictor(parts: Parts, slot: Slot) -> Role:
    loop = parts.loop
    return Predictor(
        inputs=parts.topic(names.INPUTS),
        read=input_reader(loop.inputs, parts.codec),
        model_key=None if loop.model_key is None else parts.model_key(),
        policy=loop.review,
        partitions=lambda: _partitions(parts, parts.topic(names.INPUTS)),
        explains=loop.explain,
        predictions=parts.topic(names.PREDICTIONS),
        replica=replica(parts),
        codec=parts.codec,
        outputs=parts.outputs,
        guard=parts.guard("predictor"),
        heart=parts.heart("predictor", slot.name),
    )


def _partitions(parts: Parts, topic: str) -> int:
    consumer = group_less(parts.kafka)
    try:
        return len(partitions_of(consumer, topic))
    finally:
        consumer.close()


def _learner(parts: Parts, slot: Slot) -> Role:
    mine = parts.define()
    return Learner(
        log=parts.log(mine),
        outcomes=parts.topic(names.OUTCOMES),
        scores=parts.topic(names.SCORES),
        snapshot_interval_s=parts.settings.snapshot_interval_s if mine.replays else 1.0,
        codec=parts.codec,
        outputs=parts.outputs,
        guard=parts.guard("learner"),
        heart=parts.heart("learner", slot.name),
        tells_once=parts.transactions is not None,
    )


def _intake(parts: Parts, slot: Slot) -> Role:
    loop = parts.loop
    if not loop.labels:
        raise ConfigError([Mistake("labels", (), "label topics, for there to be an intake")])
    return Intake(
        readers={
            str(source.topic): label_reader(source, parts.codec, loop.classes, loop.task)
            for source in loop.labels
        },
        feedback=parts.topic(names.FEEDBACK),
        codec=parts.codec,
        outputs=parts.outputs,
        guard=parts.guard("intake"),
        heart=parts.heart("intake", slot.name),
    )


def _joiner(parts: Parts, slot: Slot, *, standby: bool = False) -> Role:
    loop, topic = parts.loop, parts.topic
    predictions, feedback = topic(names.PREDICTIONS), topic(names.FEEDBACK)
    rules, cache = parts.rules, Cache(BLOCK_CACHE_BYTES)
    ids = parts.topic_ids

    def open_partition(partition: int, emit: Emit) -> PartitionJoin:
        identity = Identity(
            loop=loop.name,
            partition=partition,
            topics={
                name: TopicIdentity(ids[name], loop.partitions) for name in (predictions, feedback)
            },
        )
        return PartitionJoin(
            rules,
            partition=partition,
            partitions=loop.partitions,
            predictions=predictions,
            feedback=feedback,
            state=open_state(slot.path / f"partition-{partition}", identity, cache),
            codec=parts.codec,
            emit=emit,
            max_bytes=parts.settings.max_record_bytes,
        )

    return Joiner(
        predictions=predictions,
        feedback=feedback,
        partitions=loop.partitions,
        examples=topic(names.EXAMPLES),
        outcomes=topic(names.OUTCOMES),
        reviews=topic(names.REVIEWS),
        open_partition=open_partition,
        kafka=parts.kafka,
        codec=parts.codec,
        outputs=parts.outputs,
        guard=parts.guard("joiner"),
        heart=parts.heart("joiner", slot.name),
        prepares=parts.transactions is None,
        watched=show.progress if sys.stderr.isatty() else logged,
        standby=Standby(
            topics=(predictions, feedback),
            partitions=loop.partitions,
            open_partition=open_partition,
            group=parts.group("joiner"),
            kafka=parts.kafka,
        )
        if standby
        else None,
    )


BUILDERS: Mapping[str, Callable[[Parts, Slot], Role]] = {
    "predictor": _predictor,
    "joiner": _joiner,
    "learner": _learner,
    "intake": _intake,
}


# Preparing and changing a loop ---------------------------------------------------------------------------------------


def prepare(
    loop: Loop, settings: Settings, echo: Callable[[str], None] = lambda line: None
) -> None:
    """Creates the topics that are missing, and writes the first definition of a log that has none."""
    parts = Parts(loop, settings)
    admin.reachable(parts.kafka, START_TIMEOUT_S)
    specs = list(parts.topics.values())
    admin.create(parts.admin, specs, settings.replication_factor, echo)
    mistakes = admin.check(parts.admin, specs)
    if mistakes:
        raise ConfigError(mistakes)
    mine = parts.define()
    if not mine.replays:
        echo(
            "the model does not replay: predictors will serve the learner's snapshots, not follow the log"
        )
    opened = parts.log(mine)
    for partition, start in opened.open(scores=False).lineage.items():
        if start.define:
            opened.define(partition, mine, parts.outputs)


def models(loop: Loop, settings: Settings) -> list[Snapshot]:
    """The stored models of a loop, newest first."""
    return Parts(loop, settings).stored()


def today(loop: Loop, settings: Settings, model_key: str) -> Fold:
    """A model as it is now: its newest snapshot, and the log after it, as a predictor has them.

    Raises:
        Conflict: The log's newest definition is not that of this code.
    """
    found = replica(Parts(loop, settings))
    try:
        found.open()
        return found.serving(model_key)
    finally:
        found.close()


def replica(parts: Parts) -> Replica:
    """The models of a loop as predictors have them, not opened yet."""
    mine = parts.define()
    return Replica(parts.log(mine), parts.codec, replays=mine.replays)


def adopt(loop: Loop, settings: Settings, mode: str, why: str) -> None:
    """Makes the definition of this code the loop's, or finishes doing so: see ``engine/adoption``.

    Raises:
        Conflict: It is the loop's already, or there is nothing to continue; nothing was written.
    """
    parts = Parts(loop, settings)
    mine = parts.define(mode, why or f"adopted with --{mode}")
    _adoption(parts, parts.log(mine)).run()


def _adoption(parts: Parts, log: Log) -> Adoption:
    return Adoption(
        log,
        outcomes=parts.topic(names.OUTCOMES),
        codec=parts.codec,
        guard=parts.guard("learner"),
        outputs=parts.outputs,
    )


def seed(loop: Loop, settings: Settings, path: Path) -> int:
    """Starts a loop from a trained River model (a pickle), or from labelled history; gives the examples written.

    Raises:
        Conflict: A trained model comes too late, or is another than the loop's.
        BadRecord: A line cannot be used; nothing was written.
    """
    prepare(loop, settings)
    parts = Parts(loop, settings)
    if path.suffix in (".pkl", ".pickle"):
        _seed_model(parts, path)
        return 0
    return _seed_history(parts, path)


def _seed_model(parts: Parts, path: Path) -> None:
    mine = parts.define(FRESH, f"seeded with {path.name}")
    opened = parts.log(mine)
    unpickle = snapshots.unpickler(snapshots.globals_of(pickle.dumps(parts.model, protocol=5)))
    model, _ = seeded(unpickle(path.read_bytes()), parts.loop.name)
    if describe(model) != describe(parts.model):
        message = f"{path} holds another model than the loop's:\n{describe(model)}\nexpected\n{describe(parts.model)}"
        raise Conflict(message)
    opening = opened.open(scores=False)
    if opening.folds or any(
        True for chunk in opened.after(opening) for m in chunk if control_kind(m.headers()) is None
    ):
        message = f"loop {parts.loop.name!r} has learned already: a trained model can only be its beginning"
        raise Conflict(message)
    fold, adoption = Fold(model, parts.loop.task, parts.loop.classes), _adoption(parts, opened)
    for partition in opened.partitions():
        base = opened.store(fold, partition, parts.outputs)
        adoption.begin_afresh(partition, mine._replace(base=base))


def _seed_history(parts: Parts, path: Path) -> int:
    loop, examples = parts.loop, parts.topic(names.EXAMPLES)
    found = history(
        path,
        loop.task,
        loop.classes,
        model_key=parts.model_key(),
        check=input_check(loop),
        texts=[name for name, kind in (loop.inputs.feature_types or {}).items() if kind is str],
    )
    lessons = list(found)  # all, or nothing
    encode = parts.codec.encoder(Example, examples)
    for lesson in lessons:
        parts.outputs.send(examples, encode(lesson), lesson.model_key.encode())
    parts.outputs.flush()
    return len(lessons)


def input_check(loop: Loop) -> Callable[[Input], Input]:
    """The checks of the loop's inputs, on an event that comes from elsewhere: as our own record, to nobody."""
    codec = Codec()
    encode, read = codec.encoder(Input, ""), input_reader(loop.inputs, codec)
    return lambda event: read(None, encode(event))


def _longest_wait_ms(loop: Loop) -> int:
    """How long a feedback may wait for others to agree, with what the joiner's steps of time and clocks add."""
    return loop.early_ms + loop.window_ms + loop.window_ms // 128 + 60_000


def audit(
    loop: Loop,
    settings: Settings,
    settled: bool = True,
    progress: Callable[[str, float], None] = lambda what, part: None,
) -> Report:
    """Recounts the loop's promises from its topics: see ``streams/audit``."""
    parts = Parts(loop, settings)
    mine = parts.define()
    opened = parts.log(mine)
    opening = opened.open(scores=False)
    read = input_reader(loop.inputs, parts.codec)
    stored = {
        key: Stored(fold.version, fold.seen, fold.model) for key, fold in opening.folds.items()
    }

    def unlearned(base: str | None) -> Any:
        # a deep copy: the naive fold teaches it
        return copy.deepcopy(parts.model) if base is None else opened.new_fold(scores=False).model

    subject = Subject(
        kafka=parts.kafka,
        topics={suffix: spec.name for suffix, spec in parts.topics.items()},
        decode=parts.codec.decode_any,
        read_input=lambda key, value: read(key, value).event_id,
        unreadable=BadRecord,
        unlearned=unlearned,
        stored=stored,
        unusable=opening.unusable(),
        replays=mine.replays,
        rounds_alike=not any(map(rounds_otherwise, opening.snapshots.manifests.values())),
        known_ms=parts.rules.known_ms,
        waits_ms=None if loop.reviewers is None else _longest_wait_ms(loop),
    )
    return recount(subject, settled=settled, progress=progress)
