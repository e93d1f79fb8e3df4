"""Att-SVM: min ||p||  s.t.  (k_sel - k_t)'p >= 1 for every t != sel  (2306.13596).

One direction p separates, in every sequence i, the selected token from all others:

    hard     min_p  1/2 ||p||^2            s.t.  z_it'p >= h_i
    soft     min_p  1/2 ||p||^2 + C sum_it w_i max(0, h_i - z_it'p)^a      a = 1 or 2

with the gaps z_it = k_i,sel(i) - k_it, and h_i = 1, or 0 in a relaxed sequence (one
that is no support vector of the classification problem). The dual variables live on
the pairs (i, t): p = sum_it lam_it z_it. With per-sequence queries q_i the same
problem is posed for a matrix, z_it'W q_i >= h_i, by z_it (x) q_i in place of z_it.
"""

from dataclasses import dataclass

import torch

from .._arrays import to_tensor

# A constraint is active, and its token a support token, if its margin is 1 up to this.
ACTIVE = 1e-7


@dataclass(frozen=True)
class TokenSVM:
    """The constraints z_it'p >= h_i of the attention SVM, for given selected tokens.

    Attributes
    ----------
    gaps : torch.Tensor of shape (n_samples, n_tokens, n_token_features)
        z_it = k_i,sel(i) - k_it; zero where there is no constraint.
    constrained : torch.Tensor of shape (n_samples, n_tokens)
        True for the pairs (i, t) that carry a constraint: neither selected nor padding.
    wanted : torch.Tensor of shape (n_samples,)
        The margin h_i: 1, or 0 where the sequence is relaxed.
    weight : torch.Tensor of shape (n_samples,)
        Weight of the sequence in the soft margin.
    queries : torch.Tensor of shape (n_samples, n_query_features) or None
        Per-sequence queries q_i; the unknown is then the matrix W, row by row.

    See Also
    --------
    solve_token_svm : Poses and solves the problem.

    Examples
    --------
    >>> import torch
    >>> from sklearn_attn.attention import TokenSVM
    >>> K = [[[-0.1, 1.0], [1.0, 0.0], [0.0, 0.0]]]
    >>> problem = TokenSVM.from_keys(K, selected=[0])
    >>> problem.margins(torch.tensor([0.0, 1.0], dtype=torch.float64))
    tensor([[inf, 1., 1.]], dtype=torch.float64)
    """

    gaps: torch.Tensor
    constrained: torch.Tensor
    wanted: torch.Tensor
    weight: torch.Tensor
    queries: torch.Tensor | None = None

    @classmethod
    def from_keys(
        cls,
        K,
        selected,
        *,
        relaxed=None,
        mask=None,
        sample_weight=None,
        queries=None,
    ):
        """Pose the problem for the keys of all sequences.

        Parameters
        ----------
        K : array-like or tensor of shape (n_samples, n_tokens, n_token_features)
            The keys.
        selected : array-like of int of shape (n_samples,)
            Index of the selected token in each sequence.
        relaxed : array-like of bool of shape (n_samples,), default=None
            Sequences that need a margin of 0 instead of 1.
        mask : array-like of bool of shape (n_samples, n_tokens), default=None
            True where there is a token.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each sequence in the soft margin.
        queries : array-like or tensor of shape (n_samples, n_query_features), \
                default=None
            Per-sequence queries.

        Returns
        -------
        TokenSVM
            The problem, in float64, on the device of K.

        Raises
        ------
        ValueError
            If shapes do not fit, a selected index is out of range or padding, a weight
            is negative, or a key or query is not finite.
        """
        K = to_tensor(K, dtype=torch.float64)
        if K.ndim != 3 or 0 in K.shape:
            raise ValueError(
                "K must have shape (n_samples, n_tokens, n_token_features), none of "
                f"them zero; got {tuple(K.shape)}."
            )
        n, T, _ = K.shape

        def checked(values, name, dtype, shape, default):
            if values is None:
                return torch.full(shape, default, dtype=dtype, device=K.device)
            values = to_tensor(values, device=K.device, dtype=dtype)
            if values.shape != shape:
                raise ValueError(
                    f"{name} must have shape {shape} to go with K of shape "
                    f"{tuple(K.shape)}; got {tuple(values.shape)}."
                )
            return values

        if to_tensor(selected).is_floating_point():
            raise ValueError("selected must hold integers, the index of a token each.")
        selected = checked(selected, "selected", torch.int64, (n,), 0)
        relaxed = checked(relaxed, "relaxed", torch.bool, (n,), False)
        weight = checked(sample_weight, "sample_weight", torch.float64, (n,), 1.0)
        mask = checked(mask, "mask", torch.bool, (n, T), True)
        if queries is not None:
            queries = to_tensor(queries, device=K.device, dtype=torch.float64)
            if queries.ndim != 2 or len(queries) != n or not queries.isfinite().all():
                raise ValueError(
                    f"queries must have shape ({n}, n_query_features) and be finite; "
                    f"got shape {tuple(queries.shape)}."
                )
        if (selected < 0).any() or (selected >= T).any():
            raise ValueError(f"selected must lie in 0..{T - 1}, the tokens of K.")
        sequences = torch.arange(n, device=K.device)
        if not mask[sequences, selected].all():
            raise ValueError("selected names a token that mask says is padding.")
        if not ((weight >= 0) & weight.isfinite()).all():
            raise ValueError("sample_weight must be finite and not negative.")
        if not torch.isfinite(K[mask]).all():
            raise ValueError("K must be finite wherever mask does not say padding.")
        constrained = mask & (weight > 0)[:, None]
        constrained[sequences, selected] = False
        gaps = K[sequences, selected][:, None] - K
        gaps[~constrained] = 0.0
        return cls(gaps, constrained, (~relaxed).to(torch.float64), weight, queries)

    @property
    def n_unknowns(self):
        """Number of entries of p, or of W."""
        d = self.gaps.shape[2]
        return d if self.queries is None else d * self.queries.shape[1]

    @property
    def scale(self):
        """Root mean square length of the rows; 1 where all of them are zero."""
        squared = self.lengths.square().sum() / self.constrained.sum()
        return squared.sqrt().item() or 1.0

    @property
    def lengths(self):
        """Length of each row z_it, or z_it (x) q_i, of shape (n_samples, n_tokens)."""
        lengths = torch.linalg.vector_norm(self.gaps, dim=2)
        if self.queries is not None:
            lengths = lengths * torch.linalg.vector_norm(self.queries, dim=1)[:, None]
        return lengths

    def margins(self, p):
        """Return z_it'p, or z_it'W q_i; infinite where there is no constraint.

        Parameters
        ----------
        p : torch.Tensor of shape (n_unknowns,)
            The direction, or W row by row.

        Returns
        -------
        torch.Tensor of shape (n_samples, n_tokens)
            The margins.
        """
        if self.queries is None:
            margins = self.gaps @ p
        else:
            directions = self.queries @ p.reshape(self.gaps.shape[2], -1).T  # (n, d)
            margins = torch.einsum("ntd,nd->nt", self.gaps, directions)
        return margins.masked_fill(~self.constrained, torch.inf)

    def rows(self, sequence, token):
        """Return z_it, or z_it (x) q_i, for the given pairs.

        Parameters
        ----------
        sequence, token : torch.Tensor of int of shape (n_pairs,)
            The pairs.

        Returns
        -------
        torch.Tensor of shape (n_pairs, n_unknowns)
            One row of the constraints per pair.
        """
        z = self.gaps[sequence, token]
        if self.queries is not None:
            z = torch.einsum("md,mq->mdq", z, self.queries[sequence]).flatten(1)
        return z

    def combine(self, lam):
        """Return sum_it lam_it z_it: the direction that belongs to multipliers.

        Parameters
        ----------
        lam : torch.Tensor of shape (n_samples, n_tokens)
            The multipliers.

        Returns
        -------
        torch.Tensor of shape (n_unknowns,)
            The direction.
        """
        if self.queries is None:
            return torch.einsum("nt,ntd->d", lam, self.gaps)
        per_sequence = torch.einsum("nt,ntd->nd", lam, self.gaps)
        return torch.einsum("nd,nq->dq", per_sequence, self.queries).flatten()

    def curvature(self, lam):
        """Return sum_it lam_it z_it z_it'.

        Parameters
        ----------
        lam : torch.Tensor of shape (n_samples, n_tokens)
            The multipliers; work is done only where they are not zero.

        Returns
        -------
        torch.Tensor of shape (n_unknowns, n_unknowns)
            The matrix.
        """
        sequence, token = lam.nonzero(as_tuple=True)
        H = self.gaps.new_zeros(self.n_unknowns, self.n_unknowns)
        rows_at_once = max(1, self.gaps.numel() // (4 * self.n_unknowns))
        for i, t in zip(sequence.split(rows_at_once), token.split(rows_at_once)):
            z = self.rows(i, t)
            H.addmm_(z.T * lam[i, t], z)
        return H
