"""YOURS: what the model is. One scikit-learn pipeline from float32 features to a probability, all fitting inside it.

Steps: `encode` (category codes, names and missing numbers, as the classifier wants them), `select` (feature selection)
and `classify` (the classifier, with sigmoid calibration around it if asked for; `newest` is stage 5's, after the fit).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, field_validator
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_selection import SelectFromModel
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.utils._param_validation import InvalidParameterError
from threadpoolctl import threadpool_limits

from credit_risk.core.arrays import Floats, Labels, Scores
from credit_risk.core.errors import ProjectError
from credit_risk.core.params import Params
from credit_risk.features import FEATURES

CALIBRATION_FOLDS = 5
ENCODING_FOLDS = 5
ENCODING_SMOOTH = 50.0  # rows of the average outcome that are added to those of each name
ModelName = Literal["logistic_regression", "random_forest", "hist_gradient_boosting"]


class SelectionParams(Params):
    """How features are selected: by their importance in a small random forest."""

    trees: int = Field(ge=1)
    rows: int = Field(ge=1)
    min_importance: float = Field(ge=0, le=1)  # above 1 it could drop every feature


class TrainParams(Params):
    """Section `train` of params.yaml.

    Each classifier's section holds scikit-learn's own parameters. With `monotonic`, trees keep the directions that
    features.py declares: a probability never moves against them, other features equal.
    """

    model: ModelName
    seed: int = Field(ge=0)
    calibration: Literal["none", "sigmoid", "newest"]
    cost_false_negative: float = Field(gt=0)
    cost_false_positive: float = Field(gt=0)
    threshold_folds: int = Field(ge=2)
    monotonic: bool
    selection: SelectionParams
    logistic_regression: dict[str, Any]
    random_forest: dict[str, Any]
    hist_gradient_boosting: dict[str, Any]

    @field_validator("calibration", mode="before")
    @classmethod
    def _servable(cls, value: Any) -> Any:
        if value == "isotonic":
            raise ValueError(
                "isotonic is not supported: exported to ONNX, its scores differ by up to 0.02; use sigmoid"
            )
        return value


class MonotonicPipeline(Pipeline):  # type: ignore[misc]  # scikit-learn has no types
    """A pipeline whose classifier keeps the directions of the columns that the selection leaves."""

    def __init__(
        self, steps: Any, *, signs: Sequence[int] | None = None, memory: Any = None, verbose: bool = False
    ) -> None:
        """Takes the steps and, for trees, the direction of each encoded column: 1 rising, -1 falling, 0 free."""
        super().__init__(steps, memory=memory, verbose=verbose)
        self.signs = signs

    def fit(self, features: Any, labels: Any = None) -> Self:
        """Fits the steps one after the other; what is selected decides which constraint belongs to which column."""
        if self.signs is None:
            super().fit(features, labels)
            return self
        encoded = self[:-1].fit_transform(features, labels)
        constrain(self["classify"], self.signs, self["select"].get_support(indices=True))
        self["classify"].fit(encoded, labels)
        return self


def constrain(classifier: Any, signs: Sequence[int] | None, columns: Any) -> None:
    """Gives trees, also those inside a calibration, the directions of the columns that they will be fitted on.

    Args:
        classifier: unfitted.
        signs: the direction of each encoded column; None for none.
        columns: positions of those columns that were selected.
    """
    if signs is not None:
        trees = classifier.estimator if isinstance(classifier, CalibratedClassifierCV) else classifier
        trees.set_params(monotonic_cst=[signs[column] for column in columns])


def build_pipeline(  # noqa: PLR0913, PLR0917 (a table's columns by kind)
    train: TrainParams,
    names: Sequence[str] = FEATURES.names,
    categorical: Sequence[str] = FEATURES.categorical,
    rows: int | None = None,
    open_names: Sequence[str] = FEATURES.open_names,
    directions: Mapping[str, int] = FEATURES.directions,
) -> MonotonicPipeline:
    """The unfitted pipeline.

    Args:
        train: which classifier, and its parameters.
        names: the feature columns, in order.
        categorical: those of them that hold category codes.
        rows: how many rows it will be fitted on, when known: bounds the sample of each of the selection's trees.
        open_names: those of the feature columns that hold codes of names with an open vocabulary.
        directions: 1 or -1 by feature name, for `train.monotonic`.
    """
    columns = _columns(names, categorical, open_names)
    classifier = _classifier(train)
    if train.calibration == "sigmoid":
        # Shuffled, because rows may be ordered in time, and unshuffled folds would each cover one period.
        folds = StratifiedKFold(CALIBRATION_FOLDS, shuffle=True, random_state=train.seed)
        classifier = CalibratedClassifierCV(classifier, method="sigmoid", cv=folds, ensemble=False)
    signs = [directions.get(name, 0) for name in encoded_columns(names, categorical, open_names)]
    constrained = train.monotonic and train.model != "logistic_regression" and any(signs)
    return MonotonicPipeline(
        [
            ("encode", _encoder(train, {kind: [names.index(name) for name in kept] for kind, kept in columns.items()})),
            ("select", _selector(train, rows)),
            ("classify", classifier),
        ],
        signs=signs if constrained else None,
    )


def logistic_baseline(train: TrainParams) -> TrainParams:
    """The same parameters with plain logistic regression: what a better model must beat."""
    return train.model_copy(update={"model": "logistic_regression", "calibration": "none"})


def fit(train: TrainParams, features: Floats, labels: Labels) -> Pipeline:
    """Fits the pipeline on one thread; the same input gives the same bits.

    Threads of one fit wait for each other, and on a busy machine for other processes; independent fits do not. Run
    those in parallel instead (`evaluation/parallel.py`).

    Args:
        train: parameters.
        features: shape (n, len(FEATURES)), float32.
        labels: shape (n,), 1 for the positive class.
    """
    with threadpool_limits(1), named_parameters(train):
        fitted = build_pipeline(train, rows=len(labels)).fit(features, labels)
        return with_float32_encodings(Pipeline(fitted.steps))  # as others know it: ONNX and skops


def with_float32_encodings(pipeline: Pipeline) -> Pipeline:
    """Rounds what a fitted pipeline encodes names by to float32, as ONNX has it: both then take the same branches."""
    step = pipeline["encode"].named_transformers_.get("names")
    if step is not None:
        encoder = step[0] if isinstance(step, Pipeline) else step
        encoder.encodings_ = [np.float64(np.float32(values)) for values in encoder.encodings_]
        encoder.target_mean_ = float(np.float32(encoder.target_mean_))
    return pipeline


@contextmanager
def named_parameters(train: TrainParams) -> Iterator[None]:
    """Names the section of params.yaml that holds a value which the classifier does not accept.

    Raises:
        ProjectError: with the classifier's own message.
    """
    try:
        yield
    except InvalidParameterError as error:
        raise ProjectError(f"params.yaml: train.{train.model}: {' '.join(str(error).split())}") from error


def positive_probability(model: Any, rows: Any) -> Scores:
    """Probability of the positive class of each row, shape (n,), wherever the model has its column."""
    column = list(model.classes_).index(1)
    probabilities: Scores = model.predict_proba(rows)[:, column]
    return probabilities


def encoded_columns(
    names: Sequence[str] = FEATURES.names,
    categorical: Sequence[str] = FEATURES.categorical,
    open_names: Sequence[str] = FEATURES.open_names,
) -> list[str]:
    """The columns as a classifier of trees gets them: category codes first, then names, then numbers."""
    return [name for kept in _columns(names, categorical, open_names).values() for name in kept]


def _columns(names: Sequence[str], categorical: Sequence[str], open_names: Sequence[str]) -> dict[str, list[str]]:
    """The features by kind; a feature that is neither a category nor a name is a number."""
    kinds = {"codes": categorical, "names": open_names}
    found = {kind: [name for name in names if name in kept] for kind, kept in kinds.items()}
    return found | {"numbers": [name for name in names if name not in (*categorical, *open_names)]}


def encoded_features(pipeline: Pipeline) -> list[str]:
    """The feature behind each column that a fitted pipeline selects from, in their order."""
    found: list[str] = []
    for part, step, indices in pipeline["encode"].transformers_:
        names = [FEATURES.names[index] for index in indices]
        one_hot = part == "codes" and isinstance(step, OneHotEncoder)
        counts = [len(words) for words in step.categories_] if one_hot else [1] * len(names)
        found += [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
    return found


def _classifier(train: TrainParams) -> BaseEstimator:
    parameters: dict[str, Any] = dict(getattr(train, train.model))
    if "monotonic_cst" in parameters:
        raise ProjectError(
            f"params.yaml: train.{train.model}.monotonic_cst goes by position, and the selection moves columns; set "
            "train.monotonic, and the direction of each feature in features.py"
        )
    fixed: dict[ModelName, tuple[type[BaseEstimator], dict[str, Any]]] = {
        "logistic_regression": (LogisticRegression, {}),
        "random_forest": (RandomForestClassifier, {"n_jobs": 1}),
        "hist_gradient_boosting": (HistGradientBoostingClassifier, {"early_stopping": False}),
    }
    kind, ours = fixed[train.model]
    try:
        return kind(**parameters, **ours, random_state=train.seed)
    except TypeError as error:  # a key that the classifier does not have, or that is set here
        raise ProjectError(f"params.yaml: train.{train.model}: {error}") from error


def _encoder(train: TrainParams, columns: Mapping[str, Sequence[int]]) -> ColumnTransformer:
    """Trees take category codes as they are, boosting also missing numbers; a linear model needs more.

    A name becomes the mean outcome of its rows; of a row that is fitted on, that of the other folds' rows, because its
    own outcome would give it away.
    """
    folds = StratifiedKFold(ENCODING_FOLDS, shuffle=True, random_state=train.seed)
    target = TargetEncoder(target_type="binary", smooth=ENCODING_SMOOTH, cv=folds)
    steps: dict[ModelName, tuple[Any, Any, Any]] = {
        "hist_gradient_boosting": ("passthrough", target, "passthrough"),
        "random_forest": ("passthrough", target, SimpleImputer(strategy="median")),
        "logistic_regression": (
            OneHotEncoder(handle_unknown="ignore", sparse_output=False, dtype=np.float32),
            make_pipeline(target, StandardScaler()),
            make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
        ),
    }
    parts = [(kind, step, columns[kind]) for kind, step in zip(columns, steps[train.model], strict=True)]
    return ColumnTransformer([part for part in parts if part[2]])  # ONNX has no step for no columns


def _selector(train: TrainParams, rows: int | None) -> SelectFromModel:
    selection = train.selection
    forest = RandomForestClassifier(
        n_estimators=selection.trees,
        max_depth=8,
        max_samples=min(selection.rows, rows) if rows else None,
        random_state=train.seed,
    )
    return SelectFromModel(forest, threshold=f"{selection.min_importance}*mean")
