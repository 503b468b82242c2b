"""Settings: read from an environment that is given, all mistakes together, secrets hidden."""

from __future__ import annotations

import os
import pickle
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest

from streams.config import HIDDEN, Secret, Settings, signing_secret
from streams.core.errors import ConfigError, Unavailable
from streams.core.topics import Keep


def read(**environ: str) -> Settings:
    return Settings.from_env({f"COUNTERPOINT_{name}": text for name, text in environ.items()})


def mistakes(**environ: str) -> dict[str, object]:
    with pytest.raises(ConfigError) as caught:
        read(**environ)
    return {
        mistake.name.removeprefix("COUNTERPOINT_"): mistake.value
        for mistake in caught.value.mistakes
    }


def test_without_an_environment_everything_has_its_default() -> None:
    settings = Settings.from_env({})
    assert settings == Settings()
    assert settings.bootstrap == "127.0.0.1:9092"
    assert settings.kafka() == {
        "bootstrap.servers": "127.0.0.1:9092",
        "reconnect.backoff.max.ms": "1000",
    }
    assert settings.registry() is None
    assert settings.state_dir.name == settings.cache_dir.name == "counterpoint"
    assert settings.keep() == Keep()


def test_settings_are_read_from_the_environment_that_is_given(tmp_path: Path) -> None:
    settings = read(
        BOOTSTRAP="a:9092, b:9093",
        STATE_DIR=str(tmp_path),
        COMMIT_INTERVAL_S="0.5",
        MAX_RECORD_BYTES="2048",
        INPUTS_RETENTION_DAYS="0.5",
        REGISTRY_URL="http://127.0.0.1:8081/apis/",
    )
    assert settings.bootstrap == "a:9092,b:9093"
    assert settings.state_dir == tmp_path
    assert settings.commit_interval_s == 0.5
    assert settings.keep().record_bytes == 2048
    assert settings.keep().inputs_ms == 43_200_000
    assert settings.registry() == {"url": "http://127.0.0.1:8081/apis"}


def test_an_empty_variable_counts_as_unset_and_others_are_not_ours() -> None:
    assert read(BOOTSTRAP="") == Settings()
    others = {"PATH": "/bin", "OTHER_SECRET": "x", "COUNTERPOINT_TEST_BOOTSTRAP": "a:1"}
    assert Settings.from_env(others) == Settings()


def test_a_path_is_the_user_s_and_absolute() -> None:
    assert read(STATE_DIR="~/state").state_dir == Path.home() / "state"
    assert read(STATE_DIR="state").state_dir == Path.cwd() / "state"


def test_all_mistakes_are_told_together() -> None:
    assert mistakes(
        BOOTSTRAP="kafka",
        SECURITY_PROTOCOL="SASL_SSL",
        SSL_CA="/no/such/ca.pem",
        COMMIT_INTERVAL_S="soon",
        REPLICATION_FACTOR="0",
        BOOTSTRAPP="x:1",
    ) == {
        "BOOTSTRAP": "kafka",
        "SASL_USERNAME": None,
        "SASL_PASSWORD": None,
        "SSL_CA": "/no/such/ca.pem",
        "COMMIT_INTERVAL_S": "soon",
        "REPLICATION_FACTOR": "0",
        "BOOTSTRAPP": HIDDEN,
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("BOOTSTRAP", "a"),
        ("BOOTSTRAP", "a:b"),
        ("BOOTSTRAP", "a:70000"),
        ("BOOTSTRAP", ":9092"),
        ("BOOTSTRAP", "a:1,,b:2"),
        ("BOOTSTRAP", "kafka://a:9092"),
        ("SECURITY_PROTOCOL", "ssl"),
        ("SASL_MECHANISM", "GSSAPI"),
        ("REGISTRY_URL", "localhost:8081"),
        ("REGISTRY_URL", "http://"),
        ("COMMIT_INTERVAL_S", "0"),
        ("COMMIT_INTERVAL_S", "nan"),
        ("COMMIT_INTERVAL_S", "inf"),
        ("SESSION_TIMEOUT_S", "0.5"),
        ("MAX_RECORD_BYTES", "1e6"),
        ("MAX_RECORD_BYTES", "99999999"),
        ("REPLICATION_FACTOR", "-1"),
        ("INPUTS_RETENTION_DAYS", "-1"),
    ],
)
def test_a_value_that_cannot_be_is_told(name: str, text: str) -> None:
    assert mistakes(**{name: text}) == {name: text}


