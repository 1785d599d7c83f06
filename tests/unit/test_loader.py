"""What each process computes of a step, and what becomes of pictures that cannot be read."""

import json
import threading
import time

import numpy as np
import pytest
import torch

from tests.tiny import tiny_vision
from vistune.conversation import IGNORE_INDEX
from vistune.data.images import Preprocessor
from vistune.data.mix import Mix
from vistune.data.pack import shared_length
from vistune.data.pixels import PixelStore
from vistune.errors import Problem, VistuneError
from vistune.model.vision import VisionEncoder
from vistune.template import Encoded
from vistune.train.broken import BrokenPictures
from vistune.train.feed import Features, Pixels
from vistune.train.loader import Loader
from vistune.train.order import Order
from vistune.train.parallel import Team

IMAGE = 2
PLAIN = Preprocessor(16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
ALONE = Team(0, 1, torch.device("cpu"), distributed=False)


class Records:
    """Twelve samples on six pictures, two on each, and their numbers."""

    def __init__(self, pictures=6, each=2):
        rng = np.random.default_rng(0)
        self.samples = []
        for number in range(pictures * each):
            words = rng.integers(3, 200, 4 + number % 3).tolist()
            ids = [1, *[IMAGE] * 4, *words]
            labels = [IGNORE_INDEX] * 7 + ids[7:]
            self.samples.append(Encoded(ids, labels, [f"{number % pictures}.png"]))
        self.lengths = np.array([len(s.ids) for s in self.samples])
        self.supervised = np.array([s.supervised for s in self.samples])
        self.prefixes = np.array(
            [shared_length(np.array(s.ids), np.array(s.labels), IMAGE) for s in self.samples]
        )
        self.groups = np.arange(len(self.samples)) % pictures
        self.selection = Mix([np.arange(len(self.samples))], [1])

    def __getitem__(self, number):
        return self.samples[number]

    def __len__(self):
        return len(self.samples)

    def pictures(self):
        return sorted({name for sample in self.samples for name in sample.pictures})


class Grey:
    """Pictures that are all grey; those in ``bad`` turn out broken."""

    def __init__(self, bad=()):
        self.broken, self._bad = {}, set(bad)

    def load(self, names):
        self.broken |= {n: Problem(n, "broken picture") for n in names if n in self._bad}
        return torch.zeros(len(names), 3, 16, 16)


def loader_of(records, pictures=None, rank=0, size=1, room=1000, share=True, batch_size=4, rows="packed"):
    order = Order(records.selection, records.groups, batch_size, 0, share)
    team = Team(rank, size, torch.device("cpu"), distributed=False)
    return Loader(records, order, pictures or Grey(), team, IMAGE, room, share, rows)


def learned(batches):
    return sorted(token for batch in batches for token in batch.targets.tolist())


def test_a_picture_that_is_shared_is_loaded_and_computed_once():
    records = Records()
    (shared,) = loader_of(records).prepare(0)
    (apart,) = loader_of(records, share=False).prepare(0)
    assert shared.pixels.shape[0] == 2 and shared.ids[0].tolist().count(IMAGE) == 2 * 4
    assert apart.ids[0].tolist().count(IMAGE) == 4 * 4


@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_share_out_a_step_and_compute_equally_often(size):
    records = Records()
    whole = loader_of(records, room=30).prepare(1)
    parts = [loader_of(records, rank=rank, size=size, room=30).prepare(1) for rank in range(size)]
    assert len({len(part) for part in parts}) == 1
    assert learned(batch for part in parts for batch in part) == learned(whole)
    assert sum(batch.samples for part in parts for batch in part) == 4


def test_a_process_without_a_tree_computes_one_and_learns_nothing():
    records = Records(pictures=1, each=2)
    parts = [loader_of(records, rank=rank, size=3).prepare(0) for rank in range(3)]
    idle = [part[0] for part in parts if part[0].samples == 0]
    assert len(idle) == 2 and all(len(batch.targets) == 0 and batch.tokens for batch in idle)


def test_nothing_is_learned_from_a_broken_picture():
    records = Records()
    sound, pictures = loader_of(records).prepare(0), Grey(bad=["3.png"])
    loader = loader_of(records, pictures)
    steps = [loader.prepare(step) for step in range(3)]
    missing = learned(b for step in range(3) for b in loader_of(records).prepare(step))
    for token in learned(batch for step in steps for batch in step):
        missing.remove(token)
    lost = [label for n in (3, 9) for label in records[n].labels if label != IGNORE_INDEX]
    assert missing == sorted(lost) and sound
    assert pictures.broken["3.png"].reason == "broken picture"


def test_a_step_tells_which_pictures_were_found_broken_in_it():
    loader = loader_of(Records(), Grey(bad=["0.png", "3.png"]))
    told = [name for prepared in loader.steps(0, 3) for name in prepared.broken]
    assert sorted(told) == ["0.png", "3.png"]


def test_too_many_broken_pictures_stop_the_stage():
    found = {name: Problem(name, "broken picture") for name in ("0.png", "3.png")}
    pictures = BrokenPictures([f"{n}.png" for n in range(6)], 0.2, ALONE, {"other.png": Problem("x", "y")})
    pictures.add({"0.png": found["0.png"]})
    with pytest.raises(VistuneError, match=r"2 pictures cannot be read.*run\.bad_pictures.*broken picture"):
        pictures.add(found)
    again = BrokenPictures([], 0.0, ALONE)
    again.restore(json.loads(json.dumps(pictures.state())))
    assert again.found == pictures.found == found


def test_steps_come_as_prepared_whatever_comes_first():
    loader = loader_of(Records())
    found = [learned(prepared.batches) for prepared in loader.steps(1, 3)]
    assert found == [learned(loader.prepare(step)) for step in (1, 2)]


def test_an_abandoned_loader_leaves_no_thread():
    before = threading.active_count()
    steps = loader_of(Records()).steps(0, 3)
    next(steps)
    steps.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


# Pictures


@pytest.fixture
def folder(tmp_path):
    from PIL import Image

    for number in range(6):
        Image.new("RGB", (16, 16), (number * 40,) * 3).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    return tmp_path


def test_pixels_of_a_broken_picture_are_zeros_and_it_is_named(folder):
    pixels = Pixels(PixelStore(folder, PLAIN), 16)
    loaded = pixels.load(["5.png", "3.png", "1.png"])
    assert loaded[0].unique().tolist() == PixelStore(folder, PLAIN).load(["5.png"]).unique().tolist()
    assert loaded[1].unique().tolist() == [0.0] and loaded[2].unique().numel() == 1
    assert pixels.broken["3.png"].reason == "not a picture"


def test_kept_features_are_those_that_are_computed(folder, tmp_path):
    torch.manual_seed(0)
    vision = VisionEncoder(tiny_vision())
    names = [f"{number}.png" for number in range(6)]
    pixels = Pixels(PixelStore(folder, PLAIN), 16)
    features = Features(tmp_path / "kept", vision, torch.float32)
    features.add(names[:4], pixels, ALONE)
    features.add(names, pixels, ALONE)
    again = Features(tmp_path / "kept", vision, torch.float32)
    some = ["5.png", "0.png", "4.png"]
    torch.testing.assert_close(again.load(some), vision(pixels.load(some)))
    assert again.broken.keys() == {"3.png"}


def test_what_is_kept_is_not_computed_again(folder, tmp_path):
    vision = VisionEncoder(tiny_vision())
    features = Features(tmp_path / "kept", vision, torch.float32)
    features.add(["0.png"], Pixels(PixelStore(folder, PLAIN), 16), ALONE)
    Features(tmp_path / "kept", vision, torch.float32).add(["0.png"], None, ALONE)


def test_features_that_have_no_room_are_refused(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    features = Features(tmp_path / "kept", VisionEncoder(tiny_vision()), torch.float32)
    with pytest.raises(VistuneError, match=r"run\.features: compute"):
        features.add(["0.png"], Pixels(PixelStore(folder, PLAIN), 16), ALONE)
