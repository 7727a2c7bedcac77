"""The base of the ablations, ViT-L/16, 800 epochs, raw pixels: 84.9 fine-tuning, 73.5 linear (Table 1, `paper`).

The rows of the tables in this folder change it; so does tools/ablate.py.
Run: bash tools/dist_train.sh configs/ablation/vit_l16.py 64      # 64 GPUs x 64 images; 42 h on V100 (`release`)
     python tools/ablate.py configs/ablation/decoder_depth.py --gpus 8
"""
_base_ = '../pretrain/vit_l16_800e.py'
model = dict(norm_pix_loss=False, mask_sampling='random', mask_token=False, loss_on='masked', loss_type='l2')
transfers = dict(  # read by tools/ablate.py
    finetune='configs/ablation/finetune_vit_l16.py', linear='configs/linear/vit_l16_in1k.py')
