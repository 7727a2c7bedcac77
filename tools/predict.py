"""Predict with a trained model: classes, boxes and masks, label maps, or reconstructions, by the config's task."""

import argparse
import sys

from mae_mm.engine.options import KeyValues

EPILOG = """\
The task is that of the config. DIR receives a picture of the same name for each image, and predictions.csv:
  classification   the most probable classes below the image        image, rank, class, score
  detection        boxes, masks, classes and scores                 image, class, score, left, top, right, bottom
  segmentation     image, truth (if it is in the test data), and    image, class, share of the pixels
                   prediction as colours
  pre-training     original, masked, reconstruction (no table); tools/visualize.py has more options

Large images (segmentation, --tiles): GeoTIFF, pyramids and slides of any size, in windows that overlap and in little
memory. DIR receives a map of classes as a GeoTIFF with the same georeference, and a small picture (docs/pixels.md).

Images that cannot be read are listed, and the exit code is 1.

examples:
  python tools/predict.py configs/demo/classification.py work_dirs/demo/classification/epoch_14.pth \\
      data/demo/flat/val --out work_dirs/predictions
  python tools/predict.py configs/demo/detection.py work_dirs/demo/detection/iter_1700.pth data/demo/coco/val2017 \\
      --out work_dirs/detections --side 240 --panel panel.jpg
  python tools/predict.py configs/demo/segmentation_multiband.py CHECKPOINT scene.tif --out maps --tiles 512
  python tools/predict.py CONFIG CHECKPOINT street.jpg --out DIR --device cuda --cfg-options \\
      test_dataloader.dataset.pipeline.1.scale=(1333,800) model.data_preprocessor.pad_size_divisor=32
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config that the model was trained with')
    parser.add_argument('checkpoint', help='checkpoint written by tools/train.py, e.g. work_dirs/NAME/epoch_N.pth')
    parser.add_argument('images', nargs='+', metavar='image', help='image files, or folders of them')
    parser.add_argument('--out', required=True, metavar='DIR', help='output folder, not one that holds the images')
    parser.add_argument('--num', type=int, default=8, help='images from each folder, in sorted order (default: 8)')
    parser.add_argument('--top-k', type=int, default=5, help='classes listed for a classifier (default: %(default)s)')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score of a detection (default: 0.3)')
    parser.add_argument('--side', type=int, default=0, metavar='PIXELS',
                        help='longer side of the image in the picture; small values cut the labels '
                        "(default: the image's own size; 1000 with --tiles)")
    parser.add_argument('--tiles', type=int, nargs='?', const=0, metavar='PIXELS',
                        help='segment images of any size in windows of so many pixels, in their own resolution, and '
                        "write GeoTIFFs (default without a number: the config's crop_size)")
    parser.add_argument('--overlap', type=float, default=0.25,
                        help='share of a window that the next one covers, too (default: %(default)s)')
    parser.add_argument('--batch-size', type=int, default=8, help='windows at a time (default: %(default)s)')
    parser.add_argument('--panel', metavar='FILE', help='also write all pictures into one file')
    parser.add_argument('--device', default='cpu', help="e.g. 'cuda' (default: %(default)s)")
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.visualization.predict import predict

    def run() -> None:
        files, skipped = predict(**vars(args))
        print(*files, sep='\n')
        if skipped:
            print(f'no prediction for {len(skipped)} of the images:', *skipped, sep='\n  ', file=sys.stderr)
            raise SystemExit(1)

    exit_on_user_error(run)


if __name__ == '__main__':
    main()
