"""``privet obfuscate``: trained, kept, attacked, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from privet import parts
from privet.inference.obfuscation import Obfuscation
from privet.study.obfuscate import evaluate
from privet.study.obfuscation_views import Rows, Trial
from privet.tensors import digest

Call = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Readings of machines: twelve numbers of which three matter, in three classes."""
    path, mine = tmp_path_factory.mktemp("data") / "machines.npz", np.random.default_rng(0)
    inputs = mine.normal(size=(1200, 12)).astype(np.float32)
    labels = np.digitize(inputs[:, 0] + inputs[:, 1] * inputs[:, 2], [-0.5, 0.5])
    np.savez(
        path,
        train_inputs=inputs[:900],
        train_labels=labels[:900],
        test_inputs=inputs[900:],
        test_labels=labels[900:],
    )
    return path


def trained(call: Call, machines: Path, out: Path, obfuscator: str, *more: str) -> dict[str, object]:
    options = ["--model", "mlp", "--data", "npz", "--set", f"data.path={machines}", "--epochs", 40, "--out", out]
    status, said, _ = call("obfuscate", "train", *options, "--obfuscator", obfuscator, *more, "--json")
    assert status == 0
    return dict(json.loads(said))


def test_trained_kept_and_attacked(call: Call, machines: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    said = trained(
        call, machines, out, "obfnet2", "--count", "2", "--set", "obfuscator.hidden=64", "--set", "obfuscator.epochs=40"
    )
    assert said["accuracy_plain"] > 0.8
    assert said["accuracy_obfuscated"] > said["accuracy_plain"] - 0.08
    assert len(said["accuracies"]) == 2
    kept = Obfuscation.load(out)
    rows = Rows.of(parts.build("datasets", {"name": "npz", "path": str(machines)}).load())
    trial = Trial(300, 100, ("fresh-inverse-nearest",))
    alone = evaluate(replace(kept, sides=kept.sides[:1]), rows, trial)
    assert evaluate(kept, rows, trial) == alone  # a release names the obfuscator that was picked
    assert digest(kept.sides[0].state_dict()) != digest(kept.sides[1].state_dict())
    attackers = [word for name in ("known-release", "fresh-inverse-nearest") for word in ("--attacker", name)]
    status, printed, _ = call("obfuscate", "evaluate", out, "--records", 200, *attackers, "--json")
    report = json.loads(printed)
    assert status == 0
    assert set(report["attacks"]) == {"known-release", "fresh-inverse-nearest"}
    assert report["attacks"]["known-release"]["reidentified"] == 1.0
    assert report["worst"]["reidentified"]["value"] == 1.0
    assert report["floor"]["reidentified"] == 1 / 200
    assert report["floor"]["error_label_only"] == pytest.approx(report["floor"]["error_class_mean"], rel=0.1)
    status, printed, _ = call("obfuscate", "evaluate", out, "--records", 50, *attackers)
    assert status == 0
    assert "no guarantee is derived" in printed


def test_a_model_that_is_there_is_taken_as_it_is(call: Call, machines: Path, tmp_path: Path) -> None:
    trained(call, machines, tmp_path / "first", "bottleneck", "--set", "obfuscator.width=3")
    options = ["--data", "npz", "--set", f"data.path={machines}", "--obfuscator", "noised", "--json"]
    status, printed, _ = call(
        "obfuscate", "train", "--model", tmp_path / "first", *options, "--out", tmp_path / "second"
    )
    assert status == 0
    first, second = (Obfuscation.load(tmp_path / name) for name in ("first", "second"))
    assert digest(first.trained.network.state_dict()) == digest(second.trained.network.state_dict())
    guarantee = json.loads(printed)["guarantee"]
    assert guarantee["unit"] == "record"
    assert guarantee["epsilon"] == pytest.approx(50, rel=0.5)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--model", "lenett"], "no models part called 'lenett'; allowed"),
        (["--model", "mlp", "--obfuscator", "obfnet3"], "no obfuscators part called 'obfnet3'"),
        (["--model", "mlp", "--set", "obfuscator.width=0"], "width"),
        (["--model", "lenet"], "lenet can't take inputs of shape (12,)"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    call: Call, machines: Path, tmp_path: Path, options: list[str], line: str
) -> None:
    given = ["--data", "npz", "--set", f"data.path={machines}", "--obfuscator", "bottleneck", "--out", tmp_path / "out"]
    status, out, err = call("obfuscate", "train", *given, *options)
    assert (status, out) == (2, "")
    assert line in err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_was_damaged_is_refused(call: Call, machines: Path, tmp_path: Path) -> None:
    trained(call, machines, tmp_path / "made", "bottleneck")
    weights = tmp_path / "made" / "obfuscator-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    status, _, err = call("obfuscate", "evaluate", tmp_path / "made")
    assert status == 2
    assert "not a safetensors file" in err
    status, _, err = call("obfuscate", "evaluate", tmp_path)
    assert status == 2
    assert "model.json is missing" in err


def test_all_that_apply_attack_what_is_no_image(call: Call, machines: Path, tmp_path: Path) -> None:
    trained(call, machines, tmp_path / "made", "bottleneck")
    options = ("--records", 100, "--pairs", 300, "--effort", 0.05)
    status, printed, _ = call("obfuscate", "evaluate", tmp_path / "made", *options)
    assert status == 0
    assert "worst, re-identified of its class: 100.0%" in printed
    assert "fresh-inverse-convolutional" not in printed
    told = json.loads((tmp_path / "made" / "model.json").read_text())
    (tmp_path / "made" / "model.json").write_text(json.dumps(told | {"about": {}}))
    status, _, said = call("obfuscate", "evaluate", tmp_path / "made", *options)
    assert (status, "--data" in said) == (2, True)
    status, _, said = call("obfuscate", "evaluate", tmp_path / "made", "--data", "digits", *options)
    assert (status, "the model is for inputs (12,)" in said) == (2, True)


def test_a_claimed_key_is_recovered_and_no_other_looked_for(call: Call, machines: Path, tmp_path: Path) -> None:
    keyed, plain = tmp_path / "keyed", tmp_path / "plain"
    trained(call, machines, keyed, "secret-key", "--set", "obfuscator.kind=permutation")
    trained(call, machines, plain, "obfnet1")
    attacker = ("--records", 200, "--attacker", "blind-permutation", "--json")
    status, printed, _ = call("obfuscate", "evaluate", keyed, *attacker)
    assert status == 0
    assert set(json.loads(printed)["attacks"]) == {"blind-permutation"}
    status, _, said = call("obfuscate", "evaluate", plain, *attacker)
    assert status == 2
    assert "'blind-permutation' of obfnet1" in said
