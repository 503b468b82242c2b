"""The settings of a process: one frozen value, made of the environment, all mistakes told together.

It opens nothing and reads no environment of its own: both are asked for by whoever starts a process.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, Field, dataclass, field, fields
from ipaddress import ip_network
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_cache_path, user_state_path

from streams.core.errors import ConfigError, Mistake, Unavailable
from streams.core.topics import DAY_MS, Keep
from streams.failpoints import Armed, parse

PREFIX = "COUNTERPOINT_"
TESTS = "COUNTERPOINT_TEST_"
"""What starts so is for the test suite."""
PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
HIDDEN = "(hidden)"
RECONNECT_MS = "1000"
"""Between two attempts to reach a broker that is away, at most: else it is ten seconds back before anybody notices."""


class Secret:
    """Text that shows itself only on ``reveal()``; empty is false."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text."""
        return self._text

    def __bool__(self) -> bool:
        return self._text != ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and secrets.compare_digest(
            self._text.encode(), other._text.encode()
        )

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return f"Secret({HIDDEN if self else ''!r})"

    __str__ = __repr__

    def __reduce__(self) -> str:
        message = "a secret is not pickled"
        raise TypeError(message)


class SettingField(NamedTuple):
    """One setting as ``counterpoint config`` shows it, as text."""

    name: str
    value: str
    default: str
    help: str


Cast = Callable[[str], Any]


class _Cast(NamedTuple):
    read: Cast
    expected: str


def _number(least: float, unit: str, *, above: bool = False) -> _Cast:
    def read(text: str) -> float:
        number = float(text)
        if not isfinite(number) or number < least or (above and number == least):
            raise ValueError
        return number

    return _Cast(read, f"a number of {unit}, {'above' if above else 'at least'} {least:g}")


def _whole(least: int, most: int, unit: str) -> _Cast:
    def read(text: str) -> int:
        number = int(text)
        if not least <= number <= most:
            raise ValueError
        return number

    return _Cast(read, f"a whole number of {unit} from {least} to {most}")


def _one_of(*choices: str) -> _Cast:
    def read(text: str) -> str:
        if text not in choices:
            raise ValueError
        return text

    return _Cast(read, f"one of {', '.join(choices)}")


def _servers(text: str) -> str:
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        host, _, port = server.rpartition(":")
        if not host or not 0 < int(port) < 65536 or "/" in host:
            raise ValueError
    return ",".join(servers)


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")) or len(text.split("://", 1)[1]) == 0:
        raise ValueError
    return text.rstrip("/")


def _networks(text: str) -> tuple[str, ...]:
    return tuple(str(ip_network(each.strip())) for each in text.split(";"))


def _path(text: str) -> Path:
    return Path(text).expanduser().absolute()


TEXT = _Cast(str, "text")
SECRET = _Cast(Secret, "text")
PATH = _Cast(_path, "a path")
SERVERS = _Cast(_servers, "host:port, or several with commas between them")
URL = _Cast(_url, "a URL such as http://127.0.0.1:8081")
NETWORKS = _Cast(
    _networks, "an address or network such as 10.0.0.0/8, or several with semicolons between them"
)
FAILPOINTS = _Cast(
    parse, "point=action@nth, several with semicolons between them: see streams/failpoints.py"
)


def _told(help_text: str, cast: _Cast) -> dict[str, Any]:
    return {"help": help_text, "cast": cast}


def _state_dir() -> Path:
    return user_state_path("counterpoint", appauthor=False)


