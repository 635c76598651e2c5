from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pruning.projection.bases.attention_fit import conjugate_gradients, fit_scores, score_importance


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(query: Tensor, key: Tensor, importance: Tensor, on_query: Tensor, on_key: Tensor) -> float:
    """Slow twin: pair by pair, from the formula."""
    total = 0.0
    for image in range(len(query)):
        for n, q in enumerate(query[image]):
            for m, k in enumerate(key[image]):
                missing = q @ k - (q @ on_query) @ (on_key.T @ k)
                total += float(importance[image, n, m] * missing**2)
    return total


def test_importance_is_the_first_order_effect_on_the_output() -> None:
    """Slow twin: each score nudged by hand, through softmax, values and proj."""
    scores, value, proj = draw(2, 4, 4), draw(2, 4, 3, seed=1), draw(5, 3, seed=2)
    tokens = torch.tensor([3.0, 1, 0.5, 0.5]).double()
    attention = scores.softmax(dim=-1)
    got = score_importance(attention, value, attention @ value, proj.T @ proj, tokens)
    expected = torch.zeros(2, 4, 4).double()
    nudge = 1e-6
    for image in range(2):
        for n in range(4):
            for m in range(4):
                moved = scores[image].clone()
                moved[n, m] += nudge
                step = (moved.softmax(dim=-1)[n] - attention[image, n]) @ value[image] / nudge
                expected[image, n, m] = tokens[n] * (proj @ step).square().sum()
    expected = expected / expected.mean() + 0.02
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_where_nothing_matters_all_scores_count_alike() -> None:
    attention, value = torch.full((1, 3, 3), 1 / 3), torch.ones(1, 3, 2)
    got = score_importance(attention, value, attention @ value, torch.eye(2), torch.ones(3))
    assert torch.equal(got, torch.ones(1, 3, 3))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_fitted_bases_are_better_and_nearly_as_good_as_can_be(rank: int) -> None:
    query, key = draw(3, 7, 4), draw(3, 7, 4, seed=1)
    importance = draw(3, 7, 7, seed=2).square() + 0.02
    start = draw(4, rank, seed=3), draw(4, rank, seed=4)
    found = fit_scores(query, key, importance, *start)
    got = loss(query, key, importance, *found)
    assert got < loss(query, key, importance, *start)
    # descent from the answer itself finds hardly anything
    free = [part.clone().requires_grad_() for part in found]
    optimiser = torch.optim.LBFGS(free, max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        missing = query @ key.mT - (query @ free[0]) @ (key @ free[1]).mT
        value = (importance * missing.square()).sum()
        value.backward()
        return value

    optimiser.step(closure)
    best = loss(query, key, importance, *(part.detach() for part in free))
    assert got < 1.1 * best


def test_full_rank_stays_exact() -> None:
    query, key = draw(2, 6, 3), draw(2, 6, 3, seed=1)
    eye = torch.eye(3).double()
    found = fit_scores(query, key, torch.ones(2, 6, 6).double(), eye, eye)
    torch.testing.assert_close(found[0] @ found[1].T, eye)


def test_never_worse_than_the_start_even_where_scores_are_dead() -> None:
    zero = torch.zeros(2, 5, 3).double()
    start = draw(3, 2), draw(3, 2, seed=1)
    found = fit_scores(zero, draw(2, 5, 3), torch.ones(2, 5, 5).double(), *start)
    assert all(bool(part.isfinite().all()) for part in found)
    assert loss(zero, zero, torch.ones(2, 5, 5), *found) == 0


def test_conjugate_gradients_solve_in_as_many_steps_as_unknowns() -> None:
    root, goal = draw(6, 6), draw(6, 1, seed=1)
    matrix = root @ root.T + torch.eye(6)
    got = conjugate_gradients(lambda x: matrix @ x, goal, torch.zeros(6, 1).double(), lambda x: x, 6)
    torch.testing.assert_close(got, torch.linalg.solve(matrix, goal))
