import copy

import torch

from segrefinery.refine.self_labeling.bank import FeatureBank


def rows(first, last):
    return torch.arange(first, last).float()[:, None].expand(-1, 2)


def values(bank):
    return [int(row[0]) for row in torch.cat([bank.content[bank.oldest :], bank.content[: bank.oldest]])]


def test_holds_what_was_pushed_until_it_is_full_and_then_the_newest():
    bank = FeatureBank(5, 2)
    assert len(bank) == 0
    assert bank.content.shape == (0, 2)
    bank.push(rows(0, 3))
    assert values(bank) == [0, 1, 2]
    bank.push(rows(3, 5))
    assert values(bank) == [0, 1, 2, 3, 4]
    bank.push(rows(5, 8))
    assert values(bank) == [3, 4, 5, 6, 7]
    bank.push(rows(8, 10))
    assert values(bank) == [5, 6, 7, 8, 9]


def test_any_sequence_of_pushes_keeps_the_newest_rows_in_order():
    rng, bank, pushed = torch.Generator().manual_seed(0), FeatureBank(7, 2), 0
    for _ in range(40):
        size = int(torch.randint(0, 18, (), generator=rng))
        bank.push(rows(pushed, pushed + size))
        pushed += size
        assert values(bank) == list(range(max(pushed - 7, 0), pushed))


def test_writes_in_place():
    bank = FeatureBank(4, 2)
    memory = bank.rows.data_ptr()
    bank.push(rows(0, 9))
    assert bank.rows.data_ptr() == memory
    assert bank.content.data_ptr() == memory


def test_state_dict_is_the_whole_state():
    bank, other = FeatureBank(5, 2), FeatureBank(5, 2)
    bank.push(rows(0, 7))
    other.load_state_dict(copy.deepcopy(bank.state_dict()))
    for each in (bank, other):
        each.push(rows(7, 9))
    assert values(bank) == values(other) == [4, 5, 6, 7, 8]


def test_clear():
    bank = FeatureBank(3, 2)
    bank.push(rows(0, 7))
    bank.clear()
    assert len(bank) == 0
