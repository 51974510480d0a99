"""Skip and count updates whose gradients are not finite, and end a run with too many of them in a row."""
import logging

import torch
import torch.nn as nn

from .errors import RunFailed

_logger = logging.getLogger('train')


class BadSteps:
    """Keeps gradients of NaN or infinity out of the weights, the optimizer, the averages and the running statistics.

    Only the gradients decide: DDP makes them the same in all processes, so all decide alike. The host never waits for
    an accelerator: there a bad update uses gradients of zero, and the host learns of it when a line is logged. On the
    CPU, where the check costs nothing, and with second-order optimizers, which would differentiate a bad loss again,
    the optimizer and the moving averages are not called at all; nor is the optimizer by the loss scaler of float16.
    `limit` bad updates in a row end the run; 0 for no limit.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, limit: int):
        self.optimizer = optimizer
        self.limit = limit
        device = optimizer.param_groups[0]['params'][0].device
        self.check_on_host = device.type == 'cpu' or getattr(optimizer, 'is_second_order', False)
        self.bad = torch.zeros((), dtype=torch.bool, device=device)
        self._counts = torch.zeros(3, dtype=torch.int64, device=device)  # total, current row, longest row
        self._reported = 0
        self._statistics = [
            buffer for name, buffer in module.named_buffers()
            if name.rpartition('.')[2].startswith(('running_', 'num_batches_tracked'))]
        self._kept = [torch.empty_like(buffer) for buffer in self._statistics]

    @torch.no_grad()
    def begin(self) -> None:
        """Save the running statistics, before the first batch of an update."""
        for kept, statistic in zip(self._kept, self._statistics):
            kept.copy_(statistic)

    @torch.no_grad()
    def check_gradients(self) -> bool:
        """Check the gradients after the backward pass and clear bad ones. False if the optimizer must not step."""
        gradients = [
            parameter.grad for group in self.optimizer.param_groups for parameter in group['params']
            if parameter.grad is not None and parameter.grad.numel()]
        self.bad.zero_()
        if gradients:  # if one value is NaN, so are both extremes
            extremes = torch.stack([extreme for gradient in gradients for extreme in gradient.aminmax()])
            self.bad.copy_(extremes.isfinite().all().logical_not())
        if self.check_on_host:
            return not self.bad
        for gradient in gradients:
            gradient.masked_fill_(self.bad, 0.)
        return True

    @torch.no_grad()
    def end(self) -> bool:
        """Restore the statistics after a bad update, and count it. False if moving averages must not be updated."""
        if not self.check_on_host or self.bad:
            for kept, statistic in zip(self._kept, self._statistics):
                statistic.copy_(torch.where(self.bad, kept, statistic))
        total, row, longest = self._counts.unbind()
        total += self.bad
        row += 1
        row *= self.bad
        torch.maximum(longest, row, out=longest)
        if not self.check_on_host:
            return True
        if self.bad:
            self._stop_at_limit(int(longest))
        return not self.bad

    def report(self) -> None:
        """Warn of updates skipped since the last log line; raise a `RunFailed` if `limit` in a row were bad."""
        total, _, longest = self._counts.tolist()
        if total > self._reported:
            _logger.warning(
                f'Gradients that are not finite: {total - self._reported} updates since the last line were skipped, '
                f'{total} in all.')
            self._reported = total
        self._stop_at_limit(longest)

    def _stop_at_limit(self, longest: int) -> None:
        if self.limit and longest >= self.limit:
            raise RunFailed(
                f'{longest} updates in a row had gradients that are not finite (--max-bad-steps {self.limit}). The '
                f'checkpoints written before are intact. A lower --lr, --clip-grad, a longer warm-up or another '
                f'--amp-dtype may help.')
