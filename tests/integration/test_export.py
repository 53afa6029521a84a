"""ONNX files: they compute what torch computes, where torch is not, or they are not written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from privet import parts
from privet.apps.cli.export import _rows
from privet.errors import InputError, MissingExtraError
from privet.inference import export
from privet.inference.export import export_model, export_obfuscator
from privet.inference.obfuscation import Obfuscation, Trained
from privet.inference.obfuscators.student import Lookup
from privet.randomness import seeded

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.usefixtures("one_thread")
SHAPE, CLASSES = (1, 12, 12), 4

WITHOUT_TORCH = """
import sys
for name in ("torch", "privet", "onnx", "onnxscript"):
    sys.modules[name] = None  # importing it fails from here on
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
(given,), (made,) = session.get_inputs(), session.get_outputs()
print(given.name, made.name, given.type, given.shape[1:], type(given.shape[0]).__name__)
samples = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], session.run(None, {given.name: samples})[0])
"""


def trained(model: str = "mlp") -> Trained:
    part = parts.build("models", {"name": model})
    torch.manual_seed(1)
    return Trained(part, part.build(SHAPE, CLASSES).eval(), SHAPE, CLASSES)


def obfuscation(name: str, count: int = 1, **fields: Any) -> Obfuscation:
    """Returns obfuscators with their first weights; coded ones with any centres and prototypes."""
    part = parts.build("obfuscators", {"name": name, **fields})
    torch.manual_seed(2)
    sides = tuple(part.build(SHAPE, CLASSES) for _ in range(count))
    for side in sides:
        if isinstance(side.decoder, Lookup):
            table = side.decoder.get_buffer("table")
            side.decoder.place(torch.eye(CLASSES)[torch.arange(len(table)) % CLASSES] + 0.3 * torch.rand(len(table), 1))
            table.uniform_()
    return Obfuscation(part, trained(), sides)


def samples(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(2))


def without_torch(file: Path, given: Tensor) -> tuple[str, Tensor]:
    """Runs a file in a process that has ONNX Runtime and NumPy and nothing else."""
    there, back = file.with_suffix(".in.npy"), file.with_suffix(".out.npy")
    np.save(there, given.numpy())
    command = [sys.executable, "-c", WITHOUT_TORCH, str(file), str(there), str(back)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.strip(), torch.from_numpy(np.load(back))


@pytest.mark.parametrize("name", ["obfnet2", "posterior-codes"])
def test_a_process_without_torch_releases_the_same(name: str, tmp_path: Path) -> None:
    made = obfuscation(name)
    written = export_obfuscator(made, tmp_path / "o.onnx", samples=samples(10))
    assert written.samples == 266
    assert written.difference <= 1e-4
    assert written.size == (tmp_path / "o.onnx").stat().st_size
    assert [("nobody counts" in line) for line in written.warnings] == [True] * (name == "posterior-codes")
    onnx.checker.check_model(str(tmp_path / "o.onnx"), full_check=True)
    told, found = without_torch(tmp_path / "o.onnx", samples(7))
    assert told == "input output tensor(float) [1, 12, 12] str"
    torch.testing.assert_close(found, made.release(samples(7), seeded(0)), rtol=1e-4, atol=1e-5)
    assert {each.name for each in tmp_path.iterdir()} == {"o.onnx", "o.in.npy", "o.out.npy"}


NOISELESS = [
    name for name in parts.names("obfuscators") if not parts.build("obfuscators", {"name": name}).noise.mechanisms
]
ELSEWHERE = {"obfnet2", "posterior-codes", "bottleneck", "prototype", "secret-key"}  # in tests of their own, here


@pytest.mark.parametrize("name", sorted({*NOISELESS} - ELSEWHERE))
def test_every_obfuscator_without_noise_exports(name: str, tmp_path: Path) -> None:
    written = export_obfuscator(obfuscation(name), tmp_path / "o.onnx")
    assert written.difference <= 1e-4
    assert written.warnings == ()


def test_noise_is_refused(tmp_path: Path) -> None:
    for name in ("noised", "response"):
        with pytest.raises(InputError, match=f"{name} draws noise"):
            export_obfuscator(obfuscation(name), tmp_path / "o.onnx")
    assert not list(tmp_path.iterdir())


def test_each_of_several_is_exported_by_its_number(tmp_path: Path) -> None:
    made = obfuscation("bottleneck", count=2, hidden=8)
    export_obfuscator(made, tmp_path / "1.onnx", which=1)
    _, found = without_torch(tmp_path / "1.onnx", samples(3))
    torch.testing.assert_close(found, made.release(samples(3), seeded(0), 1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, made.release(samples(3), seeded(0), 0), atol=1e-2)
    for which in (2, -1):
        with pytest.raises(InputError, match="allowed: 0 to 1"):
            export_obfuscator(made, tmp_path / "2.onnx", which=which)


def test_what_differs_is_not_put_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "m.onnx"
    out.write_bytes(b"the old one")
    monkeypatch.setattr(export, "_run", lambda session, given: session.run(None, {"input": given})[0] + 0.001)
    with pytest.raises(InputError, match=r"differs from torch by 0\.001"):
        export_model(trained(), out)
    assert out.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [out]


def test_another_class_is_refused_however_small_the_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = trained()
    with torch.no_grad():
        one.network.get_submodule("logits").weight.zero_()  # type: ignore[union-attr, operator]
        one.network.get_submodule("logits").bias.zero_()  # type: ignore[union-attr, operator]
    nudge = np.array([0, 1e-6, 0, 0], np.float32)
    monkeypatch.setattr(export, "_run", lambda session, given: session.run(None, {"input": given})[0] + nudge)
    with pytest.raises(InputError, match="256 of 256 samples' classes"):
        export_model(one, tmp_path / "m.onnx")


class Strange(nn.Module):
    """Branches on its input, which a graph can't say."""

    def forward(self, value: Tensor) -> Tensor:
        return value.flatten(1)[:, :CLASSES] * (2 if float(value.sum()) > 0 else 3)


