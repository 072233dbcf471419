"""The gates of a language model while it learns, in TensorBoard.

A PyTorch model, an embedding, an LSTM and a linear layer, learns Python's own documentation
character by character, as charlm.py does without PyTorch. ``lstmgen.torch.monitor`` writes what the
gates do. ``--screenshot FILE`` opens TensorBoard in a browser without a window, Chromium, and takes
a picture of it: the one in docs/tensorboard.md.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from charlm import Vocabulary, load_text, streams
from PIL import Image
from torch import Tensor, nn

from lstmgen import LstmgenError
from lstmgen.monitor import open_writer
from lstmgen.torch import Recurrent, monitor

STREAMS, WINDOW = 32, 64  # places in the text that are read at once, and characters an update
RATE, CLIP = 1e-2, 1.0
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


class Model(nn.Module):
    """Which character comes next."""

    def __init__(self, cell: str, characters: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, 32)
        self.rnn = Recurrent(cell, 32, hidden, layers)
        self.readout = nn.Linear(hidden, characters)

    def forward(self, x: Tensor, state: object = None) -> tuple[Tensor, object]:
        y, state = self.rnn(self.embedding(x), state)
        return self.readout(y), state


def train(args: argparse.Namespace) -> None:
    """Train the model, and write events to ``args.out``."""
    torch.manual_seed(args.seed)
    text, _, what = load_text(args.text)
    vocabulary = Vocabulary(text)
    print(what)
    ids = torch.from_numpy(streams(vocabulary.encode(text), STREAMS))
    model = Model(args.cell, len(vocabulary), args.hidden, args.layers)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    writer = open_writer(args.out / args.cell)
    monitor(model, writer, every=args.every)
    state, at = None, 0
    for update in range(args.updates):
        if at + WINDOW >= len(ids):
            state, at = None, 0
        logits, state = model(ids[at : at + WINDOW], state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = nn.functional.cross_entropy(
            logits.flatten(0, 1), ids[at + 1 : at + WINDOW + 1].flatten()
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        writer.add_scalar("loss/training", loss.item(), update)
        if update % 100 == 0 or update + 1 == args.updates:
            print(f"  update {update}  loss {loss.item():.3f}")
        at += WINDOW
    writer.close()


# ---------------------------------------------------------------------- a picture of TensorBoard


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """TensorBoard over a folder; its address."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), "--port", "0"]
    with tempfile.TemporaryFile("w+") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            for _ in range(300):
                said.seek(0)
                if found := re.search(r"http://\S+", said.read()):
                    yield found.group().replace("localhost", "127.0.0.1")
                    return
                if server.poll() is not None:
                    break
                time.sleep(0.2)
            said.seek(0)
            raise SystemExit(f"error: TensorBoard did not start:\n{said.read()}")
        finally:
            server.terminate()
            server.wait()


TAGS = r"^(gates|saturated_(low|high))/rnn_l0\.[ifo]"


class Browser:
    """Chromium without a window, which is told what to do through a pair of pipes."""

    def __init__(self, program: str, profile: str) -> None:
        (theirs, ours), (mine, yours) = os.pipe(), os.pipe()
        command = [
            *("sh", "-c", f'exec "$@" 3<&{theirs} 4>&{yours}', "sh", program, "--headless=new"),
            *("--remote-debugging-pipe", "--no-sandbox", "--hide-scrollbars", "--no-first-run"),
            *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # charts are WebGL
            f"--user-data-dir={profile}",
        ]
        self._process = subprocess.Popen(
            command, pass_fds=(theirs, yours), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(yours)
        self._to, self._from = os.fdopen(ours, "wb"), os.fdopen(mine, "rb")
        self._number, self._session = 0, ""
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        made = self.tell("Target.attachToTarget", targetId=target, flatten=True)
        self._session = made["sessionId"]

    def tell(self, method: str, **params: object) -> dict[str, Any]:
        """Give an order of the DevTools protocol, and wait until it is done."""
        self._number += 1
        order = {"id": self._number, "method": method, "params": params}
        if self._session:
            order["sessionId"] = self._session
        self._to.write(json.dumps(order).encode() + b"\0")
        self._to.flush()
        while True:
            said = b"".join(iter(lambda: self._from.read(1), b"\0"))
            answer = json.loads(said)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise SystemExit(f"error: the browser says: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


# TensorBoard keeps there what one has set: no pane for settings, no table below each chart
SETTINGS = {
    "timeSeriesSettingsPaneOpened": False, "stepSelectorEnabled": False, "scalarSmoothing": 0,
    "sideBarWidthInPercent": 14, "ignoreOutliers": False,
}  # fmt: skip


def screenshot(folder: Path, picture: Path, tags: str, width: int = 1400, height: int = 1180
               ) -> None:  # fmt: skip
    """What TensorBoard shows of some tags, as a PNG."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        raise SystemExit(
            f"error: there is no browser to take a picture with ({', '.join(BROWSERS)}): "
            "apt-get install chromium"
        )
    with tensorboard(folder) as address, tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, profile)
        try:
            size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
            browser.tell("Emulation.setDeviceMetricsOverride", **size)
            browser.tell("Page.navigate", url=address)
            time.sleep(5)
            stored = json.dumps(json.dumps(SETTINGS))
            browser.tell(
                "Runtime.evaluate",
                expression=f"localStorage.setItem('_tb_global_settings', {stored})",
            )
            query = urlencode({"tagFilter": tags})
            browser.tell("Page.navigate", url=f"{address}?{query}#timeseries")
            time.sleep(15)  # until all charts are drawn
            data = browser.tell("Page.captureScreenshot", format="png")["data"]
        finally:
            browser.close()
    picture.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(base64.b64decode(data))) as taken:
        taken.convert("RGB").quantize(128).save(picture, optimize=True)
    print(f"Picture: {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cell", default="lstm", help="as lstmgen cells lists them")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--updates", type=int, default=1000, help="0 trains nothing anew")
    parser.add_argument("--every", type=int, default=50, help="updates between what is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", type=Path, help="a text of your own")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "output" / "gates")
    parser.add_argument("--screenshot", type=Path, metavar="FILE", help="a picture of TensorBoard")
    parser.add_argument(
        "--tags",
        default=r"^(gates|saturated_(low|high))/rnn_l0\.[ifo]",
        help="what it shows: a pattern",
    )
    args = parser.parse_args()
    if args.updates:
        for old in (args.out / args.cell).glob("events.out.tfevents.*"):
            old.unlink()  # one curve, not several on top of each other
        try:
            train(args)
        except LstmgenError as error:
            raise SystemExit(f"error: {error}") from None
    print(f"tensorboard --logdir {args.out}")
    if args.screenshot:
        screenshot(args.out, args.screenshot, args.tags)


if __name__ == "__main__":
    main()
