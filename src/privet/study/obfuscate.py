"""Train obfuscators for a model, and attack what they let through: the joining behind ``privet obfuscate``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from privet import parts
from privet.attacks.contract import Attack, Reconstruction
from privet.errors import InputError
from privet.evidence.audit import Finding, judge_reconstruction
from privet.evidence.obfuscation import worst
from privet.inference.obfuscation import Obfuscation, Trained, train_model
from privet.inference.obfuscators import UserModel
from privet.inference.obfuscators.prototype import Prototype
from privet.inference.obfuscators.student import Distilled
from privet.inference.offload import accuracies
from privet.models import Model
from privet.models.cost import multiplications
from privet.models.fitting import Fitting
from privet.randomness import seeded, system
from privet.study.obfuscation_views import Attacked, Rows, Sight, Trial

FITTING = Fitting(10, 0.003, 128)
"""How a user's model is trained unless somebody says otherwise."""

SHARES = (0.1, 0.2, 0.3, 0.4)
"""Of samples that leave a device that answers the others itself."""


def train(
    model: Mapping[str, Any] | Path,
    data: Mapping[str, Any],
    obfuscator: Mapping[str, Any],
    *,
    count: int = 1,
    device_model: Mapping[str, Any] | None = None,
    fitting: Fitting = FITTING,
    seed: int = 0,
    rows: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Obfuscation:
    """Returns obfuscators for a model, and how well both do on the test rows.

    Args:
        model: its part table, to be trained here on all rows, or a folder that holds a trained one.
        data: part table of the data set.
        obfuscator: part table of the obfuscator.
        count: how many obfuscators; each participant picks one at random.
        device_model: part table of the network with which a device would answer itself, for comparison; not for an
            obfuscator that has a student.
        fitting: how the model is trained.
        seed: of every training.
        rows: train on so many rows at most.
        tell: is told what is going on.

    Raises:
        PartError, DataError: a part or the data are not to be had.
        InputError: the folder's model is not for this data, or the obfuscator has a student of its own.
    """
    part = parts.build("obfuscators", obfuscator)
    coded = isinstance(part, Distilled)
    if coded and device_model:
        wrong = f"a device with {parts.name_of(part)} answers with its student"
        raise InputError(wrong, do="leave out --device-model, or name the student: --set obfuscator.student=NAME")
    found = Rows.of(parts.build("datasets", data).load(), rows)
    shape = tuple(found.inputs.shape[1:])
    table = device_model or {"name": "small-cnn" if len(shape) == 3 else "mlp"}
    student = part.student if coded else parts.build("models", table)
    for each in (part, student):
        each.build(shape, found.classes)  # refuses inputs that it can't take, before anything is trained
    trained = _model(model, found, fitting, seed, tell)
    trained = dataclasses.replace(trained, about={**trained.about, "data": dict(data), "seed": seed})
    tell(f"training {count} x {parts.name_of(part)}")
    made = Obfuscation.train(part, trained, found.inputs, found.labels, count, seeded(seed, "obfuscators"))
    if not coded:
        tell(f"training {parts.name_of(student)}, with which a device would answer itself")
    return dataclasses.replace(made, figures=figures(made, found) | alternatives(made, found, student, seed))


def _model(
    model: Mapping[str, Any] | Path, rows: Rows, fitting: Fitting, seed: int, tell: Callable[[str], None]
) -> Trained:
    if isinstance(model, Path):
        trained = Trained.load(model)
        _require(trained, rows)
        return trained
    part = parts.build("models", model)
    tell(f"training {model['name']} on {len(rows.inputs):,} rows")
    return train_model(part, rows.inputs, rows.labels, rows.classes, fitting, seeded(seed, "model"))


def _require(trained: Trained, rows: Rows) -> None:
    shape, do = tuple(rows.inputs.shape[1:]), "name the data that the model was trained on"
    trained.require(shape, rows.classes, "the model", "as the data have", do)


def figures(made: Obfuscation, rows: Rows) -> dict[str, Any]:
    """Returns accuracies on the test rows, and what a device and a release cost."""
    plain = accuracy(made.trained.answer(rows.test_inputs), rows.test_labels)
    noise = system()
    each = [
        accuracy(made.answer(made.release(rows.test_inputs, noise, at), at), rows.test_labels)
        for at in range(len(made.sides))
    ]
    guarantee = made.obfuscator.guarantee()
    return {
        "accuracy_plain": plain,
        "accuracy_obfuscated": sum(each) / len(each),
        "accuracies": each,
        "multiplications": made.multiplications,
        "model_multiplications": multiplications(made.trained.network, made.trained.shape),
        "bits": made.bits() if math.isfinite(made.bits()) else None,
        "guarantee": guarantee.to_json() if guarantee else None,
    }


def alternatives(made: Obfuscation, rows: Rows, student: Model, seed: int) -> dict[str, Any]:
    """Returns what a device would reach that sends nothing, or only the samples of which it is least sure, unchanged.

    Args:
        made: the obfuscators; where they have a student, it is trained already.
        rows: the model's owner trains the device's network on them, with the model as teacher.
        student: the device's network.
        seed: of the training.
    """
    if isinstance(made.obfuscator, Distilled):
        side = made.sides[0]
    else:
        model = UserModel(made.trained.network, rows.inputs, rows.labels, rows.classes)
        side = Prototype(student=student).fit(model, seeded(seed, "device model"))
    network = side.encoder.get_submodule("0").eval()
    own = Trained(student, network, made.trained.shape, rows.classes).answer(rows.test_inputs)
    reached = accuracies(own, made.trained.answer(rows.test_inputs), rows.test_labels, (0.0, *SHARES))
    return {
        "send_nothing": {
            "model": parts.to_table(student),
            "accuracy": reached[0],
            "multiplications": multiplications(network, made.trained.shape),
        },
        "offload": {f"{share:g}": each for share, each in zip(SHARES, reached[1:], strict=True)},
    }


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Returns the share of rows whose largest logit is the label's."""
    return float((logits.argmax(1) == labels).double().mean())


def evaluate(
    made: Obfuscation, rows: Rows, trial: Trial, tell: Callable[[str], None] = lambda _: None
) -> list[Finding]:
    """Returns what each attacker achieves against what the obfuscators let through.

    The coordinator trained the obfuscators: it makes pairs of its own at will and computes what a candidate would
    give. Which obfuscator a participant picked it is not told, but mostly sees in the release, so what learns is
    fitted to the participants of one. The outsider has rows of the same kind, and neither pairs nor obfuscators. Both
    know each record's class, which the model's answer tells anyway.

    Args:
        made: the obfuscators.
        rows: the attackers' own are the training rows; attacked are test rows.
        trial: who attacks, and how hard.
        tell: is told what is going on.

    Raises:
        InputError: no such attacker, or it does not apply.
    """
    applied = applicable(made)
    for name in trial.attackers or ():
        if name not in applied:
            said = f"no attacker called {name!r} of {parts.name_of(made.obfuscator)}"
            raise InputError(said, allowed=", ".join(applied))
    sight, found = Sight(made, rows, trial), []
    one = sight if len(made.sides) == 1 else Sight(dataclasses.replace(made, sides=made.sides[:1]), rows, trial)
    for name in applied if trial.attackers is None else trial.attackers:
        attacker = applied[name]
        tell(f"attacking: {name}")
        attacked = getattr(sight if attacker.matches else one, attacker.view)
        found.append(_attacked(name, attacker.table, attacked, trial))
    return found


def applicable(made: Obfuscation) -> dict[str, Attacker]:
    """Returns those of :data:`ATTACKERS` that apply: drawing takes images, and recovering a key takes a claimed one."""
    images, keyed = len(made.trained.shape) == 3, made.obfuscator.claims_key
    return {
        name: one for name, one in ATTACKERS.items() if (images or not one.draws) and (keyed or one.view != "blind")
    }


def label_only(made: Obfuscation, rows: Rows, trial: Trial) -> Finding:
    """Returns what an attacker reaches who learns as the others do, of records of which it sees the class alone.

    It beats the mean of the class: a sharp picture of a class resembles its records more than their mean does.

    Args:
        made, rows, trial: as for :func:`evaluate`.
    """
    return _attacked(LABEL_ONLY, LEARNER, Sight(made, rows, trial).labels_only, trial)


def _attacked(name: str, table: Mapping[str, Any], attacked: Attacked, trial: Trial) -> Finding:
    answer = _trying(parts.build("attacks", table), trial.effort)(attacked.view, seeded(trial.seed, "attacker", name))
    if not isinstance(answer, Reconstruction):
        raise TypeError(f"{name} returned {type(answer).__name__}")
    return judge_reconstruction(name, attacked.view, answer, attacked.truth, attacked.labels)


def _trying(attack: Any, effort: float) -> Attack:
    """Returns an attack that takes so many of its steps, where it takes any."""
    learns = hasattr(attack, "steps")
    tried: Attack = dataclasses.replace(attack, steps=max(1, round(effort * attack.steps))) if learns else attack
    return tried


LABEL_ONLY = "label-only"
LEARNER: Mapping[str, Any] = {"name": "fresh-inverse", "architecture": "mlp"}


@dataclasses.dataclass(frozen=True)
class Attacker:
    """Who attacks, and what it sees.

    Attributes:
        table: of its part.
        view: the coordinator's of one release a record (``once``) or of several (``repeats``), or the outsider's, where
            there is a claimed key to recover (``blind``).
        matches: whether it compares releases with what all obfuscators that may have been picked give.
        draws: whether it takes images only.
    """

    table: Mapping[str, Any]
    view: str = "once"
    matches: bool = False
    draws: bool = False


ATTACKERS: Mapping[str, Attacker] = {
    "fresh-inverse-mlp": Attacker(LEARNER),
    "fresh-inverse-residual": Attacker({"name": "fresh-inverse", "architecture": "residual"}),
    "fresh-inverse-convolutional": Attacker({"name": "fresh-inverse", "architecture": "convolutional"}, draws=True),
    "fresh-inverse-nearest": Attacker({"name": "fresh-inverse", "architecture": "nearest"}),
    "contrastive": Attacker({"name": "contrastive"}),
    "known-release": Attacker({"name": "known-release"}, matches=True),
    "repeats": Attacker({"name": "repeats"}, "repeats", matches=True),
    "repeats-inverse": Attacker(LEARNER, "repeats"),
    "blind-rotation": Attacker({"name": "blind-key", "key": "orthogonal"}, "blind"),
    "blind-permutation": Attacker({"name": "blind-key", "key": "permutation"}, "blind"),
}
"""Who is tried, by name."""


def report(made: Obfuscation, rows: Rows, trial: Trial, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Returns what ``privet obfuscate evaluate`` prints: each attacker, the worst, the floors, the alternatives.

    Args:
        made, rows, trial, tell: as for :func:`evaluate`.

    Raises:
        InputError: as :func:`evaluate`, or the model is not for such rows.
    """
    _require(made.trained, rows)
    if not made.figures:
        made = dataclasses.replace(made, figures=figures(made, rows))
    found = evaluate(made, rows, trial, tell), label_only(made, rows, trial)
    told = {"records": min(trial.records, len(rows.test_inputs)), "pairs": min(trial.pairs, len(rows.inputs))}
    return told | reported(made, *found)


def reported(made: Obfuscation, found: Sequence[Finding], blind: Finding) -> dict[str, Any]:
    """Returns the report of what attackers found.

    Args:
        made: the obfuscators.
        found: by each attacker.
        blind: by the one that saw the class alone.
    """
    floor: dict[str, float] = {}
    for each in found:
        floor |= {key: value for key, value in each.floor.items() if not key.startswith("reidentified_by_")}
    floor |= {f"{key}_label_only": blind.metrics[key] for key in ("ssim", "psnr", "error") if key in blind.metrics}
    return {
        "obfuscator": parts.to_table(made.obfuscator),
        "count": len(made.sides),
        **made.figures,
        "attacks": {each.name: {"party": each.view} | each.metrics for each in found},
        "floor": floor,
        "worst": dataclasses.asdict(worst(found, blind)) if found else None,
    }
