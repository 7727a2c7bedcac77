"""How long a training takes, how much memory and disk it needs: measured in two minutes, nothing is left behind."""

import argparse
import os
import shlex
import signal
import sys
import tempfile

from mae_mm.engine.options import KeyValues, positive

EXAMPLES = """examples:
  python tools/plan.py configs/mae_pretrain.py --data PHOTOS
  python tools/plan.py configs/pretrain/vit_l16_800e.py --data PHOTOS --gpus 8
  python tools/plan.py configs/demo/mae_pretrain.py                          # the config's own data

It trains for some seconds with the first GPU, or the CPU, of this machine, in a temporary folder."""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of any training')
    parser.add_argument('--data', metavar='PATH', help='as in tools/train.py (default: the data of the config)')
    parser.add_argument('--val-data', metavar='PATH', help='as in tools/train.py')
    parser.add_argument('--gpus', type=positive, default=1, metavar='N', help='GPUs of this kind (default: 1)')
    parser.add_argument('--pretrained', metavar='CHECKPOINT', help='as in tools/train.py')
    parser.add_argument('--amp', action='store_true', help='as in tools/train.py')
    parser.add_argument('--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE', help='as in tools/train.py')
    parser.add_argument('--work-dir', help='as in tools/train.py; its disk is looked at')
    parser.add_argument('--device', choices=['auto', 'cpu'], default='auto', help='as in tools/train.py')
    parser.add_argument('--seconds', type=float, default=30, help='of training that are measured (default: 30)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.device == 'cpu' and os.environ.get('CUDA_VISIBLE_DEVICES') != '-1':
        os.environ['CUDA_VISIBLE_DEVICES'] = '-1'  # mmengine chose a device when it was imported: start again
        os.execv(sys.executable, [sys.executable, *sys.argv])
    from mae_mm.benchmark import plan as planning
    from mae_mm.benchmark.short_run import measure_what_fits
    from mae_mm.engine import own_data
    from mae_mm.engine import runner as launch
    from mae_mm.engine.data_check import check_data
    from mae_mm.engine.exits import exit_on_user_error

    def run() -> None:
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # temporary folders are removed
        cfg = launch.load_config(args.config, args.cfg_options)
        work_dir = args.work_dir or cfg.get('work_dir') or launch.default_work_dir(args.config)
        with tempfile.TemporaryDirectory() as folder:
            cfg.work_dir = folder
            if args.data:
                own_data.use_data(cfg, args.data, args.val_data)
            if args.pretrained:
                launch.start_from(cfg, args.pretrained)
            if args.amp:
                launch.use_autocast(cfg)
            check_data(cfg, ('train_dataloader', 'val_dataloader'))
            wanted = cfg.train_dataloader.batch_size
            found = measure_what_fits(cfg, args.seconds)
        whole = planning.plan(cfg, found, wanted, args.gpus)
        print('\n'.join(planning.report(cfg, found, whole, args.gpus, work_dir)))
        tool = ['bash', 'tools/dist_train.sh', args.config, str(args.gpus)] if args.gpus > 1 else [
            'python', 'tools/train.py', args.config]
        for flag in ('data', 'val_data', 'pretrained', 'work_dir'):
            if value := getattr(args, flag):
                tool += [f'--{flag.replace("_", "-")}', value]
        tool += ['--amp'] if args.amp else []
        given = [f'{key}={value}' for key, value in (args.cfg_options or {}).items()]
        given += planning.options(cfg, found, whole)
        print(f'\nnext:\n  {shlex.join(tool + (["--cfg-options", *given] if given else []))}')

    exit_on_user_error(run)


if __name__ == '__main__':
    main()
