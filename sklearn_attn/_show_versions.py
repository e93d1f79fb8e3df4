"""What to paste into a bug report."""


def show_versions():
    """Print the versions of sklearn-attn and of all it stands on.

    Examples
    --------
    >>> import sklearn_attn
    >>> sklearn_attn.show_versions()  # doctest: +SKIP
    """
    import sklearn
    import torch

    from . import __version__
    from ._arrays import available_devices

    print(f"\nsklearn-attn: {__version__}")
    print(f"       torch: {torch.__version__}")
    print(f"     devices: {', '.join(available_devices())}")
    sklearn.show_versions()
