import numpy as np

from plaudit import rng


def test_numbers_depend_on_every_argument_and_on_nothing_else():
    base = rng.generator(1, "ppo", 3, "noise", 5).random(4)
    assert (rng.generator(1, "ppo", 3, "noise", 5).random(4) == base).all()
    for other in [(2, "ppo", 3, "noise", 5), (1, "sft", 3, "noise", 5), (1, "ppo", 4, "noise", 5),
                  (1, "ppo", 3, "order", 5), (1, "ppo", 3, "noise", 6)]:  # fmt: skip
        assert not np.isclose(rng.generator(*other).random(4), base).any()


def test_the_numbers_of_a_row_do_not_depend_on_the_rest_of_the_batch():
    whole = rng.uniforms(range(6), 5, 1, "ppo", 0, "noise")
    first, rest = rng.uniforms(range(2), 5, 1, "ppo", 0, "noise"), rng.uniforms(range(2, 6), 5, 1, "ppo", 0, "noise")
    assert (whole[:2] == first).all()
    assert (whole[2:] == rest).all()
    assert (rng.uniforms(range(6), 3, 1, "ppo", 0, "noise") == whole[:, :3]).all()  # nor on the width


def test_uniforms_and_normals_have_the_right_moments():
    u = rng.uniforms(range(200), 50, 0, "test", 0, "u")
    assert 0 <= u.min() < 0.001
    assert 0.999 < u.max() < 1
    assert abs(u.mean().item() - 0.5) < 4 / np.sqrt(12 * 10_000)
    z = rng.normals((100, 100), 0, "test", "z")
    assert abs(z.mean().item()) < 4 / 100
    assert abs(z.std().item() - 1) < 4 / np.sqrt(2 * 10_000)


def test_a_permutation_has_every_index_once_and_differs_by_epoch():
    first, second = rng.permutation(50, 1, "sft", 0), rng.permutation(50, 1, "sft", 1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert list(first) != list(second)


def test_each_row_has_its_own_number_of_draws_between_the_shortest_and_all():
    whole = rng.uniforms(range(400), 15, 1, "ppo", 0, "noise")
    some = rng.uniforms(range(400), 15, 1, "ppo", 0, "noise", 5)
    drawn = ~some.isnan()
    assert (some[drawn] == whole[drawn]).all()
    lengths = drawn.sum(1)
    assert (drawn == (np.arange(15) < lengths.numpy()[:, None])).all()  # NaN only at the end
    counts = np.bincount(lengths, minlength=16)
    assert counts[:5].sum() == 0
    assert (abs(counts[5:] - 400 / 11) < 4 * np.sqrt(400 / 11)).all()
    assert (rng.uniforms(range(7, 9), 15, 1, "ppo", 0, "noise", 5).isnan() == some[7:9].isnan()).all()
    assert (rng.uniforms(range(400), 15, 1, "ppo", 1, "noise", 5).isnan() != some.isnan()).any()
    assert not rng.uniforms(range(400), 15, 1, "ppo", 0, "noise", 15).isnan().any()