def _cache_dir() -> Path:
    return user_cache_path("counterpoint", appauthor=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything about a process that is not the loop's; each field comes from ``COUNTERPOINT_<FIELD>``."""

    bootstrap: str = field(
        default="127.0.0.1:9092", metadata=_told("Kafka servers to start from.", SERVERS)
    )
    security_protocol: str = field(
        default="PLAINTEXT",
        metadata=_told(
            "How to talk to Kafka: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.", _one_of(*PROTOCOLS)
        ),
    )
    sasl_mechanism: str = field(
        default="SCRAM-SHA-512",
        metadata=_told(
            "How to sign in to Kafka: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.", _one_of(*MECHANISMS)
        ),
    )
    sasl_username: str | None = field(default=None, metadata=_told("Who signs in to Kafka.", TEXT))
    sasl_password: Secret | None = field(
        default=None, metadata=_told("The password for it.", SECRET)
    )
    ssl_ca: Path | None = field(
        default=None,
        metadata=_told("Certificates (PEM) to trust for Kafka; the system's without it.", PATH),
    )
    registry_url: str | None = field(
        default=None,
        metadata=_told(
            "Schema registry; with one, records are written in Confluent's framing.", URL
        ),
    )
    registry_username: str | None = field(
        default=None, metadata=_told("Who signs in to the registry.", TEXT)
    )
    registry_password: Secret | None = field(
        default=None, metadata=_told("The password for it.", SECRET)
    )
    registry_ca: Path | None = field(
        default=None,
        metadata=_told(
            "Certificates (PEM) to trust for the registry; the system's without it.", PATH
        ),
    )
    state_dir: Path = field(
        default_factory=_state_dir,
        metadata=_told("Where workers keep their state and the generated secret.", PATH),
    )
    cache_dir: Path = field(
        default_factory=_cache_dir,
        metadata=_told("Where downloads of the embedded broker are kept.", PATH),
    )
    secret: Secret | None = field(
        default=None,
        metadata=_told(
            "Signs model snapshots, the same for all workers of a loop; without it one is made in the state directory.",
            SECRET,
        ),
    )
    replication_factor: int = field(
        default=1,
        metadata=_told("Copies of each topic that is created.", _whole(1, 100, "brokers")),
    )
    inputs_retention_days: float = field(
        default=7.0,
        metadata=_told(
            "How long the loop's own inputs topic keeps events.", _number(0, "days", above=True)
        ),
    )
    outcomes_retention_days: float = field(
        default=90.0,
        metadata=_told(
            "How long outcomes are kept; longer where the loop's window needs it.",
            _number(0, "days", above=True),
        ),
    )
    dead_letters_retention_days: float = field(
        default=90.0,
        metadata=_told(
            "How long dead letters are kept; longer where the loop's window needs it.",
            _number(0, "days", above=True),
        ),
    )
    max_record_bytes: int = field(
        default=512 << 10,
        metadata=_told("A larger record becomes a dead letter.", _whole(1024, 8 << 20, "bytes")),
    )
    commit_interval_s: float = field(
        default=1.0,
        metadata=_told(
            "How often a worker commits: what a crash repeats.", _number(0, "seconds", above=True)
        ),
    )
    transaction_interval_s: float = field(
        default=0.2,
        metadata=_told(
            'The same in a loop with delivery="transactional": how late readers see a record, at most about.',
            _number(0, "seconds", above=True),
        ),
    )
    session_timeout_s: float = field(
        default=10.0,
        metadata=_told(
            "How long Kafka waits for a silent worker before another takes over.",
            _number(1, "seconds"),
        ),
    )
    snapshot_interval_s: float = field(
        default=10.0,
        metadata=_told(
            "How often a changed model is stored; a start folds what came after.",
            _number(0, "seconds", above=True),
        ),
    )
    desk_url: Secret | None = field(
        default=None,
        metadata=_told(
            "The desk's database, postgresql://… or sqlite:///…; a file in the state directory without it.",
            SECRET,
        ),
    )
    desk_host: str = field(
        default="127.0.0.1", metadata=_told("The address that the desk listens on.", TEXT)
    )
    desk_port: int = field(
        default=8765,
        metadata=_told("The port for it; 0 is one that is free.", _whole(0, 65535, "ports")),
    )
    desk_lease_s: float = field(
        default=300.0,
        metadata=_told(
            "How long a reviewer holds an item that he does not answer.", _number(5, "seconds")
        ),
    )
    desk_public_url: str | None = field(
        default=None,
        metadata=_told(
            "How browsers reach the desk, if not at its address; https keeps its cookies to HTTPS.",
            URL,
        ),
    )
    desk_user_header: str | None = field(
        default=None,
        metadata=_told("The header in which a reverse proxy tells who has signed in.", TEXT),
    )
    desk_trusted: tuple[str, ...] = field(
        default=(),
        metadata=_told(
            "Where the reverse proxy is: who asks, and from where, is believed of no other.",
            NETWORKS,
        ),
    )
    failpoints: tuple[Armed, ...] = field(
        default=(),
        metadata=_told(
            "For tests: where this process kills or delays itself, or fails.", FAILPOINTS
        ),
    )

    def __post_init__(self) -> None:
        mistakes = list(_mistakes(self))
        if mistakes:
            raise ConfigError(mistakes)

    @classmethod
    def from_env(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from an environment; an empty variable counts as unset.

        Raises:
            ConfigError: With all mistakes: values that cannot be, and variables that no setting has.
        """
        by_name = {_variable(setting): setting for setting in fields(cls)}
        values: dict[str, Any] = {}
        mistakes = [
            Mistake(name, HIDDEN, f"nothing: there is no such setting{_like(name, by_name)}")
            for name in sorted(environ)
            if name.startswith(PREFIX) and not name.startswith(TESTS) and name not in by_name
        ]
        for name, setting in by_name.items():
            text = environ.get(name, "")
            if text:
                cast: _Cast = setting.metadata["cast"]
                try:
                    values[setting.name] = cast.read(text)
                except ValueError:
                    mistakes.append(Mistake(name, text, cast.expected))
        try:
            settings = cls(**values)
        except ConfigError as error:
            mistakes += error.mistakes
        if mistakes:
            raise ConfigError(mistakes)
        return settings

    def fields(self) -> Iterator[SettingField]:
        """All settings, as text, by the name of their variable; secrets hidden."""
        for setting in fields(self):
            value = getattr(self, setting.name)
            default = (
                setting.default_factory()
                if setting.default_factory is not MISSING
                else setting.default
            )
            yield SettingField(
                _variable(setting), _shown(value), _shown(default), setting.metadata["help"]
            )

    def kafka(self) -> dict[str, str]:
        """How to reach Kafka, in the names of confluent-kafka."""
        found = {"bootstrap.servers": self.bootstrap, "reconnect.backoff.max.ms": RECONNECT_MS}
        if self.security_protocol != "PLAINTEXT":
            found["security.protocol"] = self.security_protocol
        if self.security_protocol.startswith("SASL"):
            found["sasl.mechanism"] = self.sasl_mechanism
            found["sasl.username"] = self.sasl_username or ""
            found["sasl.password"] = self.sasl_password.reveal() if self.sasl_password else ""
        if self.security_protocol.endswith("SSL") and self.ssl_ca is not None:
            found["ssl.ca.location"] = str(self.ssl_ca)
        return found

    def registry(self) -> dict[str, str] | None:
        """How to reach the schema registry, in the names of confluent-kafka; None without one."""
        if self.registry_url is None:
            return None
        found = {"url": self.registry_url}
        if self.registry_username:
            password = self.registry_password.reveal() if self.registry_password else ""
            found["basic.auth.user.info"] = f"{self.registry_username}:{password}"
        if self.registry_ca is not None:
            found["ssl.ca.location"] = str(self.registry_ca)
        return found

    def keep(self) -> Keep:
        """How long topics keep their records, and how large those may be."""
        return Keep(
            inputs_ms=int(self.inputs_retention_days * DAY_MS),
            outcomes_ms=int(self.outcomes_retention_days * DAY_MS),
            dead_letters_ms=int(self.dead_letters_retention_days * DAY_MS),
            record_bytes=self.max_record_bytes,
        )


def _mistakes(settings: Settings) -> Iterator[Mistake]:
    sasl = settings.security_protocol.startswith("SASL")
    for name in ("sasl_username", "sasl_password"):
        given = bool(getattr(settings, name))
        variable, shown = PREFIX + name.upper(), HIDDEN if given else None
        if sasl and not given:
            yield Mistake(variable, shown, f"needed for {settings.security_protocol}")
        if given and not sasl:
            expected = f"SASL_PLAINTEXT or SASL_SSL as {PREFIX}SECURITY_PROTOCOL, to be of use"
            yield Mistake(variable, shown, expected)
    if settings.desk_user_header and not settings.desk_trusted:
        expected = f"with {PREFIX}DESK_TRUSTED: a header is believed from somewhere"
        yield Mistake(f"{PREFIX}DESK_USER_HEADER", settings.desk_user_header, expected)
    for name in ("ssl_ca", "registry_ca"):
        path: Path | None = getattr(settings, name)
        if path is not None and not path.is_file():
            yield Mistake(PREFIX + name.upper(), str(path), "a file with certificates in PEM")
    if settings.ssl_ca is not None and not settings.security_protocol.endswith("SSL"):
        expected = f"SSL or SASL_SSL as {PREFIX}SECURITY_PROTOCOL, to be of use"
        yield Mistake(f"{PREFIX}SSL_CA", str(settings.ssl_ca), expected)


def _variable(setting: Field[Any]) -> str:
    return PREFIX + setting.name.upper()


def _like(name: str, known: Mapping[str, object]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"; do you mean {close[0]}?" if close else ""


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, tuple):
        return ";".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def signing_secret(settings: Settings) -> bytes:
    """The secret that signs snapshots: the setting, or one made once and kept, readable by its owner alone.

    Raises:
        ConfigError: The file can be read by others, or is empty.
        Unavailable: The state directory cannot be written.
    """
    if settings.secret:
        return settings.secret.reveal().encode()
    path = settings.state_dir / "secret"
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        _create(path)
        mode, text = path.stat().st_mode & 0o777, path.read_text().strip()
    except OSError as error:
        message = f"no secret to sign snapshots with: {error}. Set {PREFIX}SECRET"
        raise Unavailable(message) from error
    if mode & 0o077:
        raise ConfigError([Mistake(str(path), f"{mode:o}", f"mode 600: chmod 600 {path}")])
    if not text:
        raise ConfigError(
            [Mistake(str(path), "", f"a secret; remove the file, or set {PREFIX}SECRET")]
        )
    return text.encode()


def _create(path: Path) -> None:
    """Makes the file with a new secret unless there is one; of several processes at once, one does."""
    if path.exists():
        return
    made = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        with suppress(FileExistsError):
            os.link(made, path)  # all of it or nothing, and never over another's
    finally:
        made.unlink()
