"""Least squares of the next state on the lifted state  (2208.13915, Algorithm 1).

    phi = [ut (x) x ; u ; 1],  ut = [1 ; u]          Z = [phi ; y], feature by feature
    gram = Z diag(weight) Z' = [[G, g], [g', yy]]     C = g' (G + alpha)^-1

Statistics are sums over blocks of rows: gram by one symmetric rank-k update a block,
where asked for also a triangular factor R with R'R = gram, by QR of R on top of the
next block. The factor keeps the digits that gram, its square, loses.

In continuous time, y is (x+ - x) / dt, and x in phi is the midpoint (x+ + x) / 2.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import blas, svdvals

# Numbers in a block: it stays in the cache of a core, and is dear enough to be worth
# the calls that it costs. On a GPU the calls cost more, and there is more room.
BLOCK_NUMBERS = {"cpu": 1 << 18, "cuda": 1 << 22, "mps": 1 << 22}
# A factor is updated by more rows than it has columns, or QR would repeat itself.
FACTOR_ROWS = 4
# Where the residual sum of squares is below this many rounding errors of y'y, it is
# not taken from gram, in which it is a small difference of large numbers.
CANCELLED = 1e4
# Rounding errors are reckoned as of at least so many features.
FEW = 10
# Entries of a null vector of unit length that are more than rounding.
TAKES_PART = 1e-3


class Rows(NamedTuple):
    """The data: tensors on the device where they are worked on.

    Attributes
    ----------
    x, u, y : torch.Tensor of shape (n_samples, n_states or n_inputs)
        State, input and next state in each row, in any dtype; no y where it is to be
        predicted.
    weight : torch.Tensor of shape (n_samples,) or None
        Weights; None is 1 for each.
    drop : bool
        Whether rows with NaN are left out.
    """

    x: torch.Tensor
    u: torch.Tensor
    y: torch.Tensor | None
    weight: torch.Tensor | None = None
    drop: bool = False


class Block(NamedTuple):
    """Some rows, times the roots of their weights, feature by feature."""

    Z: torch.Tensor  # (d + n, b), or (d, b) without y
    ut: torch.Tensor  # (m + 1, b)
    n_rows: int  # of positive weight
    n_dropped: int


@dataclass(frozen=True)
class LiftedDesign:
    """How rows become features: which terms there are, and in which time.

    Attributes
    ----------
    n_states, n_inputs : int
        Sizes n and m of state and input.
    input_matrix : bool
        Whether u itself is among the features.
    intercept : bool
        Whether 1 is.
    dt : float or None
        The step of continuous time; None for discrete time.
    midpoint : bool
        Whether continuous time takes the state amid the step, or the one before it.
    """

    n_states: int
    n_inputs: int
    input_matrix: bool = True
    intercept: bool = False
    dt: float | None = None
    midpoint: bool = True

    @property
    def n_products(self):
        return self.n_states * (self.n_inputs + 1)

    @property
    def n_features(self):
        return self.n_products + self.input_matrix * self.n_inputs + self.intercept

    def blocks(self, rows, block_size, dtype):
        """Yield the data block by block, in buffers that are used again."""
        n, m, d = self.n_states, self.n_inputs, self.n_features
        N, device, p = len(rows.x), rows.x.device, d + n * (rows.y is not None)
        if block_size is None:
            block_size = max(p, BLOCK_NUMBERS[device.type] // p)
        for start in range(0, N, block_size):
            part = slice(start, min(start + block_size, N))
            b = part.stop - start
            if start == 0 or b < block_size:
                Z = torch.empty((p, b), dtype=dtype, device=device)
                ut = torch.ones((m + 1, b), dtype=dtype, device=device)
                products = Z[n : self.n_products].view(m, n, b)
            ut[0] = 1.0
            ut[1:].copy_(rows.u[part].T)
            x, y = Z[:n], Z[d:]
            x.copy_(rows.x[part].T)
            if rows.y is not None:
                y.copy_(rows.y[part].T)
            if rows.y is not None and self.dt is not None:
                y -= x
                if self.midpoint:
                    x.add_(y, alpha=0.5)
                y /= self.dt
            torch.mul(x[None], ut[1:, None], out=products)
            if self.input_matrix:
                Z[self.n_products : self.n_products + m].copy_(ut[1:])
            if self.intercept:
                Z[d - 1] = 1.0
            yield self._weigh(rows, part, Z, ut)

    def _weigh(self, rows, part, Z, ut):
        """Leave out what is missing, and multiply by the roots of the weights."""
        n_rows, n_dropped = Z.shape[1], 0
        weight = None if rows.weight is None else rows.weight[part].to(Z.dtype)
        if rows.drop:
            missing = Z.isnan().any(0)
            n_dropped = int(missing.sum())
            if n_dropped:
                Z, ut = Z[:, ~missing], ut[:, ~missing]
                weight = weight if weight is None else weight[~missing]
                n_rows -= n_dropped
        if weight is not None:
            n_rows = int((weight > 0).sum())
            root = weight.sqrt()
            Z *= root
            ut *= root
        return Block(Z, ut, n_rows, n_dropped)


@dataclass(frozen=True)
class Moments:
    """What least squares needs of the data; the moments of two data sets add.

    Attributes
    ----------
    gram : ndarray of shape (d + n, d + n)
        Z diag(weight) Z', with Z = [phi ; y].
    factor : ndarray of shape (d + n, d + n) or None
        Triangular R with R'R = gram, more exact than gram itself.
    inputs : ndarray of shape (m + 1, m + 1)
        ut diag(weight) ut'; its first entry is the sum of the weights.
    n_rows, n_dropped : int
        Rows of positive weight, and rows left out.
    eps : float
        Relative rounding error of gram.
    """

    gram: np.ndarray
    factor: np.ndarray | None
    inputs: np.ndarray
    n_rows: int
    n_dropped: int
    eps: float

    def __add__(self, other):
        factor = None
        if self.factor is not None and other.factor is not None:
            both = np.vstack([self.factor, other.factor])
            factor = _triangle(torch.from_numpy(both)).numpy()
        return Moments(
            self.gram + other.gram,
            factor,
            self.inputs + other.inputs,
            self.n_rows + other.n_rows,
            self.n_dropped + other.n_dropped,
            max(self.eps, other.eps),
        )


@dataclass(frozen=True)
class LeastSquares:
    """Coefficients, and what is known of them.

    Attributes
    ----------
    coef : ndarray of shape (n, d)
        The coefficients C, of least norm among those that fit as well.
    inverse : ndarray of shape (d, d)
        K with C = g' K: the inverse of G + alpha, or its pseudo-inverse.
    residual : ndarray of shape (n, n)
        Sums of squares and products of the residuals.
    degrees : float
        Effective number of parameters, tr(G K).
    rank : int
        Number of features that are linearly independent.
    condition : float
        Condition number of the weighted design; infinite if it is rank-deficient.
    equilibrated_condition : float
        The same after its columns were brought to about unit length.
    dependent : ndarray of bool of shape (d,)
        Which features take part in a linear dependence.
    solver : str
        "gram", "tsqr" or "lstsq".
    """

    coef: np.ndarray
    inverse: np.ndarray
    residual: np.ndarray
    degrees: float
    rank: int
    condition: float
    equilibrated_condition: float
    dependent: np.ndarray
    solver: str


def least_squares(
    design,
    rows,
    moments,
    *,
    alpha=0.0,
    solver="auto",
    block_size=None,
    dtype=torch.float64,
    exact_residuals=True,
):
    """Fit the coefficients of a design by least squares with a ridge.

    Parameters
    ----------
    design : LiftedDesign
        The features.
    rows : Rows
        The data.
    moments : Moments
        Their sums, from :func:`accumulate`.
    alpha : float, default=0.0
        Penalty of the squared coefficients, the intercept's excepted.
    solver : {"auto", "gram", "tsqr", "lstsq"}, default="auto"
        From gram, from its factor, or from the whole design in memory. "auto" begins
        with gram. It goes on to "lstsq" if there are fewer rows than features, and to
        "tsqr" if half of the digits would be lost.
    block_size : int, default=None
        Rows of a block. None makes a block as large as the cache.
    dtype : torch.dtype, default=torch.float64
        Precision of the features; sums are float64.
    exact_residuals : bool, default=True
        Whether to pass over the data once more where the residuals are so small that
        gram knows nothing of them.

    Returns
    -------
    moments : Moments
        The same, with a factor if one was made.
    answer : LeastSquares
        The coefficients.
    """
    if solver == "auto":
        few = alpha == 0 and moments.n_rows < design.n_features
        answer = None if few else solve_moments(design, moments, alpha)
        if few or not is_well_conditioned(answer, moments):
            solver = "lstsq" if few else "tsqr"
            rows, dtype = _at_home(rows), torch.float64
    if solver == "lstsq":
        blocks = design.blocks(rows, block_size, dtype)
        Z = torch.cat([block.Z.clone() for block in blocks], 1).T.cpu().double().numpy()
        answer = replace(_solve_factor(design, Z, alpha, max(Z.shape)), solver="lstsq")
    elif solver == "tsqr":
        if moments.factor is None:
            again = accumulate(design, rows, block_size, dtype, factor=True)
            moments = replace(moments, factor=again.factor)
        answer = solve_moments(design, moments, alpha)
    elif solver == "gram":
        answer = solve_moments(design, moments, alpha)
    total = np.diag(moments.gram)[design.n_features :]
    cancelled = np.diag(answer.residual) < CANCELLED * moments.eps * total
    if exact_residuals and answer.solver == "gram" and cancelled.any():
        residual = residual_moments(design, rows, answer.coef, block_size, dtype)
        answer = replace(answer, residual=residual)
    return moments, answer


def accumulate(design, rows, block_size, dtype, *, factor=False):
    """Return the moments of the rows, in one pass over them."""
    d, m = design.n_features + design.n_states, design.n_inputs
    if factor and block_size is None:
        block_size = FACTOR_ROWS * d
    device = _home(rows.x.device)
    gram = _SymmetricSum(d, device)
    inputs = torch.zeros((m + 1, m + 1), dtype=torch.float64, device=device)
    R = torch.zeros((0, d), dtype=torch.float64, device=device)
    n_rows = n_dropped = 0
    for block in design.blocks(rows, block_size, dtype):
        n_rows += block.n_rows
        n_dropped += block.n_dropped
        if block.n_rows == 0:
            continue
        gram.add(block.Z)
        ut = block.ut.to(inputs)  # before the product, whose mean may be large
        inputs += ut @ ut.T
        if factor:
            R = _triangle(torch.cat([R, block.Z.T.to(R)]))
    R = R.cpu().numpy() if factor else None
    eps = torch.finfo(dtype).eps
    return Moments(gram.value(), R, inputs.cpu().numpy(), n_rows, n_dropped, eps)


class _SymmetricSum:
    """Sum of Z Z' in float64: half of the work of a product, where BLAS is at hand."""

    def __init__(self, size, device):
        self.has_blas = device.type == "cpu"
        if self.has_blas:
            self.total = np.zeros((size, size), order="F")
        else:
            self.total = torch.zeros((size, size), dtype=torch.float64, device=device)

    def add(self, Z):
        if not self.has_blas:
            self.total += (Z @ Z.T).to(self.total)
        elif Z.device.type != "cpu":
            self.total += (Z @ Z.T).cpu().numpy()
        elif Z.dtype == torch.float64:
            columns = Z.contiguous().numpy().T  # of a matrix in Fortran's order
            self.total = blas.dsyrk(
                1.0, columns, beta=1.0, c=self.total, trans=1, overwrite_c=1
            )
        else:
            self.total += blas.ssyrk(1.0, Z.contiguous().numpy().T, trans=1)

    def value(self):
        total = self.total if self.has_blas else self.total.cpu().numpy()
        upper = np.triu(total)
        return upper + np.triu(total, 1).T


