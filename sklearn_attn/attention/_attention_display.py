"""What attention looks at: the weights s_i = softmax(K_i p), token by token."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline

from .._arrays import to_numpy
from ..preprocessing import pad_sequences

if TYPE_CHECKING:
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure, SubFigure

# Okabe and Ito's palette: told apart by colour-blind readers too.
SELECTED_COLOR = "#D55E00"
OTHER_COLOR = "#9AA5B1"
# Sizes in token widths, the unit of the horizontal axis.
BAR_WIDTH = 0.7
IMAGE_WIDTH = 0.88
BAR_HEIGHT = 0.8  # of the highest bar that the scale has room for, under an image
GAP = 0.12  # from there to the images
# Sizes in inches.
TOKEN_INCHES = 0.7
WIDTH_INCHES = (5.0, 11.0)  # of a figure, at least and at most
BAR_INCHES = 1.0  # of the bars' axes where there are no images
TITLE_INCHES = 0.55
ROW_PAD_INCHES = 0.1  # above and below a row
LETTER_INCHES = 0.09  # of a name, with room to the next one
# Room above the bars for the name of its token.
HEADROOM = 1.25
N_TICKS = 2


class AttentionDisplay:
    """Picture of what attention looks at: a bar for each token of a few sequences.

    Each row is a sequence, each bar the weight of one of its tokens, under the token's
    picture or name. The token that weighs most is highlighted. All rows share a scale.

    Build it with :meth:`from_estimator`.

    Parameters
    ----------
    weights : array-like of shape (n_samples, n_tokens)
        The attention weights.
    mask : array-like of bool of shape (n_samples, n_tokens), default=None
        True where there is a token, False for padding. None means no padding.
    token_images : array-like of shape (n_samples, n_tokens, height, width) or \
            (n_samples, n_tokens, height, width, 3), default=None
        Pictures of the tokens.
    token_names : array-like of str of shape (n_tokens,), default=None
        Names of the tokens, the same in each sequence.
    prediction : array-like of shape (n_samples,), default=None
        What was predicted for the sequences.
    y : array-like of shape (n_samples,), default=None
        What is true of them.
    weight_label : str, default="attention"
        What the weights are, for the vertical axes.

    Attributes
    ----------
    axes_ : ndarray of matplotlib.axes.Axes of shape (n_samples,)
        One axes for each sequence.
    figure_ : matplotlib.figure.Figure
        Their figure.
    bars_ : list of matplotlib.container.BarContainer
        The bars of each sequence, without those of padding.

    See Also
    --------
    MarginDisplay : Tokens in the plane, and the direction that selects some of them.

    Examples
    --------
    >>> from sklearn_attn.attention import AttentionDisplay, AttentionSVMClassifier
    >>> from sklearn_attn.datasets import make_digit_bags
    >>> X, y = make_digit_bags(200, digits=(3, 8), random_state=0)
    >>> classifier = AttentionSVMClassifier().fit(X, y)
    >>> display = AttentionDisplay.from_estimator(
    ...     classifier, X, y=y, token_images=(8, 8), max_samples=3)
    >>> len(display.axes_), len(display.bars_[0])
    (3, 10)
    """

    axes_: "np.ndarray[Any, np.dtype[np.object_]]"
    figure_: "Figure | SubFigure"
    bars_: "list[BarContainer]"

    def __init__(
        self,
        weights: Any,
        *,
        mask: Any = None,
        token_images: Any = None,
        token_names: Any = None,
        prediction: Any = None,
        y: Any = None,
        weight_label: str = "attention",
    ):
        self.weights = weights
        self.mask = mask
        self.token_images = token_images
        self.token_names = token_names
        self.prediction = prediction
        self.y = y
        self.weight_label = weight_label

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        y: Any = None,
        token_images: Any = None,
        token_names: Any = None,
        class_index: int | None = None,
        max_samples: int = 6,
        ax: Any = None,
        image_kwargs: dict[str, Any] | None = None,
        **bar_kwargs: Any,
    ) -> "AttentionDisplay":
        """Draw the attention of a fitted estimator on some sequences.

        Parameters
        ----------
        estimator : estimator instance
            Fitted, with methods `attention` and `predict`; or a fitted
            :class:`~sklearn.pipeline.Pipeline` that ends in one.
        X : array-like
            Sequences, as `estimator` takes them.
        y : array-like of shape (n_samples,), default=None
            What is true of the sequences. Given, the titles say whether each prediction
            is right.
        token_images : tuple of int or array-like of shape \
                (n_samples, n_tokens, height, width[, 3]), default=None
            Pictures of the tokens. A tuple, such as (8, 8), is the shape to give to the
            features of a token, as the last step of a pipeline gets it.
        token_names : array-like of str of shape (n_tokens,), default=None
            Names of the tokens. None takes `token_names_` of a pipeline's tokenizer, if
            there is one and there are no pictures.
        class_index : int, default=None
            Position in `classes_` of the class whose attention to show, where each
            class has its own. None shows the attention of the predicted class.
        max_samples : int, default=6
            How many sequences to draw: the first ones of X.
        ax : matplotlib Axes or sequence of them, default=None
            Where to draw, one axes for each sequence drawn. None makes a figure.
        image_kwargs : dict, default=None
            Passed to ``Axes.imshow`` for the pictures.
        **bar_kwargs : dict
            Passed to ``Axes.bar``.

        Returns
        -------
        AttentionDisplay
            The drawn display.

        Raises
        ------
        TypeError
            If `estimator` has no method `attention`.
        ValueError
            If pictures, names or axes do not fit the sequences, or `class_index` the
            classes.
        """
        X = X[:max_samples]
        tokens, model, tokenizer_names = _split_pipeline(estimator, X)
        if not hasattr(model, "attention"):
            raise TypeError(
                f"{type(model).__name__} has no method 'attention'. Pass a fitted "
                "estimator that has one, or a pipeline that ends in one; of a search, "
                "its best_estimator_."
            )
        prediction = np.asarray(to_numpy(model.predict(tokens)))
        weights, label = _of_one_class(
            np.asarray(to_numpy(model.attention(tokens))),
            getattr(model, "classes_", None),
            prediction,
            class_index,
        )
        tokens = _as_array(tokens, n_tokens=weights.shape[1])
        if token_images is None and token_names is None:
            token_names = tokenizer_names
        display = cls(
            weights,
            mask=~np.isnan(tokens).all(-1),
            token_images=_as_images(token_images, tokens),
            token_names=token_names,
            prediction=prediction,
            y=None if y is None else np.asarray(to_numpy(y[:max_samples])),
            weight_label=label,
        )
        return display.plot(ax, image_kwargs=image_kwargs, **bar_kwargs)

    def plot(
        self,
        ax: Any = None,
        *,
        image_kwargs: dict[str, Any] | None = None,
        **bar_kwargs: Any,
    ) -> "AttentionDisplay":
        """Draw, or draw again.

        Parameters
        ----------
        ax : matplotlib Axes or sequence of them, default=None
            Where to draw, one axes for each sequence. None makes a figure.
        image_kwargs : dict, default=None
            Passed to ``Axes.imshow`` for the pictures.
        **bar_kwargs : dict
            Passed to ``Axes.bar``.

        Returns
        -------
        AttentionDisplay
            The display itself.

        Raises
        ------
        ValueError
            If there are not as many axes as sequences, or names as tokens.
        """
        weights = np.asarray(self.weights)
        n_samples, n_tokens = weights.shape
        mask = np.ones(weights.shape, dtype=bool) if self.mask is None else self.mask
        images = None if self.token_images is None else np.asarray(self.token_images)
        names = None if self.token_names is None else list(self.token_names)
        if names is not None and len(names) != n_tokens:
            raise ValueError(
                f"There are {len(names)} token_names for sequences of {n_tokens} "
                "tokens."
            )
        own = ax is None
        if own:
            ax = _new_axes(n_samples, n_tokens, images, names)
        self.axes_ = np.asarray(ax, dtype=object).reshape(-1)
        if len(self.axes_) != n_samples:
            raise ValueError(
                f"{n_samples} sequences do not fit into {len(self.axes_)} axes. Pass "
                "one axes for each, or another max_samples."
            )
        self.figure_ = self.axes_[0].figure
        ticks = _ticks(weights[np.asarray(mask)].max())
        top = ticks[-1]
        self.bars_ = []
        for i, ax in enumerate(self.axes_):
            tokens = np.flatnonzero(mask[i])
            highest = weights[i, tokens].argmax()
            selected = tokens[highest]
            bars = ax.bar(
                tokens,
                weights[i, tokens],
                **({"width": BAR_WIDTH, "color": OTHER_COLOR} | bar_kwargs),
            )
            bars[highest].set_color(SELECTED_COLOR)
            self.bars_.append(bars)
            ax.set(xlim=(-0.6, n_tokens - 0.4), ylim=(0, HEADROOM * top))
            if images is not None:
                style = {"cmap": "gray_r", "vmin": np.nanmin(images)}
                style |= {"vmax": np.nanmax(images)} | (image_kwargs or {})
                _draw_images(ax, images[i], tokens, selected, top, style)
            elif names is not None:
                _write_name(ax, names[selected], selected, weights[i, selected])
            _finish(ax, ticks, names, n_tokens)
            ax.set_title(self._title(i), loc="left", pad=4, fontsize="medium")
            ax.set_ylabel(self.weight_label, fontsize="small", loc="bottom")
            if own:
                ax.label_outer()
        return self

    def _title(self, i):
        """Say what was predicted, and whether that is right."""
        if self.prediction is None:
            return f"sequence {i}"
        title = f"predicted {_written(self.prediction[i])}"
        if self.y is None:
            return title
        right = self.prediction[i] == self.y[i]
        return title + (", right" if right else f", but it is {_written(self.y[i])}")


def _split_pipeline(estimator, X):
    """Return what the last step gets, that step, and the names of the tokens."""
    if not isinstance(estimator, Pipeline):
        return X, estimator, None
    names = [getattr(step, "token_names_", None) for _, step in estimator.steps]
    tokens = estimator[:-1].transform(X) if len(estimator) > 1 else X
    return tokens, estimator[-1], next(filter(None, reversed(names)), None)


def _of_one_class(weights, classes, prediction, class_index):
    """Choose one class's weights for each sequence; say what they are."""
    if weights.ndim == 2:
        if class_index is not None:
            raise ValueError(
                f"class_index={class_index}, but all classes share one attention here."
            )
        return weights, "attention"
    n_classes = weights.shape[2]
    if class_index is None:
        index = np.searchsorted(classes, prediction)
        return weights[np.arange(len(weights)), :, index], "attention"
    if not 0 <= class_index < n_classes:
        raise ValueError(
            f"class_index={class_index} is none of the {n_classes} classes, "
            f"0 to {n_classes - 1}."
        )
    label = f"attention\nof {_written(classes[class_index])}"
    return weights[:, :, class_index], label


