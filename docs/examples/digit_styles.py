"""Write scikit-learn's digits in three styles of rendering, one folder per domain: DIR/STYLE/CLASS/*.png.

Each of the 1,797 digits is drawn once, in one of the styles in turn: as it is (ink), dark on a light and
noisy background (chalk), or as its outline (outline). Usage: python digit_styles.py DIR [IMAGES]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def ink(pixels, rng):
    """Return the digit as it is."""
    return pixels


def chalk(pixels, rng):
    """Return the digit dark on a light, noisy background."""
    return 255 - 0.7 * pixels - rng.uniform(0, 60, pixels.shape)


def outline(pixels, rng):
    """Return the edges of the digit: how far the neighbours of each pixel differ."""
    padded = np.pad(pixels, 1)
    right, below = padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]
    return np.hypot(right, below) / 1.5


STYLES = (ink, chalk, outline)


def main():
    """Write the folders."""
    root = Path(sys.argv[1])
    images, labels = load_digits(return_X_y=True)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else len(images)
    rng = np.random.default_rng(0)
    for i, (flat, label) in enumerate(zip(images[:count], labels[:count], strict=True)):
        style = STYLES[i % len(STYLES)]
        pixels = style(flat.reshape(8, 8) * 255 / 16, rng)
        folder = root / style.__name__ / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{i:04}.png")


if __name__ == "__main__":
    main()
