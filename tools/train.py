"""Train a config: pre-training, or any transfer from a pre-trained checkpoint."""

import argparse
import os
import signal
import sys

from mae_mm.engine.options import KeyValues

EXAMPLES = """examples:
  python tools/train.py configs/demo/mae_pretrain.py                      # minutes on a laptop; see `make demo`
  python tools/train.py configs/mae_pretrain.py --data PHOTOS             # ViT-B/16 on any folder or tar of images
  python tools/train.py configs/classification/vit_b16_in1k.py --pretrained work_dirs/mae_pretrain/epoch_800.pth
  python tools/train.py CONFIG --resume                                   # resume from the newest checkpoint
  python tools/train.py CONFIG --cfg-options train_dataloader.batch_size=32 optim_wrapper.accumulative_counts=8
  bash tools/dist_train.sh CONFIG 8                                       # 8 processes of one machine

exit codes: 0 finished; 2 a mistake in the config, the data path or the command line; 3 the run stopped itself and
reported why; 75 stopped by a signal (Ctrl-C, SIGTERM, SIGUSR1) with a checkpoint, --resume continues; 130 or 143
stopped at once (a second signal, or one before the first step)"""

# Before the first step SIGUSR1 ends the process as SIGTERM does (afterwards mae_mm.PreemptionHook handles both).
signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (default: work_dirs/<path of the config below configs/>)')
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='auto|PATH',
        help='continue from the newest undamaged checkpoint of the work folder (if there is none, start), or from PATH')
    parser.add_argument(
        '--pretrained', metavar='CHECKPOINT',
        help='start from these weights: any MAE checkpoint (this project, MAE release, mmpretrain, timm, Hugging Face)')
    parser.add_argument(
        '--data', metavar='PATH',
        help='pre-train on these images: a folder, nested or not, a tar, a folder of tars, or a quoted pattern of tars')
    parser.add_argument(
        '--val-data', metavar='PATH',
        help='held-out images (default: 2 %% of --data, at least 32 and at most 5,000 images, split off by a hash of '
        'their names; the lists are in the work folder)')
    parser.add_argument(
        '--split-by', choices=['image', 'folder', 'top-folder'], default='image',
        help='folder: all images of a folder (a patient, a flight, a video) are held out, or none; top-folder: those '
        'of a folder directly in --data (default: image)')
    parser.add_argument(
        '--own-statistics', action='store_true',
        help="normalise by the mean and deviation of the training images, not by the config's")
    parser.add_argument('--amp', action='store_true',
                        help='mixed precision for configs without it, in what the device multiplies fast')
    parser.add_argument('--no-validate', action='store_true', help='no validation during training')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help="scale the config's lr to the batch of this run (all processes, "
        'accumulation included)')
    parser.add_argument(
        '--cfg-options', nargs='+', action=KeyValues, metavar='KEY=VALUE',
        help='override keys of the config, e.g. train_cfg.max_epochs=10 model.mask_ratio=0.6')
    parser.add_argument('--device', choices=['auto', 'cpu'], default='auto',
                        help='cpu: leave a GPU alone (default: auto, a GPU where there is one)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what starts the processes (tools/dist_train.sh: pytorch)')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.val_data and not args.data:
        parser.error('--val-data needs --data')
    return args


def main() -> None:
    args = parse_args()
    if args.device == 'cpu' and os.environ.get('CUDA_VISIBLE_DEVICES') != '-1':
        os.environ['CUDA_VISIBLE_DEVICES'] = '-1'  # mmengine chose a device when it was imported: start again
        os.execv(sys.executable, [sys.executable, *sys.argv])
    from mae_mm.datasets.checks.label_maps import check_labels
    from mae_mm.engine import own_data, reliability, resume
    from mae_mm.engine import runner as launch  # after --help, which does not need torch
    from mae_mm.engine.config_check import errors_located
    from mae_mm.engine.data_check import check_data
    from mae_mm.engine.exits import exit_on_user_error

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))

    def train() -> None:
        cfg = launch.load_config(args.config, args.cfg_options)
        cfg.launcher = args.launcher
        cfg.work_dir = args.work_dir or cfg.get('work_dir') or launch.default_work_dir(args.config)
        if args.resume:
            resume.choose_checkpoint(cfg, args.resume)
        elif not cfg.get('resume'):
            resume.check_unused(cfg.work_dir)
        notes = own_data.use_data(cfg, args.data, args.val_data, args.split_by) if args.data else []
        if args.own_statistics:
            notes += own_data.use_statistics(cfg)
        if args.pretrained:
            launch.start_from(cfg, args.pretrained)
        if args.amp:
            launch.use_autocast(cfg)
        if args.no_validate:
            cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        if args.auto_scale_lr:
            launch.enable_lr_scaling(cfg)
        launch.check_deterministic(cfg)
        check_data(cfg, ('train_dataloader', 'val_dataloader'))
        reliability.make_reliable(cfg)
        with errors_located(cfg):
            runner = launch.build_runner(cfg)
            for note in notes:
                runner.logger.info(note)
            resume.check_resume(runner)
            check_labels(runner, ('train_dataloader', 'val_dataloader'))
            launch.check_batches(runner)
            reliability.train(runner)

    exit_on_user_error(train)


if __name__ == '__main__':
    main()
