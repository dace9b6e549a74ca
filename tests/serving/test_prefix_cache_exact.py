"""Answers with shared keys and values are those without, whatever kind of adapter made them."""

import pytest
import torch
from engine_case import ask, check_idle, start
from kinds_case import KINDS  # noqa: F401
