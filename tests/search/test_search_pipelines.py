from __future__ import annotations

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from dask_limits.search.pipelines import FAMILIES, Configuration, build, draw

ROWS = 40
random = np.random.default_rng(0)
MIXED = pd.DataFrame(
    {
        "number": np.where(np.arange(ROWS) % 7 == 0, np.nan, random.normal(size=ROWS)),
        "count": random.integers(0, 9, ROWS),
        "flag": random.integers(0, 2, ROWS).astype(bool),
        "text": pd.Series(np.where(np.arange(ROWS) % 5 == 0, None, "a[b]")).astype("category"),
    }
)


def first_of(family: str, *, classification: bool) -> Configuration:
    drawn = (draw(n, seed=0, classification=classification) for n in range(1000))
    return next(c for c in drawn if c.family == family)


@pytest.mark.parametrize("classification", [True, False], ids=["classification", "regression"])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_fits_and_predicts_mixed_columns_with_gaps(
    family: str, classification: bool
) -> None:
    target = MIXED["count"] > 4 if classification else MIXED["count"] * 0.5
    pipeline = build(first_of(family, classification=classification))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # so few rows suit no estimator
        pipeline.fit(MIXED, target)
    unseen = MIXED.assign(text="never seen")
    assert len(pipeline.predict(unseen)) == ROWS


def test_a_configuration_depends_on_seed_and_number_alone() -> None:
    def drawn(seed: int) -> list[Configuration]:
        return [draw(n, seed=seed, classification=True) for n in range(20)]

    assert drawn(0) == drawn(0)
    assert draw(7, seed=0, classification=True) == drawn(0)[7]
    assert drawn(0) != drawn(1)


def test_every_family_is_drawn_and_its_parameters_are_json() -> None:
    drawn = [draw(n, seed=0, classification=False) for n in range(300)]
    assert {c.family for c in drawn} == set(FAMILIES)
    for configuration in drawn:
        parameters = json.loads(json.dumps(configuration.parameters))
        assert parameters == configuration.parameters


def test_equal_configurations_give_equal_models() -> None:
    configuration = first_of("forest", classification=True)
    target = MIXED["count"] > 4
    one, other = (build(configuration).fit(MIXED, target).predict_proba(MIXED) for _ in range(2))
    assert (one == other).all()
