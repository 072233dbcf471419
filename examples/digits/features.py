"""From sounds to what a network reads: background noise, and log-mel energies."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from speech import RATE, Part

try:
    import kaldi_native_fbank as knf
except ImportError:
    raise SystemExit(
        "error: features are those of kaldi-native-fbank: pip install 'lstmgen[c,examples,torch]'"
    ) from None

BANDS, LOW, HIGH = 40, 60.0, 8000.0  # Hz
STEP, FRAME = 15.0, 30.0  # ms
MARGIN = (0.05, 0.25)  # seconds of noise alone, before and after the word
LOUD = 0.1  # the root mean square of what comes out


class Lessons(NamedTuple):
    """Sequences of several lengths, (steps, BANDS) each, and their digits."""

    sequences: list[np.ndarray]
    digits: np.ndarray


def noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Noise with power 1 whose spectrum falls as 1/fᵏ, k in 0…2: hiss to rumble."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    spectrum *= np.maximum(frequency, LOW) ** (-rng.uniform(0, 2) / 2)
    made = np.fft.irfft(spectrum, samples)
    return made / np.sqrt(np.mean(made**2))


def mixed(rng: np.random.Generator, sound: np.ndarray, snr: float) -> np.ndarray:
    """A word in noise. ``snr``: in dB, of the powers of both while the word is spoken."""
    before, after = (int(RATE * rng.uniform(*MARGIN)) for _ in range(2))
    word = np.pad(sound.astype(float), (before, after))
    background = noise(rng, len(word))
    spoken = slice(before, before + len(sound))
    scale = np.sqrt(np.mean(word[spoken] ** 2) / np.mean(background[spoken] ** 2))
    both = word + background * scale * 10 ** (-snr / 20)
    return both * LOUD / np.sqrt(np.mean(both**2))


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(steps, BANDS): the logarithm of the energy in each band of the mel scale."""
    options = knf.FbankOptions()
    options.frame_opts.samp_freq = RATE
    options.frame_opts.frame_shift_ms = STEP
    options.frame_opts.frame_length_ms = FRAME
    options.frame_opts.dither = 0.0  # it would draw noise without a seed
    options.mel_opts.num_bins = BANDS
    options.mel_opts.low_freq, options.mel_opts.high_freq = LOW, HIGH
    bank = knf.OnlineFbank(options)
    bank.accept_waveform(RATE, samples.astype(np.float32).tolist())
    bank.input_finished()
    return np.stack([bank.get_frame(k) for k in range(bank.num_frames_ready)])


def lessons(part: Part, snr: float | tuple[float, float], seed: int, copies: int = 1) -> Lessons:
    """Each word ``copies`` times in a noise of its own, at an SNR or at one drawn from a range."""
    rng = np.random.default_rng(seed)
    low, high = snr if isinstance(snr, tuple) else (snr, snr)
    sequences = [
        log_mel(mixed(rng, sound, rng.uniform(low, high)))
        for _ in range(copies)
        for sound in part.sounds
    ]
    return Lessons(sequences, np.tile(part.digits(), copies))


class Scale(NamedTuple):
    """The mean and deviation of each band in the training part, to standardise all by."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, training: Lessons) -> Scale:
        steps = np.concatenate(training.sequences)
        return cls(steps.mean(axis=0), steps.std(axis=0))

    def apply(self, given: Lessons) -> Lessons:
        sequences = [(s - self.mean) / self.deviation for s in given.sequences]
        return Lessons([s.astype(np.float32) for s in sequences], given.digits)


def pooled(given: Lessons, stretches: int) -> np.ndarray:
    """Means over ``stretches`` equal parts of each sequence, side by side."""
    return np.stack(
        [
            np.concatenate([s.mean(axis=0) for s in np.array_split(sequence, stretches)])
            for sequence in given.sequences
        ]
    )
