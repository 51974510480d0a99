"""Train a timm model with MultiMix in the Trainer of transformers: `pip install transformers accelerate`.

    python examples/hf_trainer.py IMAGES --model resnet18 --epochs 20

The Trainer expects 'loss' and 'logits' from a model. In eval mode the task's loss is plain cross-entropy, so that
`eval_loss` can be compared with other methods. Leave `label_smoothing_factor` of TrainingArguments at 0, or the Trainer
computes its own loss; use `label_smoothing` of `MultiMixTask` instead.
"""
import argparse

import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from transformers import Trainer, TrainingArguments

from timm_multimix import MultiMixTask


class MultiMixForTrainer(torch.nn.Module):
    """A timm model with MultiMix, in the form that the Trainer expects.

    Args:
        model: A timm model.
        **multimix: Arguments of `MultiMixTask`, such as `mode`, `alpha` or `mixup_alpha`.
    """

    def __init__(self, model, **multimix):
        super().__init__()
        self.task = MultiMixTask(model, **multimix)

    def forward(self, pixel_values, labels):
        result = self.task(pixel_values, labels)
        return {'loss': result['loss'], 'logits': result['output']}


def collate(examples):
    return {
        'pixel_values': torch.stack([image for image, _ in examples]),
        'labels': torch.tensor([label for _, label in examples]),
    }


def accuracy(prediction):
    return {'accuracy': float((prediction.predictions.argmax(axis=-1) == prediction.label_ids).mean())}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', help='folder with train and validation, each with a folder of images per class')
    parser.add_argument('--model', default='resnet18', help='timm model')
    parser.add_argument('--image-size', type=int, help="default: the model's own")
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--cpu', action='store_true', help='train on the CPU even if there is a GPU')
    parser.add_argument('--output', default='model.pth', help='checkpoint to write')
    args = parser.parse_args()

    classes = create_dataset('', args.images, 'train').reader.class_to_idx  # in timm's order, also for validation
    model = timm.create_model(args.model, num_classes=len(classes))
    config = resolve_data_config(dict(img_size=args.image_size), model=model)
    train_set, validation_set = (
        create_dataset(
            '', args.images, split, class_map=classes,
            transform=create_transform(**config, is_training=split == 'train'))
        for split in ('train', 'validation'))
    trainer = Trainer(
        model=MultiMixForTrainer(model, mode='dense-multimix', input_size=config['input_size']),
        args=TrainingArguments(
            output_dir='trainer', num_train_epochs=args.epochs, per_device_train_batch_size=args.batch_size,
            per_device_eval_batch_size=args.batch_size, learning_rate=1e-3, weight_decay=0.05,
            lr_scheduler_type='cosine', dataloader_num_workers=args.workers, use_cpu=args.cpu,
            remove_unused_columns=False, label_names=['labels'], eval_strategy='epoch', save_strategy='no',
            report_to='none'),
        train_dataset=train_set,
        eval_dataset=validation_set,
        data_collator=collate,
        compute_metrics=accuracy,
    )
    trainer.train()
    torch.save({'arch': args.model, 'class_names': [*classes], 'state_dict': model.state_dict()}, args.output)


if __name__ == '__main__':
    main()
