"""Make ``digits.npz`` from scikit-learn's copy of the UCI handwritten digits.

Run once in a checkout with ``python -m training.build_digits``; the result is package data, so
scikit-learn is not needed to use the demo. The source is "Optical Recognition of Handwritten Digits" by
E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998, licence CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightkv import demo

TEST_SHARE = 0.28
SPLIT_SEED = 20240


def build(path: Path) -> None:
    """Write scans ``[1797, 8, 8]`` uint8 (0 to 16), labels and the train/test split to `path`."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    scans = bunch.images.astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    rng = np.random.default_rng(SPLIT_SEED)
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):  # stratified: each digit gives the same share to the test set
        members = rng.permutation(np.flatnonzero(labels == digit))
        is_test[members[: round(TEST_SHARE * len(members))]] = True
    np.savez_compressed(path, scans=scans, labels=labels, is_test=is_test)


if __name__ == "__main__":
    build(Path(demo.__file__).with_name("digits.npz"))
