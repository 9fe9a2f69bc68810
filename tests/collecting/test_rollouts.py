import numpy as np
import pytest

from robometer_rl.collecting.rollouts import Moment, judge, paraphrases_heard, part_covered, record


class Counter:
    """A run whose task is done in the steps ``done``, and whose distance falls from 1 m by ``speed`` a step."""

    def __init__(self, done=(), speed=0.0):
        self.step_number, self.rendered = 0, []
        self._done, self._speed = done, speed

    def start(self):
        return self._moment()

    def step(self):
        self.step_number += 1
        return self._moment()

    def render(self):
        self.rendered.append(self.step_number)
        return np.full((4, 4, 3), self.step_number, np.uint8)

    def _moment(self):
        number = self.step_number
        return Moment(number in self._done, 1.0 - self._speed * number, np.full(2, number, np.float32))


def test_only_frames_that_are_kept_are_rendered():
    run = Counter()
    kept = record(run, max_steps=10, tail=3, frame_interval=4)
    assert run.rendered == [0, 4, 8, 12], "the end is rounded up to a frame that is kept"
    assert kept.steps.tolist() == kept.frames[:, 0, 0, 0].tolist() == kept.state[:, 1].tolist() == run.rendered


def test_an_episode_ends_a_tail_after_first_success():
    run = Counter(done=range(5, 100))
    kept = record(run, max_steps=50, tail=4, frame_interval=2)
    assert run.step_number == 10
    assert kept.success.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("run", "stopped", "label", "partial"),
    [
        (Counter(done=range(6, 100)), False, "successful", 1.0),
        (Counter(done=[6, 7]), False, "suboptimal", 0.0),  # done and undone
        (Counter(speed=0.03), False, "suboptimal", 0.3),
        (Counter(speed=0.02), False, "failure", 0.2),
        (Counter(speed=0.02), True, "suboptimal", 0.2),
        (Counter(speed=-0.1), False, "failure", 0.0),
    ],
)
def test_judgement(run, stopped, label, partial):
    kept = record(run, max_steps=10, tail=100, frame_interval=2)
    assert judge(kept, stopped_on_the_way=stopped) == label
    assert part_covered(kept) == pytest.approx(partial)


def test_training_does_not_hear_what_is_measured_with():
    said = ("open it", "pull it open", "get it open")
    assert paraphrases_heard(said, "train") == said[:2]
    assert paraphrases_heard(said, "test") == paraphrases_heard(said, "held_out") == said[2:]