def residual_moments(design, rows, coef, block_size, dtype):
    """Return sums of squares and products of the residuals, by one more pass."""
    d = design.n_features
    total = torch.zeros(
        (len(coef), len(coef)), dtype=torch.float64, device=_home(rows.x.device)
    )
    C = torch.from_numpy(coef).to(device=rows.x.device, dtype=dtype)
    for block in design.blocks(rows, block_size, dtype):
        r = (block.Z[d:] - C @ block.Z[:d]).to(total)
        total += r @ r.T
    return total.cpu().numpy()


def predict_rows(design, rows, coef, block_size, dtype):
    """Return coef times the features, a row of the data each."""
    C = torch.from_numpy(coef).to(device=rows.x.device, dtype=dtype)
    parts = [C @ block.Z for block in design.blocks(rows, block_size, dtype)]
    return torch.cat(parts, 1).T


def coefficient_covariance(moments, answer):
    """Return the covariance K G K of a row of coefficients, for noise of variance 1."""
    K = answer.inverse
    return K @ moments.gram[: len(K), : len(K)] @ K


def is_well_conditioned(answer, moments):
    """Tell whether gram keeps more than half of the digits."""
    return answer.equilibrated_condition**2 < moments.eps**-0.5


def solve_moments(design, moments, alpha=0.0):
    """Return the coefficients, from the factor if there is one, or from gram."""
    if moments.factor is not None:
        n_rows = max(moments.n_rows, len(moments.factor))
        return _solve_factor(design, moments.factor, alpha, n_rows)
    d = design.n_features
    gram = moments.gram
    penalty = _penalty(design, alpha)
    G, scale = _equilibrate(gram[:d, :d] + np.diag(penalty))
    values, V = np.linalg.eigh(G)
    # what rounding leaves of an eigenvalue that is zero
    rounding = max(d, FEW) * moments.eps
    kept = values > rounding * values.max(initial=0.0)
    roots = np.sqrt(np.where(kept, values, 1.0))
    projected = V.T @ (gram[:d, d:] / scale[:, None]) / roots[:, None]
    answer = _minimum_norm(roots, V, projected, kept, scale, solver="gram")
    C = answer.coef
    cross = C @ gram[:d, d:]
    residual = gram[d:, d:] - cross - cross.T + C @ gram[:d, :d] @ C.T
    return replace(
        answer,
        residual=_semidefinite(residual),
        degrees=_degrees(answer, penalty),
    )


