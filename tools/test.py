"""Evaluate a checkpoint with the test data and metrics of its config."""

import argparse
import os

from mae_mm.engine.options import KeyValues

EXAMPLES = """examples:
  python tools/test.py configs/demo/mae_pretrain.py work_dirs/demo/mae_pretrain/epoch_40.pth    # held-out masked loss
  python tools/test.py CONFIG CHECKPOINT --out result.json
  bash tools/dist_test.sh CONFIG CHECKPOINT 8"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint written by tools/train.py with that config')
    parser.add_argument('--work-dir', help='folder for logs (default: work_dirs/<path of the config below configs/>)')
    parser.add_argument('--out', help='write the metrics to this json file')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
                        help='override keys of the config')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    import mmengine

    from mae_mm.datasets.checks.label_maps import check_labels
    from mae_mm.engine import runner as launch
    from mae_mm.engine.config_check import errors_located
    from mae_mm.engine.data_check import check_data
    from mae_mm.engine.exits import exit_on_user_error

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    def test() -> None:
        cfg = launch.load_config(args.config, args.cfg_options)
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or launch.default_work_dir(args.config)
        cfg.load_from, cfg.resume = None, False
        launch.check_file(args.checkpoint, 'CHECKPOINT')
        check_data(cfg, ('test_dataloader', ))
        with errors_located(cfg):
            runner = launch.build_runner(cfg)
            check_labels(runner, ('test_dataloader', ))
            launch.load_weights(runner, args.checkpoint)
            metrics = runner.test()
        if args.out:
            mmengine.dump({name: float(value) for name, value in metrics.items()}, args.out, indent=2)

    exit_on_user_error(test)


if __name__ == '__main__':
    main()
