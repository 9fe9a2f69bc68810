"""Groups of published collections."""

import pytest

from robometer_rl.data.published import UnknownGroupError, published


def test_the_groups_have_the_published_sizes():
    table = published()
    assert len(table.keys(["rbm-1m-id"], ["train"])) == 53
    assert len(table.keys(["rbm-1m-id"], ["eval"])) == 9
    assert len(table.keys(["rbm-1m-ood"])) == 6
    assert len(table.keys(["libero_pi0"], ["train"])) == 8
    assert table.keys(["mw", "mw"]) == ("aliangdw_metaworld_metaworld_train", "aliangdw_metaworld_metaworld_eval")


def test_every_key_is_a_repository_and_a_subset():
    for key, collection in published().collections.items():
        owner, name = collection.repository.split("/")
        assert key == f"{owner}_{name}_{collection.subset}"
        assert published().key_of(name, collection.subset) == key
    assert published().collections["jesbu1_oxe_rfm_eval_oxe_toto_eval"].repository == "jesbu1/oxe_rfm_eval"
    assert published().key_of("my_rfm", "a/b:c") == "my_rfm_a_b_c"


def test_collections_that_cannot_be_made_say_so():
    problems = {key for key, each in published().collections.items() if each.problem}
    assert problems == {
        "jesbu1_rfm_new_mit_franka_rfm_rfm_new_mit_franka_rfm",
        "jesbu1_roboreward_rfm_roboreward_high_res_train",
    }


def test_splits_follow_the_lists():
    table = published()
    both = "anqil_rh20t_subset_rfm_rh20t_human"  # trained on and evaluated on
    assert table.split_of(both, ["paired"]) == "train"
    assert table.split_of("aliangdw_metaworld_metaworld_eval", ["mw"]) == "test"
    assert table.split_of("aliangdw_metaworld_metaworld_eval", []) == "train"


def test_names_that_are_none_are_errors_in_words():
    with pytest.raises(UnknownGroupError, match="no group or published collection 'rbm'; the groups are franka"):
        published().keys(["rbm"])
    with pytest.raises(UnknownGroupError, match="rbm-1m-ood has no list to train; it has one to eval"):
        published().keys(["rbm-1m-ood"], ["train"])


def test_short_names_are_those_of_the_reference():
    table = published()
    joint = ["usc_franka", "jesbu1_utd_so101_clean_top_mine", "x"]
    assert table.short_name(["jesbu1_mit_franka_p-rank_rfm_mit_franka_p-rank_rfm"]) == "mit_franka"
    assert table.short_name(joint) == "usc_franka_jesbu1_utd_so101_clean_top_mine_x"
    # Recorded from the reference: what is too long ends in a digest of the whole.
    assert table.short_name(["a" * 40, "b" * 40]) == f"{'a' * 40}_{'b' * 10}_974b8bdd"
    assert set(table.short_names) <= set(table.collections)
