"""Draw how a pre-trained masked autoencoder reconstructs images."""

import argparse

from mae_mm.engine.options import KeyValues

EPILOG = """\
The panel has a row for each image and these columns:
  original         what the model receives, after the validation pipeline of the config
  75% masked       what the encoder sees
  reconstruction   the prediction of the decoder for every patch; it is trained on the masked patches only. Models of
                   normalised pixels predict contrast, not brightness: each patch is shown with its true mean and
                   standard deviation
  with visible     the reconstruction where it was masked, the original elsewhere
  overlay          (--overlay) half original, half reconstruction in the masked patches, which are outlined: sharp where
                   they agree

CHECKPOINT must contain the decoder, as the files written by pre-training do. Encoders extracted for transfer do not.

examples:
  python tools/visualize.py configs/demo/mae_pretrain.py work_dirs/demo/mae_pretrain/epoch_40.pth \\
      data/demo/flat/val --out panel.png
  python tools/visualize.py CONFIG CHECKPOINT cat.jpg dog.jpg --out harder.png --mask-ratio 0.9 --seed 3
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config that the model was pre-trained with')
    parser.add_argument('checkpoint', help='encoder and decoder, e.g. work_dirs/NAME/epoch_N.pth')
    parser.add_argument('images', nargs='+', metavar='image', help='image files, or folders of them')
    parser.add_argument('--out', required=True, metavar='PNG', help='where to write the panel')
    parser.add_argument('--num', type=int, default=8, help='images from each folder, in sorted order (default: 8)')
    parser.add_argument('--mask-ratio', type=float, help="masked fraction, in (0, 1) (default: the config's)")
    parser.add_argument('--seed', type=int, default=0, help='seed of the masks (default: %(default)s)')
    parser.add_argument('--overlay', action='store_true', help='add the overlay column')
    parser.add_argument('--device', default='cpu', help="e.g. 'cuda' (default: %(default)s)")
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.visualization.panels import visualize

    exit_on_user_error(lambda: visualize(**vars(args)))


if __name__ == '__main__':
    main()
