"""The robustness matrix: every aggregation rule against every attack, on a small fleet that trains for real.

Coordinator, rules, behaviours and guards are those of any run; only the gradients of a round are computed together.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from privet.engines.colluding import Colluding
from privet.errors import InputError, nearest
from privet.randomness import seeded
from privet.study.at_once import AtOnce
from privet.study.backdoors import backdoor_success
from privet.study.experiment import Experiment, prepare
from privet.study.plan import Plan
from privet.tensors import State
from privet.training.evaluate import accuracy, predictor

DEVICES, HOSTILE = 20, 4
ROUNDS, QUICK_ROUNDS = 80, 20

NOBODY = "none"
"""The attack that is none; what all others are compared with."""

Table = dict[str, Any]

AGGREGATORS: dict[str, Table] = {
    "mean": {"name": "mean"},
    "krum": {"name": "krum", "byzantine": HOSTILE},
    "multi-krum": {"name": "multi-krum", "byzantine": HOSTILE},
    "coordinate-median": {"name": "coordinate-median"},
    "trimmed-mean": {"name": "trimmed-mean", "trim": HOSTILE},
    "bulyan": {"name": "bulyan", "byzantine": HOSTILE},
    "rfa": {"name": "rfa"},
    "centred-clipping": {"name": "centred-clipping"},
    "norm-bound": {"name": "norm-bound"},
    "foolsgold": {"name": "foolsgold"},
    "fltrust": {"name": "fltrust", "examples": 100},
    "nnm + trimmed-mean": {"name": "nnm", "byzantine": HOSTILE, "inner": {"name": "trimmed-mean", "trim": HOSTILE}},
    "nnm + multi-krum": {"name": "nnm", "byzantine": HOSTILE, "inner": {"name": "multi-krum", "byzantine": HOSTILE}},
}
"""Rules by the name of their row, set up to stand the hostile devices of the fleet."""

DEFAULT = "fltrust"
"""The rule to take first where devices may be hostile; docs/explanation/robust-aggregation.md says why."""

ATTACKS: dict[str, Table | None] = {
    NOBODY: None,
    "sign-flip": {"name": "sign-flip", "factor": 4.0},
    "boosting": {"name": "boosting", "factor": 10.0},
    "alie": {"name": "alie", "deviations": 1.5},
    "inner-product": {"name": "inner-product", "strength": 1.0},
    "faint-inner-product": {"name": "inner-product", "strength": 0.1},
    "label-flip": {"name": "label-flip"},
    "sybils": {"name": "sybils"},
    "slow-drift": {"name": "slow-drift"},
    "free-rider": {"name": "free-rider"},
    "backdoor": {"name": "backdoor", "boost": DEVICES / HOSTILE},
    "quiet-backdoor": {"name": "backdoor"},
    "semantic-backdoor": {"name": "semantic-backdoor"},
}
"""Behaviours of the hostile devices by the name of their column."""

PARTITIONS: dict[str, Table] = {"iid": {"name": "iid"}, "by-label": {"name": "by-label", "alpha": 0.5, "min_rows": 20}}
"""Who holds what: rows alike everywhere, and labels shared out by a Dirichlet draw of .5."""


def plan_of(aggregator: str, attack: str, partition: str, seed: int, rounds: int = ROUNDS) -> Plan:
    """Returns the plan of one cell: 20 devices of at most 64 digits each, one step of a small MLP a round."""
    behaviour = ATTACKS[attack]
    hostile = [] if behaviour is None else [{"devices": HOSTILE, "behaviour": behaviour}]
    return Plan(
        name="robustness",
        seed=seed,
        reproducible=True,
        data={"name": "mnist-10k"},
        fleet={
            "devices": DEVICES,
            "examples_per_device": 64,
            "partition": PARTITIONS[partition],
            "hostile": hostile,
        },
        model={"name": "mlp", "hidden": [32]},
        training={"name": "fedsgd", "rounds": rounds, "learning_rate": 0.3, "batch_size": 64},
        aggregation=AGGREGATORS[aggregator],
        evidence={"alone": False, "centralised": False},
    )


def matrix(
    aggregators: Sequence[str],
    attacks: Sequence[str],
    partitions: Sequence[str],
    seeds: Iterable[int],
    rounds: int = ROUNDS,
) -> Iterator[dict[str, Any]]:
    """Yields one row a cell as it is done.

    Args:
        aggregators, attacks, partitions: keys of the tables above; the run without an attack is always made first.
        seeds: of partition, first weights and what the attacks draw.
        rounds: steps of the fleet.

    Yields:
        Rows with ``aggregator``, ``attack``, ``partition``, ``seed``, ``accuracy``, ``honest_accuracy`` (of the same
        rule, partition and seed with nobody hostile), ``backdoor_success`` and ``backdoor_floor`` (the same
        trigger on that honest model); None for attacks without a trigger.

    Raises:
        InputError: an unknown name.
    """
    for given, known in ((aggregators, AGGREGATORS), (attacks, ATTACKS), (partitions, PARTITIONS)):
        for name in given:
            if name not in known:
                raise InputError(f"no row or column {name!r}", allowed=", ".join(known), do=nearest(name, list(known)))
    data = plan_of("mean", NOBODY, "iid", 1).dataset.load()
    for seed in seeds:
        for partition in partitions:
            for rule in aggregators:
                where = {"aggregator": rule, "partition": partition, "seed": seed}
                honest = _train(prepare(plan_of(rule, NOBODY, partition, seed, rounds), data=data))
                untouched: float | None = None
                for attack in dict.fromkeys((NOBODY, *attacks)):
                    experiment = prepare(plan_of(rule, attack, partition, seed, rounds), data=data)
                    state = honest if attack == NOBODY else _train(experiment)
                    reached, success = _judge(experiment, state)
                    untouched = reached if attack == NOBODY else untouched
                    if attack in attacks:
                        yield where | {
                            "attack": attack,
                            "accuracy": reached,
                            "honest_accuracy": untouched,
                            "backdoor_success": success,
                            "backdoor_floor": _judge(experiment, honest)[1],
                        }


def _train(experiment: Experiment) -> State:
    """Returns the global model after the last round."""
    state, seed = experiment.task.network().state_dict(), experiment.plan.seed
    last = experiment.plan.protocol.rounds
    coordinator = replace(experiment.coordinator, engine=Colluding(AtOnce(experiment.task), seed))
    for done in coordinator.rounds(state, 1, last, seeded(seed, "noise"), sampling=seeded(seed, "asked")):
        state = done.state
    return state


def _judge(experiment: Experiment, state: State) -> tuple[float, float | None]:
    """Returns a model's accuracy, and the backdoor success of the fleet's behaviours on it."""
    task, (inputs, labels) = experiment.task, experiment.test
    predict = predictor(task, state, task.on_device, seeded(0))
    behaviours = [device.behaviour for device in experiment.devices]
    return accuracy(predict, inputs, labels), backdoor_success(behaviours, predict, inputs, labels)


def standing(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns, for every rule and partition, how it stood its worst attacks, each the mean over the seeds.

    Returns:
        ``aggregator``, ``partition``, ``honest_accuracy``, ``worst_accuracy`` and under which attack, ``lost`` (the
        first less the second), ``backdoor_success`` (the worst) and under which attack, and its floor.
    """
    cells: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        cells[row["aggregator"], row["partition"]][row["attack"]].append(row)
    found = []
    for (aggregator, partition), by_attack in cells.items():
        honest = _mean(next(iter(by_attack.values())), "honest_accuracy") or 0.0
        reached = {attack: _mean(several, "accuracy") or 0.0 for attack, several in by_attack.items()}
        doors = {attack: _mean(several, "backdoor_success") for attack, several in by_attack.items()}
        opened = {attack: share for attack, share in doors.items() if share is not None}
        worst, door = min(reached, key=reached.__getitem__), max(opened, key=opened.__getitem__, default=None)
        found.append(
            {
                "aggregator": aggregator,
                "partition": partition,
                "honest_accuracy": honest,
                "worst_accuracy": reached[worst],
                "worst_attack": worst,
                "lost": honest - reached[worst],
                "backdoor_success": opened.get(door) if door else None,
                "backdoor_attack": door,
                "backdoor_floor": _mean(by_attack[door], "backdoor_floor") if door else None,
            }
        )
    return found


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.fmean(values) if values else None
