"""Communication between the processes of a run."""
import torch
import torch.distributed as dist
import torch.nn as nn


def has_process_group() -> bool:
    """Return whether processes of this run can communicate."""
    return dist.is_available() and dist.is_initialized()


def num_processes() -> int:
    """Return the number of processes of this run; 1 without a process group."""
    return dist.get_world_size() if has_process_group() else 1


def synchronizes(model: nn.Module) -> bool:
    """Return whether a forward has collective operations, so that all processes must run it equally often."""
    return any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())


def gather_batches(tensor: torch.Tensor) -> torch.Tensor:
    """Join the `[b, ...]` of all processes to `[world * b, ...]` in order of rank, the same in all of them.

    Gradients are summed over the processes and go back to the process that a row came from. With one process, the
    tensor is returned unchanged.
    """
    return tensor if num_processes() == 1 else _Gather.apply(tensor)


def agree(number: int, device: torch.device) -> int:
    """Return the number of the first process, in all of them."""
    agreed = torch.tensor(number, device=device)
    dist.broadcast(agreed, src=0)
    return int(agreed)


class _Gather(torch.autograd.Function):
    """An all-gather with gradient for any backend; gloo has no reduce-scatter."""

    @staticmethod
    def forward(ctx, tensor):
        tensor = tensor.contiguous()
        gathered = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(gathered, tensor)
        return torch.cat(gathered)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)  # all_reduce writes into it
        dist.all_reduce(grad)
        return grad.chunk(dist.get_world_size())[dist.get_rank()]
