"""Pack a folder of images into tars for `mae_mm.ImageTar`: few large files instead of many small ones."""

import argparse

EXAMPLES = """example:
  python tools/pack_tar.py data/imagenet/train data/imagenet_tar/train
  python tools/train.py configs/mae_pretrain.py --cfg-options \\
      train_dataloader.dataset.type=mae_mm.ImageTar train_dataloader.dataset.data_root=data/imagenet_tar/train

Files are packed unchanged; run tools/check_dataset.py first to find unreadable ones. Broken links, names that begin
with a dot, and files without an image extension are left out; dots within a name become _. After an interruption, the
same command continues after the last complete tar.

Copy the tars and their .index.npz anywhere; data_root takes any URL of fsspec, e.g. s3://bucket/train (with s3fs), or a
pattern such as 's3://bucket/train/images-0000*.tar'. If you change a tar, delete its index."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='folder of images, flat or nested')
    parser.add_argument('out', help='folder for the tars')
    parser.add_argument('--shard-gb', type=float, default=1.0, help='size of a tar in 10^9 bytes (default: 1)')
    parser.add_argument('--prefix', default='images', help='prefix of the names, PREFIX-000000.tar (default: images)')
    args = parser.parse_args()

    from mae_mm.datasets.pack import pack
    from mae_mm.engine.exits import exit_on_user_error

    def run() -> None:
        shards, images = pack(args.root, args.out, args.shard_gb, args.prefix)
        size = sum(shard.stat().st_size for shard in shards) / 1e9
        print(f'{images} images, {size:.3g} GB, in {len(shards)} tars in {args.out}; use: type=mae_mm.ImageTar '
              f'data_root={args.out}')

    exit_on_user_error(run)


if __name__ == '__main__':
    main()
