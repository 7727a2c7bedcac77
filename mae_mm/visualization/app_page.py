"""The page of `tools/app.py` in Gradio: which control calls which function of `app.py`."""

import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mae_mm.datasets.limits import MAX_BYTES
from mae_mm.engine.runner import check_device
from mae_mm.models.masking import SAMPLERS
from mae_mm.visualization.app import Viewers
from mae_mm.visualization.app_masks import PAINTED

WAITING = 64  # users whose requests wait; more are told to come back
HOUR = 3600  # seconds after which uploads are deleted
# The browser itself refuses whatever is not of this page: no font, script, picture or counter of another server.
POLICY = ("default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
          "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'; form-action 'self'")
INTRODUCTION = """
<h1>What a masked autoencoder sees</h1>
<p>Choose an image, or take a picture. It goes to the machine that serves this page, and nowhere else, and is
deleted within two hours.</p>
"""
# Gradio gives its preview no description.
NAME_PREVIEWS = """() => new MutationObserver(
  () => document.querySelectorAll('img:not([alt])').forEach(image => { image.alt = 'The chosen image'; })
).observe(document.body, {childList: true, subtree: true})"""
PAINTING = """
<div class="painting" hidden>
<p id="board-help"><b>Mask</b>: click or drag to hide patches, and again to show them; or move with the arrow keys, and
press the space bar.</p>
<div role="grid" tabindex="0" aria-label="Mask" aria-describedby="board-help" class="board"></div>
<button type="button" class="clear">Show all patches</button>
</div>
"""


def serve(
    checkpoints: Sequence[str], host: str = '127.0.0.1', port: int = 7860, features: Sequence[str] = (),
    device: str = 'cpu',
) -> None:
    """Serve the page until Ctrl-C; `tools/app.py --help` describes the arguments."""
    check_port(host, port)
    check_device(device)
    with TemporaryDirectory(prefix='mae_mm_app_') as uploads:
        # Before Gradio is imported: nothing is sent anywhere, and versions are not compared with the newest.
        os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_DISABLE_TELEMETRY='1', GRADIO_TEMP_DIR=uploads)
        try:
            import gradio as gr
            from starlette.middleware import Middleware
        except ImportError:
            raise ValueError('the page needs Gradio: pip install "mae_mm[app]"') from None
        viewers = Viewers(checkpoints, features, device)
        for name, viewer in viewers.by_name.items():
            print(f'{name}: {viewer.missing or "loaded"}')
        page = build_page(viewers, uploads)
        page.queue(max_size=WAITING)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends it like Ctrl-C, and uploads are deleted
        print(f'http://{host}:{port} (Ctrl-C ends)', flush=True)
        page.launch(
            server_name=host, server_port=port, share=False, quiet=True, ssr_mode=False, pwa=False, mcp_server=False,
            enable_monitoring=False, footer_links=[], max_file_size=MAX_BYTES,
            app_kwargs=dict(middleware=[Middleware(WithPolicy)]),
            css=(Path(__file__).parent / 'app.css').read_text(),
            theme=gr.themes.Default(
                primary_hue='blue', font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'],
            ).set(body_text_color_subdued='*neutral_600'))  # a contrast of 7 on white; the default has 1.9


class WithPolicy:
    """Adds the policy to every answer."""

    def __init__(self, app) -> None:
        self.app = app

    async def __call__(self, scope, receive, send) -> None:
        async def send_with_policy(message: dict) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] = [*message['headers'], (b'content-security-policy', POLICY.encode()),
                                      (b'referrer-policy', b'no-referrer'), (b'x-content-type-options', b'nosniff')]
            await send(message)

        await self.app(scope, receive, send_with_policy)


def check_port(host: str, port: int) -> None:
    """Refuse an address on which the page cannot be served, before checkpoints are loaded."""
    try:
        with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        raise ValueError(f'--host {host} --port {port} cannot be used: {error}; choose another --port') from None


def path_of(uploads: str, image: object) -> str | None:
    """Where an upload lies. A client may send any path, which Gradio 6.17 refuses only if it is marked as a file."""
    if image is None:
        return None
    path = Path(image.path or '').resolve()
    if not path.is_relative_to(Path(uploads).resolve()):
        raise ValueError(f'{path} is not an upload')
    return str(path)


def build_page(viewers: Viewers, uploads: str):
    """A page of Gradio, whose uploads lie in a folder. All computation is one function at a time, whoever asks."""
    import gradio as gr

    names, reconstructing = list(viewers.by_name), viewers.reconstructing
    with gr.Blocks(title='mae_mm', analytics_enabled=False, delete_cache=(HOUR, HOUR), fill_width=True) as page:
        gr.HTML(INTRODUCTION)
        chosen = gr.CheckboxGroup(names, value=names[:2], label='Checkpoints, side by side', visible=len(names) > 1)
        with gr.Row():
            with gr.Column(scale=2, min_width=340):
                image = gr.Image(label='Image', type='filepath', sources=['upload', 'webcam', 'clipboard'], height=240,
                                 buttons=[])
                image.preprocess = partial(path_of, uploads)  # Gradio's own opens it, by any reader
                with gr.Column(visible=bool(reconstructing)):
                    board = gr.HTML(
                        None, html_template=PAINTING, js_on_load=(Path(__file__).parent / 'app.js').read_text())
                    sampler = gr.Radio([*SAMPLERS, PAINTED], value='random', label='Which patches are masked')
                    ratio = gr.Slider(0.05, 0.95, 0.75, step=0.05, label='Mask ratio',
                                      info='of random and block masks; a grid hides three patches of four')
                    seed = gr.Slider(0, 99, 0, step=1, label='Seed', info='another number draws another mask')
            with gr.Column(scale=5, min_width=400):
                reconstructions, views = gr.HTML(js_on_load=None), gr.HTML(js_on_load=None)

        page.load(None, js=NAME_PREVIEWS)
        queued = dict(concurrency_limit=1, concurrency_id='models', api_visibility='private', show_progress='minimal',
                      trigger_mode='always_last')
        mask = [image, chosen, sampler, ratio, seed, board]
        of_image = [image.change, chosen.input]
        # One function for all: if any was used while it ran, it runs once more, with what the controls say then.
        gr.on([*of_image, sampler.input, ratio.input, seed.input, board.input],
              lambda *args: (viewers.board(*args), viewers.reconstructions(*args)), mask, [board, reconstructions],
              **queued)
        gr.on(of_image, viewers.views, [image, chosen], views, **queued)
    return page
