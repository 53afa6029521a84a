"""Finding a secret linear key from releases alone, by comparing how they are spread with how inputs are.

A key that turns or reorders the numbers of an input leaves the shape of the whole cloud as it is: variances along
its axes, skewness, distances from the middle, and what each label's rows look like. Rows are never paired by who
made them.

References:
    Grave, Joulin, Berthet, Unsupervised Alignment of Embeddings with Wasserstein Procrustes (AISTATS 2019);
    Besl, McKay, A Method for Registration of 3-D Shapes (TPAMI 1992): closest points, again and again;
    Schoenemann, A Generalized Solution of the Orthogonal Procrustes Problem (Psychometrika 1966).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from privet.randomness import Source

_DIRECTIONS = 300
_COMPARED = 10_000  # most of the attacker's own rows that a seen one is compared with
_BINS, _LEAST_ROWS = 12, 5
_MOMENT_STEPS, _POINT_STEPS = 30, 6
_FIRST, _GROWTH = 8, 1.3
_MEANS = 4.0  # weight of groups' means beside their second moments
_QUANTILES, _ORDER_STEPS = 32, 20
_EPSILON = 1e-12


@dataclass(frozen=True)
class Cloud:
    """Rows and their labels.

    Attributes:
        rows: shape (n, p), float32.
        labels: shape (n,), int64; all 0 where nobody knows them.
    """

    rows: Tensor
    labels: Tensor

    def groups(self, classes: int) -> list[Tensor]:
        """Returns the indices of groups that no turn changes: of a label, and as far from 0 or from the middle."""
        bins = max(_BINS // classes, 3)
        found = []
        for label in range(classes):
            mine = (self.labels == label).nonzero()[:, 0]
            for far in (self.rows.norm(dim=1), (self.rows - self.rows.mean(0)).norm(dim=1)):
                place = far[mine].argsort().argsort() * bins // max(len(mine), 1)
                found += [mine[place == number] for number in range(bins)]
        return found


def turned_back(known: Cloud, seen: Cloud, classes: int, rng: Source) -> Tensor:
    """Returns the inputs behind releases x Q of inputs x under one unknown orthogonal matrix Q, shape (n, p).

    Both clouds are laid along their principal axes, whose signs come from third moments and from groups that no
    turn changes. Then the groups' moments are made to agree, and then each row and the nearest of the other side,
    in ever more directions.

    Args:
        known: inputs of the attacker's own.
        seen: the releases.
        classes: number of labels.
        rng: of which of the attacker's rows are compared.
    """
    axes, variances = _axes(known.rows)
    theirs, _ = _axes(seen.rows)
    count = min(_DIRECTIONS, len(known.rows), len(seen.rows), int((variances > 1e-9 * variances[0]).sum()))
    axes, theirs = axes[:, :count], theirs[:, :count]
    x, y = Cloud(known.rows @ axes, known.labels), Cloud(seen.rows @ theirs, seen.labels)
    everybody = [(torch.arange(len(known.rows)), torch.arange(len(seen.rows)))]
    groups = [*zip(x.groups(classes), y.groups(classes), strict=True), *everybody]
    usable = [(a, b) for a, b in groups if min(len(a), len(b)) >= _LEAST_ROWS] or everybody
    signs = _signs(x.rows, y.rows, usable)
    turn = _by_moments(x.rows, y.rows, usable, torch.diag(signs))
    turn = _by_points(x, y, turn, signs, rng)
    beyond = known.rows.mean(0) - (known.rows.mean(0) @ axes) @ axes.T
    return y.rows @ turn.T @ axes.T + beyond


def _axes(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the principal directions (p, p), the first with the largest variance, and the variances."""
    centred = (rows - rows.mean(0)).double()
    variances, directions = torch.linalg.eigh(centred.T @ centred / len(rows))
    return directions.flip(1).float(), variances.flip(0).clamp_min(0)


