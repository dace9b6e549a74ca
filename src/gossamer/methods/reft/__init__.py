"""ReFT: small edits of hidden states at prompt positions, the weights untouched (2404.03592).

For PEFT: `from gossamer.methods.reft.model import ReftConfig`.
"""

from gossamer.methods.reft.method import ReftMethod
from gossamer.methods.reft.settings import DireftSettings, ReftSettings
from gossamer.methods.registry import register


class LoreftSettings(ReftSettings):
    """Settings of `loreft`."""


class NodireftSettings(ReftSettings):
    """Settings of `nodireft`."""


@register
class Loreft(ReftMethod[LoreftSettings]):
    """h' = h + Rᵀ(W h + b - R h) at prompt positions; R has orthonormal rows; R, W and b learn.

    Learning rate: 9e-4 is the paper's for LLaMA, tuned on GSM8K and used for all its sizes and
    tasks of commonsense, arithmetic and instructions; so are rank 8 and 7 + 7 tied positions.
    """

    name = "loreft"
    summary = "edits hidden states at prompt positions in a learnt subspace; very few parameters"
    settings_type = LoreftSettings


@register
class Direft(ReftMethod[DireftSettings]):
    """h' = h + Rᵀ(W h + b) at prompt positions; R, W and b learn, R being free: the DiReFT of the
    paper, which the authors' library calls Nodireft.

    Learning rate: 9e-4 is the paper's for LLaMA, as for LoReFT.
    """

    name = "direft"
    summary = "LoReFT without orthogonality and difference (the paper's DiReFT); cheaper"
    settings_type = DireftSettings


@register
class Nodireft(ReftMethod[NodireftSettings]):
    """The same as `direft` with its defaults, under the name of the authors' library.

    Learning rate: 9e-4 is the paper's for LLaMA, as for LoReFT.
    """

    name = "nodireft"
    summary = "direft under the name that the authors' library gives it"
    settings_type = NodireftSettings
