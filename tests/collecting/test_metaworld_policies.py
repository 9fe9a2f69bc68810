import numpy as np
import pytest

from robometer_rl.collecting.metaworld_policies import (
    FlailPolicy,
    NoisyPolicy,
    Policy,
    StopHalfwayPolicy,
    SwitchPolicy,
    Visit,
    VisitPolicy,
)


class Constant:
    """Always the same action."""

    def __init__(self, *action: float) -> None:
        self.action = np.array(action, np.float32)

    def act(self, observation, success):
        return self.action.copy()


def act_out(policy: Policy, steps: int, step_length: float = 0.01, held: bool = False):
    """Hand positions (steps + 1, 3) and actions (steps, 4) of a hand without a robot; a held hand does not move."""
    hand, hands, actions = np.zeros(3), [np.zeros(3)], []
    for _ in range(steps):
        actions.append(policy.act(np.concatenate([hand, np.zeros(36)]), False))
        hand = hand if held else hand + step_length * actions[-1][:3]
        hands.append(hand)
    return np.stack(hands), np.stack(actions)


def test_places_are_visited_in_turn_and_the_last_one_is_not_left():
    places = [np.array([0.1, 0.0, 0.0]), np.array([0.1, 0.1, 0.0]), np.array([0.0, 0.1, 0.1])]
    visits = [Visit(places[0], 1.0, linger=10), Visit(places[1], -1.0), Visit(places[2], 0.5)]
    hands, actions = act_out(VisitPolicy(visits, np.random.default_rng(0)), 120)
    near = [np.flatnonzero(np.linalg.norm(hands - place, axis=1) < 0.02) for place in places]
    assert near[0][0] < near[1][0] < near[2][0]
    assert len(near[0]) >= 10, "it lingers"
    assert near[2][-1] == 120
    assert list(dict.fromkeys(actions[:, 3].tolist())) == [1.0, -1.0, 0.5]
    assert np.abs(actions[:, :3]).max() <= 1.0


def test_a_place_that_cannot_be_reached_is_given_up():
    visits = [Visit(np.array([9.0, 0.0, 0.0])), Visit(np.array([0.0, -9.0, 0.0]))]
    _, actions = act_out(VisitPolicy(visits, np.random.default_rng(0)), 50, held=True)
    assert actions[0, :2].tolist() == [1.0, 0.0]
    assert actions[-1, :2].tolist() == [0.0, -1.0]


def test_a_tremor_shakes_the_hand_and_not_the_gripper():
    visits = [Visit(np.zeros(3), gripper=0.5)]
    _, still = act_out(VisitPolicy(visits, np.random.default_rng(0)), 20)
    _, shaken = act_out(VisitPolicy(visits, np.random.default_rng(0), tremor=0.3), 20)
    assert not still[:, :3].any()
    assert shaken[:, :3].std() > 0.1
    assert (shaken[:, 3] == 0.5).all()


def test_somewhere_must_be_visited():
    with pytest.raises(ValueError, match="no visits"):
        VisitPolicy([], np.random.default_rng(0))


@pytest.mark.parametrize("switch_step", [0, 3])
def test_a_switch_happens_once_at_its_step(switch_step):
    policy = SwitchPolicy(Constant(1, 0, 0, 0), switch_step, Constant(0, 1, 0, 0))
    _, actions = act_out(policy, 6)
    np.testing.assert_array_equal(actions[:, 0], np.arange(6) < switch_step)
    np.testing.assert_array_equal(actions[:, 1], np.arange(6) >= switch_step)


def test_halfway_keeps_the_gripper_as_it_was():
    _, actions = act_out(StopHalfwayPolicy(Constant(1, 1, 1, 0.7), 2), 4)
    np.testing.assert_allclose(actions[2:], [[0, 0, 0, 0.7]] * 2)


@pytest.mark.parametrize("hold", [2, 9])
def test_flailing_is_jerky_and_stays_around(hold):
    around = np.array([0.1, 0.1, 0.1])
    hands, actions = act_out(FlailPolicy(np.random.default_rng(0), around, radius=0.1, hold=hold), 300)
    away = np.linalg.norm(hands[60:] - around, axis=1)
    assert away.max() < 0.1 + 0.02 * hold, "it comes back as soon as an action has been held to its end"
    changes = np.abs(np.diff(actions, axis=0)).max(axis=1) > 0
    assert set(np.flatnonzero(changes) % hold) == {hold - 1}
    assert np.abs(actions).max() == 1.0


@pytest.mark.parametrize(
    "make",
    [
        lambda rng: NoisyPolicy(Constant(0, 0, 0, 0), rng, 0.5),
        lambda rng: FlailPolicy(rng, np.zeros(3), 0.1, 3),
        lambda rng: VisitPolicy([Visit(np.ones(3))], rng, tremor=0.3),
    ],
)
def test_what_is_drawn_depends_on_the_generator_alone(make):
    first, again, other = (act_out(make(np.random.default_rng(seed)), 20)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.dtype == np.float32
