"""The leak check: no single feature may tell the outcome almost by itself."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from threadpoolctl import threadpool_limits

FOLDS = 3
MOST_ROWS = 20_000  # a leak shows on far fewer, and the check's cost must not grow with the data


def single_feature_aucs(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int8], names: Sequence[str], seed: int
) -> dict[str, float]:
    """Out-of-fold ROC AUC of a small boosted model on each feature alone, highest first.

    Args:
        features: shape (n, len(names)), float32; missing values are NaN.
        labels: shape (n,), 1 for default.
        names: of the columns.
        seed: of the sample and the folds.
    """
    if len(labels) > MOST_ROWS:
        sample = np.random.default_rng(seed).choice(len(labels), MOST_ROWS, replace=False)
        features, labels = features[sample], labels[sample]
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    aucs = {}
    for index, name in enumerate(names):
        if len(np.unique(features[:, index])) < 2:  # noqa: PLR2004 (one value, or none at all, tells nothing)
            aucs[name] = 0.5
            continue
        model = HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8, early_stopping=False, random_state=seed)
        with threadpool_limits(1):  # so small a fit is over before threads have met
            scores = cross_val_predict(model, features[:, [index]], labels, cv=folds, method="predict_proba")[:, 1]
        aucs[name] = float(roc_auc_score(labels, scores))
    return dict(sorted(aucs.items(), key=lambda item: -item[1]))
