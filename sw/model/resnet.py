"""Full-spike residual network with auxiliary accumulation pathway and Real-Spike coefficients.

Full-spike means that every tensor between layers is binary; a layer's output is called a map. A
block joins the spikes of its residual branch and of its identity by a binary gate (Chen et al.,
arXiv 2301.11929). A trainable Real-Spike coefficient then scales the joined spikes for the layers
that read them (Guo et al., arXiv 2210.06686); after training, :mod:`sw.convert.fold` multiplies it
into these layers' weights. The auxiliary accumulation pathway (AAP) is a second stream, which sums
the branches' spikes, has class scores of its own, and is removed after training.

The first convolution is the stem. Blocks are basic or bottlenecks, which are two kinds of residual
branch (:class:`sw.model.config.BlockConfig`). The input is either one image, the same at every
timestep, or a binary frame for each timestep. An input of height 1 is a one-dimensional signal.

Tensors have timesteps and samples in one axis: ``(T * N, C, H, W)``. The N samples of the first
timestep come first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from hw.spec import N_LEAK_SHIFTS, leak_shifts
from sw.model.config import ADD, EXPANSION, ModelConfig, StageConfig, require
from sw.model.functional import EAGER, Backend
from sw.model.modules import Coefficient, NeuronLayer, Norm, Rectifier, Scaled
from sw.network.network import INPUT, Shape, conv_size


class Block(nn.Module):
    """Residual block: two or three convolutions, each with batch-norm and neurons, then a gate.

    The gate joins the last neurons' spikes with the spikes of the identity. The identity is the
    block's input; where the block changes the shape, it is the output of the layer ``downsample``.

    Convolution ``n``, counted from 1, is the module ``conv{n}``. Its batch-norm, its neurons and
    the coefficient of their spikes are ``bn{n}``, ``neuron{n}`` and ``coefficient{n}``. The last
    coefficient scales the spikes after the gate.
    """

    def __init__(
        self, config: ModelConfig, stage: StageConfig, index: int, source: Shape, name: str
    ):
        super().__init__()
        block = stage.blocks[index]
        stride = stage.stride if index == 0 else 1
        channels, middle = stage.channels, stage.channels // EXPANSION
        self.gate = block.gate
        self.backend: Backend = EAGER
        """Functions that compute the gate; :meth:`SpikingResNet.set_backend` sets them."""
        convs = (  # kernel, output channels, stride
            ((3, channels, stride), (3, channels, 1))
            if block.kind == "basic"
            else ((1, middle, 1), (3, middle, stride), (1, channels, 1))
        )
        self.n_convs = len(convs)
        self.shapes: list[Shape] = [source]
        """Shapes (C, H, W) of the block's input and of every convolution's output."""
        for n, (kernel, width, step) in enumerate(convs, 1):
            conv = _conv(config, self.shapes[-1][0], width, kernel, step)
            self.shapes.append(_conv_shape(conv, self.shapes[-1]))
            granularity = block.outer if n == len(convs) else block.inner
            self.add_module(f"conv{n}", conv)
            self.add_module(f"bn{n}", _norm(config, width))
            self.add_module(f"neuron{n}", _neuron(config, f"{name}.conv{n}"))
            self.add_module(
                f"coefficient{n}", Coefficient(granularity, config.timesteps, self.shapes[-1])
            )
        self.downsample = (
            nn.Sequential(
                _conv(config, source[0], channels, 1, stride),
                _norm(config, channels),
                _neuron(config, f"{name}.downsample"),
            )
            if stride != 1 or source[0] != channels
            else None
        )

    def conv(self, n: int) -> nn.Conv2d:
        """Return convolution ``n``, counted from 1."""
        return cast(nn.Conv2d, self.get_submodule(f"conv{n}"))

    def norm(self, n: int) -> Norm:
        """Return the batch-norm after convolution ``n``."""
        return cast(Norm, self.get_submodule(f"bn{n}"))

    def neuron(self, n: int) -> NeuronLayer:
        """Return the neurons after convolution ``n``."""
        return cast(NeuronLayer, self.get_submodule(f"neuron{n}"))

    def coefficient(self, n: int) -> Coefficient:
        """Return the coefficient of the spikes of convolution ``n``.

        The coefficient of the last convolution scales the spikes after the gate.
        """
        return cast(Coefficient, self.get_submodule(f"coefficient{n}"))

    @property
    def shape(self) -> Shape:
        """Shape (C, H, W) of the block's output."""
        return self.shapes[-1]

    def forward(
        self, spikes: Tensor, scaled: Scaled, record: Callable[[str, Tensor], None]
    ) -> tuple[Tensor, Scaled, Tensor]:
        """Run the block on its input.

        Parameters
        ----------
        spikes : the input as binary spikes.
        scaled : the same spikes with their coefficient; the convolutions read these.
        record : function to call with name and binary spikes of every map, such as ``conv1``. With
            an ``ADD`` gate, the map of the last convolution has the spikes before the gate.

        Returns
        -------
        Three values. The first is the block's output ``(T * N, C, H, W)``: sums of spikes with an
        ``ADD`` gate, binary spikes with any other gate. The second is the output together with its
        coefficient. The third is the residual branch's spikes before the gate.
        """
        branch, inner = spikes, scaled
        for n in range(1, self.n_convs + 1):
            branch = self.neuron(n)(self.norm(n)(inner.through(self.conv(n))))
            if n < self.n_convs:
                record(f"conv{n}", branch)
                inner = Scaled(branch, self.coefficient(n))
        identity = spikes
        if self.downsample is not None:
            conv, norm, neuron = self.downsample
            identity = neuron(norm(scaled.through(cast(nn.Conv2d, conv))))
            record("downsample", identity)
        joined = self.backend.join(self.gate, branch, identity)
        # A sum is no map of spikes: the layers that read it read its parts.
        record(f"conv{self.n_convs}", branch if self.gate == ADD else joined)
        return joined, Scaled(joined, self.coefficient(self.n_convs)), branch


