"""Draw the masks of each sampler over images: random, block-wise (as in BEiT) and grid (MAE, Figure 6)."""

import argparse

EXAMPLES = """example:
  python tools/visualize_masks.py data/demo/flat/val --num 3 --out masks.png
  python tools/visualize_masks.py cat.jpg --size 96 192 --patch-size 8 --out masks.png"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('images', nargs='+', metavar='image', help='image files, or folders of them')
    parser.add_argument('--out', required=True, metavar='PNG', help='where to write the panel')
    parser.add_argument('--num', type=int, default=3, help='images from each folder, in sorted order (default: 3)')
    parser.add_argument('--size', type=int, nargs='+', default=[112],
                        help='side of the images, or their height and width, in pixels (default: 112)')
    parser.add_argument('--patch-size', type=int, default=8, help='side of a patch in pixels (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the masks (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.visualization.panels import load_images, masks_panel
    from mae_mm.visualization.pictures import check_output, list_images, save

    def draw() -> None:
        check_output(args.out, args.images)
        size = args.size * 2 if len(args.size) == 1 else args.size
        pipeline = [dict(type='mae_mm.LoadResizeCenterCrop', size=size)]
        imgs = load_images(pipeline, list_images(args.images, args.num))
        save(masks_panel(imgs, args.patch_size, args.seed), args.out)
        print(f'{len(imgs)} image{"s" * (len(imgs) > 1)} of {size[0]}x{size[1]} px -> {args.out}')

    exit_on_user_error(draw)


if __name__ == '__main__':
    main()
