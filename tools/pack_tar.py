"""Pack a folder of images into tars for `mae_mm.ImageTar`: few large files instead of many small ones."""

import argparse

EXAMPLES = """example:
  python tools/pack_tar.py data/imagenet/train data/imagenet_tar/train
  python tools/train.py configs/mae_pretrain.py --cfg-options \\
      train_dataloader.dataset.type=mae_mm.ImageTar train_dataloader.dataset.data_root=data/imagenet_tar/train

Copy the tars and their .index.npz anywhere; data_root takes any URL of fsspec, e.g. s3://bucket/train (with s3fs)."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='folder of images, flat or nested')
    parser.add_argument('out', help='folder for the tars')
    parser.add_argument('--shard-gb', type=float, default=1.0, help='size of a tar in 10^9 bytes (default: 1)')
    parser.add_argument('--prefix', default='images', help='of the names: PREFIX-000000.tar (default: images)')
    args = parser.parse_args()

    from mae_mm.datasets.pack import pack
    from mae_mm.launch import exit_on_user_error

    def run() -> None:
        shards = pack(args.root, args.out, args.shard_gb, args.prefix)
        print(f'{len(shards)} tars in {args.out}; use: type=mae_mm.ImageTar data_root={args.out}')

    exit_on_user_error(run)


if __name__ == '__main__':
    main()