def _solve_factor(design, factor, alpha, n_rows):
    """Return the coefficients from a matrix R with R'R = gram, tall or triangular."""
    d = design.n_features
    penalty = _penalty(design, alpha)
    ridge = np.hstack([np.diag(np.sqrt(penalty)), np.zeros((d, design.n_states))])
    R = np.vstack([factor, ridge]) if alpha else factor
    scale = _powers_of_two(np.linalg.norm(R[:, :d], axis=0))
    U, s, Vt = np.linalg.svd(R[:, :d] / scale, full_matrices=False)
    # all d directions, also where there are fewer rows
    V = np.linalg.qr(Vt.T, mode="complete")[0] if len(s) < d else Vt.T
    if len(s) < d:
        V[:, : len(s)] = Vt.T
    roots = np.zeros(d)
    roots[: len(s)] = s
    projected = np.zeros((d, design.n_states))
    projected[: len(s)] = U.T @ R[:, d:]
    kept = roots > n_rows * np.finfo(float).eps * roots.max(initial=0.0)
    answer = _minimum_norm(roots, V, projected, kept, scale, solver="tsqr")
    errors = factor[:, d:] - factor[:, :d] @ answer.coef.T
    return replace(
        answer, residual=errors.T @ errors, degrees=_degrees(answer, penalty)
    )


