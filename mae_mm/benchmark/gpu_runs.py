"""Checks that run the tools from end to end: doctor, a training that is stopped and resumed, DDP, FSDP."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

from mae_mm.benchmark.gpu_check import Context
from mae_mm.checkpoint.files import read_content
from mae_mm.paths import ROOT

CONFIGS = ROOT / 'configs'
PREEMPTED = 75


def demo_data(context: Context) -> Path:
    """The demo data, made once: 600 images, 60 for a small check."""
    from mae_mm.demo_data.generate import make_demo_data

    folder = context.folder / 'demo'
    with contextlib.redirect_stdout(io.StringIO()):
        make_demo_data(str(folder), 0.02 if context.small else 0.2, 0, min(os.cpu_count() or 1, 16))
    return folder


def doctor(context: Context) -> str:
    """What the doctor calls broken fails the check; what it notes is repeated."""
    run = subprocess.run(
        [sys.executable, '-m', 'mae_mm.doctor', '--json'], capture_output=True, text=True, cwd=ROOT,
        env=environment(context), timeout=context.left())
    assert run.stdout.lstrip().startswith('{'), f'no report: {run.stderr[-300:]}'
    findings = json.loads(run.stdout)['findings']
    broken = [f'{one["name"]} ({one["why"] or one["found"]})' for one in findings if one['state'] == 'broken']
    assert not broken, 'broken: ' + '; '.join(broken)
    if context.device == 'cuda':
        gpus = [one['found'] for one in findings if one['name'].startswith('GPU') and one['state'] == 'ok']
        assert gpus, 'no GPU in the report'
        return f'nothing is broken; {gpus[0]}; driver {driver()}'
    return 'nothing is broken'


def driver() -> str:
    """Version of the GPU's driver."""
    try:
        command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return 'unknown'


def demo(context: Context) -> str:
    """Stopped in its first epoch by SIGTERM, resumed to its end."""
    work = context.folder / 'runs' / 'demo'
    command = train_command(context, work, 4)
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment(context))
    lines = []
    for line in process.stdout:
        lines.append(line)
        if '  loss ' in line and not process.returncode:
            process.send_signal(signal.SIGTERM)
            break
    lines += process.stdout.readlines()
    code = process.wait(context.left())
    assert code == PREEMPTED, f'exit code {code} after SIGTERM, wanted {PREEMPTED}: {tail(lines)}'
    left = [path.name for path in sorted(work.glob('*.pth'))]
    assert left, 'no checkpoint was written'
    output = run_to_end(context, [*command, '--resume'])
    assert (work / 'epoch_4.pth').exists(), f'no epoch_4.pth: {tail(output)}'
    losses = [line.split('masked loss ')[1].split()[0] for line in output if 'masked loss ' in line]
    assert losses, f'no validation: {tail(output)}'
    return (f'exit code {PREEMPTED} with {left[-1]}, resumed to the end; held-out loss {losses[-1]}; '
            f'{time.monotonic() - start:.0f} s in all')


def ddp(context: Context) -> str:
    """One process of a group (NCCL on a GPU, gloo on a CPU)."""
    return distributed(context, 'ddp', [])


def fsdp(context: Context) -> str:
    """The demo with the lines of configs/pretrain/vit_h14_1600e_fsdp.py; its checkpoint has the model's names."""
    config = context.folder / 'fsdp.py'
    config.write_text(f"""_base_ = {str(CONFIGS / 'demo/mae_pretrain.py')!r}
runner_type = 'FlexibleRunner'
strategy = dict(type='mae_mm.FSDPStrategy')
default_hooks = dict(checkpoint=dict(_delete_=True, type='CheckpointHook', interval=1))
custom_hooks = []
""")
    found = distributed(context, 'fsdp', [], config)
    names = set(read_content(str(context.folder / 'runs' / 'fsdp' / 'epoch_1.pth'))[0]['state_dict'])
    wanted = {'backbone.blocks.5.attn.qkv.weight', 'neck.decoder_blocks.0.mlp.fc1.bias', 'neck.mask_token'}
    assert wanted <= names, f'the checkpoint has other names: {sorted(names)[:3]}'
    return f'{found}; its checkpoint has {len(names)} whole tensors'


def distributed(context: Context, name: str, options: list[str], config: Path | None = None) -> str:
    """One epoch of the demo as the only process of a group."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    rank = dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    command = [*train_command(context, context.folder / 'runs' / name, 1, config), *options, '--launcher', 'pytorch']
    output = run_to_end(context, command, rank)
    losses = [line.split('  loss ')[1].split()[0] for line in output if '  loss ' in line]
    assert losses and float(losses[-1]) < 10, f'no finite loss: {tail(output)}'
    return f'an epoch, loss {losses[-1]}, {"NCCL" if context.device == "cuda" else "gloo"}'


def train_command(context: Context, work: Path, epochs: int, config: Path | None = None) -> list[str]:
    """`tools/train.py` with the demo's config, on the check's data."""
    data = demo_data(context) / 'flat'
    schedule = ['param_scheduler.0.end=1', 'param_scheduler.1.begin=1'] if epochs > 1 else ['param_scheduler=[]']
    return [
        sys.executable, 'tools/train.py', str(config or CONFIGS / 'demo/mae_pretrain.py'), '--work-dir', str(work),
        *(['--device', 'cpu'] if context.device == 'cpu' else []),
        '--cfg-options', f'train_dataloader.dataset.data_root={data / "train"}',
        f'val_dataloader.dataset.data_root={data / "val"}', f'train_cfg.max_epochs={epochs}',
        'train_cfg.val_interval=2',
        f'train_dataloader.batch_size={8 if context.small else 32}', 'default_hooks.logger.interval=3',
        'default_hooks.checkpoint.interval=1', *schedule]


def run_to_end(context: Context, command: list[str], more: dict[str, str] | None = None) -> list[str]:
    """Run a command that must succeed; its lines."""
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        env={**environment(context), **(more or {})}, timeout=context.left())
    lines = run.stdout.splitlines()
    assert run.returncode == 0, f'exit code {run.returncode}: {tail(lines)}'
    return lines


def environment(context: Context) -> dict[str, str]:
    """This package first, and no GPU where the CPU is checked."""
    hidden = {'CUDA_VISIBLE_DEVICES': '-1'} if context.device == 'cpu' and not torch.cuda.is_available() else {}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    return {**os.environ, 'PYTHONPATH': path, 'PYTHONUNBUFFERED': '1', 'PYTHONWARNINGS': 'ignore', **hidden}


def tail(lines: list[str]) -> str:
    """The end of an output in one line."""
    return ' / '.join(line.strip() for line in lines[-4:])[-500:]
