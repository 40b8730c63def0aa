"""Functions that return the configurations of named networks, for recipes and shipped checkpoints.

The networks for small boards are trained without the auxiliary pathway (:mod:`sw.model.resnet`),
which costs time and does not help networks of a few blocks (docs/measurements/learning.md).

Boards are described in :mod:`hw.boards.configs`. A board has 8 to 64 lanes, each of which computes
one output channel at a time. A row is one word of a board's weight memory, with one weight for each
lane.
"""

from __future__ import annotations

from sw.data.mitbih import N_CHANNELS, N_SAMPLES
from sw.model.config import (
    EXPANSION,
    PER_TIMESTEP,
    BlockConfig,
    ModelConfig,
    NeuronConfig,
    StageConfig,
    require,
)


def fashion_mnist() -> ModelConfig:
    """Return the network of the ``fashion-mnist`` recipe.

    In the last block, both Real-Spike coefficients (trained factors of spikes) have a value for
    every element. When they are folded into the layers that read their spikes, the second
    convolution gets weights of its own for every position, and the classifier for every position
    and timestep. The folded network still has fewer than 300,000 weights.
    """
    return ModelConfig(
        stem_channels=32,
        stages=(
            StageConfig(channels=32, blocks=(BlockConfig(gate="OR"),)),
            StageConfig(channels=64, stride=2, blocks=(BlockConfig(gate="OR"),)),
            StageConfig(
                channels=32,
                stride=2,
                blocks=(BlockConfig(gate="OR", inner="element", outer="element" + PER_TIMESTEP),),
            ),
        ),
    )


def resnet(depth: int, *, gate: str = "IAND", granularity: str = "channel") -> ModelConfig:
    """Return a ResNet for ImageNet-shaped input (He et al., arXiv 1512.03385).

    ``depth`` is 18 or 34, with basic blocks, or 50, 101 or 152, with bottlenecks. The stem pools
    over windows of 2x2, as the device does, instead of the paper's 3x3. All blocks have the
    ``gate``, and coefficients of the ``granularity`` (:class:`sw.model.config.BlockConfig`).

    Raises
    ------
    ModelError
        There is no network of this depth.
    """
    n_blocks = {
        18: (2, 2, 2, 2),
        34: (3, 4, 6, 3),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
        152: (3, 8, 36, 3),
    }
    require(depth in n_blocks, f"depth = {depth}: use one of {list(n_blocks)}")
    kind, widening = ("basic", 1) if depth < 50 else ("bottleneck", EXPANSION)
    block = BlockConfig(gate=gate, inner=granularity, outer=granularity, kind=kind)
    return ModelConfig(
        image_shape=(3, 224, 224),
        n_classes=1000,
        stem_channels=64,
        stem_kernel=7,
        stem_stride=2,
        stem_coefficient=granularity,
        stages=tuple(
            StageConfig(
                channels=64 * 2**n * widening, stride=1 if n == 0 else 2, blocks=(block,) * m
            )
            for n, m in enumerate(n_blocks[depth])
        ),
    )


def _blocks(n: int, gate: str = "OR", inner: str = "channel", outer: str = "channel") -> tuple:
    return (BlockConfig(gate=gate, inner=inner, outer=outer),) * n


def fashion_mnist_icebreaker() -> ModelConfig:
    """Return a network of 3 timesteps for Fashion-MNIST that fits the iCEBreaker.

    This board has memory for 16,384 rows of sixteen 4-bit weights, for 4,096 bytes of spikes, and
    for 512 pairs of bias and threshold.
    """
    last = BlockConfig(gate="OR", inner="channel", outer="element" + PER_TIMESTEP)
    return ModelConfig(
        aap=False,
        timesteps=3,
        stem_channels=40,
        stem_kernel=5,
        stem_stride=2,
        stages=(StageConfig(channels=64, stride=2, blocks=(*_blocks(1), last)),),
    )


def fashion_mnist_85f() -> ModelConfig:
    """Return a network for Fashion-MNIST that fills the weight memory of the ULX3S-85F.

    This board has 11,264 rows of thirty-two 8-bit weights. The last stage has the most channels,
    because its maps are the smallest.
    """
    last = BlockConfig(gate="OR", inner="channel", outer="element")
    return ModelConfig(
        aap=False,
        stem_channels=32,
        stem_kernel=5,
        stages=(
            StageConfig(channels=64, stride=2, blocks=_blocks(2)),
            StageConfig(channels=96, stride=2, blocks=(last,)),
        ),
    )


