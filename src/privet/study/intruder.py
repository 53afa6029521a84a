"""Attacks a finished run again, from what its folder kept: one attack, or all that there are."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privet import parts
from privet.attacks.contract import Attack
from privet.engines.view import Query
from privet.errors import InputError, RefusedError, RunError, nearest
from privet.evidence.audit import Finding
from privet.evidence.reading import load_metrics
from privet.evidence.report import write_report
from privet.ledger import Log
from privet.study.baselines import CENTRALISED
from privet.study.experiment import Experiment, prepare
from privet.study.kept import Kept, read_kept, recorded
from privet.study.leakage import leak
from privet.study.metrics import latest_attacks
from privet.study.plan import Plan
from privet.study.references import clean_query
from privet.study.run_folder import alone, keep_pictures, write_json
from privet.study.viewpoints import PARTY

PARTIES = {"edge-server": "edge-server", "coordinator": "coordinator", "anyone": "whoever has the global model"}
"""What ``--party`` takes, and whose view that is."""


@dataclass(frozen=True)
class Outcome:
    """What came of one attack.

    Attributes:
        name: the attack.
        view: whose view it needs.
        finding: its figures; None if it could not run.
        why: why it could not; "" if it ran.
    """

    name: str
    view: str
    finding: Finding | None = None
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns name, view, metrics, floor and interval, or why there are none."""
        if self.finding is None:
            return {"name": self.name, "view": self.view, "why": self.why}
        found = self.finding.to_json()
        metrics = found["metrics"]
        ends = {key: [metrics[f"{key}_low"], metrics[f"{key}_high"]] for key in metrics if f"{key}_low" in metrics}
        shown = {key: value for key, value in metrics.items() if not key.endswith(("_low", "_high"))}
        return found | {"metrics": shown, "interval": ends}


@dataclass
class _Run:
    """A finished run that is attacked again; its folder is locked as long as that takes."""

    folder: Path
    experiment: Experiment
    log: Log
    kept: Kept
    judge: Query | None
    stored: dict[str, Any] = field(default_factory=dict)


def attack_run(folder: Path | str, name: str) -> Outcome:
    """Attacks a finished run with one attack, records what it found, and writes the report again.

    The attack has the fields of the run's plan if this names it, else its defaults. The same run, attack
    and Privet give the same figures, as far as the noise that the attacker draws for itself allows.

    Args:
        folder: of a finished run.
        name: of an attack.

    Raises:
        RunError: the folder is missing, damaged, unfinished, at work, or was given data or a model in code; or the
            run kept no view that the attack needs.
        PartError: there is no such attack.
    """
    parts.find("attacks", name)
    with alone(_checked(Path(folder))):
        run = _open(Path(folder))
        outcome = _attack(run, _named(run.experiment.plan, name))
        _tell(run)
    return outcome


def attack_all(folder: Path | str, party: str | None = None) -> list[Outcome]:
    """Attacks a finished run with every attack there is, and says of each what it found or why it could not run.

    Args:
        folder: of a finished run.
        party: whose attacks only: ``edge-server``, ``coordinator`` or ``anyone``; all if None.

    Raises:
        InputError: there is no such party.
        RunError: as :func:`attack_run`.
    """
    if party is not None and party not in PARTIES:
        raise InputError(f"no party called {party!r}", allowed=", ".join(PARTIES), do=nearest(party, list(PARTIES)))
    with alone(_checked(Path(folder))):
        run, outcomes = _open(Path(folder)), []
        try:
            for name in parts.names("attacks"):
                attack = _named(run.experiment.plan, name)
                if party is None or PARTY[attack.target] == PARTIES[party]:
                    outcomes.append(_tried(run, attack))
        finally:  # what was found before Ctrl-C is recorded, so that the report must say it too
            _tell(run)
    return outcomes


def _checked(folder: Path) -> Path:
    """Returns a folder that holds a run, before its lock is looked for in it."""
    if not (folder / "records.jsonl").is_file():
        raise RunError(f"no run at {folder}", do="give the folder of a finished run, for example runs/<id>")
    return folder


def _open(folder: Path) -> _Run:
    stored, log = load_metrics(folder), Log(folder / "records.jsonl")
    if not log.of("plan") or not log.of("round"):
        raise RunError(f"{folder} has no records of a finished run", do="give the folder of a finished run")
    begun = log.of("plan")[0].body
    if begun["given"]:
        raise RunError(
            f"{folder} was given {', '.join(begun['given'])} in code, so its plan alone does not say what to attack",
            do="name the attacks in the plan: they are run with what was given",
        )
    experiment = prepare(Plan.of_run(folder, begun["plan_digest"]))
    model = recorded(folder, "model", log.of("round")[-1].body["digest"])
    clean = {record.body["name"]: record.body.get("digest") for record in log.of("baseline")}
    judge = None
    if CENTRALISED in clean and (folder / f"{CENTRALISED}.safetensors").is_file():
        judge = clean_query(experiment, recorded(folder, CENTRALISED, clean[CENTRALISED]))
    return _Run(folder, experiment, log, read_kept(folder, log, model), judge, stored)


def _named(plan: Plan, name: str) -> Attack:
    """Returns an attack as the plan has it, or with its own defaults."""
    found: Attack = next(
        (attack for attack in plan.attack_parts if parts.name_of(attack) == name), None
    ) or parts.build("attacks", {"name": name})
    return found


def _tried(run: _Run, attack: Attack) -> Outcome:
    try:
        return _attack(run, attack)
    except (RefusedError, InputError) as error:
        return Outcome(parts.name_of(attack), PARTY[attack.target], why=error.advice())


def _attack(run: _Run, attack: Attack) -> Outcome:
    name, started = parts.name_of(attack), time.perf_counter()
    number = _number(run, attack)
    found = leak(run.experiment, number, attack, run.kept, run.judge)
    keep_pictures(run.folder, name, found.pictures)
    body = {"number": number, "finding": found.finding.to_json(), "seconds": time.perf_counter() - started}
    run.log.append("attack", body | {"afterwards": True, "attack": parts.to_table(attack)})
    return Outcome(name, found.finding.view, found.finding)


def _number(run: _Run, attack: Attack) -> int:
    """Returns the attack's place: in the plan, or, after those, in the list of all attacks; it names what is random."""
    planned = run.experiment.plan.attack_parts
    if attack in planned:
        return planned.index(attack)
    return len(planned) + parts.names("attacks").index(parts.name_of(attack))


def _tell(run: _Run) -> None:
    kept = {key: value for key, value in run.stored.items() if key not in ("run", "plan")}
    found = latest_attacks(run.log)
    outdated = tuple(f"attack {attack['name']} could not run" for attack in found)
    warnings = [line for line in kept.get("warnings") or () if not str(line).startswith(outdated)]
    fresh = {"attacks": found, "warnings": warnings}
    write_json(run.folder / "metrics.json", {"run": str(run.folder)} | kept | fresh)
    write_report(run.folder)
