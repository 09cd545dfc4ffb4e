"""The leakage check: no single feature may predict the outcome almost by itself."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import TargetEncoder
from sklearn.tree import DecisionTreeClassifier

from credit_risk.core.arrays import Labels
from credit_risk.core.errors import ProjectError

FOLDS = 3
MAX_ROWS = 20_000  # a leak shows on far fewer, and the cost of the check must not grow with the data
NO_SKILL = 0.5  # ROC AUC of a constant


def single_feature_aucs(
    features: npt.NDArray[np.float32],
    labels: Labels,
    names: Sequence[str],
    seed: int,
    open_names: Sequence[str] = (),
) -> dict[str, float]:
    """Out-of-fold ROC AUC of a decision tree on each feature alone, highest first.

    Args:
        features: shape (n, len(names)), float32; missing values are NaN.
        labels: shape (n,), 1 positive, 0 negative.
        names: of the columns.
        seed: of the sample and the folds.
        open_names: those columns that hold codes of names with an open vocabulary. The codes have no order, so the
            tree gets the mean outcomes of the names instead.

    Raises:
        ProjectError: an outcome has fewer rows than there are folds.
    """
    if (fewest := int(np.bincount(labels, minlength=2).min())) < FOLDS:
        raise ProjectError(f"too few rows for the leakage check: {fewest} of one outcome, at least {FOLDS} are needed")
    if len(labels) > MAX_ROWS:
        sample = np.random.default_rng(seed).choice(len(labels), MAX_ROWS, replace=False)
        features, labels = features[sample], labels[sample]
    folds = list(folds_of(seed).split(features, labels))
    tree = DecisionTreeClassifier(max_leaf_nodes=64, min_samples_leaf=20, random_state=seed)
    encoded = make_pipeline(TargetEncoder(target_type="binary", cv=folds_of(seed)), tree)
    aucs = {}
    for index, name in enumerate(names):
        column = features[:, [index]]
        if len(np.unique(column)) == 1:
            aucs[name] = NO_SKILL
            continue
        model = encoded if name in open_names else tree
        probabilities = cross_val_predict(model, column, labels, cv=folds, method="predict_proba")[:, 1]
        aucs[name] = float(roc_auc_score(labels, probabilities))
    return dict(sorted(aucs.items(), key=lambda item: -item[1]))


def folds_of(seed: int) -> StratifiedKFold:
    """The folds of the check."""
    return StratifiedKFold(FOLDS, shuffle=True, random_state=seed)


def check_leakage(aucs: Mapping[str, float], limit: float) -> None:
    """Stops when a single feature reaches an out-of-fold AUC of `limit`; a limit of 1 switches the check off.

    Raises:
        ProjectError: names the features that do.
    """
    if leaking := [f"{name} ({auc:.2f})" for name, auc in aucs.items() if auc >= limit and limit < 1]:
        raise ProjectError(
            f"{', '.join(leaking)} alone reaches a ROC AUC of evaluate.leak_auc ({limit:.2f}) or more, so it probably "
            "gives the outcome away; check when its value is known, and remove it from features.py"
        )
