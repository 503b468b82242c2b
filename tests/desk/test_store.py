from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, insert, select, update

from streams.core.errors import ConfigError, Conflict, Unavailable
from streams.desk import queries
from streams.desk.store import OWN, PROJECTION, Store, open_store
from streams.desk.tables import about, leases, scores


def test_a_database_belongs_to_one_loop(store: Store, url: str) -> None:
    with pytest.raises(Conflict, match="loop 'tests', not of 'others'"):
        open_store(url, "others")
    open_store(url, "tests").close()


def test_emptying_the_projection_leaves_what_is_the_desks_own(store: Store) -> None:
    lease = {"event_id": "e", "reviewer": "ann", "token": "t", "until": 5}
    score = {"partition": 0, "offset": 0, "at": 1, "model_key": "", "model_version": 1}
    with store.writing() as connection:
        connection.execute(insert(leases).values(lease))
    with store.projecting() as connection:
        connection.execute(insert(scores).values({**score, "learned": 1, "metrics": "{}"}))
    store.empty_projection()
    with store.reading() as connection:
        assert connection.execute(select(scores)).all() == []
        assert connection.execute(select(leases.c.event_id)).scalars().all() == ["e"]


def test_a_projection_that_another_version_made_is_made_anew(store: Store, url: str) -> None:
    assert store.renew_projection()
    score = {"partition": 0, "offset": 0, "at": 1, "model_key": "", "model_version": 1}
    with store.projecting() as connection:
        connection.execute(insert(scores).values({**score, "learned": 1, "metrics": "{}"}))
    assert not store.renew_projection()
    with store.writing() as connection:
        connection.execute(update(about).filter_by(name=PROJECTION).values(value="older"))
    again = open_store(url, "tests")
    assert again.renew_projection()
    with again.reading() as connection:
        assert connection.execute(select(scores)).all() == []
    again.close()


def test_a_desk_whose_own_tables_another_version_made_is_left_alone(store: Store, url: str) -> None:
    with store.writing() as connection:
        connection.execute(update(about).filter_by(name=OWN).values(value="older"))
    with pytest.raises(Conflict, match="run that version until"):
        open_store(url, "tests")


def test_what_fails_half_way_changes_nothing(store: Store) -> None:
    def fail() -> None:
        with store.writing() as connection:
            connection.execute(insert(about).values(name="half", value="done"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.reading() as connection:
        assert connection.scalar(select(about.c.value).where(about.c.name == "half")) is None


@pytest.mark.parametrize("asked", [queries.MINE, queries.RENEW_MINE])
def test_whoever_asks_for_his_own_does_not_look_through_all_that_waits(
    tmp_path: Path, asked: Any
) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'desk.sqlite'}", "tests")
    sent: list[tuple[str, Any]] = []
    with store.writing() as connection:
        event.listen(
            connection, "before_cursor_execute", lambda *told: sent.append((told[2], told[3]))
        )
        connection.execute(asked, {"who": "ann", "now": 0, "then": 1})
        statement, parameters = sent[0]
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    store.close()
    assert plan[0].detail.startswith("SEARCH leases USING INDEX leases_by_reviewer")


@pytest.mark.parametrize("url", ["mysql://root@localhost/desk", "nothing", "sqlite:"])
def test_a_url_of_another_kind_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"sqlite:///file, or postgresql://") as refused:
        open_store(url, "tests")
    assert "root" not in str(refused.value)


def test_a_database_that_is_not_there_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="PostgreSQL does not answer"):
        open_store("postgresql://ann:secret@127.0.0.1:1/desk", "tests")
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="no folder"):
        open_store(f"sqlite:///{tmp_path / 'file' / 'desk.sqlite'}", "tests")
