"""A stand-in for the package flashinfer: what its documentation and source (0.7.4) say, in torch.

Attention is computed from exactly what the wrappers were given, and what the real ones refuse, or
would read wrongly without a word, is refused.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch

INT_WORKSPACE_BYTES = 8 * 1024**2


def install(monkeypatch):
    """Let `import flashinfer` find this module; returns the wrappers that are made from now on."""
    module = ModuleType("flashinfer")
    module.__spec__ = ModuleSpec("flashinfer", None)
    made = []
    for cls in (BatchDecodeWithPagedKVCacheWrapper, BatchPrefillWithPagedKVCacheWrapper):
        # A class of each installation, so that wrappers of other tests are not seen.
        setattr(module, cls.__name__, type(cls.__name__, (cls,), {"made": made}))
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    # What has imported another stand-in, or none, imports this one.
    monkeypatch.delitem(sys.modules, "gossamer.kernels.paged_attention.flashinfer", raising=False)
    return made


def check_ints(*tensors):
    for tensor in tensors:
        assert tensor.dtype == torch.int32, f"indices must be int32, not {tensor.dtype}"
        assert tensor.dim() == 1
        assert tensor.is_contiguous()


class Wrapper:
    made: list

    def __init__(self, float_workspace_buffer, kv_layout, backend):
        assert kv_layout == "HND"
        assert backend == "fa2"
        assert float_workspace_buffer.dtype == torch.uint8
        assert not float_workspace_buffer.any(), "must be zero for its first use"
        self.workspaces = [float_workspace_buffer]
        self.schedule = torch.zeros(INT_WORKSPACE_BYTES, dtype=torch.uint8)
        self.planned = None
        self.plans = self.runs = 0
        self.made.append(self)

    def reset_workspace_buffer(self, float_workspace_buffer, int_workspace_buffer):
        assert self.planned is None, "schedules that were captured would be lost"
        assert int_workspace_buffer.dtype == torch.uint8
        assert int_workspace_buffer.data_ptr() % 16 == 0
        self.workspaces = [float_workspace_buffer]
        self.schedule = int_workspace_buffer

    def _plan(self, indptr, indices, last, heads, kv_heads, head_dim, page_size, formats):
        check_ints(indptr, indices, last)
        assert indptr.device.type == last.device.type == "cpu", "would be copied back"
        assert len(indptr) == len(last) + 1
        assert int(indptr[0]) == 0
        assert bool((indptr.diff() >= 1).all())
        assert int(indptr[-1]) <= len(indices)
        assert bool(((last >= 1) & (last <= page_size)).all())
        assert heads % kv_heads == 0
        self.planned = dict(formats, heads=heads, kv=(kv_heads, page_size, head_dim))
        self.plans += 1

    def _run(self, q, paged_kv_cache, q_scale, out, first_token, causal):
        assert self.planned is not None, "plan info is not initialized"
        keys, values = paged_kv_cache
        kv_dtype = self.planned["kv_data_type"]
        assert q.dtype == self.planned["q_data_type"]
        assert keys.dtype == values.dtype == kv_dtype
        assert keys.stride() == values.stride(), "K/V strides differ"
        assert keys.stride(3) == q.stride(2) == 1
        assert keys.shape[1:] == values.shape[1:] == self.planned["kv"]
        assert q.shape[1:] == (self.planned["heads"], keys.shape[3])
        assert out.shape == q.shape
        assert out.dtype == q.dtype
        assert out.is_contiguous()
        scale = self.planned["sm_scale"] * q_scale
        group = q.shape[1] // keys.shape[1]
        for i in range(len(self.last)):
            pages = self.indices[int(self.indptr[i]) : int(self.indptr[i + 1])].long()
            length = (len(pages) - 1) * keys.shape[2] + int(self.last[i])
            low, high = first_token[i], first_token[i + 1]
            k, v = (
                each[pages].transpose(0, 1).flatten(1, 2)[:, :length].double()
                for each in (keys, values)
            )
            k, v = (each.repeat_interleave(group, dim=0) for each in (k, v))
            scores = torch.einsum("qhd,hkd->hqk", q[low:high].double(), k) * scale
            if causal:
                # The queries are the sequence's last tokens.
                place = torch.arange(length - (high - low), length)[:, None]
                scores = scores.masked_fill(torch.arange(length) > place, float("-inf"))
            out[low:high] = torch.einsum("hqk,hkd->qhd", scores.softmax(-1), v).to(out.dtype)
        self.runs += 1
        return out


class BatchDecodeWithPagedKVCacheWrapper(Wrapper):
    def __init__(
        self, float_workspace_buffer, kv_layout="NHD", use_cuda_graph=False,
        use_tensor_cores=False, paged_kv_indptr_buffer=None, paged_kv_indices_buffer=None,
        paged_kv_last_page_len_buffer=None, backend="auto",
    ):  # fmt: skip
        super().__init__(float_workspace_buffer, kv_layout, backend)
        assert use_cuda_graph, "its arrays would move from plan to plan"
        assert use_tensor_cores
        check_ints(paged_kv_indptr_buffer, paged_kv_indices_buffer, paged_kv_last_page_len_buffer)
        assert len(paged_kv_indptr_buffer) == len(paged_kv_last_page_len_buffer) + 1
        self.indptr, self.indices = paged_kv_indptr_buffer, paged_kv_indices_buffer
        self.last = paged_kv_last_page_len_buffer

    def plan(
        self, indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, *,
        sm_scale=None, q_data_type="float16", kv_data_type=None,
    ):  # fmt: skip
        if len(last_page_len) != len(self.last):
            raise ValueError("The batch size should be fixed in cudagraph mode")
        if len(indices) > len(self.indices):
            raise ValueError("The size of indices should be less than the allocated buffer")
        formats = {"sm_scale": sm_scale, "q_data_type": q_data_type, "kv_data_type": kv_data_type}
        self._plan(
            indptr, indices, last_page_len, num_qo_heads, num_kv_heads, head_dim, page_size, formats
        )
        self.indptr.copy_(indptr)
        self.last.copy_(last_page_len)
        self.indices[: len(indices)].copy_(indices)

    def run(self, q, paged_kv_cache, *, q_scale=1.0, out=None):
        if len(q) != len(self.last):
            raise ValueError("q implies another q_len_per_req than was planned")
        first_token = list(range(len(self.last) + 1))
        return self._run(q, paged_kv_cache, q_scale, out, first_token, causal=False)


class BatchPrefillWithPagedKVCacheWrapper(Wrapper):
    def __init__(self, float_workspace_buffer, kv_layout="NHD", *, backend="auto"):
        super().__init__(float_workspace_buffer, kv_layout, backend)

    def plan(
        self, qo_indptr, paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads,
        num_kv_heads, head_dim_qk, page_size, *, causal=False, sm_scale=None,
        q_data_type="float16", kv_data_type=None,
    ):  # fmt: skip
        check_ints(qo_indptr)
        assert qo_indptr.device.type == "cpu"
        assert len(qo_indptr) == len(paged_kv_indptr)
        formats = {"sm_scale": sm_scale, "q_data_type": q_data_type, "kv_data_type": kv_data_type}
        self._plan(
            paged_kv_indptr, paged_kv_indices, paged_kv_last_page_len, num_qo_heads, num_kv_heads,
            head_dim_qk, page_size, formats,
        )  # fmt: skip
        self.causal = causal
        self.qo_indptr, self.indptr = qo_indptr.clone(), paged_kv_indptr.clone()
        self.indices, self.last = paged_kv_indices, paged_kv_last_page_len.clone()

    def run(self, q, paged_kv_cache, *, q_scale=1.0, out=None):
        if len(q) != int(self.qo_indptr[-1]):
            raise ValueError("q.shape[0] does not match qo_indptr[-1]")
        return self._run(q, paged_kv_cache, q_scale, out, self.qo_indptr.tolist(), self.causal)
