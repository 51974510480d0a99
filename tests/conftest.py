"""One thread per process: small tensors gain nothing from more, and those of several processes stall each other."""
import os

os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch  # noqa: E402

torch.set_num_threads(1)