def _as_array(tokens, n_tokens):
    """Bring rows, an array or a list of sequences to (n_samples, n_tokens, d)."""
    if getattr(tokens, "ndim", 1) == 1 and np.ndim(tokens[0]) == 2:
        tokens = pad_sequences(tokens)
    tokens = np.asarray(to_numpy(tokens), dtype=float)
    return tokens.reshape(len(tokens), n_tokens, -1)


def _as_images(token_images, tokens):
    """Read the pictures, or make them of the tokens' features."""
    if token_images is None:
        return None
    n_samples, n_tokens, n_features = tokens.shape
    if np.ndim(token_images) == 1:
        if np.prod(token_images) != n_features:
            raise ValueError(
                f"token_images={tuple(token_images)} needs {np.prod(token_images)} "
                f"features in a token; here it has {n_features}."
            )
        return tokens.reshape(n_samples, n_tokens, *token_images)
    images = np.asarray(to_numpy(token_images[:n_samples]))
    if images.ndim not in (4, 5) or images.shape[:2] != (n_samples, n_tokens):
        raise ValueError(
            f"token_images has shape {np.shape(token_images)}; it must be the shape of "
            "one picture, or (n_samples, n_tokens, height, width[, 3]), with "
            f"{n_tokens} tokens and no fewer than {n_samples} samples."
        )
    return images


