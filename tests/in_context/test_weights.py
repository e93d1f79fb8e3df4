"""Files of weights: what is written is read again, and nothing else is."""

import copy
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from sklearn.base import clone

from sklearn_attn.in_context import (
    InContextRegressor,
    LDSPrior,
    LinearPrior,
    PretrainedICL,
    load_in_context_weights,
    pretrain_in_context,
)
from sklearn_attn.in_context import _weights as module
from sklearn_attn.in_context._weights import BUNDLED, FORMAT

CHAIN = {"n_features": 7, "step_width": 30, "depth": 9, "n_outputs": 2, "mlp_ratio": 1}


@pytest.fixture(scope="module")
def weights():
    return pretrain_in_context(
        LinearPrior(), n_features_max=3, n_steps=1, width=8, n_layers=1, random_state=0
    )


@pytest.fixture
def path(weights, tmp_path):
    path = tmp_path / "weights.safetensors"
    weights.save(path)
    return path


def tamper(path, **changes):
    """Write the file again, with other entries in its header."""
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + length])
    header["__metadata__"] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def test_what_is_saved_is_loaded_again(weights, path):
    found = PretrainedICL.load(path)
    assert found == weights
    assert found.card == weights.card
    assert found.config == weights.config
    assert not list(path.parent.glob("*.part"))


def test_half_precision_halves_the_file_and_is_what_is_loaded(weights, path):
    half = path.with_name("half.safetensors")
    weights.save(half, dtype="float16")
    found = PretrainedICL.load(half)
    assert found != weights
    for key, value in weights._state.items():
        np.testing.assert_array_equal(
            found._state[key], value.astype(np.float16).astype(np.float32)
        )
    spared = path.stat().st_size - half.stat().st_size
    assert spared == pytest.approx(2 * weights.n_parameters, abs=64)  # the header


def test_weights_never_change_and_clones_share_them(weights):
    for copied in (copy.copy(weights), copy.deepcopy(weights), clone(weights)):
        assert copied is weights
    assert clone(InContextRegressor(weights=weights)).weights is weights
    with pytest.raises(ValueError, match="read-only"):
        next(iter(weights._state.values()))[:] = 0
    weights.config["width"] = 5
    weights.card["seed"] = "?"
    assert weights.config["width"] == 8
    assert weights.card["seed"] != "?"
    with pytest.raises(AttributeError):
        weights.sha256 = "?"


def test_pickles_hold_numbers_or_the_name_of_what_comes_with_the_package(weights):
    assert pickle.loads(pickle.dumps(weights)) == weights
    bundled = load_in_context_weights("icl-linear")
    text = pickle.dumps(bundled)
    assert len(text) < 500
    assert pickle.loads(text) is bundled


def test_a_pickle_of_other_bundled_weights_warns():
    with pytest.warns(UserWarning, match="not those that were pickled"):
        module._bundled_again("icl-linear", "of another version")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_weights_have_a_card(name):
    weights = load_in_context_weights(name)
    assert weights.card["steps"] > 0
    assert "Prior" in weights.card["prior"]
    assert weights.card["measured"]
    assert repr(name) in repr(weights)


def test_bundled_weights_are_under_eight_megabytes_together():
    from importlib.resources import files

    folder = files("sklearn_attn.in_context") / "weights"
    sizes = {file.name: len(file.read_bytes()) for file in folder.iterdir()}
    assert set(sizes) == {f"{name}.safetensors" for name in BUNDLED}
    assert sum(sizes.values()) < 8e6


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="There are no weights 'icl-none'"):
        load_in_context_weights("icl-none")


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        PretrainedICL.load(tmp_path / "none.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_file_that_is_cut_off_is_refused(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"cut off|damaged"):
        PretrainedICL.load(path)


def test_a_file_with_one_number_changed_is_refused(path):
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="checksum"):
        PretrainedICL.load(path)


def test_pickles_and_checkpoints_are_not_even_opened(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match="Pickles and checkpoints of torch are not"):
        PretrainedICL.load(path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="Pickles and checkpoints of torch are not"):
        PretrainedICL.load(path)


def test_foreign_safetensors_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"a": np.ones(2)}, path)
    with pytest.raises(ValueError, match=r"not written by PretrainedICL\.save"):
        PretrainedICL.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": "{"}, "header that cannot be read"),
        ({"card": "[]"}, "header that cannot be read"),
        ({"config": '{"form": "rnn"}'}, "form must be one of"),
        ({"config": '{"form": "set", "n_features": 3, "width": 1e9}'}, "width="),
        ({"config": '{"form": "set", "n_features": true}'}, "n_features=True"),
        ({"config": '{"form": "set", "n_features": 3, "odd": 1}'}, "odd=1"),
        ({"config": '{"form": "set"}'}, "do not fit a file"),
        ({"config": '{"form": "set", "n_features": 3, "n_heads": 3}'}, "n_heads=3"),
        (
            {"config": '{"form":"set","n_features":3,"width":4096,"n_layers":96}'},
            "beyond the limit",
        ),
        (
            {
                "config": '{"form":"chain","n_features":9,"step_width":9000,'
                '"depth":90,"n_outputs":1,"width":512}'
            },
            "beyond the limit",
        ),
        ({"config": '{"form": "set", "n_features": 3}'}, "do not fit"),
        ({"config": '{"form": "set", "n_features": 9000}'}, "file of"),
        ({"sha256": "0"}, "checksum"),
        ({"format": "other"}, "not written by"),
    ],
)
def test_headers_are_checked_before_memory_is_taken(path, changes, message):
    tamper(path, **changes)
    with pytest.raises(ValueError, match=message):
        PretrainedICL.load(path)


