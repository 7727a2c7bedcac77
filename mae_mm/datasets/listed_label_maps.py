"""Images with label maps, from a list of both: folders and file types of any kind."""

import os

from mmengine.dataset import BaseDataset

from mae_mm.registry import DATASETS


@DATASETS.register_module()
class ListedLabelMaps(BaseDataset):
    """Images and label maps that `ann_file` lists, a line 'image<tab>label map' for each, relative to `data_root`.

    A sample is what mmseg's pipelines take: `dict(img_path, seg_map_path, …)`.
    """

    def load_data_list(self) -> list[dict]:
        with open(self.ann_file, encoding='utf-8', errors='surrogateescape') as file:
            pairs = [line.rstrip('\n').split('\t') for line in file]
        return [dict(img_path=os.path.join(self.data_root, image), seg_map_path=os.path.join(self.data_root, label_map),
                     label_map=None, reduce_zero_label=False, seg_fields=[]) for image, label_map in pairs]