def _new_axes(n_samples, n_tokens, images, names):
    """Make a figure with a row for each sequence."""
    import matplotlib.pyplot as plt

    width = np.clip(TOKEN_INCHES * n_tokens, *WIDTH_INCHES)
    row = BAR_INCHES
    if images is not None:
        image_height = IMAGE_WIDTH * images.shape[2] / images.shape[3]
        row = (BAR_HEIGHT * (1 + GAP) + image_height) * width / n_tokens
    height = n_samples * (row + TITLE_INCHES)
    if _are_turned(names, width / n_tokens):
        height += _longest(names)
    figure, axes = plt.subplots(
        n_samples,
        figsize=(width + TITLE_INCHES, height),
        sharex=True,
        layout="constrained",
    )
    figure.get_layout_engine().set(h_pad=ROW_PAD_INCHES)
    return axes


def _draw_images(ax, images, tokens, selected, top, style):
    """Put the picture of each token above its bar, and a frame on the selected one."""
    from matplotlib.patches import Rectangle

    aspect = BAR_HEIGHT / top  # of a unit of weight to the width of a token
    height = IMAGE_WIDTH * images.shape[1] / images.shape[2] / aspect
    bottom = top * (1 + GAP)
    for token in tokens:
        left = token - IMAGE_WIDTH / 2
        extent = (left, left + IMAGE_WIDTH, bottom, bottom + height)
        ax.imshow(images[token], **({"extent": extent} | style))
    corner = (selected - IMAGE_WIDTH / 2, bottom)
    frame = {"fill": False, "edgecolor": SELECTED_COLOR, "linewidth": 2}
    ax.add_patch(Rectangle(corner, IMAGE_WIDTH, height, clip_on=False, **frame))
    ax.set(xlim=(-0.6, len(images) - 0.4), ylim=(0, bottom + height), aspect=aspect)