def _signs(x: Tensor, y: Tensor, groups: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Returns which axes of y point the other way, from the groups' means and from skewness."""
    agreement = torch.stack([x[a].mean(0) * y[b].mean(0) for a, b in groups]).mean(0) / x.var(0).clamp_min(_EPSILON)
    agreement += 0.3 * _skewness(x) * _skewness(y)
    return torch.where(agreement < 0, -1.0, 1.0)


def _skewness(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.pow(3).mean(0) / centred.square().mean(0).clamp_min(_EPSILON).pow(1.5)


def _by_moments(x: Tensor, y: Tensor, groups: list[tuple[Tensor, Tensor]], turn: Tensor) -> Tensor:
    """Returns the turn under which the groups' means and second moments agree best, from a first guess.

    Each step maximises a bound from below of sum tr(A turn B turn'), so that agreement never falls.
    """
    means = [(x[a].mean(0), y[b].mean(0)) for a, b in groups]
    moments = [(x[a].T @ x[a] / x[a].shape[0], y[b].T @ y[b] / y[b].shape[0]) for a, b in groups]
    fixed = torch.stack([_MEANS * torch.outer(a, b) for a, b in means]).sum(0)
    for _ in range(_MOMENT_STEPS):
        turn = _nearest_turn(fixed + torch.stack([a @ turn @ b for a, b in moments]).sum(0))
    return turn


def _by_points(x: Cloud, y: Cloud, turn: Tensor, signs: Tensor, rng: Source) -> Tensor:
    """Returns a turn under which each row lies near one of the other side's, found coarse to fine."""
    some = rng.permutation(len(x.rows))[:_COMPARED]
    mine, labels = x.rows[some], x.labels[some]
    count = turn.shape[0]
    apart = (y.labels[:, None] != labels) * (2 * float(mine.norm(dim=1).max() + y.rows.norm(dim=1).max()) + 1)
    looked = min(_FIRST, count)
    while True:
        wider = min(count, int(looked * _GROWTH) + 2)
        for _ in range(_POINT_STEPS):
            far = torch.cdist((y.rows @ turn.T)[:, :looked], mine[:, :looked]) + apart
            theirs, ours = far.argmin(1), far.argmin(0)
            both = mine[theirs, :wider].T @ y.rows[:, :wider] / len(y.rows)
            both += mine[:, :wider].T @ y.rows[ours, :wider] / len(mine)
            turn = torch.diag(signs)
            turn[:wider, :wider] = _nearest_turn(both)
        if looked == count:
            return turn
        looked = wider


def _nearest_turn(matrix: Tensor) -> Tensor:
    """Returns the orthogonal matrix Q with the largest tr(Q' matrix)."""
    left, _, right = torch.linalg.svd(matrix)
    product: Tensor = left @ right
    return product


def put_back(known: Cloud, seen: Cloud, classes: int) -> Tensor:
    """Returns the inputs behind releases whose columns one unknown permutation reordered, shape (n, p).

    A column is recognised by how its values are spread, within each label where labels are known, and then, again
    and again, by how it goes together with the columns that are recognised already.

    Args:
        known: inputs of the attacker's own.
        seen: the releases.
        classes: number of labels.
    """
    mine, theirs = _covariance(known.rows), _covariance(seen.rows)
    spread = _unit(_spread(known, seen, classes))
    # How a column goes together with all others, whichever they are: the same under every reordering.
    company = _unit(torch.cdist(mine.sort(1).values, theirs.sort(1).values).square())
    found = [_by_company(mine, theirs, start, spread) for start in (spread, company, spread + company)]
    misfits = [float((mine - theirs[order][:, order]).square().sum()) for order in found]
    return seen.rows[:, found[misfits.index(min(misfits))]]


def _by_company(mine: Tensor, theirs: Tensor, start: Tensor, spread: Tensor) -> Tensor:
    """Returns the order of seen columns in which both covariances agree best, from the costs of a first one."""
    order = _assigned(start)
    for _ in range(_ORDER_STEPS):
        found = _assigned(_unit(torch.cdist(mine, theirs[:, order]).square()) + 0.1 * spread)
        if torch.equal(found, order):
            break
        order = found
    return order


def _unit(cost: Tensor) -> Tensor:
    return cost / cost.mean().clamp_min(_EPSILON)


def _spread(known: Cloud, seen: Cloud, classes: int) -> Tensor:
    """Returns how differently each known column (first) and each seen one (second) are spread, shape (p, p)."""
    levels = (torch.arange(_QUANTILES) + 0.5) / _QUANTILES
    total = torch.zeros(known.rows.shape[1], known.rows.shape[1])
    for label in range(classes):
        x, y = known.rows[known.labels == label], seen.rows[seen.labels == label]
        if min(len(x), len(y)) < _LEAST_ROWS:
            continue
        sides = torch.stack([_quantiles(side, levels) for side in (x, y)])
        total += len(y) / len(seen.rows) * torch.cdist(sides[0], sides[1]).square() / _QUANTILES
        total += len(y) / len(seen.rows) * torch.cdist(x.mean(0)[:, None], y.mean(0)[:, None]).square()
    return total


def _quantiles(rows: Tensor, levels: Tensor) -> Tensor:
    ranked = rows.sort(dim=0).values
    return ranked[(levels * len(rows)).long()].T.contiguous()


def _covariance(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(0)
    return centred.T @ centred / len(rows)


def _assigned(cost: Tensor) -> Tensor:
    """Returns for each row the column of the one-to-one choice with the least total cost."""
    return torch.from_numpy(linear_sum_assignment(cost.double().numpy())[1])
