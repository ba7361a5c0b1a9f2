"""The random choice of images to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from store_files import write_store

from data.hdf5.image_choice import choose_images
from data.hdf5.store import Store


def test_the_chosen_are_mostly_positive(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    write_store(path)
    with Store.open(path) as store:
        for count, positives in ((1, 1), (4, 3), (5, 4), (7, 6), (99, 6)):
            chosen = choose_images(store, count, seed=3)
            assert (np.diff(chosen) > 0).all()
            assert store.positive[chosen].sum() == positives
            assert len(chosen) == min(count, positives + 1 if count >= 4 else 1)
        assert choose_images(store, 3, 1).tolist() == choose_images(store, 3, 1).tolist()
        assert len({tuple(choose_images(store, 3, seed)) for seed in range(20)}) > 5
