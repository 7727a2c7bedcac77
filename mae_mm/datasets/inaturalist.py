"""iNaturalist, from the json files of its competitions."""

import os
from collections.abc import Iterable

from mae_mm.datasets.limits import read_json
from mae_mm.datasets.listed_images import ListedImages
from mae_mm.registry import DATASETS


@DATASETS.register_module()
class INaturalist(ListedImages):
    """iNaturalist 2017 (5,089 classes), 2018 (8,142) or 2019 (1,010), laid out as its archives unpack.

    The label of an image is the rank of its `category_id` among all ids, so train and val agree although their files
    list the categories in any order; in the official files, whose ids run from 0, the label is the id. The names of
    2018 and 2019 were published later: put their `categories.json` beside the annotations.
    """

    LAYOUT = (
        'ROOT/train2018.json, ROOT/val2018.json, ROOT/train_val2018/<super category>/<category>/*.jpg '
        '(2017: train_val_images/; 2018, 2019: categories.json for the names)')

    def __init__(self, data_root: str, year: int = 2018, split: str = 'train', **kwargs) -> None:
        super().__init__(ann_file=f'{split}{year}.json', data_root=data_root, **kwargs)

    def read(self) -> tuple[list[str], str, Iterable[tuple[str, int]]]:
        content = read_json(self.found(self.ann_file))
        published = os.path.join(os.path.dirname(self.ann_file), 'categories.json')
        try:
            categories = {category['id']: str(category['name']) for category in content['categories']}
            if os.path.exists(published):
                categories |= {category['id']: str(category['name']) for category in read_json(published)
                               if category['id'] in categories}
            labels = {category_id: label for label, category_id in enumerate(sorted(categories))}
            names = {image['id']: image['file_name'] for image in content['images']}
            listed = [(names[a['image_id']], labels[a['category_id']]) for a in content['annotations']]
        except (KeyError, TypeError) as error:
            raise ValueError(f'{self.ann_file}: an entry is missing or malformed ({error!r}); give the official train '
                             'or val file (test files have no labels)') from error
        return [categories[i] for i in sorted(categories)], self.data_prefix['img_path'], listed
