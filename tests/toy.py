"""A small contract and its features, for tests that must not depend on the project's own."""

from dataclasses import replace
from typing import Any

from credit_risk.core.feature_set import CODE, FLAG, Feature, FeatureSet, Slice, WhatIf
from credit_risk.core.schema import Choice, Contract, NotAbove, Number, Problem, RowId, Target

PROBLEM = Problem(
    name="late-parcels",
    title="Late parcels",
    question="How likely is it that a parcel arrives late?",
    row="parcel",
    rows="parcels",
    event="delay",
    positive="late",
    negative="on time",
    accept="ship",
    accepted="shipped",
    decline="hold",
    declined="held",
    source="made for tests",
)
TOY = Contract(
    problem=PROBLEM,
    target=Target(column="Late", positive=("Y",), negative=("N",)),
    row_id=RowId("Parcel", r"[0-9]+"),
    date="Sent",
    fields=(
        Number(name="weight", column="Weight", unit="kg", minimum=0, maximum=50, description="Weight", example=2.5),
        Number(name="limit", column="Limit", unit="kg", minimum=0, maximum=60, description="Allowed", example=30.0),
        Number(
            name="stops",
            column="Stops",
            unit="stops",
            minimum=0,
            maximum=9,
            whole=True,
            required=False,
            description="Stops on the way",
            example=3.0,
        ),
        Choice(name="size", column="Size", choices=("S", "M", "L"), description="Size", example="M"),
        Choice(name="via", column="Via", choices=("air", "sea"), required=False, description="Route", example="air"),
    ),
    rules=(NotAbove("weight", "limit"),),
    not_fields={"Arrived": "it is known only afterwards"},
)
FEATURES = FeatureSet(
    TOY,
    (
        Feature("weight", "kg", "heavier parcels are slower", direction=1),
        Feature("load", "share", "full carriers wait", "weight / limit"),
        Feature("many_stops", FLAG, "each stop may delay", "stops > 4"),
        Feature("stops_known", FLAG, "whether it was planned", "known(stops)"),
        Feature("class", CODE, "handling differs", "stops // 2", categories=(1, 3)),
        Feature("size", CODE, "handling differs"),
    ),
    slices=(Slice("size", "size"), Slice("weight", "weight", edges=(1, 10), labels=("light", "middle", "heavy"))),
    what_ifs=(WhatIf("half the weight", {"weight": "weight / 2"}), WhatIf("a small one", {"size": "S"})),
    batch_order=("size", "weight"),
)
ROW: dict[str, Any] = {"weight": 6.0, "limit": 30.0, "stops": 7.0, "size": "L", "via": None}


def changed(**changes: Any) -> Contract:
    """The toy contract with other attributes."""
    return replace(TOY, **changes)
