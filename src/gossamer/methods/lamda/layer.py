"""A linear layer with LaMDA's three factors."""

import torch
from torch import Tensor, nn

from gossamer.adapters.kinds.low_rank import Factors
from gossamer.errors import SettingError
from gossamer.methods.common.low_rank import LowRankLayer
from gossamer.methods.common.peft_internals import BufferDict
from gossamer.methods.lamda.config import LamdaConfig
from gossamer.methods.lamda.spectrum import leading_part


class LamdaLinear(LowRankLayer):
    """y = W x + s (B S - B0 S0) A x; S learns, and the columns of B that are not frozen.

    A [r, in] and B0 [out, r] are singular vectors of W and s S0 [r, r] holds its singular values,
    so W - s B0 S0 A is the residual of the published form. Written like this W stays as it is, the
    start is the pretrained model exactly, and the change has rank r, not 2 r.
    """

    adapter_layer_names = ("lamda_S", "lamda_B")
    other_param_names = (
        "lamda_A",
        "lamda_frozen",
        "lamda_start",
        "scaling",
        "dropout",
        "freeze_share",
    )

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.lamda_S = nn.ParameterDict()
        self.lamda_B = nn.ParameterDict()
        self.lamda_A = BufferDict(persistent=True)
        self.lamda_frozen = BufferDict(persistent=True)
        self.lamda_start = BufferDict(persistent=True)
        self.scaling: dict[str, float] = {}
        self.dropout: dict[str, float] = {}
        self.freeze_share: dict[str, float | None] = {}
        self.freezing = False
        """Whether a trainer's callback freezes columns."""

    def update_layer(self, adapter_name: str, config: LamdaConfig, rank: int, init: bool) -> None:
        """Add an adapter; without `init` its weights are zero, to be loaded.

        Raises `SettingError` if the rank is above the smaller side of the weight.
        """
        smaller = min(self.in_features, self.out_features)
        if rank > smaller:
            raise SettingError(f"rank = {rank} is above the smaller side of a layer, {smaller}")
        self.scaling[adapter_name] = config.alpha / rank
        self.dropout[adapter_name] = config.dropout
        self.freeze_share[adapter_name] = config.freeze_share
        device = self.base_layer.weight.device
        a = torch.zeros(rank, self.in_features, device=device)
        b = torch.zeros(self.out_features, rank, device=device)
        s = torch.zeros(rank, rank, device=device)
        if init and device.type != "meta":
            b, sigma, a = leading_part(self.get_base_weight(), rank, exact=config.svd == "exact")
            s = torch.diag(sigma / self.scaling[adapter_name])
        self.lamda_A[adapter_name] = a
        self.lamda_start[adapter_name] = b @ s
        self.lamda_frozen[adapter_name] = b[:, :0].clone()
        self.lamda_S[adapter_name] = nn.Parameter(s)
        self.lamda_B[adapter_name] = nn.Parameter(b)
        self.set_adapter(self.active_adapters)

    def cast_to_base(self, name: str) -> None:
        """Cast as every layer does; an adapter that changes nothing yet still changes nothing."""
        with torch.no_grad():
            s, b = self.lamda_S[name], self.lamda_B[name]
            # Loaded with low_cpu_mem_usage, weights are only there after they have been cast.
            fresh = not b.is_meta and b.shape[1] == len(s)
            fresh = fresh and torch.equal(b @ s, self.lamda_start[name].to(b.dtype))
            super().cast_to_base(name)
            if fresh:
                self.lamda_start[name] = self.lamda_B[name] @ self.lamda_S[name]

    def factors(self, adapter_name: str) -> Factors | None:
        if adapter_name not in self.lamda_S:
            return None
        frozen, free = self.lamda_frozen[adapter_name], self.lamda_B[adapter_name]
        s = self.lamda_S[adapter_name]
        count = frozen.shape[1]
        # What has been learnt is a small difference of large products, which autocast would round
        # away.
        with torch.autocast(s.device.type, enabled=False):
            # B is never put together: only the columns that learn have a gradient.
            b = free @ s[count:] if free.shape[1] else torch.zeros_like(frozen)
            if count:
                b = b + frozen @ s[:count]
            b = b - self.lamda_start[adapter_name]
        return Factors(a=self.lamda_A[adapter_name], b=b, scale=self.scaling[adapter_name])

    def drop(self, adapter_name: str, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(inputs, self.dropout[adapter_name], self.training)
