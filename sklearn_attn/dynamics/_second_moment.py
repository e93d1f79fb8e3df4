"""Second moments of x+ = A(u) x under random u:  vec S+ = At vec S  (2208.13915).

    At = E[A(u) (x) A(u)] = sum_jk M_jk A_j (x) A_k,   M = E[ut ut'], ut = [1 ; u]
       = sum_i F_i (x) F_i,   F_0 = A(E u),  F_i = sum_k R_ki A_k,  R R' = Cov u

The system is mean-square stable if and only if the spectral radius of At is below 1.
Applied to a matrix, At costs two products with each F_i: S -> sum_i F_i S F_i'.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import matrix_balance, solve
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackError, LinearOperator, eigs, gmres
from scipy.stats import qmc

from .._arrays import few_threads

# Up to here the n^2 x n^2 matrix is small, and its eigenvalues take milliseconds.
DENSE = 20
# Arnoldi's method: eigenvalues to find, vectors to keep, and relative error.
LEADING, BASIS, ARNOLDI_TOLERANCE = 6, 40, 1e-12
# Where it fails: steps whose second half gives the growth.
POWER_ITERATIONS = 2000
# GMRES for a fixed point: relative residual, vectors to keep, and restarts; what it
# ends with is good as well if the residual is so many rounding errors of the answer.
SOLVE_TOLERANCE, GMRES_MEMORY, GMRES_RESTARTS, FLOOR = 1e-13, 60, 50, 1e3
# Expectations over Gaussian inputs: nodes along an axis, and all of them together;
# from so many dimensions on, pairs of quasi-random points.
PER_AXIS, MOST_NODES = (4, 8, 16, 32, 64, 128), 5000
QUASI_RANDOM, PAIRS = 5, (512, 1024, 2048)


def principal_axes(M):
    """Return R with R R' = M, without the axes along which M is zero.

    They are found between variables of unit variance: of two inputs in pascals and in
    bars, the one with the large numbers must not hide the other.
    """
    scale = np.sqrt(np.maximum(np.diag(M), 0.0))
    scale[scale == 0] = 1.0
    variances, axes = np.linalg.eigh(M / scale / scale[:, None])
    kept = variances > len(M) * np.finfo(float).eps
    return scale[:, None] * axes[:, kept] * np.sqrt(variances[kept])


def moment_factors(matrices, mean, cov):
    """Return the F_i for inputs of this mean and covariance.

    The first is the matrix at the mean, the others are those of deviations from it:
    mean and spread are never in one sum, in which the one could hide the other.
    """
    at_mean = matrices[0] + np.tensordot(mean, matrices[1:], axes=1)
    deviations = np.einsum("ki,kab->iab", principal_axes(cov), matrices[1:])
    return np.concatenate([at_mean[None], deviations])


def gaussian_rules(mean, cov):
    """Yield rules of rising accuracy:  E f(u) = sum_q w_q f(u_q) for u ~ N(mean, cov).

    Gauss and Hermite's rule along each principal axis; in many dimensions, where this
    takes too many nodes, quasi-random points in pairs about the mean that have the
    covariance exactly, so that an error begins with fourth powers.
    """
    axes = principal_axes(cov)  # (m, r)
    r = axes.shape[1]
    if r == 0:
        yield mean[None], np.ones(1)
        return
    for per_axis in PER_AXIS if r < QUASI_RANDOM else ():
        if per_axis**r > MOST_NODES:
            break
        x, w = np.polynomial.hermite_e.hermegauss(per_axis)
        grids = np.meshgrid(*[x] * r, indexing="ij")
        weights = np.prod(np.meshgrid(*[w / w.sum()] * r, indexing="ij"), axis=0)
        points = np.stack([grid.ravel() for grid in grids], axis=1)
        yield mean + points @ axes.T, weights.ravel()
    for n_pairs in PAIRS if r >= QUASI_RANDOM else ():
        sampler = qmc.MultivariateNormalQMC(np.zeros(r), rng=np.random.default_rng(0))
        points = sampler.random(n_pairs)
        root = np.linalg.cholesky(points.T @ points / n_pairs)
        points = np.linalg.solve(root, points.T).T @ axes.T
        nodes = mean + np.concatenate([points, -points])
        yield nodes, np.full(2 * n_pairs, 0.5 / n_pairs)


@dataclass(frozen=True, eq=False)
class AugmentedOperator:
    """The operator S -> sum_i F_i S F_i' that moves second moments one step on.

    Attributes
    ----------
    factors : ndarray of shape (n_factors, n_states, n_states)
        The matrices F_i.

    See Also
    --------
    BilinearSystem.augmented_operator : Makes it for a system and its inputs.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_attn.dynamics import AugmentedOperator
    >>> operator = AugmentedOperator(np.array([[[0.6]], [[0.3]]]))
    >>> round(float(operator.spectral_radius()), 4)
    0.45
    """

    factors: np.ndarray

    def __call__(self, S):
        """Move a second moment one step on.

        Parameters
        ----------
        S : ndarray of shape (n_states, n_states)
            A second moment of the state.

        Returns
        -------
        ndarray of shape (n_states, n_states)
            That of the next state.
        """
        F = self.factors
        return np.matmul(F @ S, F.transpose(0, 2, 1)).sum(0)

    def matrix(self):
        """Return the matrix of the operator, of n_states^4 numbers.

        Returns
        -------
        ndarray of shape (n_states**2, n_states**2)
            The sum of F_i (x) F_i, which acts on row-wise vectors of matrices.
        """
        n = self.factors.shape[1]
        flat = self.factors.reshape(len(self.factors), n * n)
        products = (flat.T @ flat).reshape(n, n, n, n)  # [a, b, c, d]: F_ab F_cd
        return products.transpose(0, 2, 1, 3).reshape(n * n, n * n)

    def eigenvalues(self):
        """Return eigenvalues, the largest moduli first.

        Returns
        -------
        ndarray of complex
            All n_states**2 of them up to 20 states; for more, the leading ones, by
            Arnoldi's method without the matrix.
        """
        with few_threads(self.factors.size):
            if self.factors.shape[1] <= DENSE:
                values = np.linalg.eigvals(self.matrix()).astype(complex)
            else:
                leading = [block._leading(LEADING) for block in self._blocks()]
                values = np.concatenate(leading)
        return values[np.argsort(-np.abs(values))]

    def spectral_radius(self):
        """Return the largest modulus of an eigenvalue.

        Returns
        -------
        float
            Below 1 if and only if the system is mean-square stable.
        """
        with few_threads(self.factors.size):
            return max(float(np.abs(block._leading(1)[0])) for block in self._blocks())

    def solve(self, Q):
        """Return the fixed point S = Q + sum_i F_i S F_i'.

        Parameters
        ----------
        Q : ndarray of shape (n_states, n_states)
            What is added to the second moment in each step.

        Returns
        -------
        ndarray of shape (n_states, n_states)
            The second moment that stays, if the spectral radius is below 1.

        Raises
        ------
        ValueError
            If the fixed point was not found, as the spectral radius is 1 or nearly so.
        """
        balanced, scale = self._balance()
        with few_threads(self.factors.size):
            S = balanced._fixed_point(Q / scale / scale[:, None])
        return (S + S.T) / 2 * scale * scale[:, None]

    def _blocks(self):
        """Return the operators of states that act on each other, in a loop.

        In an order in which no other state acts on an earlier one, factors are block
        triangular, and the spectral radius is the largest of their blocks. For cascades
        this is exact, and an iteration on the whole would be far from it.
        """
        acts = np.abs(self.factors).sum(0) > 0
        n_blocks, block = connected_components(acts, connection="strong")
        for b in range(n_blocks):
            states = np.flatnonzero(block == b)
            inside = self.factors[:, states[:, None], states]
            yield AugmentedOperator(inside)._balance()[0]

    def _leading(self, k):
        """Return at least one of the leading eigenvalues, the largest first."""
        n = self.factors.shape[1]
        if n <= DENSE:
            values = np.linalg.eigvals(self.matrix()).astype(complex)
            return values[np.argsort(-np.abs(values))][:k]
        try:
            values = self._arnoldi(k)
        except ArpackError:
            values = np.array([self._power_iteration()], dtype=complex)
        return values[np.argsort(-np.abs(values))]

    def _balance(self):
        """Choose units of the states in which the factors are of similar size."""
        _, (scale, _) = matrix_balance(
            np.abs(self.factors).sum(0), permute=False, separate=True
        )
        return AugmentedOperator(self.factors * scale / scale[:, None]), scale

    def _fixed_point(self, Q):
        n = self.factors.shape[1]
        if n <= DENSE:
            return solve(np.eye(n * n) - self.matrix(), Q.ravel()).reshape(n, n)

        def residual(vector):
            S = vector.reshape(n, n)
            return (S - self(S)).ravel()

        vector, failed = gmres(
            LinearOperator((n * n, n * n), residual, dtype=float),
            Q.ravel(),
            rtol=SOLVE_TOLERANCE,
            restart=GMRES_MEMORY,
            maxiter=GMRES_RESTARTS,
        )
        # what rounding leaves, of a fixed point that is large beside Q
        floor = FLOOR * np.finfo(float).eps * np.linalg.norm(vector)
        if failed and np.linalg.norm(residual(vector) - Q.ravel()) > floor:
            raise ValueError(
                "The second moment that stays was not found: the spectral radius of "
                f"the augmented operator is {self.spectral_radius():.6g}, too near 1."
            )
        return vector.reshape(n, n)

    def _arnoldi(self, k):
        n = self.factors.shape[1]
        operator = LinearOperator(
            (n * n, n * n), lambda v: self(v.reshape(n, n)).ravel(), dtype=float
        )
        # the leading eigenvector is a positive semidefinite matrix: identity is near
        start = np.eye(n).ravel()
        options = {"ncv": BASIS, "tol": ARNOLDI_TOLERANCE}
        return eigs(operator, k=k, v0=start, return_eigenvectors=False, **options)

    def _power_iteration(self):
        """Growth of the identity, where Arnoldi's method finds too many directions."""
        S, log_growth, half = np.eye(self.factors.shape[1]), 0.0, 0.0
        for step in range(POWER_ITERATIONS):
            S = self(S)
            size = np.trace(S)
            if size == 0:
                return 0.0
            S /= size
            log_growth += np.log(size)
            if step == POWER_ITERATIONS // 2 - 1:
                half = log_growth
        return float(np.exp((log_growth - half) / (POWER_ITERATIONS // 2)))
