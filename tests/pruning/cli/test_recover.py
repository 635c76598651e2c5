"""Recovery options on the command line."""

from __future__ import annotations

import argparse

import pytest

from pruning.cli.recover import add_recovery, recovery_from
from pruning.training import RECIPES, read_recovery


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_recovery(parser)
    return parser.parse_args(words)


def test_a_recipe_is_changed_by_the_options_beside_it() -> None:
    given = recovery_from(
        parse("--recover", "--recipe", "snp", "--epochs", "3", "--recover-option", "mixup=0.2")
    )
    assert given is not None
    assert dict(given) == dict(RECIPES["snp"]) | {"epochs": 3, "mixup": 0.2}
    assert (
        recovery_from(parse("--recover")) == () == recovery_from(parse("--recover", "--recipe", "few-epochs"))
    )


def test_the_published_recipe_has_the_published_values() -> None:
    """SNP, supplement and code: base rate 2.5e-4 at 512, 1e-3 at 2048; no teacher."""
    snp = read_recovery(RECIPES["snp"])
    assert (snp.epochs, snp.weight_decay, snp.mixup, snp.cutmix, snp.drop_path) == (300, 0.05, 0.8, 1.0, 0.1)
    assert snp.highest_lr == pytest.approx(2.5e-4) and snp.soft == snp.features == 0 and snp.ema > 0.999
    large = read_recovery((*RECIPES["snp"], ("batch", 2048)))
    assert large.highest_lr == pytest.approx(1e-3)


@pytest.mark.parametrize("words", [("--recipe", "snp"), ("--epochs", "1"), ("--recover-option", "mixup=1")])
def test_options_without_recovery_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"^--recipe, --epochs and --recover-option need --recover$"):
        recovery_from(parse(*words))
