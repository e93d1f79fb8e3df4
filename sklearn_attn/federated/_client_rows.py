"""Rows of clients: which train and which validate, and what each row counts.

Means over clients have weights c_m: their rows, or 1. The mean loss over some of the
rows, those that train or validate, is then the mean of share_m times the client's mean,
where share_m c_m / sum c is its part of such rows, or of the clients that have some. It
is near 1, and 0 for clients without.
"""

import numpy as np
import torch


def split_rows(client, codes, fraction, rng):
    """Return which rows validate: a share of each class of each client, as drawn.

    Where a share is no whole number it is rounded by chance, so that small clients have
    their part. Each class keeps a training row and, if it has two, a validation row.
    """
    validates = np.zeros(len(client), dtype=bool)
    pairs, of_row = np.unique(np.stack([client, codes]), axis=1, return_inverse=True)
    for pair in range(pairs.shape[1]):
        rows = rng.permutation(np.flatnonzero(of_row == pair))
        n = int(fraction * len(rows) + rng.random())
        validates[rows[:n]] = True
    for code in np.unique(codes):
        rows = rng.permutation(np.flatnonzero(codes == code))
        if validates[rows].all():
            validates[rows[0]] = False
        elif len(rows) > 1 and not validates[rows].any():
            validates[rows[0]] = True
    return validates


def class_shares(codes, client, n_classes, by_samples):
    """Return what rows of each class count together, as parts of 1."""
    sizes = np.bincount(client)
    counts = np.ones(len(codes)) if by_samples else 1 / sizes[client]
    shares = np.bincount(codes, weights=counts, minlength=n_classes)
    return shares / shares.sum()


def class_balance(codes, client, n_classes, by_samples):
    """Return weights of rows under which all classes count the same, 1 on average."""
    shares = class_shares(codes, client, n_classes, by_samples)
    return 1 / ((shares > 0).sum() * shares[codes])


def client_tensors(
    X,
    Y,
    client,
    n_clients,
    *,
    train,
    validate,
    weight_val,
    place,
    by_samples,
    dtype,
):
    """Return the tensors of each client, as `LinearTuning` reads them.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    Y : ndarray of shape (n_samples, n_outputs)
        Targets, or indicators of classes.
    client : ndarray of int of shape (n_samples,)
        The client of each row.
    n_clients : int
        Number of clients.
    train, validate : ndarray of bool of shape (n_samples,)
        Which rows do what.
    weight_val : ndarray of shape (n_samples,)
        Weights of validation rows.
    place : ndarray of int of shape (n_samples,)
        Which of the tuned weights a training row has.
    by_samples : bool
        Whether clients count by their rows, and not all the same.
    dtype : torch.dtype
        Of the tensors.

    Returns
    -------
    clients : list of dict of tensor
        One per client.
    weights : ndarray of shape (n_clients,)
        Their weights in means.
    """
    rows_of = np.bincount(client, minlength=n_clients)
    weights = rows_of.astype(np.float64) if by_samples else np.ones(n_clients)
    shares = [
        _shares(np.bincount(client[part], minlength=n_clients), weights, by_samples)
        for part in (train, validate)
    ]

    def put(array):
        return torch.as_tensor(array).to(dtype)

    order = np.argsort(client, kind="stable")
    ends = np.cumsum(np.bincount(client, minlength=n_clients))[:-1]
    clients = []
    for m, rows in enumerate(np.split(order, ends)):
        inner, outer = rows[train[rows]], rows[validate[rows]]
        clients.append(
            {
                "X": put(X[inner]),
                "Y": put(Y[inner]),
                "weight": torch.ones(len(inner), dtype=dtype),
                "share": put(shares[0][m]),
                "place": torch.as_tensor(place[inner]),
                "X_val": put(X[outer]),
                "Y_val": put(Y[outer]),
                "weight_val": put(weight_val[outer]),
                "share_val": put(shares[1][m]),
            }
        )
    return clients, weights


def _shares(counts, weights, by_samples):
    """Return how much the mean over such rows of a client counts, beside its weight."""
    size = counts if by_samples else (counts > 0)
    return size / max(1, size.sum()) * weights.sum() / weights
