"""What PEFT does not export and no public function does: a version that moves it is met here."""

from peft.tuners._buffer_dict import BufferDict
from peft.tuners.tuners_utils import (
    _get_in_out_features as get_in_out_features,
)
from peft.tuners.tuners_utils import (
    _maybe_include_all_linear_layers as include_all_linear_layers,
)

__all__ = ["BufferDict", "get_in_out_features", "include_all_linear_layers"]
