"""Fine-tuning of ViT-H/14 from raw pixels (Tables 2 and 7).

Drop path is 0.2 (Table 9, `paper`), not the 0.3 that goes with normalised pixels (`release`).
Run: bash tools/dist_train.sh configs/ablation/finetune_vit_h14.py 32 --pretrained CHECKPOINT    # 32 GPUs x 32 images
"""
_base_ = '../classification/vit_h14_in1k.py'
model = dict(backbone=dict(drop_path_rate=0.2))
