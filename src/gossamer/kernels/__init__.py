"""The operations on tensors that serving adds: one folder each, plain torch beside the fast way."""