def fashion_mnist_teacher() -> ModelConfig:
    """Return a ReLU network for Fashion-MNIST, the teacher of spiking networks in distillation.

    It is like the ResNet-20 for CIFAR-10 of He et al., arXiv 1512.03385: three stages of three
    blocks, with 16, 32 and 64 channels. The first stage sees the images in full resolution, since
    the stem does not pool. It has 0.27 million parameters.
    """
    blocks = (BlockConfig(gate="ADD", inner="none", outer="none"),) * 3
    return ModelConfig(
        timesteps=1,
        spiking=False,
        aap=False,
        stem_channels=16,
        stem_pool=1,
        stem_coefficient="none",
        stages=(
            StageConfig(channels=16, blocks=blocks),
            StageConfig(channels=32, stride=2, blocks=blocks),
            StageConfig(channels=64, stride=2, blocks=blocks),
        ),
    )


def fashion_mnist_large() -> ModelConfig:
    """Return a network for Fashion-MNIST that fits the ULX3S-85F if it is built for 4-bit weights.

    With this width, the board has memory for 720,896 weights.
    """
    return ModelConfig(
        stem_channels=48,
        stages=(
            StageConfig(channels=48, blocks=_blocks(1)),
            StageConfig(channels=96, stride=2, blocks=_blocks(1)),
            StageConfig(channels=128, stride=2, blocks=_blocks(1, outer="element" + PER_TIMESTEP)),
        ),
    )


def nmnist() -> ModelConfig:
    """Return a network for N-MNIST, whose samples are event frames of 34x34.

    The stem halves the height and width of the frames twice, by its stride and by pooling.
    """
    last = BlockConfig(gate="OR", inner="channel", outer="element")
    return ModelConfig(
        image_shape=(2, 34, 34),
        frames=True,
        stem_channels=16,
        stem_stride=2,
        stages=(
            StageConfig(channels=32, blocks=_blocks(1)),
            StageConfig(channels=32, stride=2, blocks=(last,)),
        ),
    )


def mitbih() -> ModelConfig:
    """Return a network for the heartbeats of :mod:`sw.data.mitbih`, which are 1-D signals."""
    last = BlockConfig(gate="OR", inner="channel", outer="element" + PER_TIMESTEP)
    return ModelConfig(
        aap=False,
        image_shape=(N_CHANNELS, 1, N_SAMPLES),
        n_classes=4,
        stem_channels=24,
        stem_kernel=7,
        stem_stride=2,
        stages=(
            StageConfig(channels=32, stride=2, blocks=_blocks(1)),
            StageConfig(channels=48, stride=2, blocks=(last,)),
        ),
    )


def cifar10() -> ModelConfig:
    """Return a network of three wide stages for CIFAR-10; its training needs a GPU."""
    return ModelConfig(
        image_shape=(3, 32, 32),
        stem_channels=128,
        stem_pool=1,
        stages=(
            StageConfig(channels=128, blocks=_blocks(3)),
            StageConfig(channels=256, stride=2, blocks=_blocks(3)),
            StageConfig(channels=512, stride=2, blocks=_blocks(3)),
        ),
        neuron=NeuronConfig(surrogate="arctan", surrogate_slope=2.0),
    )


def cifar10_85f() -> ModelConfig:
    """Return a network for CIFAR-10 that fills the weight memory of the ULX3S-85F.

    This board has 11,264 rows of thirty-two 8-bit weights.
    """
    last = BlockConfig(gate="OR", inner="channel", outer="element")
    return ModelConfig(
        aap=False,
        image_shape=(3, 32, 32),
        stem_channels=48,
        stages=(
            StageConfig(channels=64, stride=2, blocks=_blocks(2)),
            StageConfig(channels=96, stride=2, blocks=(last,)),
        ),
    )


def events_128(n_classes: int, timesteps: int) -> ModelConfig:
    """Return a network of four stages of two blocks for binary frames of an event camera.

    The frames are 128 pixels high and wide, one for each of ``timesteps``.
    """
    return ModelConfig(
        timesteps=timesteps,
        image_shape=(2, 128, 128),
        frames=True,
        n_classes=n_classes,
        stem_channels=32,
        stem_stride=2,
        stages=tuple(
            StageConfig(channels=channels, stride=2 if n else 1, blocks=_blocks(2))
            for n, channels in enumerate((32, 64, 64, 64))
        ),
    )
