"""Functions that load the data set of a trained network, and check that a data set fits one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sw.data import catalogue
from sw.data.dataset import DataError, Dataset, Split
from sw.data.labels import as_named
from sw.model.config import ModelConfig


def require_fit(config: ModelConfig, dataset: Dataset) -> None:
    """Check that a data set has the shape of samples and the number of classes of a network.

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
    """Return the data set that a checkpoint's network was trained on, or the one called ``name``.

    A user's own data is looked for at the path that the checkpoint keeps (:meth:`Dataset.record`).
    If the samples are not those that the network was trained on, the result's ``note`` says so.
    Event recordings are divided into as many frames as the network has timesteps. Labels are
    renumbered if the data set has the network's classes in another order.

    Parameters
    ----------
    values : the checkpoint's dictionary (:mod:`sw.model.checkpoint`).
    data_dir : folder with the files, for a data set that is known by name.
    name : name of another data set, or path of own data; None for the checkpoint's.

    Raises
    ------
    sw.data.dataset.DataError, sw.model.config.ModelError
        The data set is not found, does not fit the network (:func:`require_fit`) or has other
        classes; or the checkpoint's configuration is not supported.
    """
    config, record = values["model_config"], values["data"]
    found = catalogue.load(
        data_dir,
        name=place_of(record) if name is None else name,
        timesteps=int(config["timesteps"]),
    )
    require_fit(ModelConfig.from_dict(config), found)
    found = _renumbered(found, record.get("labels"))
    if found.own and name is None and record.get("sha256") not in (None, found.sha256):
        changed = "the files have changed since the training"
        found = replace(found, note="; ".join(filter(None, [found.note, changed])))
    return found


def place_of(record: dict[str, Any]) -> str:
    """Return the name of the data set that a checkpoint's ``data`` records, or the path of own
    data.

    Raises
    ------
    sw.data.dataset.DataError
        The data are a user's own, and no path is recorded or the path no longer exists.
    """
    name, path = record.get("name", catalogue.DEFAULT), record.get("path")
    if name in catalogue.NAMES and not record.get("own"):
        return str(name)
    what = f"the network was trained on own data called {name!r}"
    if not isinstance(path, str):
        raise DataError(f"{what}, of which the checkpoint holds no path: name it with --data PATH")
    if not Path(path).exists():
        form, digest = record.get("form"), str(record.get("sha256"))[:12]
        raise DataError(
            f"{what} ({form}; its samples have SHA-256 {digest}...), which is no longer at {path}: "
            "name it with --data PATH"
        )
    return path


def _renumbered(dataset: Dataset, names: Any) -> Dataset:
    """Return a data set whose labels are numbered in the order of a network's classes.

    ``names`` are the names of these classes. If ``names`` is not a list or tuple, because the names
    are unknown or the checkpoint is damaged, the labels stay as they are.

    Raises
    ------
    sw.data.dataset.DataError
        The data set's classes have other names than the network's.
    """
    if not isinstance(names, list | tuple) or tuple(names) == tuple(dataset.labels):
        return dataset
    splits = {}
    for part in ("train", "validation", "test"):
        split: Split = getattr(dataset, part)
        numbers = as_named(split.labels, dataset.labels, [str(name) for name in names])
        if numbers is None:
            raise DataError(
                f"{dataset.name} has the classes {', '.join(dataset.labels)}, the network "
                f"{', '.join(map(str, names))}: choose a data set or a network that fits"
            )
        splits[part] = replace(split, labels=numbers)
    return replace(dataset, **splits)
