"""Our preprocessing against transformers' image processors, reading the same configuration."""

import json

import numpy as np
import pytest
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from vistune.data.images import Preprocessor
from vistune.errors import VistuneError

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP = Preprocessor(24, MEAN, STD)
KINDS = {
    "clip": (CLIP, CLIPImageProcessorPil),
    "padded": (CLIP.padded(), LlavaImageProcessorPil),
    "siglip": (Preprocessor(24, (0.5,) * 3, (0.5,) * 3, "stretch"), SiglipImageProcessorPil),
    "padded siglip": (Preprocessor(24, (0.5,) * 3, (0.5,) * 3, "stretch").padded(), LlavaImageProcessorPil),
    "dinov2": (Preprocessor(24, MEAN, STD, shortest=27), BitImageProcessorPil),
    "bilinear": (Preprocessor(24, MEAN, STD, resample=2), CLIPImageProcessorPil),
}
SIZES = [
    (24, 24),
    (60, 40),
    (40, 61),
    (333, 77),
    (25, 24),
    (10, 13),
    (7, 100),
    (183, 122),
    (122, 183),
    (300, 520),
    (24, 700),
    (1, 1),
]


def noise(size):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_equal_those_of_transformers(kind, size, tmp_path):
    preprocess, theirs = KINDS[kind]
    preprocess.save(tmp_path)
    processor = theirs.from_pretrained(tmp_path)
    picture = noise(size)
    expected = processor(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(preprocess(picture), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_transformers_finds_the_processor_by_the_configuration(kind, tmp_path):
    preprocess, _ = KINDS[kind]
    preprocess.save(tmp_path)
    processor = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    expected = processor(noise((61, 40)), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(preprocess(noise((61, 40))), expected, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_configuration_comes_back_as_it_was(kind):
    preprocess, _ = KINDS[kind]
    assert Preprocessor.from_config(json.loads(json.dumps(preprocess.config()))) == preprocess


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(),
        SiglipImageProcessorPil(size={"height": 32, "width": 32}),
        BitImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        LlavaImageProcessorPil(do_pad=True),
        LlavaImageProcessorPil(),
    ],
)
def test_configurations_that_transformers_writes_are_followed(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    preprocess = Preprocessor.from_config(json.loads((tmp_path / "preprocessor_config.json").read_text()))
    expected = processor(noise((70, 45)), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(preprocess(noise((70, 45))), expected, atol=1e-6)


def test_old_configurations_with_plain_numbers_are_followed():
    old = {
        "crop_size": 24,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "resample": 3,
        "size": 24,
    }
    assert Preprocessor.from_config(old) == CLIP


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"do_resize": False}, "do_resize: false"),
        ({"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ({"do_pad": True}, "do_pad"),
        ({"do_center_crop": False}, "do not become square"),
        ({"crop_size": {"height": 24, "width": 32}}, "side of a square"),
        ({"size": {"longest_edge": 24}}, "side of a square"),
        ({"size": {"height": 30, "width": 30}}, "distorted, then cropped"),
        ({"size": {"shortest_edge": 20}}, "crops 24 out of 20"),
        ({"size": None}, "side of a square"),
        ({"image_mean": None}, "image_mean"),
    ],
)
def test_what_would_be_done_otherwise_is_refused(change, said):
    with pytest.raises(VistuneError, match=said):
        Preprocessor.from_config({**CLIP.config(), **change})
