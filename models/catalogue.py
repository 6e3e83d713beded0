"""Every model that Headrace keeps in production. Adding one: a folder, and a line here."""

from models.anomaly.spec import SPEC as ANOMALY
from models.bandwidth.spec import SPEC as BANDWIDTH
from models.cost.spec import SPEC as COST
from models.failure.spec import SPEC as FAILURE
from models.performance.spec import SPEC as PERFORMANCE
from models.placement.spec import SPEC as PLACEMENT
from models.rightsizing.spec import SPEC as RIGHTSIZING
from models.scaling.spec import SPEC as SCALING
from models.specs import ModelSpec

CATALOGUE: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (ANOMALY, BANDWIDTH, COST, FAILURE, PERFORMANCE, PLACEMENT, RIGHTSIZING, SCALING)
}


def find(name: str) -> ModelSpec:
    """The spec of a model.

    Raises:
        KeyError: there is none; the text lists those that there are.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise KeyError(f"no model {name!r}; the catalogue has {sorted(CATALOGUE)}") from None
