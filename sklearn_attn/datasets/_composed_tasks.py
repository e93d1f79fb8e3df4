"""s^0 = x,  s^l = f_l(s^{l-1}),  y = s^L, and s^1, ..., s^{L-1} are seen
(2305.18869, section 2).

Random networks with the outputs of their layers; and a plant of
q = max(0, G (A p - c)),  o = max(0, B q - m),  y = c_0 + (c - c_0)'o / Q.
"""

from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_random_state

from ..in_context._composed_priors import MLPPrior, draw_steps

_MOST_SEED = 2**31 - 1

# The plant of `make_staged_process`. Its numbers were chosen by hand so that valves are
# open, and weirs overflow, in a third to a half of all settings.
PRESSURE_RANGE = (1.0, 5.0)  # bar
# A: pressure across each line, as shares of the pumps' pressures upstream (+) and
# downstream (-). Lines 5 and 6 end in the open.
PRESSURE_SHARES = np.array(
    [
        [0.5, 0.5, -0.6, -0.4, 0.0, 0.0],
        [-0.5, 0.0, 0.7, 0.0, 0.3, -0.5],
        [0.0, -0.7, 0.0, 0.4, -0.3, 0.6],
        [0.4, -0.5, 0.0, -0.5, 0.6, 0.0],
        [0.0, 0.5, 0.0, 0.3, 0.0, 0.2],
        [0.4, 0.0, 0.3, 0.0, 0.3, 0.0],
    ]
)
OPENING_PRESSURES = np.array([0.2, 0.2, 0.2, 0.2, 3.0, 3.0])  # c, bar
CONDUCTANCES = np.array([4.0, 3.5, 3.0, 4.0, 5.0, 5.0])  # G, L/min per bar
# B: litres that reach (+) each tank, or are drawn from it (-), for each litre in a line
FLOW_SHARES = np.array(
    [
        [0.6, -0.4, 0.5, 0.0, 0.0, 0.3],
        [0.0, 0.6, -0.6, -0.5, 0.5, 0.0],
        [-0.8, 0.0, 0.0, 0.5, 0.0, 0.4],
        [0.0, 0.4, -0.5, 0.0, 0.5, -0.6],
        [0.4, 0.0, 0.5, 0.4, -0.9, 0.0],
    ]
)
WITHDRAWALS = np.array([1.4, 0.4, 0.2, 0.2, 0.8])  # m, L/min
CONCENTRATIONS = np.array([29.5, -38.0, 37.0, 44.5, -30.5])  # c, mmol/L
WATER_CONCENTRATION = 2.0  # c_0, mmol/L
PRODUCT_FLOW = 25.0  # Q, L/min: more than all overflows together ever are
# A meter reads 0 below this many standard deviations of its noise: a closed line never
# seems open (1e-9). At a noise of 1 %, that is 1 % of the largest flow, as is usual.
LOW_FLOW_CUTOFF = 6.0
_N_REFERENCE = 10_000  # settings in which the spread of each quantity is found


def make_composed_tasks(
    n_tasks=10,
    n_examples=20,
    n_features=5,
    *,
    hidden_layer_sizes=(10,),
    activation="relu",
    bias=0.0,
    noise=0.0,
    prior=None,
    random_state=None,
):
    """Generate tasks with steps between input and target: random networks.

    Parameters
    ----------
    n_tasks : int, default=10
        Number of tasks.
    n_examples : int, default=20
        Examples of each task.
    n_features : int, default=5
        Number of features.
    hidden_layer_sizes : tuple of int or of (int, int), default=(10,)
        Widths of the hidden layers, whose outputs are the steps. Of a pair, the width
        is drawn between the two.
    activation : {"relu", "leaky_relu", "tanh", "sin"}, default="relu"
        What follows each of them.
    bias : float, default=0.0
        Standard deviation of biases. The paper has none.
    noise : float or (float, float), default=0.0
        Standard deviation of the noise in y; of a pair, each task draws its own. The
        steps have none. Without biases, y has a mean square of 1 for "relu".
    prior : object, default=None
        Where tasks come from instead, such as a
        :class:`~.in_context.DeepLinearPrior`: it has a method `sample_steps`. The
        settings of the network are then left out.
    random_state : int, RandomState instance or None, default=None
        Determines all that is drawn.

    Returns
    -------
    X : ndarray of shape (n_tasks, n_examples, n_features)
        Inputs.
    steps : list of ndarray of shape (n_tasks, n_examples, width)
        Steps, in order.
    y : ndarray of shape (n_tasks, n_examples)
        Targets; of shape (n_tasks, n_examples, n_outputs) if those of `prior` are.

    Raises
    ------
    ValueError
        If numbers are out of range, or settings of the network come with a `prior`.

    See Also
    --------
    make_in_context_tasks : Tasks without steps.
    make_staged_process : A plant whose stages are measured.

    References
    ----------
    Li, Sreenivasan, Giannou, Papailiopoulos and Oymak, "Dissecting Chain-of-Thought:
    Compositionality through In-Context Filtering and Learning", arXiv:2305.18869.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_composed_tasks
    >>> X, steps, y = make_composed_tasks(hidden_layer_sizes=(10, 4), random_state=0)
    >>> X.shape, [step.shape for step in steps], y.shape
    ((10, 20, 5), [(10, 20, 10), (10, 20, 4)], (10, 20))
    """
    counts = {"n_tasks": n_tasks, "n_examples": n_examples, "n_features": n_features}
    for name, count in counts.items():
        _check_count(count, name)
    network = {
        "hidden_layer_sizes": hidden_layer_sizes,
        "activation": activation,
        "bias": bias,
        "noise": noise,
    }
    prior = MLPPrior(**network) if prior is None else _check_prior(prior, network)
    rng = check_random_state(random_state)
    generator = torch.Generator().manual_seed(int(rng.randint(_MOST_SEED)))
    drawn = draw_steps(prior, n_tasks, n_examples, n_features, generator=generator)
    steps = [step.double().numpy() for step in drawn.steps]
    return drawn.X.double().numpy(), steps, drawn.y.double().numpy()


