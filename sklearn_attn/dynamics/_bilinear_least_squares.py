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
    """Rows of positive weight, feature by feature."""

    Z: torch.Tensor  # (d + n, b), or (d, b) without y; times the roots of the weights
    ut: torch.Tensor  # (m + 1, b)
    root: torch.Tensor | None  # (b,)
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

    def term_names(self, columns):
        """Return what each feature is, given the names of states and inputs."""
        states, inputs = columns[: self.n_states], columns[self.n_states :]
        products = [*states, *(f"{u}*{x}" for u in inputs for x in states)]
        drives = [*inputs] * self.input_matrix + ["1"] * self.intercept
        return np.array([*products, *drives], dtype=object)

    def block_rows(self, block_size, device_type="cpu"):
        """Return how many rows are worked on at once."""
        width = self.n_features + self.n_states
        return block_size or max(width, BLOCK_NUMBERS[device_type] // width)

    def block_numbers(self, block_size):
        """Return how many numbers that are, for which threads would have to pay."""
        return (self.n_features + self.n_states) * self.block_rows(block_size)

    def blocks(self, rows, block_size, dtype):
        """Yield the data block by block, in buffers that are used again."""
        n, m, d = self.n_states, self.n_inputs, self.n_features
        N, device, p = len(rows.x), rows.x.device, d + n * (rows.y is not None)
        block_size = self.block_rows(block_size, device.type)
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
            missing = None
            if rows.drop:  # before products, of which 0 times infinity is NaN as well
                missing = x.isnan().any(0) | ut.isnan().any(0) | y.isnan().any(0)
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
            yield _weigh(rows.weight, part, missing, Z, ut)


@dataclass(frozen=True)
class Moments:
    """What least squares needs of the data; the moments of two data sets add.

    Attributes
    ----------
    gram : ndarray of shape (d + n, d + n)
        Z diag(weight) Z', with Z = [phi ; y].
    factor : ndarray of shape (d + n, d + n) or None
        Triangular R with R'R = gram, more exact than gram itself.
    weight : float
        The sum of the weights.
    input_mean : ndarray of shape (m,)
        Mean of the inputs.
    input_scatter : ndarray of shape (m, m)
        Weighted sum of products of the inputs, less their means.
    n_rows, n_dropped : int
        Rows of positive weight, and such rows left out.
    eps : float
        Relative rounding error of gram.
    """

    gram: np.ndarray
    factor: np.ndarray | None
    weight: float
    input_mean: np.ndarray
    input_scatter: np.ndarray
    n_rows: int
    n_dropped: int
    eps: float

    def __add__(self, other):
        factor = None
        if self.factor is not None and other.factor is not None:
            both = np.vstack([self.factor, other.factor])
            factor = _triangle(torch.from_numpy(both)).numpy()
        # two samples scatter about their means, and the means about that of both
        weight = self.weight + other.weight
        apart = other.input_mean - self.input_mean
        between = self.weight * other.weight / weight * np.outer(apart, apart)
        return Moments(
            gram=self.gram + other.gram,
            factor=factor,
            weight=weight,
            input_mean=self.input_mean + other.weight / weight * apart,
            input_scatter=self.input_scatter + other.input_scatter + between,
            n_rows=self.n_rows + other.n_rows,
            n_dropped=self.n_dropped + other.n_dropped,
            eps=max(self.eps, other.eps),
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
    covariance : ndarray of shape (d, d)
        V = K G K, that of a row of C for noise of variance 1.
    lengths : ndarray of shape (d,)
        Singular values of the weighted design, the largest first.
    residual : ndarray of shape (n, n)
        Sums of squares and products of the residuals; NaN where they are so small that
        gram knows nothing of them.
    degrees : float
        Effective number of parameters, tr(G K).
    rank : int
        Number of features that are linearly independent.
    dependent : ndarray of bool of shape (d,)
        Which features take part in a linear dependence.
    is_safe : bool
        Whether more than half of the digits were kept.
    solver : str
        "gram", "tsqr" or "lstsq".
    """

    coef: np.ndarray
    inverse: np.ndarray
    covariance: np.ndarray
    lengths: np.ndarray
    residual: np.ndarray
    degrees: float
    rank: int
    dependent: np.ndarray
    is_safe: bool
    solver: str

    @property
    def condition(self):
        """Condition number of the weighted design; infinite if it is rank-deficient."""
        full = self.rank == len(self.lengths) and self.lengths[-1] > 0
        return float(self.lengths[0] / self.lengths[-1]) if full else np.inf


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
        if few or not answer.is_safe:
            solver = "lstsq" if few else "tsqr"
            rows, dtype = in_double(rows), torch.float64
    if solver == "lstsq":
        parts = [block.Z.clone() for block in design.blocks(rows, block_size, dtype)]
        Z = torch.cat(parts, 1).T.cpu().numpy()
        answer = _solve_factor(design, Z, alpha, len(Z))
        answer = replace(answer, solver="lstsq")
    elif solver == "tsqr":
        if moments.factor is None:
            moments = accumulate(design, rows, block_size, dtype, factor=True)
        answer = solve_moments(design, moments, alpha)
    elif solver == "gram":
        answer = solve_moments(design, moments, alpha)
    if exact_residuals and np.isnan(answer.residual).any():
        residual = residual_moments(design, rows, answer.coef, block_size, dtype)
        answer = replace(answer, residual=residual)
    return moments, answer


def accumulate(design, rows, block_size, dtype, *, factor=False):
    """Return the moments of the rows, in one pass over them."""
    d, m = design.n_features + design.n_states, design.n_inputs
    if factor and block_size is None:
        block_size = FACTOR_ROWS * d
    device = _home(rows.x.device)
    gram, shift = _SymmetricSum(d, device), None
    sums = torch.zeros((m + 1, m + 1), dtype=torch.float64, device=device)
    R = torch.zeros((0, d), dtype=torch.float64, device=device)
    n_rows = n_dropped = 0
    for block in design.blocks(rows, block_size, dtype):
        n_dropped += block.n_dropped
        if block.Z.shape[1] == 0:
            continue
        n_rows += block.Z.shape[1]
        gram.add(block.Z)
        if factor:
            R = _triangle(torch.cat([R, block.Z.T.to(R)]))
        ut = block.ut.to(sums)
        if shift is None:  # near the mean, whose square would hide the spread
            shift = ut[1:].mean(1, keepdim=True)
        ut[1:] -= shift
        if block.root is not None:
            ut *= block.root.to(ut)
        sums += ut @ ut.T
    S = sums.cpu().numpy()
    mean = S[0, 1:] / S[0, 0] if n_rows else S[0, 1:]
    return Moments(
        gram=gram.value(),
        factor=R.cpu().numpy() if factor else None,
        weight=float(S[0, 0]),
        input_mean=mean + (shift.cpu().numpy()[:, 0] if n_rows else 0.0),
        input_scatter=S[1:, 1:] - S[0, 0] * np.outer(mean, mean),
        n_rows=n_rows,
        n_dropped=n_dropped,
        eps=torch.finfo(dtype).eps,
    )


def _weigh(weight, part, missing, Z, ut):
    """Leave out what is missing or counts nothing, and multiply by the roots."""
    if weight is None and missing is None:
        return Block(Z, ut, None, 0)
    counts = torch.ones_like(Z[0], dtype=torch.bool)
    root, n_dropped = None, 0
    if weight is not None:
        root = weight[part].sqrt().to(Z.dtype)
        counts = root > 0
    if missing is not None:
        n_dropped = int((missing & counts).sum())
        counts = counts & ~missing
    if not counts.all():
        Z, ut = Z[:, counts], ut[:, counts]
        root = root if root is None else root[counts]
    if root is not None:
        Z *= root
    return Block(Z, ut, root, n_dropped)


def out_of_range(moments, info):
    """Tell which sums of squares a float cannot hold, and what happens to them."""
    squares = np.diag(moments.gram)
    if not np.isfinite(moments.gram).all():
        return ~np.isfinite(moments.gram).all(0), "overflow"
    return (squares > 0) & (squares < info.tiny / info.eps), "underflow"


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
    result, start = rows.x.new_empty((len(rows.x), len(coef)), dtype=dtype), 0
    for block in design.blocks(rows, block_size, dtype):
        stop = start + block.Z.shape[1]
        result[start:stop] = (C @ block.Z).T
        start = stop
    return result


def solve_moments(design, moments, alpha=0.0):
    """Return the coefficients, from the factor if there is one, or from gram."""
    if moments.factor is not None:
        return _solve_factor(design, moments.factor, alpha, moments.n_rows)
    d, gram = design.n_features, moments.gram
    penalty = _penalty(design, alpha)

    def decompose(G):
        G, scale = _equilibrate(G)
        values, V = np.linalg.eigh(G)
        # what rounding leaves of an eigenvalue that is zero
        kept = values > max(d, FEW) * moments.eps * values.max(initial=0.0)
        return _Spectrum(np.sqrt(np.where(kept, values, 0.0)), V, scale, kept)

    spectrum = decompose(gram[:d, :d] + np.diag(penalty))
    unpenalised = decompose(gram[:d, :d]) if alpha else spectrum
    g = spectrum.V.T @ (gram[:d, d:] / spectrum.scale[:, None])
    projected = g[spectrum.kept] / spectrum.roots[spectrum.kept, None]
    answer = _minimum_norm(spectrum, unpenalised, projected, penalty, "gram")
    C, total = answer.coef, gram[d:, d:]
    cross = C @ gram[:d, d:]
    residual = _semidefinite(total - cross - cross.T + C @ gram[:d, :d] @ C.T)
    cancelled = np.diag(residual) < CANCELLED * moments.eps * np.diag(total)
    residual[cancelled] = residual[:, cancelled] = np.nan
    is_safe = spectrum.condition() ** 2 < moments.eps**-0.5
    return replace(answer, residual=residual, is_safe=is_safe)


def _solve_factor(design, factor, alpha, n_rows):
    """Return the coefficients from a matrix R with R'R = gram, tall or triangular."""
    d = design.n_features
    penalty = _penalty(design, alpha)

    def decompose(R):
        scale = _powers_of_two(np.linalg.norm(R, axis=0))
        U, s, Vt = np.linalg.svd(R / scale, full_matrices=False)
        V = Vt.T
        if len(s) < d:  # all d directions, also where there are fewer rows
            V = np.hstack([V, np.linalg.qr(V, mode="complete")[0][:, len(s) :]])
        roots = np.zeros(d)
        roots[: len(s)] = s
        rounding = max(n_rows, d, FEW) * np.finfo(float).eps
        kept = roots > rounding * roots.max(initial=0.0)
        return _Spectrum(roots, V, scale, kept), U

    ridge = np.hstack([np.diag(np.sqrt(penalty)), np.zeros((d, design.n_states))])
    R = np.vstack([factor, ridge]) if alpha else factor
    spectrum, U = decompose(R[:, :d])
    unpenalised = decompose(factor[:, :d])[0] if alpha else spectrum
    projected = (U.T @ R[:, d:])[spectrum.kept[: U.shape[1]]]
    answer = _minimum_norm(spectrum, unpenalised, projected, penalty, "tsqr")
    errors = factor[:, d:] - factor[:, :d] @ answer.coef.T
    return replace(answer, residual=errors.T @ errors)


class _Spectrum(NamedTuple):
    """A design, or its factor: R / scale = U diag(roots) V'."""

    roots: np.ndarray
    V: np.ndarray
    scale: np.ndarray
    kept: np.ndarray

    def condition(self):
        """Condition number of the features at about equal length."""
        full = self.kept.all()
        return self.roots.max(initial=0.0) / self.roots.min() if full else np.inf

    def lengths(self):
        """Singular values of the design itself."""
        return svdvals(self.roots[:, None] * self.V.T * self.scale)


def _minimum_norm(spectrum, unpenalised, projected, penalty, solver):
    """Solve for the coefficients, where `projected` is U'y along what is kept.

    Whether a direction counts is decided between features of equal length, so that it
    does not depend on their units. Of all solutions the one of least norm is in the
    units of the data, as from :func:`numpy.linalg.lstsq`.
    """
    roots, V, scale, kept = spectrum
    W = V[:, kept] / roots[kept] / scale[:, None]  # W W' = (R'R)^+
    if not kept.all():
        free = np.linalg.qr(V[:, ~kept] / scale[:, None])[0]
        W = W - free @ (free.T @ W)
    K = W @ W.T
    taken = unpenalised.V[:, ~unpenalised.kept]
    return LeastSquares(
        coef=(W @ projected).T,
        inverse=K,
        # K G K with G = K^-1 - penalty, so that it does not need G's digits
        covariance=K - (K * penalty) @ K,
        lengths=unpenalised.lengths(),
        residual=np.empty(0),
        # tr(G K) likewise
        degrees=max(0.0, int(kept.sum()) - float(penalty @ np.diag(K))),
        rank=int(unpenalised.kept.sum()),
        dependent=np.linalg.norm(taken, axis=1) > TAKES_PART,
        is_safe=True,
        solver=solver,
    )


def _semidefinite(S):
    """Take away what rounding made negative."""
    values, V = np.linalg.eigh((S + S.T) / 2)
    return V * np.maximum(values, 0.0) @ V.T


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


def in_double(rows):
    """Return the rows where there is float64."""
    home = _home(rows.x.device)
    tensors = (None if part is None else part.to(home) for part in rows[:4])
    return Rows(*tensors, rows.drop)
