"""A LightningModule that trains a timm model with MultiMix: `pip install lightning`.

    python examples/lightning_module.py IMAGES --model resnet18 --epochs 20

The task is part of the module, so the features and the head run inside the forward that Lightning's DDP wraps. From a
checkpoint of Lightning, `MultiMixModule.load_from_checkpoint(PATH, model=timm.create_model(...),
mode='dense-multimix').model` is the plain timm model.
"""
import argparse

import lightning
import timm
import torch
from timm.data import create_dataset, create_transform, resolve_data_config
from torch.utils.data import DataLoader

from timm_multimix import MultiMixTask


class MultiMixModule(lightning.LightningModule):
    """A timm model with MultiMix.

    Args:
        model: A timm model.
        lr: Learning rate.
        **multimix: Arguments of `MultiMixTask`, such as `mode`, `alpha` or `mixup_alpha`.
    """

    def __init__(self, model, lr=1e-3, **multimix):
        super().__init__()
        self.task = MultiMixTask(model, **multimix)
        self.lr = lr

    @property
    def model(self):
        """The plain timm model."""
        return self.task.get_eval_model()

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_index):
        images, labels = batch
        result = self.task(images, labels)
        self.log('loss', result['loss'].detach(), prog_bar=True)
        self.log_dict(self.task.input_mixing.metrics())  # with strength='auto': strength, and the accuracy it follows
        if not result.get('input_mixed'):   # logits of mixed images do not belong to these labels
            self.log('accuracy', (result['output'].argmax(dim=1) == labels).float().mean(), prog_bar=True)
        return result['loss']

    def validation_step(self, batch, batch_index):
        images, labels = batch
        logits = self(images)
        self.log_dict({
            'validation_loss': torch.nn.functional.cross_entropy(logits, labels),
            'validation_accuracy': (logits.argmax(dim=1) == labels).float().mean(),
        }, prog_bar=True, sync_dist=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.lr, weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.estimated_stepping_batches)
        return {'optimizer': optimizer, 'lr_scheduler': {'scheduler': schedule, 'interval': 'step'}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', help='folder with train and validation, each with a folder of images per class')
    parser.add_argument('--model', default='resnet18', help='timm model')
    parser.add_argument('--image-size', type=int, help="default: the model's own")
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--accelerator', default='auto')
    parser.add_argument('--output', default='model.pth', help='checkpoint to write')
    args = parser.parse_args()

    classes = create_dataset('', args.images, 'train').reader.class_to_idx  # in timm's order, also for validation
    model = timm.create_model(args.model, num_classes=len(classes))
    config = resolve_data_config(dict(img_size=args.image_size), model=model)
    train_loader, validation_loader = (
        DataLoader(
            create_dataset(
                '', args.images, split, class_map=classes,
                transform=create_transform(**config, is_training=split == 'train')),
            args.batch_size, shuffle=split == 'train', num_workers=args.workers)
        for split in ('train', 'validation'))
    module = MultiMixModule(model, mode='dense-multimix', input_size=config['input_size'])
    trainer = lightning.Trainer(
        max_epochs=args.epochs, accelerator=args.accelerator, logger=False, enable_checkpointing=False)
    trainer.fit(module, train_loader, validation_loader)
    print({name: round(value.item(), 3) for name, value in trainer.callback_metrics.items()})
    torch.save(
        {'arch': args.model, 'class_names': [*classes], 'state_dict': module.model.state_dict()}, args.output)


if __name__ == '__main__':
    main()