def test_a_network_that_onnx_cant_say_is_refused(tmp_path: Path) -> None:
    one = trained()
    strange = Trained(one.model, nn.Sequential(Strange()).eval(), SHAPE, CLASSES)
    with pytest.raises(InputError, match="can't express"):
        export_model(strange, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_a_missing_extra_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"onnxscript is not installed; run: pip install 'privet\[onnx\]'"):
        export_model(trained(), tmp_path / "m.onnx")


Call = Callable[..., tuple[int, str, str]]


def test_the_command_exports_what_the_folder_holds(tmp_path: Path, call: Call) -> None:
    obfuscation("prototype").save(tmp_path / "both")
    status, out, err = call("export", tmp_path / "both", "--target", "onnx", "--out", tmp_path / "o.onnx", "--json")
    assert (status, err.count("warning: each new input tells up to 2 bits")) == (0, 1)
    told = json.loads(out)
    assert told["part"] == "obfuscator"
    assert (told["input"], told["output"], told["shape"]) == ("input", "output", ["n", *SHAPE])
    assert told["difference"] <= 1e-4
    assert told["samples"] == 256
    status, out, _ = call("export", tmp_path / "both", "--part", "model", "--out", tmp_path / "m.onnx")
    assert status == 0
    assert "differs from torch by" in out
    _, found = without_torch(tmp_path / "m.onnx", samples(5))
    torch.testing.assert_close(found, trained().answer(samples(5)), rtol=1e-4, atol=1e-5)


def test_which_obfuscator_is_no_question_of_a_model(tmp_path: Path, call: Call) -> None:
    obfuscation("prototype").save(tmp_path / "both")
    trained().save(tmp_path / "model")
    for folder, *options in (("both", "--part", "model"), ("model",)):
        status, _, err = call("export", tmp_path / folder, *options, "--which", 0, "--out", tmp_path / "m.onnx")
        assert (status, err.count("\n")) == (2, 1)
        assert "'--which' is of no use with a model" in err
    assert not (tmp_path / "m.onnx").exists()


def test_the_command_warns_of_a_secret_and_says_what_is_missing(tmp_path: Path, call: Call) -> None:
    obfuscation("secret-key").save(tmp_path / "key")
    status, _, err = call("export", tmp_path / "key", "--out", tmp_path / "k.onnx")
    assert status == 0
    assert "warning: the file holds the device's secret key" in err
    for arguments, wrong in (
        (("--out", tmp_path / "none" / "o.onnx"), "is not a folder"),
        (("--out", tmp_path / "o.onnx", "--which", 3), "no obfuscator 3"),
    ):
        status, _, err = call("export", tmp_path / "key", *arguments)
        assert (status, len(err.splitlines())) == (2, 1)
        assert wrong in err
    status, _, err = call("export", tmp_path / "nothing", "--out", tmp_path / "o.onnx")
    assert status == 2
    assert "model.json is missing" in err


def test_the_command_compares_on_rows_that_are_at_hand(tmp_path: Path, call: Call) -> None:
    inputs, labels = samples(60).numpy(), np.arange(60) % CLASSES
    rows = {"train_inputs": inputs, "train_labels": labels, "test_inputs": inputs[:20], "test_labels": labels[:20]}
    np.savez(tmp_path / "rows.npz", **rows)
    one, data = trained(), {"name": "npz", "path": str(tmp_path / "rows.npz")}
    replace(one, about={"data": data}).save(tmp_path / "model")
    status, out, _ = call("export", tmp_path / "model", "--out", tmp_path / "m.onnx")
    assert status == 0
    assert "m.onnx: model" in out
    assert "on 276 samples" in out
    assert _rows(replace(one, about={"data": data | {"path": "gone.npz"}})) is None
    assert _rows(replace(one, about={"data": data}, shape=(3, 3))) is None
