"""YOURS: what a row is. A second problem, which shows what another data set takes: no date, no id, nothing missing.

Source: Wolberg, Street & Mangasarian (1995), Breast Cancer Wisconsin (Diagnostic), as scikit-learn ships it.
"""

from credit_risk.core.schema import Contract, Number, Problem, Target

# Column, unit, largest plausible value (twice the largest seen), median.
MEASUREMENTS = (
    ("mean radius", "pixels", 60, 13.37),
    ("mean texture", "grey levels", 80, 18.84),
    ("mean perimeter", "pixels", 400, 86.24),
    ("mean area", "square pixels", 6000, 551.1),
    ("mean smoothness", "ratio", 0.4, 0.09587),
    ("mean compactness", "ratio", 0.7, 0.09263),
    ("mean concavity", "ratio", 0.9, 0.06154),
    ("mean concave points", "ratio", 0.5, 0.0335),
    ("mean symmetry", "ratio", 0.7, 0.1792),
    ("mean fractal dimension", "ratio", 0.2, 0.06154),
    ("radius error", "pixels", 6, 0.3242),
    ("texture error", "grey levels", 10, 1.108),
    ("perimeter error", "pixels", 50, 2.287),
    ("area error", "square pixels", 1100, 24.53),
    ("smoothness error", "ratio", 0.07, 0.00638),
    ("compactness error", "ratio", 0.3, 0.02045),
    ("concavity error", "ratio", 0.8, 0.02589),
    ("concave points error", "ratio", 0.11, 0.01093),
    ("symmetry error", "ratio", 0.16, 0.01873),
    ("fractal dimension error", "ratio", 0.06, 0.003187),
    ("worst radius", "pixels", 80, 14.97),
    ("worst texture", "grey levels", 100, 25.41),
    ("worst perimeter", "pixels", 600, 97.66),
    ("worst area", "square pixels", 9000, 686.5),
    ("worst smoothness", "ratio", 0.5, 0.1313),
    ("worst compactness", "ratio", 3, 0.2119),
    ("worst concavity", "ratio", 3, 0.2267),
    ("worst concave points", "ratio", 0.6, 0.09993),
    ("worst symmetry", "ratio", 1.4, 0.2822),
    ("worst fractal dimension", "ratio", 0.5, 0.08004),
)

CONTRACT = Contract(
    problem=Problem(
        name="tumour-check",
        title="Tumour check",
        question="How likely is it that a tumour is malignant, as measured on a digitised image of its cells?",
        row="tumour",
        rows="tumours",
        event="malignancy",
        positive="malignant",
        negative="benign",
        accept="clear",
        accepted="cleared",
        decline="refer",
        declined="referred",
        source="Wolberg, Street & Mangasarian (1995), Breast Cancer Wisconsin (Diagnostic), as scikit-learn ships it.",
        limits=(
            "It is a test of this template and must not be used on people.",
            "The images are of one hospital and one method.",
        ),
    ),
    target=Target(column="diagnosis", positive=("malignant",), negative=("benign",)),
    fields=tuple(
        Number(
            name=column.replace(" ", "_"),
            column=column,
            unit=unit,
            minimum=0,
            maximum=maximum,
            description=f"{column.capitalize()} of the cell nuclei",
            example=median,
        )
        for column, unit, maximum, median in MEASUREMENTS
    ),
)