def _minimum_norm(roots, V, projected, kept, scale, solver):
    """Solve where R / scale = U diag(roots) V' and projected = U'y.

    Whether a direction counts is decided between features of equal length, so that it
    does not depend on their units. Of all solutions the one of least norm is in the
    units of the data, as from :func:`numpy.linalg.lstsq`.
    """
    d = len(scale)
    W = V[:, kept] / roots[kept] / scale[:, None]  # W W' = (R'R)^+
    if not kept.all():
        free = np.linalg.qr(V[:, ~kept] / scale[:, None])[0]
        W = W - free @ (free.T @ W)
    with np.errstate(divide="ignore"):
        equilibrated = roots.max(initial=0.0) / roots.min() if kept.all() else np.inf
        lengths = svdvals((roots[:, None] * V.T) * scale) if d else np.ones(1)
        condition = lengths[0] / lengths[-1] if kept.all() else np.inf
    return LeastSquares(
        coef=(W @ projected[kept]).T,
        inverse=W @ W.T,
        residual=np.empty(0),
        degrees=np.nan,
        rank=int(kept.sum()),
        condition=float(condition),
        equilibrated_condition=float(equilibrated),
        dependent=np.linalg.norm(V[:, ~kept], axis=1) > TAKES_PART,
        solver=solver,
    )


def _semidefinite(S):
    """Take away what rounding made negative."""
    values, V = np.linalg.eigh((S + S.T) / 2)
    return V * np.maximum(values, 0.0) @ V.T


def _degrees(answer, penalty):
    """Return tr(G K): the rank, less what the penalty takes away."""
    return answer.rank - float(penalty @ np.diag(answer.inverse))


def _penalty(design, alpha):
    penalty = np.full(design.n_features, float(alpha))
    if design.intercept:
        penalty[-1] = 0.0
    return penalty


def _equilibrate(G):
    """Return G with a diagonal of about 1, and what its rows were divided by."""
    scale = _powers_of_two(np.sqrt(np.maximum(np.diag(G), 0.0)))
    return G / scale / scale[:, None], scale


def _powers_of_two(lengths):
    """Round to powers of two, by which division makes no error; 0 becomes 1."""
    return np.exp2(np.round(np.log2(np.where(lengths > 0, lengths, 1.0))))


def _triangle(Z):
    """Return the triangular factor of the QR decomposition."""
    return torch.linalg.qr(Z, mode="r")[1]


def _home(device):
    """Return where sums are kept: in float64, which one kind of device lacks."""
    return torch.device("cpu") if device.type == "mps" else device


def _at_home(rows):
    """Return the rows where there is float64."""
    home = _home(rows.x.device)
    tensors = (None if part is None else part.to(home) for part in rows[:4])
    return Rows(*tensors, rows.drop)
