"""What a sparse adapter changes of one layer: single entries, or blocks."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Entries:
    """A weight change at single entries; entries of the same place add up."""

    rows: Tensor
    """[n] int64 below 2^31, output."""
    columns: Tensor
    """[n] int64 below 2^31, input."""
    values: Tensor
    """[n]"""

    def add_to(self, weight: Tensor) -> None:
        """weight [h_out, h_in] += the change, in place."""
        places = (self.rows.to(weight.device), self.columns.to(weight.device))
        weight.index_put_(places, self.values.to(weight), accumulate=True)

    def end(self) -> tuple[int, int]:
        """Smallest (h_out, h_in) that holds all entries."""
        if not len(self.rows):
            return 0, 0
        return int(self.rows.max()) + 1, int(self.columns.max()) + 1


@dataclass(frozen=True)
class Blocks:
    """A weight change in dense blocks; blocks that overlap add up."""

    places: Tensor
    """[n, 4] int64: first row, first column, height, width; all below 2^31."""
    values: Tensor
    """[sum of height * width], each block row by row, in the order of `places`."""

    def add_to(self, weight: Tensor) -> None:
        """weight [h_out, h_in] += the change, in place."""
        low = 0
        for row, column, height, width in self.places.tolist():
            block = self.values[low : low + height * width].view(height, width)
            weight[row : row + height, column : column + width] += block.to(weight)
            low += height * width

    def end(self) -> tuple[int, int]:
        """Smallest (h_out, h_in) that holds all blocks."""
        if not len(self.places):
            return 0, 0
        rows, columns, heights, widths = self.places.unbind(1)
        return int((rows + heights).max()), int((columns + widths).max())


Delta = Entries | Blocks
