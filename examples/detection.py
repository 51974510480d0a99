"""Fine-tune a trained classifier as the backbone of torchvision's Faster R-CNN, and measure COCO's average precision.

    python examples/detection.py VOC --model resnet50 --checkpoint output/train/RUN/model_best.pth.tar
    python examples/detection.py COCO --train train2017 --test val2017 --model resnet50 --checkpoint model.pth

VOC holds VOCdevkit/VOC2007 and so on; COCO holds the folders of images and annotations/instances_SPLIT.json. The model
is any timm model whose features are maps [b, ch, h, w] of growing stride. Needs torchmetrics and pycocotools.
"""
import argparse

import timm
import torch
import torch.nn as nn
from timm.layers import freeze_batch_norm_2d
from timm.models import load_state_dict
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchmetrics.detection import MeanAveragePrecision
from torchvision.datasets import CocoDetection, VOCDetection
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool
from torchvision.transforms.functional import to_tensor

import timm_multimix.models  # noqa: F401  models for small images, by name

VOC = ('aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant '
       'sheep sofa train tvmonitor').split()


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', help='folder of Pascal VOC or COCO')
    parser.add_argument('--train', nargs='+', default=['2007:trainval', '2012:trainval'], help='YEAR:SET, or a split')
    parser.add_argument('--test', nargs='+', default=['2007:test'])
    parser.add_argument('--model', default='resnet50', help='timm model')
    parser.add_argument('--checkpoint', help='weights of the classifier; without, the backbone starts at random')
    parser.add_argument('--size', type=int, default=800, help='shorter side of the images')
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--batch-size', type=int, default=16)
    parser.add_argument('--lr', type=float, default=0.02, help='for batches of 16')
    parser.add_argument('--workers', type=int, default=4)
    parser.add_argument('--output', default='detector.pth')
    return parser.parse_args()


class Boxes(Dataset):
    """Images `[3, h, w]` in [0, 1] with boxes x0, y0, x1, y1, labels from 1, and whether a box does not count."""

    def __init__(self, root, split, train):
        self.train = train
        if ':' in split:  # VOC counts pixels from 1, and a box includes its last one
            year, image_set = split.split(':')
            self.images, self.num_classes = VOCDetection(root, year=year, image_set=image_set), len(VOC)
            sides = ('xmin', 'ymin', 'xmax', 'ymax')
            self.rows = lambda target: [
                [*(float(entry['bndbox'][side]) - side.endswith('min') for side in sides), VOC.index(entry['name']) + 1,
                 int(entry.get('difficult', 0))] for entry in target['annotation']['object']]
        else:
            self.images = CocoDetection(f'{root}/{split}', f'{root}/annotations/instances_{split}.json')
            labels = {category: index for index, category in enumerate(sorted(self.images.coco.cats), 1)}
            self.num_classes = len(labels)
            self.rows = lambda target: [
                [x, y, x + width, y + height, labels[entry['category_id']], entry['iscrowd']]
                for entry in target for x, y, width, height in [entry['bbox']]]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image, target = self.images[index]
        image = to_tensor(image.convert('RGB'))
        rows = torch.tensor(self.rows(target), dtype=torch.float32).reshape(-1, 6)
        rows = rows[((rows[:, 2:4] - rows[:, :2]) > 0.5).all(dim=1)]
        if self.train:
            rows = rows[rows[:, 5] == 0]
        if self.train and torch.rand(()) < 0.5:
            image = image.flip(-1)
            rows[:, [0, 2]] = image.shape[-1] - rows[:, [2, 0]]
        return image, dict(boxes=rows[:, :4], labels=rows[:, 4].long(), iscrowd=rows[:, 5].long())


class Pyramid(nn.Module):
    """A feature pyramid on the features of a timm model whose stride is at least 4."""

    def __init__(self, name, checkpoint, width=256):
        super().__init__()
        whole, weights = timm.create_model(name, num_classes=0), {}
        self.config = timm.data.resolve_model_data_config(whole)
        if checkpoint:
            state, needed = load_state_dict(checkpoint), whole.state_dict()
            wrong = [key for key in needed if key not in state or state[key].shape != needed[key].shape]
            if wrong:
                raise SystemExit(f'--checkpoint {checkpoint}: {len(wrong)} weights do not fit {name}, as {wrong[0]}')
            weights = dict(pretrained=True, pretrained_cfg_overlay=dict(state_dict=state, source='', url=''))
        strides = timm.create_model(name, features_only=True).feature_info.reduction()
        levels = [i for i, stride in enumerate(strides) if stride >= 4 and stride not in strides[i + 1:]]
        self.features = timm.create_model(name, features_only=True, out_indices=levels, **weights)
        if checkpoint:
            self.features = freeze_batch_norm_2d(self.features)  # few images per batch
        self.strides, self.out_channels = [strides[level] for level in levels], width
        self.fpn = FeaturePyramidNetwork(self.features.feature_info.channels(), width, extra_blocks=LastLevelMaxPool())

    def forward(self, images):
        return self.fpn({str(level): maps for level, maps in enumerate(self.features(images))})


def create_detector(args, num_classes):
    backbone = Pyramid(args.model, args.checkpoint)
    strides = [*backbone.strides, 2 * backbone.strides[-1]]
    anchors = AnchorGenerator(tuple((8 * stride,) for stride in strides), ((0.5, 1., 2.),) * len(strides))
    pool = MultiScaleRoIAlign([str(level) for level in range(len(strides) - 1)], 7, 2)
    return FasterRCNN(
        backbone, num_classes + 1, min_size=args.size, max_size=args.size * 5 // 3, image_mean=backbone.config['mean'],
        image_std=backbone.config['std'], rpn_anchor_generator=anchors, box_roi_pool=pool)


def main():
    args = parse_args()
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    train, test = ([Boxes(args.data, split, splits is args.train) for split in splits]
                   for splits in (args.train, args.test))
    shared = dict(num_workers=args.workers, collate_fn=lambda batch: tuple(zip(*batch)))
    loader = DataLoader(ConcatDataset(train), args.batch_size, shuffle=True, drop_last=True, **shared)
    detector = create_detector(args, train[0].num_classes).to(device)
    optimizer = torch.optim.SGD(detector.parameters(), momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr * args.batch_size / 16, total_steps=args.epochs * len(loader), pct_start=0.1)
    for epoch in range(args.epochs):
        detector.train()
        for images, targets in loader:
            targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
            loss = sum(detector([image.to(device) for image in images], targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f'epoch {epoch}: loss {loss.item():.3f}', flush=True)
        torch.save(detector.state_dict(), args.output)
    detector.eval()
    metric = MeanAveragePrecision()
    with torch.no_grad():
        for images, targets in DataLoader(ConcatDataset(test), args.batch_size, **shared):
            metric.update([{name: value.cpu() for name, value in found.items()} for found in detector(
                [image.to(device) for image in images])], targets)
    print(f'AP {100 * (result := metric.compute())["map"]:.1f}, AP50 {100 * result["map_50"]:.1f}')


if __name__ == '__main__':
    main()
