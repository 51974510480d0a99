"""Average precision against numbers worked out by hand."""
import pytest
import torch

from benchmarks.detection.data import DetectionDataset, read_voc
from benchmarks.detection.evaluate import average_precision, evaluate

pytest.importorskip('torchmetrics')
pytest.importorskip('pycocotools')
BOX = [10., 10., 50., 50.]


def found(boxes, scores, labels):
    return dict(boxes=torch.tensor(boxes).reshape(-1, 4), scores=torch.tensor(scores), labels=torch.tensor(labels))


def there(boxes, labels, iscrowd=None):
    boxes = torch.tensor(boxes).reshape(-1, 4)
    return dict(
        boxes=boxes, labels=torch.tensor(labels), iscrowd=torch.tensor(iscrowd or [0] * len(labels)),
        area=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def test_an_overlap_counts_at_the_thresholds_below_it():
    # 40 x 33 inside 40 x 40 is an overlap of 0.825: a match at 0.5 to 0.8, seven of ten thresholds
    prediction = found([[10., 10., 50., 43.]], [0.9], [1])
    result = average_precision([prediction], [there([BOX], [1])])
    assert result == pytest.approx(dict(ap=70., ap50=100., ap75=100.), abs=1e-4)
    prediction = found([[10., 10., 50., 37.]], [0.9], [1])  # overlap 0.675: four thresholds
    result = average_precision([prediction], [there([BOX], [1])])
    assert result == pytest.approx(dict(ap=40., ap50=100., ap75=0.), abs=1e-4)


def test_detections_of_the_wrong_class_or_in_empty_images_count_as_mistakes():
    assert average_precision([found([BOX], [0.9], [2])], [there([BOX], [1])])['ap'] == 0.
    # a detection in an image without objects, scored above the hit: precision 1/2 at every recall
    predictions = [found([BOX], [0.95], [1]), found([BOX], [0.9], [1])]
    targets = [there([], []), there([BOX], [1])]
    targets[0]['labels'] = targets[0]['labels'].long()
    assert average_precision(predictions, targets)['ap'] == pytest.approx(50., abs=1e-3)


def test_detections_of_ignored_objects_neither_help_nor_hurt():
    predictions = [found([BOX, [60., 60., 90., 90.]], [0.5, 0.9], [1, 1])]
    counted = average_precision(predictions, [there([BOX, [60., 60., 100., 100.]], [1, 1], [0, 1])])
    assert counted['ap'] == pytest.approx(100.)
    assert average_precision(predictions, [there([BOX], [1])])['ap'] == pytest.approx(50., abs=1e-3)


class Oracle(torch.nn.Module):
    """A detector that returns the right answers, in order of the images."""

    def __init__(self, dataset):
        super().__init__()
        self.answers = [dataset[index][1] for index in range(len(dataset))]
        self.asked = 0

    def forward(self, images):
        answers = self.answers[self.asked:self.asked + len(images)]
        self.asked += len(images)
        return [
            dict(boxes=one['boxes'], labels=one['labels'], scores=torch.ones(len(one['labels']))) for one in answers]


def test_all_images_are_evaluated_in_order(voc_folder):
    dataset = DetectionDataset(read_voc(voc_folder, ('2007:test', '2012:trainval')), train=False)
    for batch_size in (1, 2, 8):
        oracle = Oracle(dataset)
        result = evaluate(oracle, dataset, torch.device('cpu'), batch_size)
        assert oracle.asked == 3 and result == pytest.approx(dict(ap=100., ap50=100., ap75=100.))
