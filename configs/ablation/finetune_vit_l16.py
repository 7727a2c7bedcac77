"""Fine-tuning of ViT-L/16 from raw pixels (MAE, Table 1, `paper`).

Drop path is 0.1 (Table 9, `paper`), not the 0.2 that goes with normalised pixels (`release`).
Run: bash tools/dist_train.sh configs/ablation/finetune_vit_l16.py 16 --pretrained CHECKPOINT    # 16 GPUs x 64 images
"""
_base_ = '../classification/vit_l16_in1k.py'
model = dict(backbone=dict(drop_path_rate=0.1))