def _write_name(ax, name, token, weight):
    """Write the name of the selected token over its bar, towards the middle."""
    towards_left = token > sum(ax.get_xlim()) / 2
    ax.annotate(
        name,
        (token + (BAR_WIDTH if towards_left else -BAR_WIDTH) / 2, weight),
        (0, 2),
        textcoords="offset points",
        ha="right" if towards_left else "left",
        color=SELECTED_COLOR,
        fontsize="small",
    )


def _ticks(largest):
    """Return round weights from zero to the largest one, or a little above."""
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(N_TICKS).tick_values(0, largest)


def _finish(ax, ticks, names, n_tokens):
    """Clear the frame, and name the tokens."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines["left"].set_bounds(0, ticks[-1])
    ax.set_yticks(ticks)
    ax.tick_params(labelsize="small")
    if names is None:
        ax.set_xticks([])
        return
    room = ax.bbox.width / ax.figure.dpi / n_tokens
    ax.set_xticks(range(n_tokens), names, rotation=90 * _are_turned(names, room))


def _longest(names):
    """Return the length of the longest name in inches, about."""
    return LETTER_INCHES * max(map(len, names))


def _are_turned(names, room):
    """Tell whether names do not fit beside each other, so many inches apart."""
    return names is not None and _longest(names) > room


def _written(value):
    """Write a label as it is, a number in few digits."""
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)
