"""YOURS: what the model sees of a row: the fields as they are, and one ratio."""

from credit_risk.contract import CONTRACT
from credit_risk.core.feature_set import Feature, FeatureSet, Slice, WhatIf, default_features

FEATURES = FeatureSet(
    CONTRACT,
    (
        *default_features(CONTRACT),
        Feature(
            "worst_over_mean", "ratio", "large outliers among the nuclei", "worst_radius / mean_radius", direction=1
        ),
    ),
    slices=(Slice("size", "mean_radius", edges=(12, 15), labels=("small", "middle", "large")),),
    what_ifs=(WhatIf("a smaller worst radius", {"worst_radius": "0.9 * worst_radius"}),),
)
