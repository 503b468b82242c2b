"""Which digit is this? 1,797 handwritten ones of 8x8 pixels, bundled with scikit-learn: one of ten classes."""

from __future__ import annotations

from collections.abc import Iterator

from river import linear_model, preprocessing

from streams import Loop, review
from streams.core.events import Features, Label

loop = Loop(
    name="digits",
    task="multiclass",
    model=preprocessing.StandardScaler() | linear_model.SoftmaxRegression(),
    classes=tuple(range(10)),
    review=review.Everything(),
)


def stream() -> Iterator[tuple[str, Features, Label]]:
    """Event id, pixels by row and column, and truth of every image."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    for number, (image, digit) in enumerate(zip(images, digits, strict=True)):
        pixels = {f"pixel_{i // 8}_{i % 8}": float(value) for i, value in enumerate(image)}
        yield f"image-{number:04}", pixels, int(digit)
