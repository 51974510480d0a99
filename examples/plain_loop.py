"""Train a timm model on a folder of images with Dense MultiMix, in a plain PyTorch loop.

    python examples/plain_loop.py IMAGES --model resnet18 --epochs 20 --output resnet18.pth

IMAGES has the folders train and validation, each with a folder of images per class.
"""
import argparse

import timm
import torch
from timm.data import create_dataset, create_loader, resolve_data_config

from timm_multimix import MultiMixTask


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', help='folder of images')
    parser.add_argument('--model', default='resnet18', help='timm model')
    parser.add_argument('--image-size', type=int, help="default: the model's own")
    parser.add_argument('--epochs', type=int, default=20)
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--output', default='model.pth', help='checkpoint to write')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args()


@torch.no_grad()
def evaluate(model, loader):
    model.eval()
    correct = total = 0
    for images, labels in loader:
        correct += (model(images).argmax(dim=1) == labels).sum().item()
        total += len(labels)
    return correct / total


def main():
    args = parse_args()
    device = torch.device(args.device)
    train_set = create_dataset('', root=args.images, split='train', is_training=True)
    classes = train_set.reader.class_to_idx
    validation_set = create_dataset('', root=args.images, split='validation', class_map=classes)
    model = timm.create_model(args.model, num_classes=len(classes)).to(device)
    config = resolve_data_config(dict(img_size=args.image_size), model=model)
    shared = dict(
        input_size=config['input_size'], mean=config['mean'], std=config['std'], batch_size=args.batch_size,
        num_workers=args.workers, device=device)
    train_loader = create_loader(train_set, is_training=True, **shared)
    validation_loader = create_loader(validation_set, crop_pct=config['crop_pct'], **shared)

    task = MultiMixTask(model, mode='dense-multimix', input_size=config['input_size'], device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(train_loader))
    for epoch in range(args.epochs):
        task.train()
        loss_sum = correct = total = 0
        for images, labels in train_loader:
            result = task(images, labels)   # 'loss', and 'output', the logits of the images
            optimizer.zero_grad()
            result['loss'].backward()
            optimizer.step()
            schedule.step()
            loss_sum += result['loss'].item()
            if not result.get('input_mixed'):   # logits of mixed images do not belong to these labels
                correct += (result['output'].argmax(dim=1) == labels).sum().item()
                total += len(labels)
        print(
            f'epoch {epoch}: loss {loss_sum / len(train_loader):.3f}, accuracy {correct / max(total, 1):.3f}, '
            f'validation accuracy {evaluate(model, validation_loader):.3f}', flush=True)

    # a plain timm checkpoint: timm.create_model(NAME, num_classes=..., checkpoint_path=FILE) reads it
    torch.save({'arch': args.model, 'class_names': [*classes], 'state_dict': model.state_dict()}, args.output)
    print(f'wrote {args.output}')


if __name__ == '__main__':
    main()
