"""Measure speed against peers, interleaved in one process."""

import argparse
import json

EXAMPLES = """examples:
  python tools/benchmark.py step --vs mmpretrain                     # ViT-B/16, about 3 minutes on 2 cores
  python tools/benchmark.py step --vs mmpretrain --arch large --batch 64 --device cuda --json step.json"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    step = commands.add_parser('step', help='one training step of MAE (forward, backward, optimizer)')
    step.add_argument('--vs', choices=['mmpretrain'], default='mmpretrain', help='the peer')
    step.add_argument('--arch', default='base', choices=['base', 'large'], help='size of the ViT (default: base)')
    step.add_argument('--img-size', type=int, default=224, help='side in pixels (default: 224)')
    step.add_argument('--patch-size', type=int, default=16, help='side in pixels (default: 16)')
    step.add_argument('--batch', type=int, default=16, help='images a step (default: 16)')
    step.add_argument('--rounds', type=int, default=7, help='timed steps of each contestant (default: 7)')
    step.add_argument('--device', default='cpu', choices=['cpu', 'cuda'])
    step.add_argument('--json', metavar='FILE', help='write figures and environment there, too')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import logging

    logging.disable(logging.INFO)  # initialisation and optimizer groups, told once for each contestant
    from mae_mm.benchmark.step import compare_steps
    from mae_mm.benchmark.timing import environment, markdown_table

    rows = compare_steps(args.arch, args.img_size, args.patch_size, args.batch, args.rounds, args.device)
    print(markdown_table(
        ['dtype', 'mae_mm s/step (quartiles)', 'mmpretrain s/step (quartiles)', 'mmpretrain / mae_mm'],
        [[row['dtype'], *(f'{t.median:.3f} ({t.low:.3f}–{t.high:.3f})' for t in (row['mae_mm'], row['mmpretrain'])),
          f'{row["ratio"]:.2f}'] for row in rows]))
    print(f'\nViT-{args.arch}/{args.patch_size}, {args.img_size} px, batch {args.batch}; {environment()}')
    if args.json:
        with open(args.json, 'w') as file:
            json.dump(dict(arguments=vars(args), environment=environment(), rows=rows), file, indent=2)


if __name__ == '__main__':
    main()