def test_a_misspelt_setting_is_told_with_the_right_spelling_and_not_with_its_value() -> None:
    with pytest.raises(ConfigError) as caught:
        read(SECRT="hush")
    told = str(caught.value)
    assert "do you mean COUNTERPOINT_SECRET?" in told
    assert "hush" not in told


def test_signing_in_is_said_in_the_names_of_the_client(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----")
    settings = read(
        BOOTSTRAP="k:9092",
        SECURITY_PROTOCOL="SASL_SSL",
        SASL_USERNAME="app",
        SASL_PASSWORD="hush",
        SSL_CA=str(ca),
    )
    assert settings.kafka() == {
        "bootstrap.servers": "k:9092",
        "reconnect.backoff.max.ms": "1000",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "app",
        "sasl.password": "hush",
        "ssl.ca.location": str(ca),
    }


def test_the_registry_is_said_in_the_names_of_the_client(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----")
    settings = read(
        REGISTRY_URL="https://r",
        REGISTRY_USERNAME="app",
        REGISTRY_PASSWORD="hush",
        REGISTRY_CA=str(ca),
    )
    assert settings.registry() == {
        "url": "https://r",
        "basic.auth.user.info": "app:hush",
        "ssl.ca.location": str(ca),
    }


def test_a_password_or_certificates_that_would_not_be_used_are_refused(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("-----BEGIN CERTIFICATE-----")
    found = mistakes(SASL_PASSWORD="hush", SSL_CA=str(ca))
    assert found == {"SASL_PASSWORD": HIDDEN, "SSL_CA": str(ca)}


def test_every_setting_is_told_with_value_default_and_help() -> None:
    told = list(read(COMMIT_INTERVAL_S="0.25", SECRET="hush").fields())
    assert [field.name for field in told] == [
        f"COUNTERPOINT_{field.name.upper()}" for field in fields(Settings)
    ]
    by_name = {field.name: field for field in told}
    assert by_name["COUNTERPOINT_COMMIT_INTERVAL_S"][1:3] == ("0.25", "1")
    assert by_name["COUNTERPOINT_SECRET"].value == HIDDEN
    assert "hush" not in str(told)
    assert all(field.help.endswith(".") for field in told)


def test_a_secret_shows_itself_to_nobody_who_does_not_ask() -> None:
    secret = Secret("hush")
    assert "hush" not in f"{secret} {secret!r} {[secret]} {read(SECRET='hush')}"
    assert secret.reveal() == "hush"
    assert secret == Secret("hush") != Secret("other")
    assert hash(secret) == hash(Secret("hush"))
    assert secret != "hush"
    assert not Secret("")
    with pytest.raises(TypeError):
        pickle.dumps(secret)


def test_the_secret_is_the_setting_if_there_is_one(tmp_path: Path) -> None:
    settings = read(SECRET="of the team", STATE_DIR=str(tmp_path / "state"))
    assert signing_secret(settings) == b"of the team"
    assert not (tmp_path / "state").exists()


def test_else_a_secret_is_made_once_and_kept_for_its_owner_alone(tmp_path: Path) -> None:
    settings = read(STATE_DIR=str(tmp_path / "deep" / "state"))
    made = signing_secret(settings)
    path = tmp_path / "deep" / "state" / "secret"
    assert len(made) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing_secret(settings) == made
    assert os.listdir(path.parent) == ["secret"]  # noqa: PTH208
    assert signing_secret(read(STATE_DIR=str(tmp_path / "other"))) != made


def test_several_processes_that_start_together_agree_on_the_secret(tmp_path: Path) -> None:
    settings = read(STATE_DIR=str(tmp_path))
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda _: signing_secret(settings), range(64)))
    assert len(made) == 1


def test_a_secret_that_others_can_read_or_that_is_empty_is_refused(tmp_path: Path) -> None:
    settings = read(STATE_DIR=str(tmp_path))
    (tmp_path / "secret").write_text("known to all")
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        signing_secret(settings)
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "secret").write_text(" \n")
    with pytest.raises(ConfigError, match="remove the file"):
        signing_secret(settings)


def test_a_state_directory_that_cannot_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="Set COUNTERPOINT_SECRET"):
        signing_secret(read(STATE_DIR=str(tmp_path / "file" / "state")))


def test_reading_settings_opens_nothing(tmp_path: Path) -> None:
    read(STATE_DIR=str(tmp_path / "state"), CACHE_DIR=str(tmp_path / "cache"))
    assert list(tmp_path.iterdir()) == []
