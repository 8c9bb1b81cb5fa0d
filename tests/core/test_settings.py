"""What a field's default says stays said where a part of it is given."""

import pytest

from segrefinery.core.settings import Settings
from segrefinery.recipe import load_recipe


class Inner(Settings):
    main: float = 1.0
    aux: float = 0.1


class Middle(Settings):
    inner: Inner = Inner(aux=0.2)
    other: int = 1


class Outer(Settings):
    inner: Inner = Inner(main=0.5, aux=0.0)
    middle: Middle | None = Middle(inner=Inner(main=3.0), other=2)
    plain: Inner = Inner()


@pytest.mark.parametrize(("given", "wanted"), [
    ({"inner": {"main": 0.7}}, {"inner": {"main": 0.7, "aux": 0.0}}),
    ({"middle": {"other": 5}}, {"middle": {"inner": {"main": 3.0, "aux": 0.1}, "other": 5}}),
    ({"middle": {"inner": {"aux": 0.4}}}, {"middle": {"inner": {"main": 3.0, "aux": 0.4}, "other": 2}}),
    ({"middle": None, "inner": Inner(main=9.0)}, {"middle": None, "inner": {"main": 9.0, "aux": 0.1}}),
    ({"plain": {"aux": 0.3}}, {"plain": {"main": 1.0, "aux": 0.3}}),
])  # fmt: skip
def test_a_part_of_a_field_changes_that_part_of_its_default(given, wanted):
    assert Outer.model_validate(given).model_dump() == Outer().model_dump() | wanted


def test_one_number_of_adaptsegnet_leaves_its_others():
    plain = load_recipe("adaptsegnet").stages["align"].model_dump()
    changed = {"optimizer.lr": 1e-3, "discriminator_optimizer.lr": 2e-4, "adversarial.main": 0.002, "entropy.main": 0.1}
    overrides = [f"stages.align.{key}={value}" for key, value in changed.items()]
    stage = load_recipe("adaptsegnet", None, overrides).stages["align"].model_dump()
    for key, value in changed.items():
        part, name = key.split(".")
        plain[part][name] = value
    assert stage == plain
