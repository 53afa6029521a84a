"""The sections of a plan, each key with the meaning that ``privet plan explain`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from privet import parts
from privet.accounting import Relation, Unit
from privet.aggregation.contract import Aggregator
from privet.attacks.contract import Attack
from privet.fleet.availability.contract import Availability
from privet.fleet.behaviours.contract import Behaviour
from privet.fleet.data import Dataset
from privet.fleet.imperfections.contract import Imperfection
from privet.fleet.partitions.contract import Partition
from privet.mechanisms.contract import Mechanism
from privet.models import Model
from privet.study.part_field import PartOf
from privet.study.problems import refuse_unknown
from privet.training.contract import Protocol

Count = Annotated[int, Field(ge=1)]

AggregationPart = Annotated[Aggregator, PartOf("aggregators")]
AttackPart = Annotated[Attack, PartOf("attacks")]
AvailabilityPart = Annotated[Availability, PartOf("availabilities")]
BehaviourPart = Annotated[Behaviour, PartOf("behaviours")]
DatasetPart = Annotated[Dataset, PartOf("datasets")]
ImperfectionPart = Annotated[Imperfection, PartOf("imperfections")]
MechanismPart = Annotated[Mechanism, PartOf("mechanisms")]
ModelPart = Annotated[Model, PartOf("models")]
PartitionPart = Annotated[Partition, PartOf("partitions")]
ProtocolPart = Annotated[Protocol, PartOf("protocols")]


def default_part(family: str, name: str, description: str) -> Any:
    """Returns a field whose default is the named part with that part's own defaults."""
    return Field(default_factory=lambda: parts.build(family, {"name": name}), description=description)