def test_weights_that_are_not_finite_are_refused(weights, tmp_path):
    state = {key: value.copy() for key, value in weights._state.items()}
    state["read_in.bias"][0] = np.nan
    with pytest.raises(ValueError, match=r"read_in.bias.*not finite"):
        PretrainedICL(weights.config, state)
    config = json.dumps(weights.config)
    path = tmp_path / "weights.safetensors"
    header = {"format": FORMAT, "config": config, "card": "{}", "sha256": ""}
    save_file(state, path, metadata=header)
    with pytest.raises(ValueError, match="not finite"):
        PretrainedICL.load(path)


def test_half_precision_refuses_what_it_cannot_hold(weights, tmp_path):
    state = {key: value.copy() for key, value in weights._state.items()}
    state["read_in.bias"][0] = 1e6
    large = PretrainedICL(weights.config, state)
    with pytest.raises(ValueError, match="too large for dtype='float16'"):
        large.save(tmp_path / "half.safetensors", dtype="float16")
    with pytest.raises(ValueError, match="'float32' or 'float16'"):
        large.save(tmp_path / "half.safetensors", dtype="int8")


def test_a_module_is_built_once_for_all_who_ask_and_has_no_gradients(weights):
    first = weights.module("cpu", torch.float64)
    assert weights.module("cpu", torch.float64) is first
    assert not any(parameter.requires_grad for parameter in first.parameters())
    assert not first.training


def test_the_least_count_of_weights_is_no_more_than_there_are():
    for form, sizes in (
        ("set", {"n_features": 7, "n_heads": 2, "mlp_ratio": 1}),
        ("examples", {"n_features": 7, "n_examples": 9, "n_heads": 1, "mlp_ratio": 1}),
        (
            "series",
            {
                "n_inputs": 3,
                "n_outputs": 3,
                "n_positions": 9,
                "n_heads": 1,
                "mlp_ratio": 1,
            },
        ),
        ("chain", CHAIN | {"n_heads": 2}),
        ("causal-chain", CHAIN | {"n_heads": 1, "n_examples": 9}),
    ):
        config = {"form": form, "width": 8, "n_layers": 3} | sizes
        count = sum(p.numel() for p in module.build(config).state_dict().values())
        module.expected_shapes(config, 2 * count)  # fits, to the last byte
        with pytest.raises(ValueError, match="do not fit a file"):
            module.expected_shapes(config, count // 2)


def test_loading_and_building_leave_torchs_generator_alone(path):
    before = torch.random.get_rng_state()
    PretrainedICL.load(path).module("cpu", torch.float64)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_file_can_be_read_by_others(path):
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_weights_refuse_tasks_beyond_their_sizes(weights):
    X = torch.ones(1, 4, 5)
    with pytest.raises(ValueError, match="5 features; these weights take 3"):
        weights.predict(X, X[..., 0], X)
    with pytest.raises(ValueError, match="at least one example"):
        weights.predict(X[:, :0, :3], X[:, :0, 0], X[..., :3])
    with pytest.raises(ValueError, match="15 features; these weights take 3"):
        weights.predict_next(X)
    series = pretrain_in_context(
        LDSPrior(4, 2), n_examples_max=9, n_steps=1, width=8, n_layers=1
    )
    with pytest.raises(ValueError, match="InContextForecaster"):
        series.predict(X, X[..., 0], X)
    with pytest.raises(ValueError, match="100 steps and 2 outputs"):
        series.predict_next(torch.ones(1, 100, 2))


def test_defaults_of_torch_do_not_reach_the_weights(path):
    expected = PretrainedICL.load(path).module("cpu", torch.float64).state_dict()
    module._built.cache_clear()
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            found = PretrainedICL.load(path).module("cpu", torch.float64).state_dict()
    finally:
        torch.set_default_dtype(before)
        module._built.cache_clear()
    for key, value in expected.items():
        assert torch.equal(found[key], value)


@pytest.mark.parametrize("config", ['{"form": []}', "[" * 2000 + "]" * 2000])
def test_headers_of_odd_kinds_are_refused(path, config):
    tamper(path, config=config)
    with pytest.raises(ValueError, match=r"form must be|cannot be read"):
        PretrainedICL.load(path)


def test_folders_and_cards_that_are_too_long_are_refused(weights, tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        PretrainedICL.load(tmp_path)
    long = PretrainedICL(weights.config, weights._state, {"note": "x" * 600_000})
    with pytest.raises(ValueError, match="The card has 600"):
        long.save(tmp_path / "long.safetensors")
    prior = LinearPrior(weight_cov=np.eye(100))
    assert "sha256" in repr(prior)
    assert repr(prior) != repr(LinearPrior(weight_cov=2 * np.eye(100)))
