"""Lets mmengine's own checkpoints be read in this process, for tools of mmdet, mmseg and mmpretrain.

torch 2.6 and newer refuse the `HistoryBuffer` in them. The recipes import this module by `custom_imports`.
"""

from mae_mm.checkpoint.files import allow_mmengine_objects

allow_mmengine_objects()