def make_staged_process(n_samples=100, *, noise=0.01, random_state=None):
    r"""Simulate a plant of pumps, tanks and beds, with meters in between.

    Six pumps press water into a wide manifold. Thin lines leave it, in which flow is
    laminar, so that it is proportional to the pressure across them. That is a share of
    some pumps' pressures, less a share of others', as lines end in other parts of the
    manifold; two lines end in the open. Each line has a check valve or a relief valve,
    which lets nothing back and opens at c_i only:

    .. math:: q_i = \max(0, G_i (\sum_j A_{ij} p_j - c_i))

    Lines feed five tanks, and drive dosing pumps that draw from them, in proportion.
    Besides, a constant flow m_k is drawn from each tank. What is too much runs over its
    weir, and what is missing a float valve makes up for:

    .. math:: o_k = \max(0, \sum_i B_{ki} q_i - m_k)

    Each overflow passes a bed that loads it with an alkali, or an acid, up to c_k.
    Together they make the product, of a constant flow Q with fresh water of c_0:

    .. math:: y = c_0 + \sum_k (c_k - c_0) o_k / Q

    This net alkalinity is hard to predict from pressures, as it has many thresholds.
    With flows and overflows, each stage is a few least squares on the samples in which
    something flows, and 40 to 80 samples do.

    Parameters
    ----------
    n_samples : int, default=100
        Number of settings, drawn evenly within the range of the pumps.
    noise : float, default=0.01
        Standard deviation of the noise of each meter, in units of that of the quantity
        itself over all settings. The default is that of good industrial meters. Noise
        is in what is read, not in the process.
    random_state : int, RandomState instance or None, default=None
        Determines settings and noise. The plant is always the same.

    Returns
    -------
    X : ndarray of shape (n_samples, 6)
        Pressures of the pumps, 1 to 5 bar.
    steps : dict of str to ndarray
        What is measured on the way, stage by stage: "flows" in the lines, of shape
        (n_samples, 6), and "overflows" of the tanks, of shape (n_samples, 5), in L/min.
        As usual with flow meters, readings below six standard deviations of their
        noise are set to 0.
    y : ndarray of shape (n_samples,)
        Net alkalinity of the product, in mmol/L.

    Raises
    ------
    ValueError
        If numbers are out of range.

    See Also
    --------
    make_composed_tasks : Random networks with the outputs of their layers.

    Notes
    -----
    The plant is made up; its laws are those of real ones: Hagen and Poiseuille's for
    the lines, and the conservation of water and of alkalinity.

    Examples
    --------
    >>> from sklearn_attn.datasets import make_staged_process
    >>> X, steps, y = make_staged_process(random_state=0)
    >>> X.shape, {name: step.shape for name, step in steps.items()}, y.shape
    ((100, 6), {'flows': (100, 6), 'overflows': (100, 5)}, (100,))
    """
    _check_count(n_samples, "n_samples")
    if not (isinstance(noise, Real) and 0 <= noise < np.inf):
        raise ValueError(f"noise must be a finite number from 0 on; got {noise!r}.")
    rng = check_random_state(random_state)
    p = rng.uniform(*PRESSURE_RANGE, (n_samples, PRESSURE_SHARES.shape[1]))
    # settings of its own, always the same: a meter's noise must not depend on the draw
    reference = np.random.RandomState(0).uniform(
        *PRESSURE_RANGE, (_N_REFERENCE, p.shape[1])
    )
    sigmas = [noise * spread.std(0) for spread in _run(reference)]
    flows, overflows, y = (
        true + sigma * rng.standard_normal(true.shape)
        for true, sigma in zip(_run(p), sigmas, strict=True)
    )
    for readings, sigma in zip((flows, overflows), sigmas):
        readings[readings < LOW_FLOW_CUTOFF * sigma] = 0
    return p, {"flows": flows, "overflows": overflows}, y


def _run(p):
    """Return flows, overflows and the product of the plant, as they are."""
    q = np.maximum(0, CONDUCTANCES * (p @ PRESSURE_SHARES.T - OPENING_PRESSURES))
    o = np.maximum(0, q @ FLOW_SHARES.T - WITHDRAWALS)
    excess = CONCENTRATIONS - WATER_CONCENTRATION
    return q, o, WATER_CONCENTRATION + o @ excess / PRODUCT_FLOW


def _check_count(count, name):
    if not (isinstance(count, Integral) and count >= 1):
        raise ValueError(f"{name} must be an integer of 1 or more; got {count!r}.")


def _check_prior(prior, network):
    if not hasattr(prior, "sample_steps"):
        raise ValueError(f"prior must have a method `sample_steps`; got {prior!r}.")
    defaults = make_composed_tasks.__kwdefaults__
    for name, value in network.items():
        if value != defaults[name]:
            raise ValueError(
                f"{prior!r} has settings of its own; leave out {name}={value!r}."
            )
    return prior
