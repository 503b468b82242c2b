"""What the features that a model sees were made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from river import anomaly, compose, feature_extraction, preprocessing, stats

from streams.core.derived import Derived, given, kind, through

EVENT = {"amount": 4.0, "country": "SE", "date": "2026-11-24", "hour": 3, "text": "buy cheap"}


def taught(*steps: Any) -> list[Any]:
    for step in steps:
        for _ in range(3):
            step.learn_one(dict(EVENT))
    return list(steps)


def made(*steps: Any) -> dict[Any, str | None]:
    """Name to the one feature that it was made of."""
    found = through(steps, given(EVENT))
    return {name: found.source(name) for name in found.x}


def day(x: dict[str, Any]) -> dict[str, Any]:
    """Makes two of one."""
    date = x.pop("date") if "date" in x else ""
    return {"day": int(date[-2:]), "month": int(date[5:7])}


def share(x: dict[str, Any]) -> dict[str, Any]:
    """Makes one of two."""
    return {"per_hour": x["amount"] / x.get("hour", 1), "hour": x["hour"]}


def added(x: dict[str, Any]) -> dict[str, Any]:
    """Keeps all, and adds one."""
    return {**x, "weekend": x["date"] > "2026-11-25"}


def popped(x: dict[str, Any]) -> dict[str, Any]:
    """Changes what it is given, as it should not."""
    x["big"] = x.pop("amount") > 3
    return x


READS_ALL: dict[str, Callable[[dict[str, Any]], Any]] = {
    "iterated": lambda x: [x[name] for name in x],
    "names": lambda x: list(x.keys()),
    "values": lambda x: list(x.values()),
    "items": lambda x: list(x.items()),
    "copied": lambda x: x.copy(),
    "starred": lambda x: {**x},
    "joined": lambda x: x | {"a": 1},
    "made anew": dict,
}


def test_an_event_is_made_of_itself_and_is_not_changed() -> None:
    event = dict(EVENT)
    found = through([compose.Renamer({"amount": "sum"})], given(event))
    assert event == EVENT
    assert found.source("sum") == "amount"
    assert found.source("hour") == "hour"
    assert found.source("nowhere") is None


def test_scaling_and_selecting_keep_the_names() -> None:
    steps = compose.Select("amount", "hour"), preprocessing.StandardScaler()
    assert made(*steps) == {"amount": "amount", "hour": "hour"}


def test_a_step_that_keeps_lessons_away_changes_no_answer() -> None:
    odd = anomaly.ThresholdFilter(anomaly.HalfSpaceTrees(seed=1), threshold=0.5)
    assert made(compose.Select("hour"), odd) == {"hour": "hour"}


def test_each_category_is_made_of_its_feature_also_one_that_is_not_there() -> None:
    encoder = preprocessing.OneHotEncoder()
    for country in ("SE", "NO"):
        encoder.learn_one({"a": 1, "a_b": country})
    found = through([encoder], given({"a": "b_c", "a_b": "FI"}))
    assert {name: found.source(name) for name in found.x} == {
        "a_1": "a",
        "a_b_SE": "a_b",
        "a_b_NO": "a_b",
        "a_b_c": "a",
        "a_b_FI": "a_b",
    }


def test_a_list_of_categories_is_made_of_its_feature() -> None:
    found = through([preprocessing.OneHotEncoder()], given({"tags": ["x", "y"]}))
    assert [found.source(name) for name in found.x] == ["tags", "tags"]


def test_of_several_parts_with_one_name_the_first_is_meant_as_river_has_it() -> None:
    union = compose.Prefixer("p_") + compose.Select("amount") + compose.Select("hour")
    found = made(compose.Select("amount", "hour"), union, compose.Suffixer("_s"))
    assert found == {"hour_s": "hour", "amount_s": "amount", "p_amount_s": "amount", "p_hour_s": "hour"}  # fmt: skip


def test_a_product_is_of_both_and_of_one_if_both_are_the_same() -> None:
    product = compose.Select("amount") * compose.Select("amount", "hour")
    assert made(product) == {"amount*amount": "amount", "amount*hour": None}
    powers = feature_extraction.PolynomialExtender()
    found = made(compose.Select("amount", "hour"), powers)
    assert (found["amount*amount"], found["amount*hour"], found["hour"]) == ("amount", None, "hour")


def test_words_are_made_of_their_text() -> None:
    for words in (
        feature_extraction.BagOfWords(on="text"),
        feature_extraction.TFIDF(on="text"),
        compose.Select("text") | feature_extraction.BagOfWords(on="text"),
    ):
        assert made(*taught(words)) == {"buy": "text", "cheap": "text"}


def test_an_aggregate_is_of_what_it_is_grouped_by() -> None:
    one = feature_extraction.Agg("amount", by="country", how=stats.Mean())
    two = feature_extraction.Agg("amount", by=["country", "hour"], how=stats.Mean())
    assert list(made(*taught(one)).values()) == ["country"]
    assert list(made(*taught(two)).values()) == [None]


def test_what_a_function_reads_by_name_is_what_it_makes_its_features_of() -> None:
    assert made(compose.FuncTransformer(day)) == {"day": "date", "month": "date"}
    assert made(compose.FuncTransformer(share)) == {"per_hour": None, "hour": "hour"}
    found = made(compose.FuncTransformer(added))
    assert (found["weekend"], found["hour"]) == (None, "hour")
    kept = {name: name for name in EVENT if name != "amount"}
    assert made(compose.FuncTransformer(popped)) == {**kept, "big": "amount"}


@pytest.mark.parametrize("how", READS_ALL)
def test_who_reads_all_at_once_has_read_all(how: str) -> None:
    def step(x: dict[str, Any]) -> dict[str, Any]:
        return {"made": x["amount"], "of": len(READS_ALL[how](x))}

    assert made(compose.FuncTransformer(step)) == {"made": None, "of": None}


def test_of_a_single_feature_all_is_made() -> None:
    hasher = preprocessing.FeatureHasher(n_features=8, seed=1)
    (source,) = made(compose.Select("country"), hasher).values()
    assert source == "country"
    assert set(made(hasher).values()) == {None}
    assert made(hasher, compose.Prefixer("h")).keys() == {
        f"h{place}" for place in hasher.transform_one(EVENT)
    }


def test_only_rivers_own_steps_are_known_by_their_kind() -> None:
    class OneHotEncoder(preprocessing.OneHotEncoder):
        """A user's, who may make anything."""

    assert kind(preprocessing.OneHotEncoder()) == "preprocessing.OneHotEncoder"
    assert kind(OneHotEncoder()) == ""
    assert isinstance(given({}), Derived)
