"""``privet privacy``: how much noise an epsilon needs, and which epsilon some noise gives."""

from __future__ import annotations

import click

from privet.apps.cli.main import LazyGroup
from privet.apps.cli.output import FloatRange, json_option, print_json

_MECHANISMS = ("gaussian", "laplace", "geometric", "discrete-gaussian")


@click.group(
    cls=LazyGroup,
    members={
        "calibrate": ("privet.apps.cli.privacy:calibrate", "Noise for an epsilon, or epsilon for a noise."),
    },
)
def privacy() -> None:
    """Work out noise and epsilon without a run."""


@click.command()
@click.option("--mechanism", type=click.Choice(_MECHANISMS), required=True, help="Which noise.")
@click.option("--epsilon", type=FloatRange(), help="The epsilon that all steps together may cost.")
@click.option("--noise-multiplier", type=FloatRange(), help="Noise scale over sensitivity, in place of --epsilon.")
@click.option(
    "--delta", type=FloatRange(), default=1e-5, show_default=True, help="The probability not bounded by epsilon."
)
@click.option(
    "--sampling-rate",
    type=FloatRange(),
    default=1.0,
    show_default=True,
    help="Probability with which each unit takes part in a step (Poisson sampling).",
)
@click.option("--steps", type=click.IntRange(min=1), default=1, show_default=True, help="How many releases.")
@click.option("--unit", type=click.Choice(("coordinate", "record", "device")), default="record", show_default=True)
@click.option(
    "--relation",
    type=click.Choice(("add-or-remove-one", "replace-one")),
    default="add-or-remove-one",
    show_default=True,
    help="Which data sets are neighbours: the sensitivity you divide by is that of this relation.",
)
@json_option
def calibrate(
    mechanism: str,
    epsilon: float | None,
    noise_multiplier: float | None,
    delta: float,
    sampling_rate: float,
    steps: int,
    unit: str,
    relation: str,
    as_json: bool,
) -> None:
    """Print the noise multiplier that --epsilon needs, or the epsilon that --noise-multiplier gives.

    The noise multiplier is the noise's scale over the sensitivity: sigma over l2 for gaussian and
    discrete-gaussian, b over l1 for laplace and geometric.
    """
    from privet.accounting import accountants
    from privet.accounting.calibration import Calibrated, event_of, noise_multiplier_for
    from privet.errors import InputError

    if (epsilon is None) == (noise_multiplier is None):
        raise InputError(
            "give either --epsilon or --noise-multiplier, " + ("not both" if epsilon is not None else "one is needed")
        )
    if relation == "replace-one" and sampling_rate != 1:
        raise InputError("--sampling-rate counts only under --relation add-or-remove-one", do="leave one of them out")
    if epsilon is not None:
        found = noise_multiplier_for(
            lambda noise: event_of(mechanism, noise, sampling_rate),  # type: ignore[arg-type]
            epsilon,
            delta,
            steps,
        )
    else:
        event = event_of(mechanism, float(noise_multiplier or 0), sampling_rate)  # type: ignore[arg-type]
        found = Calibrated(float(noise_multiplier or 0), *accountants.epsilon(event, delta, count=steps))
    said = {
        "mechanism": mechanism,
        "noise_multiplier": found.noise_multiplier,
        "epsilon": found.epsilon,
        "delta": delta,
        "accountant": found.accountant,
        "unit": unit,
        "relation": relation,
        "sampling_rate": sampling_rate,
        "steps": steps,
    }
    if as_json:
        print_json(said)
        return
    sampled = f", each on a Poisson sample of rate {sampling_rate:g}" if sampling_rate < 1 else ""
    click.echo(
        f"noise multiplier {found.noise_multiplier:.6g} gives epsilon {found.epsilon:.6g} per {unit} ({relation})"
    )
    click.echo(f"delta {delta:g}, {steps} releases{sampled}, by the {found.accountant} accountant")
