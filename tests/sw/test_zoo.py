from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sw import checkpoint, fold, quantize, reference, train, zoo
from sw.recipes import TrainConfig
from tests.sw.test_train import easy_data
from tests.trained import small_config

CONFIG = TrainConfig(epochs=1, batch_size=16, shift_px=1)


def test_an_entry_is_what_the_network_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "small.pt"
    values = train.train(small_config(), CONFIG, easy_data(), path, command="the command")
    tuned = tmp_path / "tuned.pt"
    tuning = TrainConfig(**{**vars(CONFIG), "weight_bits": 4})
    train.train(small_config(), tuning, easy_data(), tuned, init=values["model"])
    monkeypatch.setattr(checkpoint.data, "load", lambda *_, **__: easy_data())
    assert zoo.main([str(path), str(tuned), "--json"]) == 0
    entry, second = json.loads(capsys.readouterr().out)
    network = quantize.quantize(fold.fold(path), 8)
    test = easy_data().test
    trace = reference.run(network, test.images)
    assert entry["on_device"] == pytest.approx(100 * np.mean(trace.predictions == test.labels))
    assert entry["full_spike"] == values["results"]["test"]["spike"]
    n_spikes = sum(int(maps.sum()) for maps in trace.spikes.values())
    assert entry["n_spikes"] == pytest.approx(n_spikes / len(test))
    assert entry["n_multiplications"] == 6 * 14 * 10 * 9
    energy = 0.9e-3 * entry["n_synaptic_ops"] + 4.6e-3 * entry["n_multiplications"]
    assert entry["energy_nj"] == pytest.approx(energy)
    assert entry["n_synapses"] == sum(layer.weight.size for layer in network.layers)
    assert entry["granularity"].startswith("element/per-timestep, layer, channel")
    assert entry["board"].startswith("ulx3s-") and entry["n_cycles"] > 0
    assert second["weight_bits"] == 4 and second["full_spike"] is None
    assert second["board"].endswith("/w4")
    assert zoo.main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "`small`" in text and "the command" in text
    path.write_text("hello")
    assert zoo.main([str(path)]) == 1
    assert "small.pt" in capsys.readouterr().err
