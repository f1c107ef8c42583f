"""The devices of tests that a CPU can do as well as a GPU."""

import pytest
import torch

ON_GPU = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU: NOT TESTED on one"),
)
DEVICES = (
    pytest.param(torch.device("cpu"), id="cpu"),
    pytest.param(torch.device("cuda", 0), id="gpu", marks=ON_GPU),
)
