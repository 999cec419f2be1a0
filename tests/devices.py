"""Devices that a test runs on: the CPU, and a CUDA GPU where there is one."""

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU can be used here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
