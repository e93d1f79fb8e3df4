"""s^0 = x,  s^1, ..., s^{L-1},  s^L = y:  what a chain reads and gives  (2305.18869).

Steps come as one array, as a list or mapping of them, or in front of y in its columns.
"""

from collections.abc import Mapping, ValuesView
from numbers import Integral
from typing import NamedTuple

import numpy as np
from sklearn.utils import check_array

from .._arrays import to_numpy


class Steps(NamedTuple):
    """Steps between inputs and targets, each with an axis of its width.

    Attributes
    ----------
    arrays : list of ndarray of shape (n_samples, width)
        The steps, in double precision.
    names : list of str
        Their names; "step_0" and so on if they came without.
    is_named : bool
        Whether they came with names, and are given back so.
    """

    arrays: list
    names: list
    is_named: bool

    def give(self, arrays, put):
        """Return predicted steps as the steps of `fit` came: by name, or in order."""
        arrays = [put(array) for array in arrays]
        return dict(zip(self.names, arrays)) if self.is_named else arrays

    def place(self, key):
        """Return which step a key of `given` means."""
        if isinstance(key, str) and key in self.names:
            return self.names.index(key)
        is_number = isinstance(key, Integral) and not isinstance(key, bool)
        if is_number and 0 <= key < len(self.names):
            return int(key)
        raise ValueError(
            f"given has a step {key!r}; there are {self.names}, or numbers from 0 on "
            "in their place."
        )

    def sort(self, steps):
        """Return a mapping of steps in the order of these, if they have names, too."""
        if not (self.is_named and isinstance(steps, Mapping)):
            return steps
        if set(steps) != set(self.names):
            raise ValueError(
                f"Steps are {list(steps)}; in fit, they were {self.names}."
            )
        return {name: steps[name] for name in self.names}


def read_steps(steps, step_sizes, n_samples):
    """Return the steps of `n_samples` examples.

    Raises
    ------
    ValueError
        If a step has another length, is not finite, or sizes do not fit.
    """
    if steps is None:
        return Steps([], [], False)
    is_named = isinstance(steps, Mapping)
    if is_named:
        names, parts = list(steps), list(steps.values())
        odd = [name for name in names if not isinstance(name, str) or name == "y"]
        if odd:
            raise ValueError(
                f"Names of steps must be strings, other than 'y'; got {odd[0]!r}."
            )
        if step_sizes is not None:
            raise ValueError("step_sizes splits columns; steps by names come split.")
    else:
        parts = _parts(steps, n_samples)
        if step_sizes is not None:
            if len(parts) != 1:
                raise ValueError(
                    f"step_sizes={step_sizes!r} splits the columns of one array of "
                    f"steps, or of y; got {len(parts)} arrays of steps."
                )
            parts = split_columns(_read(parts[0], "steps"), step_sizes, "steps")
        names = [f"step_{i}" for i in range(len(parts))]
    if not parts:
        raise ValueError(f"steps is empty: {steps!r}. Leave it out, or give some.")
    arrays = []
    for name, part in zip(names, parts):
        array = _read(part, f"step {name!r}")
        if len(array) != n_samples:
            raise ValueError(
                f"The step {name!r} has {len(array)} rows; X has {n_samples}. "
                "Cross-validation splits arrays, but no lists or mappings: pass one "
                "array, and step_sizes."
            )
        arrays.append(array)
    return Steps(arrays, names, is_named)


def split_columns(array, step_sizes, what):
    """Return the columns of an array in pieces of these sizes.

    Raises
    ------
    ValueError
        If sizes are no whole numbers from 1 on that sum to the number of columns.
    """
    sizes = list(np.atleast_1d(np.asarray(step_sizes)))
    if not all(isinstance(size, Integral) and size > 0 for size in sizes):
        raise ValueError(
            f"step_sizes must be whole numbers from 1 on; got {step_sizes!r}."
        )
    n_columns = array.shape[1] if array.ndim == 2 else 1
    if sum(sizes) != n_columns:
        raise ValueError(
            f"step_sizes={step_sizes!r} sum to {sum(sizes)}; {what} has {n_columns} "
            "columns."
        )
    array = array.reshape(len(array), -1)
    parts = np.split(array, np.cumsum(sizes[:-1]), axis=1)
    return [np.ascontiguousarray(part) for part in parts]


def read_given(given, steps, n_samples):
    """Return the true steps of queries, by place.

    Raises
    ------
    ValueError
        If there is no such step, or it is of another shape.
    """
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(
            "given must map steps, by name or by number, to arrays; got "
            f"{type(given).__name__}."
        )
    found = {}
    for key, value in given.items():
        place = steps.place(key)
        if place in found:
            raise ValueError(f"The given step {key!r} is there twice, by its number.")
        array = _read(value, f"given step {key!r}")
        wanted = (n_samples, steps.arrays[place].shape[1])
        if array.shape != wanted:
            raise ValueError(
                f"The given step {key!r} has shape {array.shape}; wanted {wanted}."
            )
        found[place] = array
    return found


def _parts(steps, n_samples):
    """Return the arrays in a list of them, or in one array."""
    if not isinstance(steps, list | tuple | ValuesView):
        array = to_numpy(steps)
        if getattr(array, "ndim", 2) != 3:
            return [array]
        array = np.asarray(array)  # (n_samples, n_steps, width)
        return [array[:, i] for i in range(array.shape[1])]
    parts = list(steps)
    arrays = [np.asarray(to_numpy(part)) for part in parts]
    are_steps = all(array.ndim and len(array) == n_samples for array in arrays)
    axes = {array.ndim for array in arrays}
    if len(parts) != n_samples or len(axes) != 1:
        return parts
    if are_steps and axes == {1} and n_samples > 1:
        raise ValueError(
            f"steps is a list of {n_samples} lists of {n_samples} numbers, which may "
            "be steps or samples; give an array."
        )
    return parts if are_steps else _parts(np.stack(arrays), n_samples)


def _read(part, what):
    """Return a finite array (n, width) in double precision, with memory of its own."""
    part = to_numpy(part)
    if part is None or np.ndim(part) == 0:
        raise ValueError(f"The {what} must have a value for each sample; got {part!r}.")
    if np.asarray(part).dtype.kind in "mM":
        raise ValueError(f"The {what} has dates or times; numbers are wanted.")
    array = check_array(
        part,
        dtype=np.float64,
        order="C",
        ensure_2d=False,
        copy=True,
        input_name=what,
    )
    if array.ndim == 1:
        array = array[:, None]
    return array
