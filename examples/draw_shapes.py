"""Draw the images of docs/tutorial.md: four shapes, as PNG files in a folder for each class.

Run ``python examples/draw_shapes.py shapes``. It writes 400 training images to ``shapes/train`` and
100 test images to ``shapes/test``, and prints::

    shapes: 400 training images, 100 test images of circle, cross, square, triangle

Needs Pillow (``pip install pillow``). The same seed draws the same images.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = 16
CLASSES = ("circle", "cross", "square", "triangle")


def draw(name: str, random: np.random.Generator) -> Image.Image:
    """Return one image: a shape of random size, position and brightness, on a dark, noisy
    background."""
    r = int(random.integers(4, 7))
    x, y = (int(v) for v in random.integers(r, SIZE - r, 2))
    shade = int(random.integers(150, 256))
    image = Image.fromarray(random.integers(0, 60, (SIZE, SIZE), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    box = (x - r, y - r, x + r, y + r)
    if name == "circle":
        pen.ellipse(box, outline=shade, width=2)
    elif name == "square":
        pen.rectangle(box, outline=shade, width=2)
    elif name == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], outline=shade, width=2)
    else:
        pen.line((x - r, y, x + r, y), fill=shade, width=2)
        pen.line((x, y - r, x, y + r), fill=shade, width=2)
    return image


def main(folder: Path) -> None:
    """Draw all images and write them to ``folder``, with a folder for each class."""
    random = np.random.default_rng(1)
    n_images = {"train": 100, "test": 25}
    for part, n in n_images.items():
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                draw(name, random).save(folder / part / name / f"{i:03}.png")
    n_train, n_test = (n * len(CLASSES) for n in n_images.values())
    print(f"{folder}: {n_train} training images, {n_test} test images of {', '.join(CLASSES)}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "shapes"))
