"""Is this web site a fake? 1,250 real ones with nine features each, bundled with River: yes or no."""

from __future__ import annotations

from collections.abc import Iterator

from river import datasets, linear_model, preprocessing

from streams import Loop, review
from streams.core.events import Features, Label

loop = Loop(
    name="phishing",
    task="binary",
    model=preprocessing.StandardScaler() | linear_model.LogisticRegression(),
    review=review.Everything(),
)


def stream() -> Iterator[tuple[str, Features, Label]]:
    """Event id, features and truth of every site."""
    for number, (features, is_phishing) in enumerate(datasets.Phishing()):
        yield f"site-{number:04}", features, is_phishing
