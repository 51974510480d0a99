"""Training curves of a run as a PNG, from its summary.csv."""
import csv
import os


def plot_curves(summary: str, path: str, title: str = '') -> str:
    """Loss and accuracy by epoch; returns `path`.

    Args:
        summary: The summary.csv of a run.
        path: PNG file to write.
        title: Heading of the figure.
    """
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    with open(summary, newline='') as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row['epoch']) + 1 for row in rows]
    figure, (loss, top1) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    figure.suptitle(title)
    for axis, metric, label in ((loss, 'loss', 'loss'), (top1, 'top1', 'top-1 (%)')):
        for split, name in (('train', 'train'), ('eval', 'held out')):
            points = [(epoch, row.get(f'{split}_{metric}')) for epoch, row in zip(epochs, rows)]
            points = [(epoch, float(value)) for epoch, value in points if value]
            if points:
                axis.plot(*zip(*points), marker='.', label=name)
        axis.set_xlabel('epoch')
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        axis.legend()
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
