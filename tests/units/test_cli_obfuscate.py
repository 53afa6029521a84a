"""``privet obfuscate train``: what counts nowhere is refused, and the folder is there whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from privet import parts
from privet.inference import obfuscation
from privet.inference.obfuscation import Obfuscation, Trained

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def given(tmp_path: Path) -> list[object]:
    """Options for rows of twelve numbers in three classes; beside them lies the folder of a model for such."""
    mine = np.random.default_rng(0)
    inputs, labels = mine.normal(size=(120, 12)).astype(np.float32), np.arange(120) % 3
    rows = {"train_inputs": inputs[:100], "train_labels": labels[:100]}
    np.savez(tmp_path / "rows.npz", **rows, test_inputs=inputs[100:], test_labels=labels[100:])
    part = parts.build("models", {"name": "mlp"})
    Trained(part, part.build((12,), 3).eval(), (12,), 3).save(tmp_path / "model")
    return ["obfuscate", "train", "--data", "npz", "--set", f"data.path={tmp_path / 'rows.npz'}"]


def there(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--model", "mlp", "--set", "data.name=5"], "called 5; allowed: a name"),
        (["--model", "mlp", "--set", "nope.x=3"], "--set nope: no field of a part that is made here; allowed: model."),
        (["--model", "mlp", "--set", "model=lenet"], "--set model: no field of a part"),
        (["--model", "model", "--set", "model.hidden=3"], "--set model: no field of a part that is made here; allowed"),
        (["--model", "model", "--epochs", "10"], "'--epochs' is of no use with the model in model: it stays as it is"),
        (["--model", "mlp", "--device-model", "nope"], "no models part called 'nope'"),
        (["--model", "mlp", "--device-model", "lenet"], "lenet can't take inputs of shape (12,)"),
        (["--model", "mlp", "--obfuscator", "prototype"], "small-cnn can't take inputs of shape (12,)"),
        (["--model", "mlp", "--obfuscator", "convolutional"], "convolutional can't take inputs of shape (12,)"),
        (
            ["--model", "mlp", "--obfuscator", "prototype", "--device-model", "nope"],
            "a device with prototype answers with its student; leave out --device-model, or name the student",
        ),
        (["--model", "mlp", "--out", "rows.npz/out"], "rows.npz/.part-"),
        (["--model", "mlp", "--out", "model"], "model exists; name a new folder"),
    ],
)
def test_nothing_is_trained_for_what_is_wrong(
    call: Call, given: list[object], tmp_path: Path, options: list[str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = call(*given, "--obfuscator", "obfnet1", "--out", "made/out", *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert line in err
    assert there(tmp_path) == {"rows.npz", "model"}


@pytest.mark.parametrize(
    ("error", "status"), [(OSError(errno.ENOSPC, "No space left on device"), 2), (KeyboardInterrupt(), 130)]
)
def test_a_full_disk_or_ctrl_c_leaves_nothing_and_the_next_try_succeeds(
    call: Call, given: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int
) -> None:
    def full(state: dict[str, Tensor], path: Path) -> None:
        path.with_name(path.name + ".new").write_bytes(b"half of it")
        raise error

    again = [*given, "--model", tmp_path / "model", "--obfuscator", "bottleneck", "--out", tmp_path / "made" / "out"]
    with monkeypatch.context() as broken:
        broken.setattr(obfuscation, "save", full)
        assert call(*again)[0] == status
    assert there(tmp_path) == {"rows.npz", "model"}
    assert call(*again)[0] == 0
    assert there(tmp_path / "made") == {"out"}
    assert there(tmp_path) == {"rows.npz", "model", "made"}
    assert len(Obfuscation.load(tmp_path / "made" / "out").sides) == 1
