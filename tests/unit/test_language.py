"""The world's language: what stands in the map's cells, and that the LLM's scenes are nobody else's."""

from collections import Counter

from vistune.conversation import questions_and_answers
from vistune.data.world.scene import CANVAS, Placed, Scene, catalogue, draw_scene
from vistune.starter import language, vision
from vistune.starter.build import chat_seed
from vistune.starter.language import GRID, cell_words, dialogues, text_map

SCENE = Scene(
    "by hand",
    "grass",
    None,
    (Placed("dog", "🐕", 10, 10, 50, 0), Placed("cake", "🎂", CANVAS - 10, CANVAS // 2, 50, 0)),
)


def test_a_map_says_what_is_in_each_cell_and_where_it_is():
    cells = text_map(SCENE)
    assert len(cells) == GRID**2 == 25
    assert cells[0] == ("dog", "A", "1")
    assert cells[14] == ("cake", "E", "3")
    assert cells[24] == ("grass", "E", "5")
    assert Counter(name for name, _, _ in cells) == {"grass": 23, "dog": 1, "cake": 1}


def test_every_thing_of_a_scene_has_a_cell_of_its_own():
    for index in range(300):
        scene = draw_scene(language.PART, 0, index)
        names = [name for name, _, _ in text_map(scene) if name in catalogue().categories]
        assert sorted(names) == sorted(placed.category for placed in scene.objects)


def test_cells_say_only_words_that_the_llm_is_given():
    said = {word for dialogue in dialogues(0, 0, 200) for cell in dialogue.cells for word in cell}
    assert said <= set(cell_words())


def test_a_dialogue_has_a_picture_exactly_where_it_has_a_map():
    seen = Counter()
    for dialogue in dialogues(0, 30_000, 200):
        pictures = dialogue.conversation.pictures
        assert len(pictures) == (1 if dialogue.cells else 0)
        assert len(dialogue.cells) in (0, GRID**2)
        seen[len(pictures)] += 1
    assert seen[0] > 5 and seen[1] > 150


def test_drills_are_true_to_their_map():
    checked = 0
    for dialogue in dialogues(0, 0, 100):
        where = {f"{column} {row}": name for name, column, row in dialogue.cells}
        for question, answer in questions_and_answers(dialogue.conversation):
            if question.removesuffix("?") in where:
                assert answer.rstrip(".").split()[-1] == where[question.removesuffix("?")]
                checked += 1
    assert checked > 100


def test_the_same_seed_gives_the_same_dialogues():
    assert list(dialogues(3, 5, 20)) == list(dialogues(3, 5, 20))
    assert list(dialogues(3, 5, 20)) != list(dialogues(4, 5, 20))


def test_no_part_of_the_build_draws_a_scene_of_another_or_of_a_users_run():
    streams = [(language.PART, 0), (vision.PART, 0)]
    streams += [(part, seed) for part in ("train", "val") for seed in (chat_seed(0), 0, 1, 2)]
    drawn = {stream: {_without_key(draw_scene(*stream, index)) for index in range(150)} for stream in streams}
    assert sum(map(len, drawn.values())) == len(set().union(*drawn.values()))
    assert chat_seed(0) < 0


def _without_key(scene):
    return scene.background, scene.theme, scene.objects
