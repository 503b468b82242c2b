from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import zipfile
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
SECRET = {"COUNTERPOINT_SECRET": "of-the-tests"}


def compose(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The real `docker compose`, without an engine."""
    return subprocess.run(
        [BIN / "docker-compose", "-f", DEPLOY / "compose.yaml", "--profile", "labels", *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    told: dict[str, Any] = json.loads(compose("config", "--format", "json", **SECRET).stdout)
    return dict(told["services"])


def test_compose_accepts_the_file() -> None:
    checked = compose("config", "--quiet", **SECRET)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_compose_refuses_to_run_without_a_secret() -> None:
    refused = compose("config", "--quiet")
    assert refused.returncode != 0
    assert "COUNTERPOINT_SECRET is missing a value: signs the model snapshots" in refused.stderr


def test_there_is_one_service_for_each_role(services: dict[str, Any]) -> None:
    assert set(services) == {"kafka", "topics", "predictor", "joiner", "learner", "intake", "desk"}
    for role in ("predictor", "joiner", "learner", "intake"):
        service = services[role]
        assert service["command"] == ["run", role, "phishing"]
        assert service["environment"]["PYTHONHASHSEED"] == "0"
        assert "/state" in {volume["target"] for volume in service["volumes"]}
        assert service["healthcheck"]["test"][1] == "counterpoint status phishing --json | healthy"


def test_the_desk_is_served_to_this_machine_alone(services: dict[str, Any]) -> None:
    desk = services["desk"]
    assert desk["command"] == ["run", "desk", "phishing"]
    assert desk["environment"]["COUNTERPOINT_DESK_HOST"] == "0.0.0.0"  # noqa: S104  of the container
    assert [port["host_ip"] for port in desk["ports"]] == ["127.0.0.1"]
    assert "/state" in {volume["target"] for volume in desk["volumes"]}


def test_every_command_of_the_services_is_one_that_there_is(services: dict[str, Any]) -> None:
    for service in services.values():
        if service["image"] == "counterpoint":
            command = [BIN / "counterpoint", *service["command"], "--help"]
            assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_the_kafka_of_compose_is_the_embedded_one(services: dict[str, Any]) -> None:
    lock = (ROOT / "streams" / "broker.lock").read_text()
    version = services["kafka"]["image"].removeprefix("apache/kafka:")
    assert f"org.apache.kafka:kafka_2.13:{version} " in lock


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    linted = subprocess.run(
        [BIN / "hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_all_that_the_dockerfile_copies_is_there() -> None:
    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), line


def test_the_image_has_the_versions_that_were_tested() -> None:
    tested = locked(ROOT / "tests" / "requirements.txt")
    image = locked(DEPLOY / "requirements.txt") | locked(DEPLOY / "build-requirements.txt")
    assert image <= tested


def locked(path: Path) -> set[str]:
    return set(re.findall(r"^[\w.-]+(?:\[[\w,-]+\])?==\S+", path.read_text(), re.MULTILINE))


def test_the_wheel_has_the_schemas_and_the_lock_of_the_broker(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = set(files.namelist())
    schemas = {f"streams/schemas/{path.name}" for path in (ROOT / "schemas").glob("*.avsc")}
    assert schemas
    assert {*schemas, "streams/broker.lock"} <= names


@pytest.fixture
def image(wheel: Path, tmp_path: Path) -> Path:
    """A folder with the wheel and what the image's lock names, from what is installed here."""
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path)
    for name in {re.split(r"[=[]", pin)[0] for pin in locked(DEPLOY / "requirements.txt")}:
        with suppress(metadata.PackageNotFoundError):  # of another platform
            files_of = metadata.distribution(name)
            for top in {file.parts[0] for file in files_of.files or []} - {"..", "__pycache__"}:
                (tmp_path / top).symlink_to(str(files_of.locate_file(top)))
    return tmp_path


def in_image(image: Path, program: str) -> str:
    # Without the site module: nothing else that is installed here can be imported
    paths = f"import sys; sys.path.insert(0, {str(image)!r})\n"
    command = [sys.executable, "-I", "-S", "-c", paths + program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_roles_need_nothing_that_only_tests_and_demos_install(image: Path) -> None:
    names = "streams.opening, streams.cli, streams.client, streams.demos.phishing"
    assert in_image(image, f"import {names}; print(streams.__file__)").startswith(str(image))


def test_the_image_says_how_to_get_the_embedded_broker(image: Path) -> None:
    program = (
        "from streams.broker import Broker\nfrom pathlib import Path\n"
        f"try: Broker(Path({str(image / 'data')!r})).start()\n"
        "except Exception as error: print(error)"
    )
    assert "needs `pip install 'counterpoint[broker]'`" in in_image(image, program)


@pytest.mark.parametrize(
    ("host", "state", "code"),
    [
        (socket.gethostname(), "running", 0),
        (socket.gethostname(), "silent", 1),
        ("another", "running", 1),
    ],
)
def test_a_container_is_healthy_while_its_own_worker_is_heard(
    host: str, state: str, code: int
) -> None:
    told = json.dumps({"workers": [{"host": host, "state": state}]})
    checked = subprocess.run(
        [sys.executable, DEPLOY / "healthy.py"], input=told, text=True, check=False
    )
    assert checked.returncode == code
