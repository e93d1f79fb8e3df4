"""Find every public name and every estimator, so that no new one can dodge a test."""

import inspect
from importlib import import_module

from sklearn.base import BaseEstimator

import sklearn_attn


def all_public():
    """Return (qualified name, object) for all that is in an `__all__`."""
    names = {f"sklearn_attn.{name}" for name in sklearn_attn.__all__}
    for module in sklearn_attn._SUBMODULES:
        qualified = f"sklearn_attn.{module}"
        exported = import_module(qualified).__all__
        names |= {f"{qualified}.{name}" for name in exported}
    found = {}
    for name in sorted(names, key=lambda name: (-name.count("."), name)):
        module, _, attribute = name.rpartition(".")
        thing = getattr(import_module(module), attribute)
        # the same thing may have a short and a long name; the long one says where
        if not inspect.ismodule(thing) and id(thing) not in found:
            found[id(thing)] = (name, thing)
    return sorted(found.values(), key=lambda item: item[0])


def all_estimators():
    """Return (name, class) of every public estimator."""
    return [
        (thing.__name__, thing)
        for _, thing in all_public()
        if inspect.isclass(thing) and issubclass(thing, BaseEstimator)
    ]
