"""Classify by the nearest neighbours of frozen features: what an encoder has learned, without any training."""

import argparse
import json
from pathlib import Path

from mae_mm.engine.options import KeyValues

EXAMPLES = """examples:
  python tools/knn.py configs/demo/classification.py work_dirs/demo/mae_pretrain/epoch_40.pth
  python tools/knn.py configs/demo/classification.py                 # a random encoder, to compare with
  python tools/knn.py configs/classification/vit_b16_in1k.py mae_pretrain_vit_base.pth --out knn.json

The config gives the data sets and the shape of the encoder; any classification config works. Prints top-1 accuracy
for the mean patch token and for the class token, by a vote of the k most similar training images."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='classification config')
    parser.add_argument('checkpoint', nargs='?', help='pre-trained weights in any format (default: a random encoder)')
    parser.add_argument('--k', type=int, nargs='+', default=[10, 20], help='neighbours (default: 10 20)')
    parser.add_argument('--temperature', type=float, default=0.07, help='temperature of the vote (default: 0.07)')
    parser.add_argument('--batch-size', type=int, default=256, help='images at a time (default: 256)')
    parser.add_argument('--device', help='device to compute on (default: a GPU if there is one)')
    parser.add_argument('--out', help='write the accuracies to this json file')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of the config')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.engine import runner as launch
    from mae_mm.engine.data_check import check_data
    from mae_mm.engine.exits import exit_on_user_error
    from mae_mm.evaluation.knn import evaluate_encoder

    def test() -> None:
        launch.check_device(args.device or 'cpu')
        cfg = launch.load_config(args.config, args.cfg_options)
        check_data(cfg, ('train_dataloader', 'val_dataloader'))
        accuracy = evaluate_encoder(cfg, args.checkpoint, args.k, args.temperature, args.batch_size, args.device)
        for name, value in accuracy.items():
            print(f'{name:<16}{value:6.2f} % top-1')
        if args.out:
            Path(args.out).parent.mkdir(parents=True, exist_ok=True)
            Path(args.out).write_text(json.dumps(accuracy, indent=2) + '\n')

    exit_on_user_error(test)


if __name__ == '__main__':
    main()
