"""Measure speed against peers, interleaved in one process."""

import argparse
import json

from mae_mm.engine.options import positive

EXAMPLES = """examples:
  python tools/benchmark.py step --vs mmpretrain                     # ViT-B/16, about 3 minutes on 2 cores
  python tools/benchmark.py step --vs mmpretrain --arch large --batch 64 --device cuda --json step.json
  python tools/benchmark.py loader --vs mmpretrain                   # files to crops, about 2 minutes, one thread
  python tools/benchmark.py loader --vs rasterio --bands 13          # GeoTIFFs of 16 bits; also torchgeo, if installed
  python tools/benchmark.py end2end --vs mmpretrain                  # three epochs of the demo, about 3 minutes
  python tools/benchmark.py detector --sizes 512 1024 --json detector.json   # Mask R-CNN on plain ViTs
  python tools/benchmark.py embed --vs timm                          # files to features, about 5 minutes, one thread
  python tools/benchmark.py busy                                     # steps beside busy processes, about 1 minute
  python tools/benchmark.py table2 --json table2.json                # the paper's Table 2; --device cuda --batch 64"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    step = commands.add_parser('step', help='one training step of MAE (forward, backward, optimizer)')
    step.add_argument('--arch', default='base', choices=['base', 'large', 'huge'],
                      help='size of the ViT (default: base)')
    step.add_argument('--img-size', type=positive, default=224, help='side in pixels (default: 224)')
    step.add_argument('--patch-size', type=positive, default=16, help='side in pixels (default: 16)')
    step.add_argument('--batch', type=positive, default=16, help='images per step (default: 16)')
    step.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    step.add_argument('--decoders', nargs='+', default=['full'], choices=['full', 'partial', 'cross'],
                      help='decoders; partial and cross predict a third of the masked patches (default: full)')
    step.add_argument('--dtypes', nargs='+', default=['float32', 'bfloat16'], choices=['float32', 'bfloat16'])
    step.add_argument('--cpu-time', action='store_true', help='one thread, CPU time instead of the wall clock')
    loader = commands.add_parser('loader', help='reading, decoding and cropping, in CPU time of one thread')
    loader.add_argument('--data', metavar='FOLDER', help='JPEGs to read (default: generated ones of 500x375 pixels)')
    loader.add_argument('--size', type=positive, default=224, help='side of a crop in pixels (default: 224)')
    loader.add_argument('--images', type=positive, default=60, help='number of generated files (default: 60)')
    loader.add_argument('--bands', type=positive, default=13, metavar='N',
                        help='with --vs rasterio: bands of the drawn GeoTIFFs (default: 13)')
    loader.add_argument('--file-size', type=positive, default=512, metavar='PX',
                        help='with --vs rasterio: their side (default: 512)')
    end2end = commands.add_parser('end2end', help='whole training runs of the demo, from files to checkpoint')
    end2end.add_argument('--epochs', type=positive, default=3, help='epochs of each run (default: 3)')
    end2end.add_argument('--dtypes', nargs='+', default=['auto'], choices=['auto', 'float32', 'bfloat16'],
                         help='precisions of ours (default: auto, what the CPU multiplies fast)')
    detector = commands.add_parser('detector', help='forward and backward of Mask R-CNN on a plain ViT: time, memory')
    detector.add_argument('--sizes', type=positive, nargs='+', default=[512, 1024],
                          help='sides in pixels (default: 512 1024)')
    detector.add_argument('--arch', default='base', choices=['tiny', 'small', 'base', 'large', 'huge'],
                          help='size of the ViT (default: base)')
    detector.add_argument('--batch', type=positive, default=1, help='images per step (default: 1)')
    detector.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    embed = commands.add_parser('embed', help='files to features, in CPU time of one thread')
    embed.add_argument('--checkpoint', help='encoder to use, at its own size (default: a random ViT of --arch)')
    embed.add_argument('--arch', default='base', choices=['tiny', 'small', 'base', 'large', 'huge'],
                       help='size of the ViT, with 16-px patches (default: base)')
    embed.add_argument('--img-size', type=positive, default=224, help='side in pixels (default: 224)')
    embed.add_argument('--data', metavar='FOLDER', help='images (default: drawn JPEGs of 500x375 pixels)')
    embed.add_argument('--images', type=positive, default=60, help='number of drawn files (default: 60)')
    embed.add_argument('--batch', type=positive, default=64, help='images at a time (default: 64)')
    busy = commands.add_parser('busy', help='steps of the demo beside busy processes: what spinning threads cost')
    busy.add_argument('--busy', type=int, nargs='+', default=[0, 1, 2], metavar='N',
                      help='numbers of busy processes (default: 0 1 2)')
    table2 = commands.add_parser('table2', help="the paper's wall-clock table: with or without [M], decoder depth")
    table2.add_argument('--archs', nargs='+', default=['large', 'huge'], metavar='ARCH',
                        help='sizes of the ViT (default: large huge)')
    table2.add_argument('--img-size', type=positive, default=224, help='side in pixels (default: 224)')
    table2.add_argument('--batch', type=positive, default=8, help='images per step (default: 8)')
    table2.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    table2.add_argument('--float32', action='store_true', help='compute in float32 (default: bfloat16)')
    for command, rounds in ((step, 7), (loader, 7), (end2end, 3), (detector, 3), (embed, 3), (busy, 15), (table2, 5)):
        peers = ['timm'] if command is embed else ['mmpretrain', *['rasterio'] * (command is loader)]
        command.add_argument('--vs', choices=peers, default=peers[0],
                             help=f'library to compare with (default: {peers[0]})')
        command.add_argument(
            '--rounds', type=positive, default=rounds, help=f'timed rounds of each contestant (default: {rounds})')
        command.add_argument('--minutes', type=float, default=float('inf'),
                             help='begin no round that would end later (default: no limit; 1 round at least)')
        command.add_argument('--json', metavar='FILE', help='also write figures and environment to FILE')
    return parser.parse_args()


def show(timing: tuple[float, float, float], digits: int = 3) -> str:
    median, low, high = timing
    return f'{median:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})'


def main() -> None:
    args = parse_args()
    from mae_mm.engine.exits import exit_on_user_error

    exit_on_user_error(lambda: measure(args))


def measure(args: argparse.Namespace) -> None:
    """Run a benchmark and print its table."""
    import logging

    logging.disable(logging.INFO)  # initialisation and optimizer groups, told once for each contestant
    import torch

    from mae_mm.benchmark.timing import Rounds
    from mae_mm.transfer.tables import environment, markdown_table

    parts = {'detector': 'sizes', 'table2': 'archs', 'busy': 'busy'}  # each has rounds of its own
    rounds = Rounds(args.rounds, args.minutes / len(getattr(args, parts.get(args.command, ''), [0])))
    if getattr(args, 'device', 'cpu') == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda: torch sees no GPU here (make doctor); --device cpu needs none')
    if args.command == 'step':
        import time

        from mae_mm.benchmark.step import DECODERS, attention_kernels, compare_steps

        clock = time.process_time if args.cpu_time else time.perf_counter
        if args.cpu_time:
            torch.set_num_threads(1)
        rows = compare_steps(
            args.arch, args.img_size, args.patch_size, args.batch, rounds, args.device,
            [DECODERS[name] for name in args.decoders], args.dtypes, clock)
        header = ['step', 'dtype', 's/step (quartiles)', 'images/s', 'TFLOP/s', 'of the matmul peak',
                  'times mmpretrain', 'times its float32']
        cells = [[row['name'], row['dtype'], show(row['seconds']), f'{row["images_per_second"]:.1f}',
                  f'{row["tflops"]:.2f}', f'{row["share"]:.0%}', f'{row["ratio"]:.2f}',
                  f'{row["ratio_float32"]:.2f}' if row['ratio_float32'] else '–'] for row in rows]
        title = f'ViT-{args.arch}/{args.patch_size}, {args.img_size} px, batch {args.batch}'
        if args.device == 'cuda':
            kernels = attention_kernels(args.arch, args.img_size, args.patch_size, args.batch)
            title += f'; attention kernels: {", ".join(kernels) or "none found"}'
    elif args.command == 'loader':
        from mae_mm.benchmark.loader import compare_loading

        header = ['loading', 'ms of CPU a crop (quartiles)', f'times {args.vs}']
        if args.vs == 'rasterio':
            from mae_mm.benchmark.bands import compare_bands

            rows = compare_bands(args.size, args.bands, args.images, rounds, args.file_size)
            title = f'drawn GeoTIFFs of {args.file_size} px, {args.bands} bands of 16 bits'
        else:
            rows = compare_loading(args.size, args.images, rounds, args.data)
            title = args.data or 'drawn JPEGs of 500x375 pixels'
        cells = [[row['name'], show(row['ms'], 2), f'{row["ratio"]:.2f}'] for row in rows]
        title += f', crops of {args.size} px, one thread'
    elif args.command == 'detector':
        from mae_mm.benchmark.detector import PARTS, compare_detectors

        rows = compare_detectors(args.arch, args.sizes, args.batch, rounds, args.device)
        header = ['px', 'ViT', *(f'{part}: {what}' for part in PARTS for what in (
            's (quartiles)', 'times faster', 'MB', "of the peer's"))]
        cells = [[row['size'], row['name'], *(cell for part in PARTS for cell in (
            show(row[part]['seconds'], 2), f'{row[part]["speedup"]:.2f}', f'{row[part]["memory_mb"]:.0f}',
            f'{row[part]["memory_ratio"]:.0%}'))] for row in rows]
        title = f'ViT-{args.arch}/16 in Mask R-CNN, batch {args.batch}, float32, forward and backward'
    elif args.command == 'embed':
        from mae_mm.benchmark.embed import compare_embedding

        rows = compare_embedding(
            args.checkpoint, args.arch, args.img_size, args.data, args.images, args.batch, rounds)
        header = ['embedding', 'ms of CPU an image (quartiles)', 'images/s', 'times timm in float32', 'lowest cosine']
        cells = [[row['name'], show(row['ms'], 2), f'{1e3 / row["ms"][0]:.0f}', f'{row["ratio"]:.2f}',
                  f'{row["cosine"]:.4f}'] for row in rows]
        title = f'{args.checkpoint or f"ViT-{args.arch}/16, {args.img_size} px"}, {rows[0]["images"]} files, one thread'
    elif args.command == 'busy':
        from mae_mm.benchmark.busy import compare_busy

        rows = compare_busy(rounds, args.busy)
        header = ['busy processes', 'ms/step as torch is', 'ms/step with mae_mm', 'times faster']
        cells = [[row['busy'], *(show([1e3 * value for value in row['seconds'][name]], 0) for name in row['seconds']),
                  f'{row["ratio"]:.2f}'] for row in rows]
        title = 'demo step, batch 32'
    elif args.command == 'table2':
        from mae_mm.benchmark.table2 import compare_table2

        rows = compare_table2(
            tuple(args.archs), args.img_size, args.batch, rounds, args.device, autocast=not args.float32)
        header = ['encoder', 'decoder depth', 's/step (quartiles)', 'speed-up', 'speed-up (`paper`)', 'GFLOPs/image']
        cells = [[f'ViT-{row["arch"]}{" with [M]" * row["mask_token"]}', row['decoder_depth'], show(row['seconds']),
                  f'{row["speedup"]:.2f}', row['paper'] or '–', f'{row["gflops"]:.1f}'] for row in rows]
        title = (f'forward and backward, {args.img_size} px, batch {args.batch}, '
                 f'{"float32" if args.float32 else "bfloat16"}; FLOPs of the forward pass')
    else:
        from mae_mm.benchmark.end2end import compare_runs

        rows = compare_runs(args.epochs, rounds, args.dtypes)
        header = ['run', 's (quartiles)', 's of CPU', 'images/s in training', 'times mmpretrain']
        cells = [[row['name'], show(row['seconds'], 1), show(row['cpu_seconds'], 1),
                  f'{row["images_per_second"]:.0f}', f'{row["ratio"]:.2f}'] for row in rows]
        title = f'configs/demo/mae_pretrain.py, {args.epochs} epoch(s), build to last checkpoint, without imports'
    print(markdown_table(header, cells))
    print(f'\n{title}; {environment()}')
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(dict(arguments=vars(args), environment=environment(), rows=rows), file, indent=2)


if __name__ == '__main__':
    main()
