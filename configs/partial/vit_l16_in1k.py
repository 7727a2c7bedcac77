"""Partial fine-tuning on ImageNet-1K, ViT-L/16: only the last block, or the last K (MAE, Fig. 9, section 4.3, `paper`).

The start is MAE, 800 epochs, raw pixels, hence the drop path of Table 9. The paper chose the epochs for each K from 50,
100 and 200 (appendix A.1); the choices are not published. K = 0.5 is the MLP of the last block. No block is
configs/linear/vit_l16_in1k.py, all 24 are configs/ablation/finetune_vit_l16.py.
Run: bash tools/dist_train.sh configs/partial/vit_l16_in1k.py 16 --pretrained CHECKPOINT \\
         --cfg-options model.backbone.tuned_blocks=4 train_cfg.max_epochs=100    # 16 GPUs x 64 images
     python tools/transfer.py CHECKPOINT --suite partial --epochs 50 100 200 --gpus 8    # every K
"""
_base_ = '../ablation/finetune_vit_l16.py'
model = dict(backbone=dict(tuned_blocks=1))