class Section(BaseModel):
    """A table of the plan: frozen, strictly typed, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            refuse_unknown(value, list(cls.model_fields))
        return value


class Hostile(Section):
    """Some devices of the fleet that misbehave, all in one way."""

    devices: Count = Field(description="How many devices behave so.")
    behaviour: BehaviourPart = Field(description="What they do.")


class Imperfect(Section):
    """Some honest devices of the fleet whose rows are not what they should be, all in one way."""

    devices: Count = Field(description="How many devices hold such rows.")
    imperfection: ImperfectionPart = Field(description="What is wrong with their rows.")


class Fleet(Section):
    """Who trains: devices, their hardware, their rows, when they answer, and who misbehaves."""

    devices: Count = Field(description="How many devices there are.")
    profile: str = Field(
        default="phone", description="Hardware of every device: a shipped profile or the path of a TOML file."
    )
    edge_server: str = Field(default="edge-server", description="Hardware of the edge server, as for profile.")
    examples_per_device: Count | None = Field(
        default=None, description="Keep at most this many rows a device; all of them if left out."
    )
    partition: PartitionPart = default_part("partitions", "iid", "Which rows lie on which device.")
    availability: AvailabilityPart = default_part("availabilities", "always", "When devices answer, and how late.")
    hostile: tuple[Hostile, ...] = Field(
        default=(), strict=False, description="Groups of misbehaving devices; they are the last devices of the fleet."
    )
    imperfect: tuple[Imperfect, ...] = Field(
        default=(), strict=False, description="Groups of honest devices with imperfect rows; they are the first ones."
    )


class Mechanisms(Section):
    """What changes a message before another party sees it, in order."""

    on_device: tuple[MechanismPart, ...] = Field(
        default=(),
        strict=False,
        description="What leaves a device passes these: features when training is split, else updates.",
    )
    on_server: tuple[MechanismPart, ...] = Field(
        default=(), strict=False, description="The combined update passes these before the devices see it."
    )


class Engine(Section):
    """Where and how the devices compute."""

    name: Literal["in-process"] = Field(default="in-process", description="Which engine runs the devices.")
    workers: Annotated[int, Field(ge=0, le=256)] = Field(
        default=0, description="Forked worker processes; 0 computes in this process."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="Number format of local training; auto measures which is faster on this processor."
    )
    minimum_replies: Count = Field(
        default=1, description="A round with fewer sound replies is void: the model stays as it was."
    )
    deadline: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Modelled seconds after which a round takes no more replies; none if left out."
    )
    device_sampling_rate: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="Probability with which each device is asked in a round, by a secret coin of its own."
    )
    separation: Count = Field(
        default=1, description="Devices take turns: a device is asked again after this many rounds."
    )


class HostileMiners(Section):
    """Some miners of the ledger that lie, all in one way."""

    miners: Count = Field(description="How many miners do so.")
    behaviour: Literal["wrong-mean", "wrong-scores", "drops-update", "wrong-shares", "double-votes", "silent"] = Field(
        description="What they do: sign a wrong model, wrong scores or a round with an update left out; open wrong "
        "shares; vote twice; say nothing."
    )


class Ledger(Section):
    """Who replaces the trusted aggregator: miners that check, combine and agree on every round."""

    miners: Annotated[int, Field(ge=0, le=100)] = Field(
        default=1, description="How many miners there are, all in this process; 0 trains without a ledger."
    )
    hostile: tuple[HostileMiners, ...] = Field(
        default=(), strict=False, description="Groups of miners that lie; they are the last ones."
    )
    updates: Literal["sealed", "shared", "plain"] = Field(
        default="sealed",
        description="Who can open a stored update: each miner of this epoch, only a quarter of them together, anybody.",
    )
    h: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=5, description="Reputation that a device starts with; to be caught at exactly h costs all of it."
    )
    gamma_max: Annotated[int, Field(ge=1, le=1000)] = Field(default=100, description="The highest reputation.")
    kappa: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3, description="A rejected update counts against its device above so many times the median score."
    )


class Privacy(Section):
    """How guarantees are stated."""

    delta: Annotated[float, Field(gt=0, lt=1)] = Field(default=1e-5, description="The delta at which epsilon is given.")
    relation: Relation = Field(default="replace-one", description="Which two data sets are neighbours.")
    budget_epsilon: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Refuse the run if a derived guarantee of budget_unit exceeds this epsilon, or there is none.",
    )
    budget_unit: Unit = Field(default="record", description="Whose budget it is.")
    budget_book: str | None = Field(
        default=None,
        description="File that keeps what all runs have spent of each device's budget; each run alone if left out.",
    )
    purpose: str = Field(default="training", description="What the data is used for; each purpose has its own budget.")


class Views(Section):
    """What is kept of what a party saw, so that it can be attacked."""

    keep: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Whose view of the last round is kept: edge-server (features, labels), coordinator (updates).",
    )
    records: Count = Field(
        default=500,
        description="How many records of a view are kept: rows at the edge server, updates at the coordinator.",
    )


class Evidence(Section):
    """Which baselines stand beside the result."""

    alone: bool = Field(default=True, description="Train each device on its own rows only, for comparison.")
    centralised: bool = Field(default=True, description="Train one model on all rows in one place, for comparison.")
    target_accuracy: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Tell the time, bytes and energy to this accuracy: each device's own where training makes "
        "models of their own, else the global model's.",
    )


class Contents(Section):
    """Everything a plan says, key by key; :class:`privet.study.plan.Plan` adds how it is read and resolved."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")] = Field(
        description="What the run is called, in small letters, digits, - and _."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        default=1, description="Of everything random that carries no guarantee: partition, first weights, shuffles."
    )
    reproducible: bool = Field(
        default=False,
        description="Take the noise from the seed too: bits repeat, but who knows the seed can undo it.",
    )
    data: DatasetPart = Field(description="Where the rows come from.")
    fleet: Fleet = Field(description="Who trains.")
    model: ModelPart = Field(
        description="What is trained: a shipped model, or name = 'package.module:function' of an installed package."
    )
    training: ProtocolPart = Field(description="How the fleet trains.")
    privacy: Privacy = Field(default=Privacy(), description="How guarantees are stated.")
    mechanisms: Mechanisms = Field(default=Mechanisms(), description="What changes a message on its way.")
    aggregation: AggregationPart = default_part("aggregators", "mean", "How the coordinator combines updates.")
    ledger: Ledger = Field(default=Ledger(miners=0), description="The consortium ledger; none if left out.")
    engine: Engine = Field(default=Engine(), description="Where and how the devices compute.")
    views: Views = Field(default=Views(), description="What is kept of what a party saw.")
    attacks: tuple[AttackPart, ...] = Field(default=(), strict=False, description="Attacks on the run, each a table.")
    evidence: Evidence = Field(default=Evidence(), description="Which baselines stand beside the result.")
