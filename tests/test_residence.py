"""Weights that come and go: nothing is read anew, nothing stays."""

import threading

import torch
from torch import nn

from foley_lab.pipeline.residence import Residence


def test_weights_come_and_go_and_are_the_same(monkeypatch):
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).eval()
    wanted = {name: value.clone() for name, value in module.state_dict().items()}
    residence = Residence([module], torch.device("cpu"))
    homes = [p.data_ptr() for p in module.parameters()]
    real, moved = torch.Tensor.to, []

    def to(self, *args, **options):
        if options.get("non_blocking"):
            moved.append(self.data_ptr())
            return self.clone()
        return real(self, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", to)
    for _ in range(2):
        moved.clear()
        with residence.here():
            assert [p.data_ptr() for p in module.parameters()] != homes
            with residence.here():  # a second thread of the same stage moves nothing
                module(torch.zeros(1, 3))
        assert moved[: len(homes)] == homes  # from memory, every time, once
        assert [p.data_ptr() for p in module.parameters()] == homes
    assert all(torch.equal(wanted[name], value) for name, value in module.state_dict().items())
    assert residence.bytes == sum(v.nbytes for v in wanted.values())


def test_a_failing_stage_goes_home_too():
    module = nn.Linear(2, 2)
    residence = Residence([module], torch.device("cpu"))
    home = module.weight.data_ptr()
    try:
        with residence.here():
            raise KeyError
    except KeyError:
        pass
    assert module.weight.data_ptr() == home


def test_threads_share_a_stay():
    module = nn.Linear(2, 2)
    residence, seen = Residence([module], torch.device("cpu")), []

    def work():
        with residence.here():
            seen.append(module(torch.ones(1, 2)).detach())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(seen[0], each) for each in seen)
