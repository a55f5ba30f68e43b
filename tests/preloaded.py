"""What tests/programs.py's server imports for its programs: building a first optimizer imports a second's worth."""

import torch

torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