def _conv(
    config: ModelConfig, n_in: int, n_out: int, kernel: int, stride: int, groups: int = 1
) -> nn.Conv2d:
    """Return a convolution without bias, padded so that stride 1 keeps the size of the map.

    Kernel and stride are the same vertically and horizontally. For one-dimensional signals, they
    extend along the columns only.
    """
    size, step = config.along(kernel), config.along(stride)
    padding = (size[0] // 2, size[1] // 2)
    return nn.Conv2d(n_in, n_out, size, step, padding, groups=groups, bias=False)


def _conv_shape(conv: nn.Conv2d, source: Shape) -> Shape:
    padding = cast(tuple[int, int], conv.padding)
    return conv.out_channels, *conv_size(source[1:], conv.kernel_size, conv.stride, padding)


def _norm(config: ModelConfig, n_channels: int) -> Norm:
    return Norm(n_channels, config.timesteps if config.batch_norm == "per-timestep" else 1)


def _neuron(config: ModelConfig, layer: str) -> NeuronLayer:
    kind = NeuronLayer if config.spiking else Rectifier
    return kind(config.neuron_of(layer), config.timesteps)


class Carry(nn.Module):
    """Layers that bring the sums of the auxiliary pathway to the shape of a block's output.

    They are a 1x1 convolution, batch-norm and ReLU (Chen et al., arXiv 2301.11929). If the block's
    stride is not 1, a depthwise 3x3 convolution with this stride comes first.
    """

    def __init__(self, config: ModelConfig, n_in: int, n_out: int, stride: int):
        super().__init__()
        depthwise = [_conv(config, n_in, n_in, 3, stride, groups=n_in)] if stride != 1 else []
        self.layers = nn.Sequential(
            *depthwise, _conv(config, n_in, n_out, 1, 1), _norm(config, n_out), nn.ReLU()
        )

    def forward(self, sums: Tensor) -> Tensor:
        return self.layers(sums)


class Logits(NamedTuple):
    """Class scores ``(N, n_classes)`` of a network.

    ``spike`` holds the scores from the spikes. ``aap`` holds the scores from the auxiliary pathway,
    or is None if the network has no auxiliary pathway.
    """

    spike: Tensor
    aap: Tensor | None


class SpikingResNet(nn.Module):
    """Full-spike residual network: a first convolution (the stem), residual blocks, and a
    classifier.

    :mod:`sw.model.resnet` describes its parts.

    State-dict names are those of a ResNet: ``conv1, bn1, layer1.0.conv1, ...,
    layer2.0.downsample.0, ..., fc``. Coefficients are ``coefficient.value``,
    ``layer1.0.coefficient1.value``, ...; parameters of the auxiliary pathway are ``aap.*``.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        timesteps = config.timesteps
        self.conv1 = _conv(
            config,
            config.image_shape[0],
            config.stem_channels,
            config.stem_kernel,
            config.stem_stride,
        )
        # An image drives the stem equally at every timestep, so its statistics are always shared.
        self.bn1 = (
            _norm(config, config.stem_channels) if config.frames else Norm(len(self.conv1.weight))
        )
        self.neuron = _neuron(config, "conv1")
        self.stem_pool = config.along(config.stem_pool)
        shape = _conv_shape(self.conv1, config.image_shape)
        shape = (shape[0], shape[1] // self.stem_pool[0], shape[2] // self.stem_pool[1])
        self.map_shape: Shape = shape
        """Shape (C, H, W) of the stem's pooled spikes."""
        self.coefficient = Coefficient(config.stem_coefficient, timesteps, shape)
        self.block_names: list[str] = []
        carries: dict[str, nn.Module] = {}
        for n, stage in enumerate(config.stages, 1):
            blocks = nn.ModuleList()
            for index in range(len(stage.blocks)):
                name = f"layer{n}.{index}"
                block = Block(config, stage, index, shape, name)
                if block.downsample is not None:
                    stride = stage.stride if index == 0 else 1
                    carry = Carry(config, shape[0], stage.channels, stride)
                    carries[name.replace(".", "_")] = carry
                blocks.append(block)
                self.block_names.append(name)
                shape = block.shape
            self.add_module(f"layer{n}", blocks)
        require(min(shape) >= 1, f"the map shrinks to {shape}: use less stride or pooling")
        self.fc = nn.Linear(shape[0], config.n_classes)
        if not config.shared_classifier:
            carries["fc"] = nn.Linear(shape[0], config.n_classes)
        self.aap = nn.ModuleDict(carries) if config.aap else None
        unknown = set(config.neurons) - set(self.neurons())
        require(not unknown, f"neurons: there are no layers {', '.join(sorted(unknown))}")
        for module in self.modules():
            # The meta device has no numbers, and torch would load its compiler to draw them.
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def block(self, name: str) -> Block:
        """Return the block called ``name``, for example ``layer2.0``."""
        return cast(Block, self.get_submodule(name))

    @property
    def backend(self) -> Backend:
        """Set of functions that compute the neurons and gates, eager or compiled."""
        return self.neuron.backend

    def set_backend(self, backend: Backend) -> SpikingResNet:
        """Compute neurons and gates with ``backend`` from now on, and return the network itself."""
        for module in self.modules():
            if isinstance(module, Block | NeuronLayer):
                module.backend = backend
        return self

    def neurons(self) -> dict[str, NeuronLayer]:
        """Return all layers of neurons by name: ``conv1`` (the stem), ``layer1.0.conv1``, ..."""
        found = {"conv1": self.neuron}
        for name in self.block_names:
            block = self.block(name)
            found |= {f"{name}.conv{n}": block.neuron(n) for n in range(1, block.n_convs + 1)}
            if block.downsample is not None:
                found[f"{name}.downsample"] = cast(NeuronLayer, block.downsample[2])
        return found

    def forward(
        self, images: Tensor, record: Callable[[str, Tensor], None] | None = None
    ) -> Logits:
        """Return the class scores for images or frames as :func:`to_input` prepares them.

        ``record`` is called once for every map, with its name in the integer network
        (:mod:`sw.network.network`) and its spikes ``(T, N, C, H, W)``. The spikes are part of the
        autograd graph, so a loss may depend on them.
        """
        timesteps = self.config.timesteps

        def note(name: str, spikes: Tensor) -> None:
            if record is not None:
                record(name, spikes.unflatten(0, (timesteps, len(images))))

        if self.config.frames:
            frames = images.transpose(0, 1).flatten(0, 1)
            note(INPUT, frames)
            spikes = self.neuron(self.bn1(self.conv1(frames)), pool=self.stem_pool)
        else:
            drive = self.bn1(self.conv1(images))
            spikes = self.neuron(drive, repeated=True, pool=self.stem_pool)
        note("conv1" if self.config.frames else INPUT, spikes)
        scaled = Scaled(spikes, self.coefficient)
        sums = spikes
        for name in self.block_names:
            spikes, scaled, branch = self.block(name)(
                spikes, scaled, lambda part, s, name=name: note(f"{name}.{part}", s)
            )
            if self.aap is not None:
                carry = name.replace(".", "_")
                sums = (self.aap[carry](sums) if carry in self.aap else sums) + branch
        if self.aap is None:
            return Logits(self._classify(self.fc, scaled.means()), None)
        head = self.fc if self.config.shared_classifier else self.aap["fc"]
        aap = self._classify(head, sums.mean((2, 3)))
        return Logits(self._classify(self.fc, scaled.means()), aap)

    def spike_maps(self, images: Tensor) -> tuple[Logits, dict[str, Tensor]]:
        """Return the class scores, and the spikes ``(T, N, C, H, W)`` of every map by its name.

        Names are those of the integer network, such as ``layer1.0.conv1``. The first map is called
        :data:`sw.network.network.INPUT`. It has the frames; or, if the input is an image, the
        stem's spikes.
        """
        maps: dict[str, Tensor] = {}
        return self(images, maps.__setitem__), maps

    def _classify(self, head: nn.Module, pooled: Tensor) -> Tensor:
        """Return the class scores ``(N, n_classes)`` that the linear layer ``head`` computes.

        ``pooled`` ``(T * N, C)`` holds the means of a map over positions. The linear layer reads
        the means of ``pooled`` over timesteps.
        """
        timed = pooled.unflatten(0, (self.config.timesteps, len(pooled) // self.config.timesteps))
        return head(timed.mean(0))

    def detach_aap(self) -> SpikingResNet:
        """Return a copy of the network without the auxiliary pathway, which is for training
        only."""
        plain = SpikingResNet(replace(self.config, aap=False)).to(self.fc.weight.dtype)
        plain.load_state_dict(
            {k: v for k, v in self.state_dict().items() if not k.startswith("aap.")}
        )
        return plain.set_backend(self.backend).train(self.training)


def to_input(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return uint8 images ``(N, C, H, W)`` or binary frames ``(N, T, C, H, W)`` as network input.

    Pixels are divided by 255. They are not shifted to mean 0, so that zero padding means black both
    here and in the integer network. Frames are only converted to ``dtype``.
    """
    if images.ndim == 5:
        return images.to(dtype)
    return images.to(dtype).div_(255).to(memory_format=torch.channels_last)


def round_leaks(model: SpikingResNet, n_shifts: int = N_LEAK_SHIFTS) -> ModelConfig:
    """Return a network's configuration with every trained leak replaced by one that a device has.

    Trained leaks have the name ``LEARNED``. A device computes a leak as a sum of shifts of the
    membrane (:class:`hw.spec.Leak`). Of the leaks with up to ``n_shifts`` shifts, including none,
    the one with the nearest decay is chosen; small devices have leaks with one shift only
    (``n_shifts`` of 1). The weights can stay as they are, but some more training with the new leaks
    improves accuracy.
    """
    available = [("NONE", (0,))] + [
        (leak, shifts) for leak in ("SUBTRACT", "KEEP") for shifts in leak_shifts(n_shifts)
    ]
    neurons = {}
    for name, neuron in model.neurons().items():
        config = neuron.config
        if neuron.decay_logit is not None:
            decay = float(torch.sigmoid(neuron.decay_logit.detach()))
            candidates = [
                replace(config, leak=leak, leak_shift=first, finer_shifts=tuple(finer))
                for leak, (first, *finer) in available
            ]
            config = min(candidates, key=lambda c: abs(c.decay - decay))
        neurons[name] = config
    return replace(model.config, neurons=neurons)
