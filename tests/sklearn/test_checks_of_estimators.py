"""scikit-learn's own checks of estimators pass with limited ones of each kind."""

from __future__ import annotations

from typing import Any

import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import IsolationForest
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from dask_limits.sklearn import Limited

pytestmark = pytest.mark.filterwarnings("default")  # the checks are about data that is odd

KINDS = [
    LogisticRegression(),
    SGDClassifier(random_state=0),
    Ridge(),
    StandardScaler(),
    KMeans(n_clusters=3, n_init=1, random_state=0),
    IsolationForest(n_estimators=5, random_state=0),
    make_pipeline(StandardScaler(), LogisticRegression()),
]


def limited(estimator: Any, **options: Any) -> Limited:
    return Limited(estimator, memory="1 GiB", wall_time="5 m", **options)


def expected_failures(model: Limited) -> dict[str, str]:
    """Those that the estimators fail themselves: scikit-learn's own list has them, too."""
    kind = type(model.estimator)
    if kind not in (KMeans, SGDClassifier, IsolationForest):
        return {}
    why = f"{kind.__name__}: with weights is not the same as with samples removed or repeated"
    return {f"check_sample_weight_equivalence_on_{d}_data": why for d in ("dense", "sparse")}


@parametrize_with_checks(
    [limited(kind) for kind in KINDS], expected_failed_checks=expected_failures
)
def test_a_check_of_scikit_learn_passes(estimator: Any, check: Any) -> None:
    if "check_outliers" in str(check):  # as an expected failure, it would keep a file open
        pytest.skip("it sets contamination, which is estimator__contamination here")
    check(estimator)


@parametrize_with_checks([limited(LogisticRegression(), limit_all=True)])
def test_a_check_passes_where_all_is_limited(estimator: Any, check: Any) -> None:
    check(estimator)
