"""Table I of the document: how well an image is recovered from some of the maps of a layer, and what that allows.

The table is data of the document; measuring it again gives far worse figures (see the page on distributed
inference), so what is planned from it keeps the document's promise, not the image.
"""

from __future__ import annotations

from dataclasses import dataclass

SLACK = 0.01
"""How far above the tolerance a value may be: the document counts .41 as .4."""


@dataclass(frozen=True)
class Row:
    """Similarity (SSIM) of recovered images to the originals, by the number of maps that a device holds.

    Attributes:
        layer: what the document calls it.
        maps: number of all maps.
        similarity: for all maps, for half of them, for a quarter, ... as printed.
    """

    layer: str
    maps: int
    similarity: tuple[float, ...]

    def at(self, held: int, running: bool = True) -> float:
        """Returns the similarity for ``held`` maps, rounded up to a number in the table.

        Args:
            held: how many maps.
            running: whether fewer maps never tell more: the largest value of all numbers up to this one. The printed
                table is not monotone, and who holds 64 maps can look at 32 of them.
        """
        counts = [self.maps >> step for step in range(len(self.similarity))]
        step = max((n for n, count in enumerate(counts) if count >= held), default=0)
        return max(self.similarity[step:]) if running else self.similarity[step]

    def most(self, tolerance: float, running: bool = True) -> int:
        """Returns Nf: the most maps that a device may hold at a tolerance; 1 where the table never gets there."""
        counts = [self.maps >> step for step in range(len(self.similarity))]
        # Rounded, because .8 + .01 in binary is not what a reader compares .81 with.
        return next((n for n in counts if self.at(n, running) <= round(tolerance + SLACK, 9)), 1)


TABLE: dict[str, tuple[Row, ...]] = {
    "lenet": (Row("MNIST Conv1", 8, (0.99, 0.28)), Row("MNIST Conv2", 16, (0.73, 0.0))),
    "cifar": (
        Row("CIFAR ReLU11", 64, (0.99, 0.60, 0.56, 0.40, 0.30, 0.26)),
        Row("CIFAR ReLU22", 128, (0.86, 0.70, 0.49, 0.34, 0.13, 0.10, 0.07)),
        Row("CIFAR ReLU32", 128, (0.60, 0.51, 0.41, 0.18, 0.08, 0.07, 0.01)),
    ),
    "vgg16": (
        Row("CAR ReLU11", 64, (0.98, 0.92, 0.93, 0.88, 0.69, 0.04)),
        Row("CAR ReLU22", 128, (0.83, 0.74, 0.59, 0.47, 0.50, 0.40, 0.26)),
        Row("CAR ReLU33", 256, (0.68, 0.58, 0.58, 0.55, 0.46, 0.31, 0.18, 0.18)),
        Row("CAR ReLU43", 512, (0.36, 0.33, 0.30, 0.36, 0.36, 0.31, 0.29, 0.34, 0.33)),
    ),
    "vgg19": (
        Row("CELEBA ReLU11", 64, (0.96, 0.81, 0.66, 0.27, 0.09, 0.10)),
        Row("CELEBA ReLU22", 128, (0.76, 0.69, 0.71, 0.59, 0.59, 0.40, 0.40)),
        Row("CELEBA ReLU34", 256, (0.56, 0.51, 0.47, 0.49, 0.46, 0.45, 0.45, 0.45)),
        Row("CELEBA ReLU44", 512, (0.26, 0.39, 0.30, 0.30, 0.30, 0.30, 0.30, 0.30, 0.30)),
    ),
}
"""The rows of each network, one for each block of convolutions; the last one holds for all blocks behind it, too."""
