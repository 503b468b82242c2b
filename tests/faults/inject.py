"""Does the faults of a plan to a running system, and waits after each until outputs flow again."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from streams.broker import Broker
from streams.core.errors import NotFound
from streams.core.events import EXCLUDE, INCLUDE
from streams.corrections import Choice, record
from tests.e2e.system import await_that
from tests.faults.fleet import Fleet, role_of
from tests.faults.plan import BROKER, ROLES, Fault, Stage
from tests.faults.traffic import CONTRADICTS
from tests.faults.watch import Watch

SESSION_S = 4.0
"""The session timeout of the workers."""
AWAY_S = 6.0
RECOVERED_WITHIN_S = 90.0
FIRED_WITHIN_S = 90.0
HOUR_S = 3600.0
CUT_OFF = ("did not stop within", "is not this process's any more")
"""What a worker says that was still busy with a rebalance, or was shut out while it slept, as it was asked to end."""


class Done(NamedTuple):
    """A fault that was done.

    Attributes:
        at_s: When it began, from the begin of the run.
        recovery_s: Until outputs flowed again, wherever its role works.
    """

    fault: Fault
    at_s: float
    recovery_s: float


@dataclass(slots=True)
class Injector:
    """See the module.

    Attributes:
        done: What was done, in the order in which it ended.
        failures: What did not go as it should have, in words.
        cut_off: Workers that could not end as they should have: see ``CUT_OFF``.
    """

    fleet: Fleet
    watch: Watch
    broker: Broker
    say: Callable[[str], None]
    began: float = field(default_factory=time.time)
    done: list[Done] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)

    def run(self, stage: Stage, until: float) -> None:
        """Runs the lanes of a stage at once; no new fault begins after ``until``.

        What is done to the broker is done by the calling thread: a broker dies with the thread that started it.
        """
        lanes = [
            threading.Thread(target=self._lane, args=(of_lane, until), name=f"lane {lane}")
            for lane, of_lane in stage.items()
            if lane != BROKER
        ]
        for lane in lanes:
            lane.start()
        self._lane(stage.get(BROKER, ()), until)
        for lane in lanes:
            lane.join()

    def _lane(self, of_lane: tuple[Fault, ...], until: float) -> None:
        for fault in of_lane:
            if time.time() > until:
                return
            try:
                self._do(fault)
            except Exception as error:  # noqa: BLE001  the others go on; the run is red
                self.failures.append(f"{fault}: {type(error).__name__}: {error}")
                self.say(f"{fault}: {str(error)[:300]}")

    def _do(self, fault: Fault) -> None:
        since = time.time()
        ACTS[fault.kind](self, fault)
        of_broker = fault.worker == BROKER
        roles = ROLES if of_broker else (fault.worker.partition("-")[0],)
        # As a broker goes, something may still come through.
        sent = time.time() if of_broker else since
        came = [self.await_recovered(each, sent) for each in roles]
        done = Done(fault, since - self.began, max(came) - since)
        self.done.append(done)
        self.say(f"{done.at_s:7.1f} s  {fault}: {done.recovery_s:.1f} s")

    def await_recovered(self, role: str, since: float) -> float:
        """Waits until all partitions of a role have outputs of what was sent since; when they came."""
        return await_that(
            lambda: self.watch.recovered(role, since), RECOVERED_WITHIN_S, f"{role}: outputs flow"
        )

    # Workers ---------------------------------------------------------------------------------------------------------

    def _again(self, worker: str, number: signal.Signals, armed: str = "") -> None:
        """Ends a worker and starts it anew."""
        if number == signal.SIGTERM:
            self._ask_to_end(worker)
        else:
            self.fleet.end(worker, number)
        self.fleet.start(worker, armed)

    def _ask_to_end(self, worker: str) -> None:
        """Ends a worker as it should be ended; one that ended by itself a moment ago runs first."""
        if self.fleet.process(worker).poll() is not None:
            self.fleet.start(worker)
        self.fleet.await_running(worker)
        code = self.fleet.end(worker, signal.SIGTERM)
        if code != 0 and any(words in self.fleet.log(worker) for words in CUT_OFF):
            self.cut_off.append(worker)
        elif code != 0:
            self.failures.append(f"{worker} ended with {code} when it was asked to end")

    def _kill(self, fault: Fault) -> None:
        with self.fleet.held(fault.worker):
            self._again(fault.worker, signal.SIGKILL)
            self.fleet.await_running(fault.worker)

    def _term(self, fault: Fault) -> None:
        with self.fleet.held(fault.worker):
            self._again(fault.worker, signal.SIGTERM)
            self.fleet.await_running(fault.worker)

    def _freeze(self, fault: Fault) -> None:
        """The others take over; then the zombie wakes up and believes that nothing has happened."""
        process, since = self.fleet.process(fault.worker), time.time()
        process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(SESSION_S + 1)
            self.await_recovered(role_of(fault.worker), since)
        finally:
            process.send_signal(signal.SIGCONT)
        self.await_recovered(role_of(fault.worker), time.time())

    def _slow(self, fault: Fault) -> None:
        with self.fleet.held(fault.worker):
            self._again(fault.worker, signal.SIGKILL, "batch.begun=delay:0.3@*")
            self.fleet.await_running(fault.worker)
            since = time.time()
            self.await_recovered(role_of(fault.worker), since)
            self._again(fault.worker, signal.SIGTERM)
            self.fleet.await_running(fault.worker)

    def _clock(self, fault: Fault) -> None:
        off_by_s = HOUR_S if int(self.began) % 2 else -HOUR_S
        with self.fleet.held(fault.worker):
            self.fleet.end(fault.worker, signal.SIGKILL)
            self.fleet.start(fault.worker, clock_s=off_by_s)
            self.fleet.await_running(fault.worker)

    def _storm(self, fault: Fault) -> None:
        """As members that come and go every two seconds would have it: a rebalance is hardly over when the next comes."""
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            self.fleet.start(fault.worker)
            await_that(lambda: self.fleet.is_running(fault.worker), 60, f"{fault.worker} runs")
            time.sleep(2)  # the members of a storm stay for as long
            self.fleet.end(fault.worker, number)

    def _rolling(self, fault: Fault) -> None:
        for worker in [each for each in self.fleet.workers if role_of(each) == fault.worker]:
            self._term(Fault("term", worker))

    # Failpoints ------------------------------------------------------------------------------------------------------

    def _failpoint(self, fault: Fault) -> None:
        worker, point = fault.worker, fault.detail.partition("=")[0]
        with self.fleet.held(worker):
            if point == "recover.prepared":
                self._leave_prepared(worker, fault.detail)
            elif point == "rebalance.caught_up":
                self.fleet.end(worker, signal.SIGKILL)
                self._state_of(worker, delete=True)
                self.fleet.start(worker, fault.detail)
            else:
                self._armed(worker, fault.detail)
            if point in ("rebalance.revoked", "rebalance.fetched", "rebalance.sought"):
                self._rebalance(role_of(worker))
            excluding = threading.Thread(target=self._exclude, args=(fault,), name="exclude")
            if point.startswith("rebuild."):
                excluding.start()
            self.fleet.await_log(worker, f"failpoint {point}=", FIRED_WITHIN_S)
            if "=delay" not in fault.detail:
                self.fleet.await_end(worker, FIRED_WITHIN_S)
                self.fleet.start(worker)
                self.fleet.await_running(worker)
                if excluding.is_alive():
                    excluding.join()
            else:
                self.await_recovered(role_of(worker), time.time())
                self._again(worker, signal.SIGTERM)
                self.fleet.await_running(worker)

    def _leave_prepared(self, worker: str, armed: str) -> None:
        """Kills a worker that has prepared, and starts it; a commit of nothing prepares nothing, and it is tried again."""
        for _ in range(5):
            self._armed(worker, "commit.prepared=kill@2")
            self.fleet.await_end(worker, FIRED_WITHIN_S)
            self.fleet.start(worker, armed)
            with suppress(AssertionError):
                self.fleet.await_log(worker, "failpoint recover.prepared=", 20)
                return

    def _armed(self, worker: str, armed: str) -> None:
        self._again(worker, signal.SIGTERM, armed)

    def _rebalance(self, role: str) -> None:
        """Has another member join and leave."""
        extra = f"{role}-9"
        self.fleet.start(extra)
        with suppress(
            AssertionError
        ):  # one that is not let in while its group is busy is a rebalance too
            await_that(lambda: self.fleet.is_running(extra), 30)
        self.fleet.end(extra, signal.SIGTERM)

    def _exclude(self, fault: Fault) -> None:
        """Takes out what a reviewer has said until now, who contradicts others and is found with every model key."""
        system, choice = self.fleet.system, Choice(reviewer=CONTRADICTS)
        for kind in (EXCLUDE, INCLUDE):
            try:
                record(system.loop, system.settings, kind, choice, why=str(fault))
            except NotFound:  # all of it is out: then it comes back
                continue
            return
        self.failures.append(f"{fault}: there was nothing to take out, and nothing to put back")

    # Disks -----------------------------------------------------------------------------------------------------------

    def _state_of(self, worker: str, *, delete: bool = False) -> Path:
        system = self.fleet.system
        path = system.settings.state_dir / system.name / role_of(worker) / worker
        if delete:
            shutil.rmtree(path, ignore_errors=True)
        return path

    def _disk_lost(self, fault: Fault) -> None:
        with self.fleet.held(fault.worker):
            self.fleet.end(fault.worker, signal.SIGKILL)
            self._state_of(fault.worker, delete=True)
            self.fleet.start(fault.worker)
            self.fleet.await_running(fault.worker)

    def _disk_old(self, fault: Fault) -> None:
        worker, path = fault.worker, self._state_of(fault.worker)
        old = path.with_name(f"{worker}.old")
        with self.fleet.held(worker):
            self.fleet.end(worker, signal.SIGKILL)
            shutil.copytree(path, old)
            self.fleet.start(worker)
            self.fleet.await_running(worker)
            self.await_recovered("joiner", time.time())
            self.fleet.end(worker, signal.SIGKILL)
            shutil.rmtree(path)
            old.rename(path)
            self.fleet.start(worker)
            self.fleet.await_running(worker)

    def _disk_full(self, fault: Fault) -> None:
        """What is written to a file beyond its present end fails with an error, as it does without space."""
        worker = fault.worker
        with self.fleet.held(worker):
            pid = self.fleet.process(worker).pid
            _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, most))
            code = self.fleet.await_end(worker, FIRED_WITHIN_S)
            if code != 1:
                self.failures.append(f"{worker} ended with {code} when its disk was full")
            self.fleet.start(worker)
            self.fleet.await_running(worker)

    def _moved(self, fault: Fault) -> None:
        worker, since = fault.worker, time.time()
        with self.fleet.held(worker):
            self._ask_to_end(worker)
            # After the session timeout: it is a static member.
            self.await_recovered("joiner", since)
            self.fleet.start(worker)
            self.fleet.await_running(worker)

    # The broker ------------------------------------------------------------------------------------------------------

    def _broker_kill(self, fault: Fault) -> None:
        self.broker.kill()
        self.broker.start()

    def _broker_away(self, fault: Fault) -> None:
        self.broker.stop()
        time.sleep(AWAY_S)
        self.broker.start()

    def _broker_hang(self, fault: Fault) -> None:
        pid = self.broker.pid or 0
        os.kill(pid, signal.SIGSTOP)
        time.sleep(AWAY_S)
        os.kill(pid, signal.SIGCONT)


ACTS: Mapping[str, Callable[[Injector, Fault], None]] = {
    "kill": Injector._kill,
    "term": Injector._term,
    "freeze": Injector._freeze,
    "slow": Injector._slow,
    "clock": Injector._clock,
    "storm": Injector._storm,
    "rolling": Injector._rolling,
    "failpoint": Injector._failpoint,
    "disk_lost": Injector._disk_lost,
    "disk_old": Injector._disk_old,
    "disk_full": Injector._disk_full,
    "moved": Injector._moved,
    "exclude": Injector._exclude,
    "broker_kill": Injector._broker_kill,
    "broker_away": Injector._broker_away,
    "broker_hang": Injector._broker_hang,
}
