"""Something that a voice detector takes for a voice: pulses through three resonances, an "a" that never ends.

Sums and products of float64 in one order, so every machine has the same samples.
"""

import numpy as np

PERIOD = 133  # samples at 16 kHz: 120 Hz
# y[n] = x[n] + a y[n-1] - b y[n-2]: 700, 1220 and 2600 Hz, 80, 90 and 120 Hz wide.
RESONANCES = ((1.8949, 0.9691), (1.7437, 0.9653), (1.0207, 0.954))
LOUDEST = 0.5

CHUNK, CONTEXT = 512, 64


def samples(count):
    sound = [1.0 if index % PERIOD == 0 else 0.0 for index in range(count)]
    for a, b in RESONANCES:
        before = [0.0, 0.0]
        for index, value in enumerate(sound):
            sound[index] = value + a * before[0] - b * before[1]
            before = [sound[index], before[0]]
    loudest = max(abs(value) for value in sound)
    return np.array([value / loudest * LOUDEST for value in sound], np.float32)


def requests(kind, chunks):
    """[chunks, 576]: each chunk with the last samples of the one before."""
    sound = samples(chunks * CHUNK) if kind == "voice" else np.zeros(chunks * CHUNK, np.float32)
    sound = np.concatenate([np.zeros(CONTEXT, np.float32), sound])
    return np.stack([sound[at : at + CONTEXT + CHUNK] for at in range(0, chunks * CHUNK, CHUNK)])
