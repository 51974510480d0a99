"""One batch out of the batches of all processes."""
import torch
import torch.distributed
from torch.distributed.nn.functional import all_gather


def gather_batches(tensor: torch.Tensor) -> torch.Tensor:
    """`[b, ...]` of every process, joined to `[world * b, ...]` in order of rank, the same in all of them.

    Gradients go back to the process that a row came from, summed over the processes. The tensor itself where there is
    no process group.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    if tensor.requires_grad:
        return torch.cat(all_gather(tensor.contiguous()))
    gathered = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(gathered, tensor.contiguous())
    return torch.cat(gathered)
