"""Multi-scale test of upernet_vit_b_ade20k.py: the mean of 6 scales (0.5 … 1.75), each with its mirror image (`ours`).

Run: python tools/test.py configs/segmentation/upernet_vit_b_ade20k_ms.py TRAINED_CHECKPOINT
"""
_base_ = './upernet_vit_b_ade20k.py'
model = dict(_delete_=True, type='SegTTAModel', module=_base_.model)
test_dataloader = dict(dataset=dict(pipeline=_base_.tta_pipeline))
