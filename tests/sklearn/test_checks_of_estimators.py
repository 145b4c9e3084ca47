"""scikit-learn's own checks of estimators pass with limited ones of each kind."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_limits.sklearn import Limited

pytestmark = pytest.mark.filterwarnings("default")  # the checks are about data that is odd

KINDS = [
    LogisticRegression(),
    SGDClassifier(random_state=0),
    Ridge(),
    DecisionTreeRegressor(random_state=0),
    StandardScaler(),
    PCA(random_state=0),
    KMeans(n_clusters=3, n_init=1, random_state=0),
    IsolationForest(n_estimators=5, random_state=0),
    make_pipeline(StandardScaler(), LogisticRegression()),
]


def limited(estimator: Any, **options: Any) -> Limited:
    return Limited(estimator, memory="1 GiB", wall_time="5 m", **options)


def fails_for_the_estimator_itself(model: Limited) -> dict[str, str]:
    """scikit-learn's own list of checks that its estimators fail has these, too."""
    if not isinstance(model.estimator, KMeans):
        return {}
    why = "KMeans: with weights is not the same as with samples removed or repeated"
    data = ("dense", "sparse")
    return {f"check_sample_weight_equivalence_on_{kind}_data": why for kind in data}


@parametrize_with_checks(
    [limited(kind) for kind in KINDS], expected_failed_checks=fails_for_the_estimator_itself
)
def test_a_check_of_scikit_learn_passes(estimator: Any, check: Any) -> None:
    check(estimator)


@parametrize_with_checks([limited(LogisticRegression(), limit_all=True)])
def test_a_check_passes_where_all_is_limited(estimator: Any, check: Any) -> None:
    check(estimator)
