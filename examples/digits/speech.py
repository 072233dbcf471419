"""Spoken digits by espeak-ng: voices, accents, speeds and pitches, in parts that share no voice.

espeak-ng takes a variant that it does not know, and any variant of some accents, for none, and says
nothing of it; some variants are others under a second name. A test on "new voices" would then be
one on voices that were trained on. So variants are looked up first, and no two parts may have a
recording in common.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import wave
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

DIGITS = "zero one two three four five six seven eight nine".split()
RATE = 22050  # samples a second, espeak-ng's
SPEEDS, PITCHES = (120, 220), (25, 75)  # words a minute; of espeak-ng's 0 to 99

# Not the robots, nor those who whisper. Variants that sound alike are in the same part: Denis and
# victor, Michael and gustave, rob and robert.
TRAINING = """
Alex Alicia Andy Diogo Gene Hugo Jacky Lee Marco Mario Mike Nguyen RicishayMax Tweaky antonio
belinda benjamin boris caleb croak david edward f2 f3 f4 f5 grandma iven john kaukovalta klatt3 m1
m3 m4 m5 m6 m7 m8 marcelo max michel paul pedro quincy shelby steph travis
""".split()
VALIDATION = "Annie Storm ed norbert sandro zac".split()
TEST = "Andrea Denis Michael aunty f1 gustave linda m2 pablo rob robert victor".split()
# en-gb and en-us-nyc are missing: the first has no variants, the second is en-us.
ACCENTS = "en-us en-gb-x-rp en-gb-x-gbclan en-gb-x-gbcwmd".split()
NEW_ACCENTS = "en-029 en-gb-scotland".split()  # heard in the test only


class Spoken(NamedTuple):
    """One recording, before it is made."""

    digit: int
    voice: str
    accent: str
    speed: int
    pitch: int


class Part(NamedTuple):
    """Recordings, and what they are of."""

    spoken: list[Spoken]
    sounds: list[np.ndarray]  # samples in -1…1

    def digits(self) -> np.ndarray:
        return np.array([s.digit for s in self.spoken])


def planned(voices: list[str], accents: list[str], seed: int) -> list[Spoken]:
    """Each voice says each digit in each accent, at a speed and a pitch that are drawn."""
    rng = np.random.default_rng(seed)
    return [
        Spoken(digit, voice, accent, int(rng.integers(*SPEEDS)), int(rng.integers(*PITCHES)))
        for voice in voices
        for accent in accents
        for digit in range(len(DIGITS))
    ]


def plans(quick: bool, seed: int) -> dict[str, list[Spoken]]:
    """The parts by name. ``quick``: every third voice, in one accent each."""
    some = 3 if quick else 1
    accents, new = (ACCENTS[:1], NEW_ACCENTS[:1]) if quick else (ACCENTS, NEW_ACCENTS)
    return {
        "training": planned(TRAINING[::some], accents, 4 * seed),
        "validation": planned(VALIDATION[::some], accents, 4 * seed + 1),
        "new voices": planned(TEST[::some], accents, 4 * seed + 2),
        "new voices, new accents": planned(TEST[::some], new, 4 * seed + 3),
    }


def program() -> str:
    found = shutil.which("espeak-ng")
    if found is None:
        raise SystemExit(
            "error: the digits are spoken by espeak-ng, which is not installed\n"
            "  hint: Debian, Ubuntu: sudo apt-get install espeak-ng; Fedora: sudo dnf install "
            "espeak-ng; macOS: brew install espeak-ng"
        )
    return found


def version() -> str:
    done = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split("Data at")[0].strip()


def say(spoken: Spoken) -> np.ndarray:
    """The samples, as 16-bit numbers."""
    command = [
        program(), "-v", f"{spoken.accent}+{spoken.voice}", "-s", str(spoken.speed),
        "-p", str(spoken.pitch), "-z", "--stdout", DIGITS[spoken.digit],
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"error: espeak-ng does not speak {spoken.accent}+{spoken.voice}: "
            f"{done.stderr.decode(errors='replace').strip()}"
        )
    with wave.open(io.BytesIO(done.stdout)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            raise SystemExit(
                f"error: espeak-ng gives {file.getparams()}, not {RATE} samples a second"
            )
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def known_variants() -> set[str]:
    done = subprocess.run(
        [program(), "--voices=variant"], capture_output=True, text=True, check=True
    )
    files = (line.partition("!v/")[2] for line in done.stdout.splitlines())
    # a file name may have a space; two follow it
    return {file.partition("  ")[0].strip() for file in files if file}


def made(parts: dict[str, list[Spoken]], folder: Path) -> dict[str, Part]:
    """Speak all parts, or take them from a file in ``folder`` that an earlier call left there."""
    spoken = [s for part in parts.values() for s in part]
    missing = {s.voice for s in spoken} - known_variants()
    if missing:
        raise SystemExit(
            f"error: {version()} has no variants {', '.join(sorted(missing))}, and would speak "
            "with its usual voice instead"
        )
    key = hashlib.sha256(repr((version(), spoken)).encode()).hexdigest()[:12]
    path = folder / f"speech-{key}.npz"
    if path.is_file():
        with np.load(path) as file:
            samples, ends = file["samples"], file["ends"]
        sounds = np.split(samples, ends[:-1])
    else:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            sounds = list(pool.map(say, spoken))
        keep(path, sounds)
    found, begin = {}, 0
    for name, part in parts.items():
        own = sounds[begin : begin + len(part)]
        begin += len(part)
        found[name] = Part(part, [s.astype(np.float32) / 2**15 for s in own])
    refuse_shared(found)
    return found


def keep(path: Path, sounds: list[np.ndarray]) -> None:
    """Write sounds to a file that is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    np.savez(part, samples=np.concatenate(sounds), ends=np.cumsum([len(s) for s in sounds]))
    os.replace(part, path)


def refuse_shared(parts: dict[str, Part]) -> None:
    """Refuse parts that have a voice or a recording in common, except among those of the test."""
    heard: dict[object, str] = {}
    for name, part in parts.items():
        side = "test" if name.startswith("new") else name
        for spoken, sound in zip(part.spoken, part.sounds, strict=True):
            for what in (spoken.voice, sound.tobytes()):
                if heard.setdefault(what, side) != side:
                    raise SystemExit(
                        f"error: {spoken} is heard in {side} and in {heard[what]}; they are meant "
                        "to share no voice"
                    )


if __name__ == "__main__":
    sys.exit("This is a part of recognise.py.")
