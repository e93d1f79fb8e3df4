"""Linear models tuned on validation rows, derivatives written out  (2306.01648).

Inner, over rows i of a client:
    g = mean_i s_i l(D z_i + o, y_i) + sum_j l2_j |W_j|^2 / 2,  z = X W + b
Outer, over validation rows, with c that balances the classes:
    f = mean_i c_i l(z_i, y_i),  l logistic or squared
x:  "tau"      o = tau log(prior)            logit adjustment
    "scale"    D = 2 sigmoid(scale)          loss tuning, by class
    "offset"   o = offset                    loss tuning, by class
    "log_l2"   l2 = exp(speed log_l2)        ridge, by group of features
    "logit"    s = sigmoid(sqrt(n) logit)    data cleaning, by row or by client

With r = l'(D z + o) and q = l''(D z + o) D dz for dz = X V + c, the coupled maps need
few products with X and no automatic differentiation. Clients are the first axis.
Gradients by W and V are multiplied by a metric, which moves no solution, but makes
steps of one size fit all directions better.
"""

from dataclasses import dataclass, field
from math import sqrt
from typing import Any, ClassVar

import torch


@dataclass(frozen=True)
class LinearModel:
    """What is not tuned.

    Attributes
    ----------
    is_classifier : bool
        Whether l is the logistic loss, of softmax; else the squared one, halved.
    l2 : float
        Ridge, where it is not tuned.
    log_prior : tensor of shape (n_outputs,) or None
        Logarithms of the shares of classes.
    groups : tensor of int of shape (n_features,) or None
        The group of each feature, which share a ridge.
    n_weights : int
        Rows or clients whose weights are tuned.
    l2_speed : float
        Factor of what is tuned in the logarithm of the ridge.
    metric : tensor of shape (n_features, n_features) or None
        What gradients by W are multiplied by; it moves no solution.
    """

    is_classifier: bool
    l2: float
    log_prior: torch.Tensor | None = None
    groups: torch.Tensor | None = None
    n_weights: int = 0
    l2_speed: float = 1.0
    metric: torch.Tensor | None = None

    def knobs(self, x, data):
        """Return (D, o, s, l2), each with an axis for clients."""
        D = o = s = None
        if "scale" in x:
            D = 2 * x["scale"].sigmoid()[:, None]  # (m, 1, c)
        if "offset" in x:
            o = x["offset"][:, None]
        if "tau" in x:
            o = x["tau"][:, None, None] * self.log_prior.to(x["tau"])
        if "logit" in x:
            logit = x["logit"] * sqrt(self.n_weights)
            s = logit.gather(1, data["place"]).sigmoid()  # (m, n)
        l2 = self.l2
        if "log_l2" in x:
            l2 = (self.l2_speed * x["log_l2"]).exp()  # (m, groups)
            l2 = l2 if self.groups is None else l2[:, self.groups.to(l2.device)]
            l2 = l2[:, :, None]  # (m, p or 1, 1)
        return D, o, s, l2

    def residual(self, z, y):
        """Return l'(z), and for classes the probabilities."""
        if not self.is_classifier:
            return z - y, None
        p = z.softmax(-1)
        return p - y, p

    def bend(self, p, dz):
        """Return l''(z) dz."""
        if p is None:
            return dz
        pdz = p * dz
        return pdz - p * pdz.sum(-1, keepdim=True)

    def steepest(self, gradient):
        """Return a gradient by W and b in the metric of W."""
        if self.metric is None:
            return gradient
        metric = self.metric.to(gradient["coef"])
        return gradient | {"coef": metric @ gradient["coef"]}

    def loss(self, z, y):
        """Return l(z) of each row."""
        if not self.is_classifier:
            return (z - y).square().sum(-1) / 2
        return z.logsumexp(-1) - (z * y).sum(-1)


