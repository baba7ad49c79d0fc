"Losses and heads by name: one signature, what each needs, and one entry for one of one's own."

import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn

from frames_matter.base.errors import UserError
from frames_matter.base.profiles import HARD_NEGATIVE_WEIGHT, TEMPERATURE, Profile
from frames_matter.base.registry import resolve
from frames_matter.model.catalogue import HEADS, LOSSES, Head, Loss
from frames_matter.model.losses import infonce_from_similarity
from frames_matter.model.protocols import SOUND
from frames_matter.model.training import Pairs, Training, fit, loss_of
from frames_matter.model.viclip import ViCLIP, ViCLIPConfig

SMALL = ViCLIPConfig(32, 16, 64, 2, 1, 32, 4, 16, 300, 64, 1, 2)


@pytest.fixture
def registered(monkeypatch):
    "Register an entry for the time of a test."

    def register(registry, entry):
        monkeypatch.setattr(registry, "_entries", dict(registry._entries))
        return registry.register(entry)

    return register


def pull_together(similarity, *, temperature):
    return -(similarity.diagonal() / temperature).mean()


def test_they_are_the_study_s_and_their_rivals_in_order():
    assert list(LOSSES) == ["infonce", "hnac", "constant", "margin", "debiased", "hard", "sigmoid", "soft", "oracle"]
    assert [loss.name for loss in LOSSES.values() if loss.grid] == ["infonce", "hnac"]
    assert [head.title for head in HEADS.values()] == ["dual encoder", "cross-attention", "fusion"]
    assert HEADS["viclip"](64) is None and isinstance(HEADS["fusion"](64), nn.Module)


@pytest.mark.parametrize("name", LOSSES)
def test_all_losses_have_one_signature(name):
    "A matrix, and keywords alone: the temperature, with one default for all, and what the entry says that it needs."
    similarity, *keywords = inspect.signature(resolve(LOSSES[name].function)).parameters.values()
    assert similarity.name == "similarity" and all(p.kind is p.KEYWORD_ONLY for p in keywords)
    defaults = {p.name: p.default for p in keywords}
    assert defaults["temperature"] == TEMPERATURE and set(LOSSES[name].needs) <= set(defaults)
    required = {name for name, default in defaults.items() if default is inspect.Parameter.empty}
    assert required <= set(LOSSES[name].needs)


def test_a_loss_is_given_what_it_needs_and_no_more():
    asked = {}

    def recording(similarity, *, temperature, captions, softness=0.2):
        asked.update(temperature=temperature, captions=captions, softness=softness)
        return similarity.sum()

    loss = Loss("recording", "recording", recording, needs=("captions", "softness"))
    loss(torch.eye(2), temperature=0.5, captions="likeness", relevant="truth", hard_negative_weight=0.1)
    assert asked == {"temperature": 0.5, "captions": "likeness", "softness": 0.2}
    with pytest.raises(UserError, match="'recording' needs captions, which this procedure does not know"):
        loss(torch.eye(2), temperature=0.5, relevant="truth")


def test_the_temperature_is_written_once():
    assert Profile("x").temperature == Training().temperature == TEMPERATURE == 0.07
    assert Profile("x").hard_negative_weight == Training().hard_negative_weight == HARD_NEGATIVE_WEIGHT == 0.5


def test_a_name_that_nobody_registered_lists_those_that_are():
    with pytest.raises(UserError, match="Unknown loss 'triplet'; valid: infonce, hnac"):
        loss_of(torch.eye(3), Training(loss="triplet"))
    with pytest.raises(UserError, match="needs relevant"):
        loss_of(torch.eye(3), Training(loss="oracle"))
    with pytest.raises(UserError, match="already"):
        LOSSES.register(Loss("hnac", "another", pull_together))


def test_a_loss_of_one_s_own_trains_a_head_of_one_s_own(registered):
    "One entry each, and the loop knows them."

    class Scale(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.video, self.text = nn.Parameter(torch.ones(dim)), nn.Parameter(torch.ones(dim))

        def forward(self, video, text):
            return video * self.video, text * self.text

    registered(LOSSES, Loss("pull", "pull together", pull_together))
    registered(HEADS, Head("scale", "scaled", Scale))
    torch.manual_seed(0)
    model, head = ViCLIP(SMALL), HEADS["scale"](SMALL.embed_dim)
    nn.init.normal_(model.vision_encoder.temporal_positional_embedding, std=0.02)
    pairs = Pairs(torch.randn(4, 4, 3, 32, 32), torch.randn(4, 32))
    curve = fit(model, head, pairs, pairs, Training(loss="pull", epochs=8, learning_rate=1e-3), SOUND)["train_loss"]
    assert curve[-1] < curve[0]


def test_a_loss_by_its_place_is_the_function_itself():
    s = torch.rand(4, 4)
    assert torch.equal(LOSSES["infonce"](s, temperature=0.1), infonce_from_similarity(s, temperature=0.1))


def test_the_catalogue_imports_no_torch():
    code = "import sys, frames_matter.model.catalogue as c; print(len(c.LOSSES), len(c.HEADS), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["9", "3", "False"]
