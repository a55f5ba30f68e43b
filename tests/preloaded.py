"""Imported by the fork server of tests/programs.py: building the first optimizer imports modules for about a second."""

import torch

torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
