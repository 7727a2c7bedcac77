"""Fine-tuning on ImageNet-1K at 448 px, ViT-H/14.

lr, epochs and drop path were not published: those of 224 px (`ours`).
The 1,024 tokens of an image take five times the memory. Test images are resized to 448 px and not cropped (`release`).
Run: bash tools/dist_train.sh configs/classification/vit_h14_in1k_448px.py 64 --pretrained CHECKPOINT   # 64 x 16 images
"""
_base_ = './vit_h14_in1k.py'
model = dict(backbone=dict(img_size=448))
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(scale=448)  # RandomResizedCrop
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(scale=448)  # ResizeEdge
test_pipeline[2].update(crop_size=448)  # CenterCrop
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
