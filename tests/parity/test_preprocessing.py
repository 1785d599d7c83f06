"""Our preprocessing against transformers' CLIP image processor, reading the same configuration."""

import numpy as np
import pytest
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from vistune.data.images import Preprocessor

CLIP = Preprocessor(24, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@pytest.mark.parametrize(
    "size", [(24, 24), (60, 40), (40, 61), (333, 77), (25, 24), (10, 13), (7, 100), (183, 122), (122, 183)]
)
def test_pixels_equal_those_of_transformers(size, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    CLIP.save(tmp_path)
    theirs = CLIPImageProcessorPil.from_pretrained(tmp_path)(picture, return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(CLIP(picture), theirs, atol=1e-6)


def test_the_configuration_comes_back_as_it_was(tmp_path):
    assert Preprocessor.from_config(CLIP.config()) == CLIP
