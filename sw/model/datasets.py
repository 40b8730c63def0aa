"""Functions that load the data set of a trained network, and check that a data set fits one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sw.data import catalogue
from sw.data.dataset import DataError, Dataset
from sw.model.config import ModelConfig


def require_fit(config: ModelConfig, dataset: Dataset) -> None:
    """Check that samples and classes of a data set are those that a network is configured for.

    Raises
    ------
    sw.data.dataset.DataError
        The shape of the samples or the number of classes differs from the network's.
    """
    wanted = (*((config.timesteps,) if config.frames else ()), *config.image_shape)
    for split in (dataset.train, dataset.validation, dataset.test):
        if split.images.shape[1:] != wanted:
            raise DataError(
                f"{dataset.name} has samples of shape {split.images.shape[1:]}, the network takes "
                f"{wanted}: choose a data set or a network that fits"
            )
    if len(dataset.labels) != config.n_classes:
        raise DataError(
            f"{dataset.name} has {len(dataset.labels)} classes, the network {config.n_classes}: "
            "choose a data set or a network that fits"
        )


def load_for(
    values: dict[str, Any], data_dir: str | Path | None = None, name: str | None = None
) -> Dataset:
    """Load the data set that a checkpoint's network was trained on, or the one called ``name``.

    ``values`` is the checkpoint's dictionary (:mod:`sw.model.checkpoint`). Event recordings are
    divided into as many frames as the network has timesteps.

    Raises
    ------
    sw.data.dataset.DataError, sw.model.config.ModelError
        The data set is not found, or does not fit the network (:func:`require_fit`); the
        checkpoint's configuration is not supported.
    """
    config = values["model_config"]
    found = catalogue.load(
        data_dir,
        name=name or values["data"].get("name", "fashion-mnist"),
        timesteps=int(config["timesteps"]),
    )
    require_fit(ModelConfig.from_dict(config), found)
    return found
