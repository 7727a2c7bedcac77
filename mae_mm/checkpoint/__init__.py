"""The checkpoint contract: every MAE format is read and written, and no loading is silent.

    checkpoint = read_checkpoint('mae_pretrain_vit_base.pth')      # any format, recognised by its keys
    write_checkpoint(checkpoint, 'vit_mae', 'huggingface')
    load_pretrained(model, 'mae_pretrain_vit_base.pth')            # or, in a config:
    init_cfg=dict(type='mae_mm.Pretrained', checkpoint='mae_pretrain_vit_base.pth')
"""

from mae_mm.checkpoint.contents import Checkpoint, read_checkpoint, write_checkpoint
from mae_mm.checkpoint.exact import load_exactly
from mae_mm.checkpoint.files import allow_mmengine_objects
from mae_mm.checkpoint.formats import FORMATS
from mae_mm.checkpoint.loading import LoadReport, Pretrained, load_pretrained

__all__ = [
    'FORMATS', 'Checkpoint', 'LoadReport', 'Pretrained', 'allow_mmengine_objects', 'load_exactly',
    'load_pretrained', 'read_checkpoint', 'write_checkpoint',
]
