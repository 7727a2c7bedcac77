"""Show what a checkpoint holds, and write it in the format of another library."""

import argparse

from mae_mm.engine.options import KeyValues

EPILOG = """\
formats (IN is recognised by its keys, not by its name; details: docs/checkpoints.md):
  mae_mm        this project, {'state_dict': {'backbone.…', 'neck.…'}}
  mae           the MAE authors' release, {'model': …}
  mmpretrain    mmpretrain's MAE
  timm          timm's VisionTransformer; as safetensors if OUT ends in .safetensors; without decoder
  huggingface   transformers' ViTMAE; OUT is a folder
Read as well: MoCo v3, DINO and DeiT.

examples:
  python tools/convert_checkpoint.py work_dirs/demo/mae_pretrain/epoch_40.pth --inspect
  python tools/convert_checkpoint.py work_dirs/demo/mae_pretrain/epoch_40.pth vit.safetensors --to timm --encoder-only
  python tools/convert_checkpoint.py mae_visualize_vit_large.pth vit_mae --to huggingface --set norm_pix_loss=False
  python tools/convert_checkpoint.py epoch_40.pth vit_mae --to huggingface --push me/vit-mae --results probes.md
"""


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('source', metavar='IN', help='file, folder of transformers, or name (hf://OWNER/NAME, …)')
    parser.add_argument('out', metavar='OUT', nargs='?', help='file to write; a folder for huggingface')
    parser.add_argument('--to', metavar='FORMAT',
                        help='format of OUT: mae_mm, mae, mmpretrain, timm or huggingface')
    parser.add_argument('--encoder-only', action='store_true', help='omit decoder and classification head')
    parser.add_argument('--inspect', action='store_true', help='print what IN holds, and write nothing')
    parser.add_argument('--overwrite', action='store_true', help='overwrite OUT (never IN)')
    parser.add_argument('--push', metavar='OWNER/NAME',
                        help='upload OUT with a model card to the Hugging Face hub; new repositories are private')
    parser.add_argument('--results', metavar='FILE', help='Markdown for the card of --push, e.g. probes')
    parser.add_argument('--prefix', default='',
                        help='take only the keys that begin with PREFIX, for a ViT inside another model')
    parser.add_argument(
        '--set', nargs='+', action=KeyValues, dest='settings', metavar='KEY=VALUE',
        help='what IN does not say: num_heads, decoder_num_heads, norm_pix_loss, mask_ratio, grid="(rows, columns)"')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mae_mm.checkpoint.convert import convert
    from mae_mm.engine.exits import exit_on_user_error

    exit_on_user_error(lambda: convert(**vars(args)))


if __name__ == '__main__':
    main()
