#!/bin/sh
# Fine-tune a model from a file of pretrained weights on a folder of images, with Dense MultiMix.
#
#     sh examples/finetune.sh IMAGES WEIGHTS MODEL [more flags of train_timm.py]
#     sh examples/finetune.sh pets resnet50.safetensors resnet50 --amp --amp-dtype bfloat16
#
# IMAGES has the folders train and validation, each with a folder of images per class; WEIGHTS is a checkpoint of MODEL
# with any number of classes: its classifier is replaced.
set -eu
if [ $# -lt 3 ]; then
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
images=$1 weights=$2 model=$3
shift 3
exec python train_timm.py --data-dir "$images" --model "$model" --pretrained-path "$weights" \
    --num-classes "$(find "$images/train" -mindepth 1 -maxdepth 1 -type d ! -name '.*' | wc -l | tr -d ' ')" \
    --mixup-mode dense-multimix \
    --opt adamw --lr 1e-4 --weight-decay 0.05 --sched cosine --epochs 20 --warmup-epochs 2 --batch-size 64 "$@"
