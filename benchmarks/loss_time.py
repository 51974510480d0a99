"""Time and memory of the dense loss against the literal equations, in one process: `python -m benchmarks.loss_time`.

Time: forward and backward from embeddings and classifier to the loss, both from the same Λ, in turn, medians over
repeats; literal means the mixed embeddings through the classifier. Memory: the highest resident set of a fresh process
during forward and backward of MultiMixLoss, sampling included, over what it was before.
"""
import argparse
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

from timm_multimix import MultiMixLoss, functional

from .results import write_result

BATCH_SIZE, WIDTH, CLASSES, TUPLES, POSITIONS, ALPHA = 32, 2048, 1000, 1000, 9, 0.5


def literal_loss(embeddings, weight, bias, target, lam):
    """Dense MultiMix as it is written: mixed embeddings `[r, n, d]`, mixed targets, the classifier on each."""
    mixed = lam @ embeddings.transpose(0, 1)
    mixed_target = lam @ F.one_hot(target, weight.shape[0]).to(embeddings.dtype)
    logits = F.linear(mixed, weight, bias)
    return -(mixed_target * logits.log_softmax(dim=-1)).sum(dim=-1).mean()


def fast_loss(embeddings, weight, bias, target, lam):
    return functional.mixed_cross_entropy(F.linear(embeddings, weight, bias), target, lam)


def measure_time(repeats: int, seed: int) -> dict:
    torch.manual_seed(seed)
    inputs = [
        torch.randn(BATCH_SIZE, POSITIONS, WIDTH, requires_grad=True),
        (torch.randn(CLASSES, WIDTH) / WIDTH ** 0.5).requires_grad_(),
        torch.zeros(CLASSES, requires_grad=True),
    ]
    target = torch.randint(CLASSES, (BATCH_SIZE,))
    lam = functional.sample_dirichlet(TUPLES, BATCH_SIZE, ALPHA, positions=POSITIONS)
    losses, grads, times = {}, {}, {'literal': [], 'fast': []}
    for repeat in range(repeats + 1):
        for name, loss_fn in (('literal', literal_loss), ('fast', fast_loss)):
            start = time.perf_counter()
            loss = loss_fn(*inputs, target, lam)
            grads[name] = torch.autograd.grad(loss, inputs)
            if repeat:  # the first is a warm-up
                times[name].append(time.perf_counter() - start)
            losses[name] = loss.item()
    difference = max(
        ((a - b).abs().max() / b.abs().max()).item() for a, b in zip(grads['fast'], grads['literal']))
    ratios = sorted(literal / fast for literal, fast in zip(times['literal'], times['fast']))
    return dict(
        literal_s=statistics.median(times['literal']),
        fast_s=statistics.median(times['fast']),
        ratio=statistics.median(ratios),
        ratio_min=ratios[0],
        ratio_max=ratios[-1],
        loss=losses,
        max_relative_gradient_difference=difference,
    )


def measure_memory(num_tuples: int, threads: int) -> float:
    """Peak extra memory in MiB, in a process of its own."""
    command = [sys.executable, '-m', 'benchmarks.loss_time', '--memory-of', str(num_tuples), '--threads', str(threads)]
    # what is freed goes back to the system at once, so the resident set is what is in use
    environ = dict(os.environ, MALLOC_MMAP_THRESHOLD_='65536', MALLOC_TRIM_THRESHOLD_='0')
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout)


def print_memory(num_tuples: int) -> None:
    logits = torch.randn(BATCH_SIZE, POSITIONS, CLASSES, requires_grad=True)
    target = torch.randint(CLASSES, (BATCH_SIZE,))
    MultiMixLoss(num_tuples=10)(logits, target).backward()  # what libraries take once
    logits.grad = None
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')  # resets the peak
    before = _status('VmRSS')
    MultiMixLoss(num_tuples=num_tuples)(logits, target).backward()
    print((_status('VmHWM') - before) / 1024.)


def _status(name: str) -> int:
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--output', default='', help='JSON file to write')
    parser.add_argument('--memory-of', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        return print_memory(args.memory_of)

    times = measure_time(args.repeats, args.seed)
    memory = {n: measure_memory(n, args.threads) for n in (1000, 10_000)}
    print(f'b={BATCH_SIZE} d={WIDTH} c={CLASSES} n={TUPLES} r={POSITIONS}, {args.threads} threads, '
          f'forward + backward, median of {args.repeats}')
    print(f'literal {times["literal_s"]:.3f} s, fast {times["fast_s"]:.3f} s: {times["ratio"]:.1f} times faster '
          f'({times["ratio_min"]:.1f} to {times["ratio_max"]:.1f})')
    ratio = memory[10_000] / memory[1000]
    print(f'peak extra memory: n=1,000 {memory[1000]:.1f} MiB, n=10,000 {memory[10_000]:.1f} MiB, ratio {ratio:.2f}')
    if args.output:
        settings = dict(
            batch_size=BATCH_SIZE, width=WIDTH, classes=CLASSES, tuples=TUPLES, positions=POSITIONS, alpha=ALPHA,
            repeats=args.repeats, threads=args.threads, seed=args.seed)
        memory = dict(mib={str(n): m for n, m in memory.items()}, ratio=ratio)
        write_result(args.output, 'loss_time', settings, dict(time=times, memory=memory))


if __name__ == '__main__':
    main()
