"""Fit the principal components of patches that `mae_mm.PCATarget` predicts, on a sample of the training images."""

import argparse

EXAMPLES = """examples:
  python tools/fit_pca.py configs/demo/mae_pretrain_multiband_pca.py
  python tools/train.py configs/demo/mae_pretrain_multiband_pca.py

  python tools/ablate.py configs/ablation/target.py --rows pca --write-config work_dirs/pca_row.py
  python tools/fit_pca.py work_dirs/pca_row.py --out work_dirs/pca.pth
  python tools/train.py work_dirs/pca_row.py --cfg-options model.target.fitted=work_dirs/pca.pth"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='pre-training config, for its images, crops, normalisation and patch size')
    parser.add_argument('--out', metavar='FILE',
                        help='where to write mean and components (default: model.target.fitted of the config)')
    parser.add_argument('--images', type=int, default=5000,
                        help='number of images to sample, 64 patches from each (default: %(default)s)')
    parser.add_argument('--data-root', metavar='FOLDER', help="images (default: the config's)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.checkpoint.files import write_content
    from mae_mm.engine import runner as launch
    from mae_mm.engine.data_check import check_data
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.models import pca
    from mae_mm.registry import MODELS

    def fit() -> None:
        cfg = launch.load_config(args.config)
        MODELS.build(cfg.model)  # tells of mistakes before the images are read
        out = args.out or (cfg.model.get('target') or {}).get('fitted')
        if not out:
            raise ValueError(f'{args.config} sets no model.target.fitted: name a file, --out work_dirs/pca.pth')
        if args.data_root:
            cfg.train_dataloader.dataset.data_root = args.data_root
        check_data(cfg, ('train_dataloader', ))
        basis = pca.fit_to_images(cfg, args.images)
        write_content(basis, out)
        variances = basis['variances']
        for num in (n for n in (1, 8, 32, 96, 192) if n <= len(variances)):
            print(f'{num:>5} of {len(variances)} components hold {variances[:num].sum() / variances.sum():.1%} of the '
                  'variance')
        print(f'-> {out}')

    exit_on_user_error(fit)


if __name__ == '__main__':
    main()