@dataclass(frozen=True)
class LinearTuning:
    """The bilevel problem, as a kind of `BilevelProblem` with maps written out.

    Attributes
    ----------
    model : LinearModel
        What is not tuned.
    x0 : dict of tensor
        What is, and where it starts.
    w0 : dict of tensor
        Where "coef" of shape (n_features, n_outputs) and "intercept" start.
    project : callable or None
        Keeps x in bounds.
    """

    model: LinearModel
    x0: dict
    w0: dict
    project: Any = None
    pad_rows: ClassVar[bool] = True
    alpha0: ClassVar[float] = 0.05

    @property
    def zs0(self):
        return self.w0, {name: torch.zeros_like(part) for name, part in self.w0.items()}

    def prepare(self, data):
        """Return data in which weights are what rows count in the end."""
        return data | {
            "weight": _row_weights(data["weight"], data["share"]),
            "weight_val": _row_weights(data["weight_val"], data["share_val"]),
        }

    def maps(self, data, x, zs, *, with_values=True):
        """Return P, (S_w, S_v) and, if wanted, f of each client."""
        model, (w, v) = self.model, zs
        D, o, s, l2 = model.knobs(x, data)
        W, V = w["coef"], v["coef"]
        z, a = _affine(data["X"], w), data["weight"]
        dz = _affine(data["X"], v)
        at = z if D is None else D * z
        bent, at = (dz if D is None else D * dz), (at if o is None else at + o)
        r, p = model.residual(at, data["Y"])
        q = model.bend(p, bent)
        if s is not None:
            a_all, a = a, a * s
        rows = a[..., None]
        g_z, h_z = rows * r, rows * q
        if D is not None:
            g_z, h_z = D * g_z, D * h_z
        z_val = _affine(data["X_val"], w)
        f_z, _ = model.residual(z_val, data["Y_val"])
        b = data["weight_val"]
        f_z = b[..., None] * f_z
        value = None
        if with_values:
            value = (b * model.loss(z_val, data["Y_val"])).sum(-1)
        S_w = _pull(data["X"], g_z, l2 * W)
        Hv, f_w = _pull(data["X"], h_z, l2 * V), _pull(data["X_val"], f_z, 0.0)
        S_v = {name: Hv[name] - f_w[name] for name in Hv}
        # P = -d/dx <grad_w g, v>: f depends on x through w alone
        P = {}
        if "scale" in x:
            slope = D[:, 0] * (1 - D[:, 0] / 2)  # of 2 sigmoid
            P["scale"] = -slope * (rows * (r * dz + q * z)).sum(1)
        if "offset" in x:
            P["offset"] = -(rows * q).sum(1)
        if "tau" in x:
            P["tau"] = -(rows * q).sum(1) @ model.log_prior.to(q)
        if "logit" in x:
            per_row = a_all * s * (1 - s) * (r * bent).sum(-1) * sqrt(model.n_weights)
            P["logit"] = torch.zeros_like(x["logit"]).scatter_add(
                1, data["place"], -per_row
            )
        if "log_l2" in x:
            per_feature = model.l2_speed * (l2 * W * V).sum(-1)  # (m, p)
            if model.groups is None:
                P["log_l2"] = -per_feature.sum(1, keepdim=True)
            else:
                groups = model.groups.to(W.device).expand(len(W), -1)
                P["log_l2"] = torch.zeros_like(x["log_l2"]).scatter_add(
                    1, groups, -per_feature
                )
        return P, (model.steepest(S_w), model.steepest(S_v)), value


@dataclass(frozen=True)
class LinearFit:
    """The inner problem alone, for an x that is given: x is now what w was.

    Attributes
    ----------
    model : LinearModel
        What is not tuned.
    tuned : dict of tensor
        The x of `LinearTuning`, as it is; may be empty.
    x0 : dict of tensor
        Where "coef" and "intercept" start.
    """

    model: LinearModel
    tuned: dict
    x0: dict
    zs0: tuple = field(default=(), init=False)
    project: ClassVar[None] = None
    pad_rows: ClassVar[bool] = True

    def prepare(self, data):
        """Return data in which weights are what rows count in the end."""
        return data | {"weight": _row_weights(data["weight"], data["share"])}

    def maps(self, data, x, zs, *, with_values=True):
        """Return P, no S, and, if wanted, the loss of each client."""
        m = len(data["X"])
        tuned = {
            name: part.to(x["coef"]).expand(m, *part.shape)
            for name, part in self.tuned.items()
        }
        D, o, s, l2 = self.model.knobs(tuned, data)
        z, a = _affine(data["X"], x), data["weight"]
        at = z if D is None else D * z
        at = at if o is None else at + o
        a = a if s is None else a * s
        r, _ = self.model.residual(at, data["Y"])
        g_z = a[..., None] * r if D is None else D * a[..., None] * r
        value = None
        if with_values:
            value = (a * self.model.loss(at, data["Y"])).sum(-1)
            value = value + (l2 * x["coef"].square()).sum((1, 2)) / 2
        gradient = _pull(data["X"], g_z, l2 * x["coef"])
        return self.model.steepest(gradient), (), value


def _affine(X, w):
    return torch.baddbmm(w["intercept"][:, None], X, w["coef"])


def _row_weights(weight, share):
    """Return what each row counts in the mean of its client; padding counts nothing."""
    n_rows = (weight > 0).sum(-1).clamp(min=1)
    return weight * (share / n_rows)[:, None]


def _pull(X, g_z, ridge):
    """Return the gradient by W and b of what has the gradient g_z by z = X W + b."""
    return {"coef": X.mT @ g_z + ridge, "intercept": g_z.sum(1)}
