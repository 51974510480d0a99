"""The output folder of a run: where it is, and what it holds."""
import argparse
import json
import logging
import math
import os
from datetime import datetime
from typing import Any, Dict, List, Optional

from timm.models import safe_model_name
from timm.utils import get_outdir
from torch.utils.data import Dataset

from .checkpoints.resume import DEFAULT_OUTPUT
from .checkpoints.saver import AtomicCheckpointSaver
from .cli.multimix import resolved
from .cli.parser import args_text
from .data.classes import class_names, write_classes
from .errors import RunFailed
from .loop import Training
from .records import Summary, Tracker

_logger = logging.getLogger('train')


class Output:
    """Checkpoints, args.yaml, classes.txt and summary.csv in this run's folder; on the primary process only.

    `checkpoint` is the path of the resumed one, if any.
    """

    def __init__(self, training: Training, dataset: Dataset, image_size: int, start_epoch: int, checkpoint: str = ''):
        self.args = args = training.args
        names = class_names(dataset)
        name = args.experiment or '-'.join(
            [datetime.now().strftime('%Y%m%d-%H%M%S'), safe_model_name(args.model), str(image_size)])
        root = args.output or DEFAULT_OUTPUT
        here = os.path.join(root, name)
        continued = bool(checkpoint) and os.path.realpath(os.path.dirname(checkpoint)) == os.path.realpath(here)
        # a run never writes into another run's folder; with --resume auto the folder is always its own
        self.folder = get_outdir(root, name, inc=not (continued or args.resume == 'auto'))
        if self.folder != here:
            _logger.warning(f'{here} belongs to another run; this run is in {self.folder}.')
        self.summary = Summary(os.path.join(self.folder, 'summary.csv'), start_epoch)
        self.results: List[Dict[str, Any]] = []
        self.tracker = Tracker(args, name, self.folder, start_epoch)
        settings = resolved(training.task)
        self.saver = AtomicCheckpointSaver(
            model=training.task.get_eval_model(), optimizer=training.optimizer, task=training.task,
            args=argparse.Namespace(**{**vars(args), **settings}, class_names=names),
            amp_scaler=training.runtime.loss_scaler, checkpoint_dir=self.folder, recovery_dir=self.folder,
            decreasing=args.eval_metric == 'loss', max_history=args.checkpoint_hist, schedule=training.schedule)
        if continued:
            self.saver.load_state_dict_from_checkpoint(checkpoint)
        with open(os.path.join(self.folder, 'args.yaml'), 'w', encoding='utf-8') as file:
            file.write(args_text(args, **settings))
        write_classes(self.folder, names)

    def add_epoch(
            self, epoch: int, train_metrics: Dict[str, float], eval_metrics: Optional[Dict[str, float]], lr: float,
    ) -> None:
        """Write the epoch's row and checkpoint; --eval-metric ranks the checkpoint if the epoch was validated."""
        eval_metrics = eval_metrics or {}
        metric = eval_metrics.get(self.args.eval_metric)
        values = {f'train_{name}': value for name, value in train_metrics.items()}
        values.update({f'eval_{name}': value for name, value in eval_metrics.items()}, lr=lr)
        self.summary.add_epoch(epoch, values)
        if metric is not None and not math.isfinite(metric):
            _logger.warning(f'The metric of epoch {epoch} is {metric}: its checkpoint is not ranked.')
            metric = None
        self.saver.save_checkpoint(epoch, metric=metric)
        if epoch + 1 in (self.args.save_epochs or ()):
            self.saver.save_milestone(epoch + 1)
        if not self.saver.failure:
            self.saver.remove_recoveries()
        self.tracker.add_epoch(epoch, values)  # last: a resumed run does not repeat it
        validation = {'validation': eval_metrics} if eval_metrics else {}
        self.results.append(dict(epoch=epoch, train=train_metrics, **validation))

    def close(self) -> None:
        """Print the ten best epochs as JSON after '--result', log the best, and raise a RunFailed if data was lost."""
        if self.summary.waiting:
            self.summary.write()
        self.tracker.close()
        eval_metric = self.args.eval_metric
        sign = -1. if self.saver.decreasing else 1.
        ranked = sorted(
            self.results, key=lambda result: sign * result.get('validation', {}).get(eval_metric, -sign * math.inf))
        print(f'--result\n{json.dumps(ranked[-10:], indent=4)}', flush=True)
        best = os.path.join(self.folder, 'model_best.pth.tar')
        if self.saver.best_metric is not None and os.path.exists(best):
            metric = f'{eval_metric} {self.saver.best_metric:.4g} (epoch {self.saver.best_epoch})'
            _logger.info(f'*** Best metric: {metric}, in {best}')
        if self.saver.failure:
            raise RunFailed(
                f'the last checkpoint was not written: {self.saver.failure}. The one before it is complete; '
                f'--resume continues from there.')
        if self.summary.waiting:
            raise RunFailed(f'{self.summary.path} lacks {self.summary.waiting} rows, which could not be written')
