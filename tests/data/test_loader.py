import pytest
import torch

from data.memory import MemoryPseudo, MemorySource, MemoryTarget
from segrefinery.core.errors import SegRefineryError
from segrefinery.data.batch import LabeledBatch, PseudoLabeledBatch, UnlabeledBatch
from segrefinery.data.cached import Cached, with_cache
from segrefinery.data.loader import WholeImages, training_batches
from segrefinery.data.sampling import RareClassSampler, UniformSampler
from segrefinery.data.transforms import DataSettings, normalize

SIZES = [(24, 32), (24, 32), (24, 32), (40, 32), (24, 32)]
SETTINGS = DataSettings(
    short_side=20, crop=(16, 24), scale=(0.7, 1.4), photometric=0.3, blur=0.5, batch=4, workers=0, rare_min_pixels=50
)


def equal(one, other):
    return vars(one).keys() == vars(other).keys() and all(
        torch.equal(value, vars(other)[name]) for name, value in vars(one).items()
    )


def batches(dataset=None, sampler=None, settings=SETTINGS, **options):
    sampler = sampler or UniformSampler(5, seed=0)
    return list(training_batches(dataset or MemorySource(SIZES), settings, sampler, **{"steps": 4} | options))


def test_the_data_set_decides_the_kind_of_batch():
    source = batches(steps=1)[0]
    assert isinstance(source, LabeledBatch)
    assert source.image.shape == (4, 3, 16, 24)
    assert source.image.dtype == torch.float32
    assert source.label.shape == (4, 16, 24)
    assert source.label.dtype == torch.int64
    assert isinstance(batches(MemoryTarget(SIZES), steps=1)[0], UnlabeledBatch)
    pseudo = batches(MemoryPseudo(SIZES), steps=1)[0]
    assert isinstance(pseudo, PseudoLabeledBatch)
    assert pseudo.weight.dtype == torch.float32
    for index, label, weight in zip(pseudo.index, pseudo.label, pseudo.weight, strict=True):
        assert set(label.unique().tolist()) <= {int(index), 255}
        assert torch.equal(weight, torch.where(label == 255, 0.0, 128 / 255))


def test_a_step_sees_its_positions_of_the_sampler():
    sampler = UniformSampler(5, seed=0)
    for step, batch in enumerate(batches(sampler=sampler)):
        assert batch.index.tolist() == [sampler.draw(step * 4 + place).index for place in range(4)]


def test_batches_do_not_depend_on_the_number_of_workers():
    source = MemorySource(SIZES)
    counts = torch.stack([torch.bincount(source.label(i).flatten().long(), minlength=256)[:5] for i in range(5)])
    sampler = RareClassSampler(counts, seed=0, min_pixels=50)
    alone, two = (batches(source, sampler, workers=workers) for workers in (0, 2))
    assert all(map(equal, alone, two))
    assert len({float(batch.image.sum()) for batch in alone}) == 4


def test_a_resumed_run_sees_the_same_batches():
    assert all(map(equal, batches()[2:], batches(first_step=2, steps=2)))


def test_ranks_share_the_global_batch():
    whole = batches()
    parts = [batches(rank=rank, world=2) for rank in (0, 1)]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert torch.equal(batch.image, torch.cat([first.image, second.image]))
        assert torch.equal(batch.index, torch.cat([first.index, second.index]))
    with pytest.raises(SegRefineryError, match="multiple of 3"):
        batches(world=3)


def test_only_images_with_reference_labels_get_the_color_jitter():
    clean = SETTINGS.model_copy(update={"photometric": 0.0, "blur": 0.0})
    for dataset, same in ((MemorySource(SIZES), False), (MemoryTarget(SIZES), True), (MemoryPseudo(SIZES), True)):
        assert equal(batches(dataset, steps=1)[0], batches(dataset, settings=clean, steps=1)[0]) == same


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_data_set_says_of_an_image_reaches_the_user_in_one_line(workers):
    with pytest.raises(SegRefineryError, match=r"^0002.png is truncated; download it again\.$"):
        batches(MemorySource(SIZES, broken=2), workers=workers)
    with pytest.raises(SegRefineryError, match=r"^0002.png is truncated; download it again\.$"):
        list(WholeImages(MemoryTarget(SIZES, broken=2), SETTINGS, workers=workers))


def test_loading_leaves_the_global_generator_and_threads_alone():
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    batches(workers=1)
    list(WholeImages(MemorySource(SIZES), SETTINGS))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_shows_whole_images_in_order_as_often_as_one_likes(workers):
    images = WholeImages(MemorySource(SIZES), SETTINGS, workers=workers)
    for _ in range(2):
        seen = list(images)
        assert [int(batch.index) for batch in seen] == [0, 1, 2, 3, 4]
        assert [tuple(batch.image.shape[-2:]) for batch in seen] == [(20, 27)] * 3 + [(25, 20)] + [(20, 27)]
        assert all(batch.label.shape[-2:] == batch.image.shape[-2:] for batch in seen)


def test_a_pass_is_not_augmented():
    source = MemorySource(SIZES)
    first = next(iter(WholeImages(source, SETTINGS.model_copy(update={"short_side": None}))))
    assert torch.equal(first.image[0], normalize(source.image(0)))
    assert torch.equal(first.label[0], source.label(0))


def test_a_pass_ends_a_batch_where_sizes_change():
    seen = list(WholeImages(MemoryTarget(SIZES), SETTINGS, batch=2))
    assert [batch.index.tolist() for batch in seen] == [[0, 1], [2], [3], [4]]
    assert all(isinstance(batch, UnlabeledBatch) for batch in seen)


def test_a_pass_may_keep_labels_at_their_own_size():
    source = MemorySource(SIZES)
    for batch in WholeImages(source, SETTINGS, batch=2, resize_labels=False):
        assert torch.equal(batch.label[0], source.label(int(batch.index[0])))


def test_ranks_share_a_pass():
    parts = [WholeImages(MemoryTarget(SIZES), SETTINGS, rank=rank, world=2) for rank in (0, 1)]
    assert [[int(batch.index) for batch in part] for part in parts] == [[0, 2, 4], [1, 3]]
    assert [part.images for part in parts] == [3, 2]


def test_a_pass_streams():
    target = MemoryTarget(SIZES * 20)
    walk = iter(WholeImages(target, SETTINGS))
    next(walk)
    assert target.reads <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cached_data_set_is_read_once(workers):
    source = MemorySource(SIZES)
    cached = with_cache(source, SETTINGS.model_copy(update={"cache": True}))
    assert isinstance(cached, Cached)
    first, second = (batches(cached, workers=workers) for _ in range(2))
    assert all(map(equal, first, second))
    list(WholeImages(cached, SETTINGS, workers=workers))
    assert source.reads == 5
    assert cached.image(3).shape == (3, 25, 20)
    assert cached.label(3).shape == (25, 20)
    assert cached.name(3) == source.name(3)
    assert cached.space is source.space
    assert with_cache(source, SETTINGS) is source


def test_a_cached_target_has_no_labels():
    cached = Cached(MemoryTarget(SIZES), SETTINGS)
    assert isinstance(batches(cached, steps=1)[0], UnlabeledBatch)
    assert isinstance(batches(Cached(MemorySource(SIZES), SETTINGS), steps=1)[0], LabeledBatch)
