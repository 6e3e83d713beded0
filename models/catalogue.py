"""Every model that Headrace keeps in production. Adding one: a folder, and a line here."""

from models.failure.spec import SPEC as FAILURE
from models.specs import ModelSpec

CATALOGUE: dict[str, ModelSpec] = {spec.name: spec for spec in (FAILURE,)}


def find(name: str) -> ModelSpec:
    """The spec of a model.

    Raises:
        KeyError: there is none; the text lists those that there are.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise KeyError(f"no model {name!r}; the catalogue has {sorted(CATALOGUE)}") from None
